"""The channels as tokens: every reading, dose and entry becomes one of a few dozen whole numbers, and back.

    bins = Bins()
    tokens = bins.glucose(log.glucose)            # [B, T] int64
    bins.glucose_value(tokens)                    # [B, T] mg/dL, within half a bin

Glucose has equal bins; amounts have one token for none and bins of equal ratio, as doses span orders of magnitude.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.schema import SCHEMA


class Bins(BaseModel):
    """How fine the tokens are.

    Attributes:
        step: Width of a glucose bin, mg/dL.
        insulin: Tokens of insulin, none included.
        insulin_range: Ends of its other bins, in hours of profile basal a step.
        carbs: Tokens of carbohydrate, none included.
        carbs_range: Ends of its other bins, g/kg.
        clock: Tokens of the time of day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: float = Field(default=4.0, gt=0)
    insulin: int = Field(default=48, ge=2)
    insulin_range: tuple[float, float] = (0.02, 40.0)
    carbs: int = Field(default=32, ge=2)
    carbs_range: tuple[float, float] = (0.02, 5.0)
    clock: int = Field(default=48, ge=1)

    @property
    def readings(self) -> int:
        """Tokens of a measured reading; the one after the last stands for a missing one."""
        channel = SCHEMA["cgm"]
        assert channel.low is not None and channel.high is not None
        return math.ceil((channel.high - channel.low) / self.step)

    def glucose(self, values: Tensor) -> Tensor:
        """Tokens of readings in mg/dL; NaN gives the token of a missing one, values out of bounds the nearest bin."""
        inside = torch.nan_to_num((values - _LOWEST) / self.step).floor().long().clamp(0, self.readings - 1)
        return torch.where(torch.isnan(values), torch.full_like(inside, self.readings), inside)

    def glucose_value(self, tokens: Tensor) -> Tensor:
        """Middle of the bins, mg/dL; NaN for a missing reading."""
        middle = _LOWEST + (tokens.double() + 0.5) * self.step
        return torch.where(tokens == self.readings, torch.full_like(middle, float("nan")), middle)

    def doses(self, values: Tensor) -> Tensor:
        """Tokens of insulin in hours of profile basal a step."""
        return _amounts(values, self.insulin, self.insulin_range)

    def dose_value(self, tokens: Tensor) -> Tensor:
        """Geometric middle of the bins, 0 for none."""
        return _amount_value(tokens, self.insulin, self.insulin_range)

    def entries(self, values: Tensor) -> Tensor:
        """Tokens of carbohydrate in g/kg."""
        return _amounts(values, self.carbs, self.carbs_range)

    def entry_value(self, tokens: Tensor) -> Tensor:
        """Geometric middle of the bins, 0 for none."""
        return _amount_value(tokens, self.carbs, self.carbs_range)

    def times(self, day: Tensor) -> Tensor:
        """Tokens of the time of day, from the share of the day that has passed."""
        return (day * self.clock).floor().long().clamp(0, self.clock - 1)


_LOWEST = float(SCHEMA["cgm"].low or 0.0)


def _amounts(values: Tensor, count: int, ends: tuple[float, float]) -> Tensor:
    low, high = (math.log(end) for end in ends)
    place = (torch.log(values.clamp(min=1e-9)) - low) / (high - low) * (count - 1)
    token = place.floor().long().clamp(0, count - 2) + 1
    # Half of the smallest bin's lower end is as near to it as to nothing.
    return torch.where(values < ends[0] / 2.0, torch.zeros_like(token), token)


def _amount_value(tokens: Tensor, count: int, ends: tuple[float, float]) -> Tensor:
    low, high = (math.log(end) for end in ends)
    middle = torch.exp(low + (tokens.double() - 0.5) * (high - low) / (count - 1))
    return torch.where(tokens == 0, torch.zeros_like(middle), middle)
