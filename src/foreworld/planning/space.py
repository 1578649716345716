"""The space a planner searches: actions held over blocks of the horizon grid, within bounds in raw units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.model.dynamics import HorizonGrid


@dataclass(frozen=True)
class ActionSpace:
    """Bounds of every block of every subject.

    Attributes:
        grid: Horizon grid of the model.
        blocks: Last grid interval of each block, exclusive; the last one is the number of intervals.
        lower: [B, K, A] raw units, for K blocks.
        upper: [B, K, A] raw units.
        channels: Names of the A actions.
        warp: Exponent of the map from [0, 1] to the bounds; 2 searches small amounts more finely.
        levels: For a discrete action: how many categories it has; 0 where it is continuous. [A]
    """

    grid: HorizonGrid
    blocks: tuple[int, ...]
    lower: Tensor
    upper: Tensor
    channels: tuple[str, ...]
    warp: float = 1.0
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if list(self.blocks) != sorted(set(self.blocks)) or self.blocks[0] < 1 or self.blocks[-1] != len(self.grid):
            raise InputError(f"blocks {self.blocks} must increase and end at the grid's {len(self.grid)} intervals")
        if self.lower.shape != self.upper.shape or self.lower.shape[1:] != (len(self.blocks), len(self.channels)):
            raise InputError(
                f"bounds have shapes {tuple(self.lower.shape)} and {tuple(self.upper.shape)}; expected "
                f"(subjects, {len(self.blocks)}, {len(self.channels)})"
            )
        if not (torch.isfinite(self.lower).all() and torch.isfinite(self.upper).all()):
            raise InputError("an action bound is not finite")
        if (self.lower > self.upper).any():
            raise InputError("a lower action bound is above its upper bound")
        if self.levels and len(self.levels) != len(self.channels):
            raise InputError(f"levels {self.levels} must have one entry for each of the {len(self.channels)} actions")
        for i, level in enumerate(self.levels):
            ends = torch.stack([self.lower[..., i], self.upper[..., i]])
            if level and ((ends != ends.round()).any() or (ends < 0).any() or (ends > level - 1).any()):
                raise InputError(f"bounds of discrete action {self.channels[i]} must be whole and in 0..{level - 1}")

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks and actions (K, A)."""
        return len(self.blocks), len(self.channels)

    def decode(self, x: Tensor) -> Tensor:
        """Points of the unit cube [B, S, K, A] to raw block values within the bounds.

        The categories of a discrete action share the unit interval equally.
        """
        x = x.clamp(0, 1)
        width = (self.upper - self.lower)[:, None]
        raw = self.lower[:, None] + width * x**self.warp
        if any(self.levels):
            raw = torch.where(self._discrete(), self.lower[:, None] + torch.floor((width + 1) * x), raw)
        return self.clip(raw)

    def encode(self, raw: Tensor) -> Tensor:
        """Raw block values [B, S, K, A] to points of the unit cube, clamped."""
        width = (self.upper - self.lower)[:, None]
        inside = raw - self.lower[:, None]
        x = torch.where(width > 0, inside / torch.clamp(width, min=1e-12), torch.zeros_like(raw))
        x = x.clamp(0, 1) ** (1.0 / self.warp)
        if any(self.levels):
            # The middle of the category's share, so that decoding gives it back whatever the rounding.
            x = torch.where(self._discrete(), ((torch.round(inside) + 0.5) / (width + 1)).clamp(0, 1), x)
        return x

    def snap(self, raw: Tensor) -> Tensor:
        """Raw block values with categories rounded to whole numbers."""
        if not any(self.levels):
            return raw
        return torch.where(self._discrete(), torch.round(raw), raw)

    def clip(self, raw: Tensor) -> Tensor:
        """Raw block values [B, S, K, A] brought within the bounds, exactly; NaN stays NaN."""
        return torch.minimum(torch.maximum(raw, self.lower[:, None]), self.upper[:, None])

    def _discrete(self) -> Tensor:
        """[A] whether an action is discrete."""
        return torch.tensor([level > 0 for level in self.levels])

    def expand(self, raw: Tensor) -> Tensor:
        """Block values [B, S, K, A] to grid actions [B, S, H, A]."""
        starts = (0, *self.blocks[:-1])
        counts = torch.tensor([stop - start for start, stop in zip(starts, self.blocks, strict=True)])
        return raw.repeat_interleave(counts, dim=2)

    def select(self, index: Tensor) -> ActionSpace:
        """The space of some subjects."""
        return ActionSpace(
            self.grid, self.blocks, self.lower[index], self.upper[index], self.channels, self.warp, self.levels
        )
