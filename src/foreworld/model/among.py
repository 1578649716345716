"""How far a latent is from all that was seen, in units of what is read out of it.

Where walls hold and throw back, a mean of what may happen lies where nobody can be. A latent that is farther from the
nearest that was seen than half of those are from one another is read with an error that is larger by the difference of
what both read; calibration says how much that is worth, as in locally weighted conformal prediction (Lei et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from foreworld.errors import InputError


@dataclass(frozen=True)
class Among:
    """What was seen.

    Attributes:
        nodes: [M, D] latents.
        counted: [D] bool, the numbers of a latent that count; the nodes hold 0 elsewhere.
        usual: Distance of a node from the nearest other, the median.
        read: By quantity: [M] units.
    """

    nodes: Tensor
    counted: Tensor
    usual: Tensor
    read: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, read: Callable[[Tensor], dict[str, Tensor]], seen: Tensor, counted: Tensor | None, width: int) -> Self:
        """Take over latents that were seen.

        Args:
            read: Quantities [M] of latents [M, D].
            seen: [M, D], such as waypoints.
            counted: [D] bool, the numbers that count; all if None.
            width: D.

        Raises:
            InputError: There are fewer than two, or they are of another width.
        """
        if seen.dim() != 2 or len(seen) < 2 or seen.shape[1] != width:
            raise InputError(
                f"latents that were seen have shape {list(seen.shape)}; give at least two of {width} numbers"
            )
        kept = torch.ones(width, dtype=torch.bool) if counted is None else counted
        nodes = torch.where(kept, seen, 0.0)
        apart = torch.cdist(nodes, nodes).fill_diagonal_(torch.inf)
        return cls(nodes, kept, apart.amin(1).median(), read(seen))

    def away(self, latents: Tensor, read: dict[str, Tensor]) -> dict[str, Tensor]:
        """By quantity: [...] units by which latents [..., D], which read [...], are away; 0 where as near as usual."""
        flat = torch.where(self.counted, latents, 0.0).flatten(0, -2)
        distance, at = (part.reshape(latents.shape[:-1]) for part in torch.cdist(flat, self.nodes).min(-1))
        far = distance > self.usual
        return {name: torch.where(far, (value - self.read[name][at]).abs(), 0.0) for name, value in read.items()}
