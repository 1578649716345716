"""A zone that must not be entered, given as a predicate on what is read out of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast
from foreworld.planning.guardrail import Tightened

BETWEEN = 8  # places looked at on the way from one point to the next


@dataclass(frozen=True, kw_only=True)
class KeepOut(Tightened):
    """The place that is read out stays outside a box, one for each subject.

    The model predicts places at the points of its grid; between them, and from the present on where it reads that, the
    way is taken to be straight. Whatever else happens there is in the trajectory score, which compares with the least
    true distance over all steps.

    Attributes:
        quantities: Q predicted quantities of one unit that span the space, such as x and y.
        low: [B][Q] lesser corner of each subject's box; one for all subjects if there is one.
        high: [B][Q] greater corner.
        far: What is farther counts as this far, in what is predicted and in what it is compared with: how wrong a
            prediction is about places from which nobody enters is no reason to keep away from the box. None counts
            every distance as it is.
    """

    quantities: tuple[str, ...]
    low: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]
    far: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        width = len(self.quantities)
        if self.far is not None and not 0 < self.far < math.inf:
            raise InputError(f"guardrail {self.name}: far is {self.far:g} and must be finite and above 0, or None")
        if not width or len(self.low) != len(self.high) or not self.low:
            raise InputError(f"guardrail {self.name}: give quantities, and as many lesser as greater corners")
        for low, high in zip(self.low, self.high, strict=True):
            if len(low) != width or len(high) != width or not all(a < b for a, b in zip(low, high, strict=True)):
                raise InputError(
                    f"guardrail {self.name}: corners {low} and {high} must have {width} numbers each, the first the "
                    "lesser ones"
                )
            if not all(map(math.isfinite, (*low, *high))):
                raise InputError(f"guardrail {self.name}: corners {low} and {high} must be finite")

    def predicted(self, forecast: Forecast) -> tuple[Tensor, Tensor]:
        """Least predicted distance from the box [B, S], negative inside, and the largest predicted scale on the way.

        Raises:
            InputError: The horizon is none of the model's points.
        """
        counted = int((forecast.points <= self.horizon).sum())
        if not counted or int(forecast.points[counted - 1]) < self.horizon:
            raise InputError(
                f"guardrail {self.name}: its horizon of {self.horizon} steps is none of the model's horizon points "
                f"{forecast.points.tolist()}"
            )
        place = torch.stack([forecast.mean[name][..., :counted] for name in self.quantities], dim=-1)
        if all(name in forecast.now for name in self.quantities):
            now = torch.stack([forecast.now[name] for name in self.quantities], dim=-1)
            place = torch.cat([now[:, None, None].expand(*place.shape[:2], 1, -1), place], dim=2)
        share = torch.arange(1, BETWEEN + 1) / BETWEEN
        between = place[:, :, :-1, None] + share[:, None] * (place[:, :, 1:] - place[:, :, :-1])[:, :, :, None]
        distance = self.distance(torch.cat([place[:, :, :1], between.flatten(2, 3)], dim=2))
        scale = torch.stack([forecast.scale[name][..., :counted] for name in self.quantities]).amax(0).amax(-1)
        least = distance.amin(-1)
        if self.far is not None:
            least = least.clamp(max=self.far)
        return torch.where(torch.isnan(distance).any(-1), torch.full_like(least, torch.nan), least), scale

    def along(self, start: Tensor, end: Tensor) -> Tensor:
        """[B, ...] least distance from each subject's box on the straight way from [B, ..., Q] to [B, ..., Q]."""
        share = torch.arange(BETWEEN + 1) / BETWEEN
        return self.distance(start[..., None, :] + share[:, None] * (end - start)[..., None, :]).amin(-1)

    def distance(self, place: Tensor) -> Tensor:
        """[B, ...] distance of places [B, ..., Q] from each subject's box, negative inside.

        Raises:
            InputError: There are several boxes and not one for each subject.
        """
        if len(self.low) not in (1, len(place)):
            raise InputError(f"guardrail {self.name}: {len(self.low)} boxes for {len(place)} subjects; give each one")
        shape = (-1, *(1,) * (place.dim() - 2), len(self.quantities))
        low, high = (torch.tensor(ends, dtype=place.dtype).reshape(shape) for ends in (self.low, self.high))
        beyond = torch.maximum(low - place, place - high)
        outside = beyond.clamp(min=0.0).pow(2).sum(-1).sqrt()
        # NaN must stay NaN: amax keeps it, and so does the sum.
        return torch.where(beyond.amax(-1) > 0, outside, beyond.amax(-1))
