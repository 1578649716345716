"""`Adapter`: a small change of some layers for each subject, beside weights that stay as they are.

Low-rank adaptation (LoRA, Hu et al. 2021): a layer x W + b becomes x W + b + x D U with a narrow D U. U starts at zero,
so that an adapter that was never fitted changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.model.ensemble import EnsembleLinear


@dataclass(frozen=True)
class Adapter:
    """Changes of the layers of E members for B subjects, of rank R.

    Attributes:
        down: By layer: [E, B, inputs, R].
        up: By layer: [E, B, R, outputs].
    """

    down: dict[str, Tensor]
    up: dict[str, Tensor]

    def __post_init__(self) -> None:
        if not self.down or self.down.keys() != self.up.keys():
            raise InputError(f"an adapter needs both halves of each layer; got {[*self.down]} and {[*self.up]}")

    @classmethod
    def start(cls, layers: Mapping[str, EnsembleLinear], rank: int, generator: torch.Generator) -> Self:
        """For one subject, changing nothing yet.

        Args:
            layers: What is changed, by name.
            rank: R; no more is used than a layer has inputs or outputs.
            generator: Draws `down`.

        Raises:
            InputError: The rank is below 1.
        """
        if rank < 1:
            raise InputError(f"an adapter of rank {rank} changes nothing; give at least 1")
        down, up = {}, {}
        for name, layer in layers.items():
            members, inputs, outputs = layer.weight.shape
            width = min(rank, inputs, outputs)
            down[name] = torch.randn(members, 1, inputs, width, generator=generator) / inputs**0.5
            up[name] = torch.zeros(members, 1, width, outputs)
        return cls(down, up)

    @classmethod
    def stack(cls, parts: Sequence[Self]) -> Self:
        """Those of several subjects, in this order."""
        names = parts[0].down.keys()
        down = {name: torch.cat([part.down[name] for part in parts], dim=1) for name in names}
        return cls(down, {name: torch.cat([part.up[name] for part in parts], dim=1) for name in names})

    def __len__(self) -> int:
        """Number of subjects B."""
        return next(iter(self.up.values())).shape[1]

    def select(self, index: Tensor | slice) -> Self:
        """Those of some subjects."""
        down = {name: value[:, index] for name, value in self.down.items()}
        return replace(self, down=down, up={name: value[:, index] for name, value in self.up.items()})

    def silenced(self) -> Self:
        """Of the same shape, changing nothing."""
        return replace(self, up={name: torch.zeros_like(value) for name, value in self.up.items()})

    def finite(self) -> bool:
        """Whether every entry is."""
        return all(bool(torch.isfinite(value).all()) for value in (*self.down.values(), *self.up.values()))

    def apply(self, name: str, layer: EnsembleLinear, x: Tensor) -> Tensor:
        """The layer with its change, or without where it has none.

        Args:
            name: Of the layer.
            layer: Itself.
            x: [E, B * P, inputs], or [B * P, inputs] shared by all members; the rows of a subject follow one another.

        Returns:
            [E, B * P, outputs].
        """
        out: Tensor = layer(x)
        if name not in self.up:
            return out
        each = x.shape[-2] // max(len(self), 1)
        rows = x.expand(len(out), *x.shape[-2:]).reshape(len(out), len(self), each, x.shape[-1])
        return out + (rows @ self.down[name] @ self.up[name]).reshape(out.shape)
