"""Bands that follow one subject's stream: the calibrated half-widths times a multiplier that its own outcomes move.

    bands = AdaptiveBands(forecaster.points, forecaster.calibration.coverage)
    state = bands.start(subjects)
    state = bands.observe(state, reading)                  # what is measured now scores what was foreseen for now
    lower, upper = bands.apply(state, forecast, "cgm")     # what is shown
    state = bands.issue(state, forecast, "cgm")            # remembered until it can be scored

For display alone: no guardrail, no cost and no monitor reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast


class AdaptiveConfig(BaseModel):
    """How fast and how far a multiplier moves.

    Attributes:
        rate: Of the logarithm of the multiplier, for each outcome.
        keep: Share of that logarithm which stays where another picture of a subject takes over.
        least: Smallest multiplier; a quiet day must not make the next one's bands absurd.
        most: Greatest multiplier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.02, gt=0)
    keep: float = Field(default=0.5, ge=0, le=1)
    least: float = Field(default=0.5, gt=0)
    most: float = Field(default=3.0, gt=0)

    @model_validator(mode="after")
    def _around_one(self) -> Self:
        if not self.least <= 1.0 <= self.most:
            raise ValueError(f"multipliers start at 1, which must lie within {self.least} to {self.most}")
        return self


@dataclass(frozen=True)
class BandState:
    """Everything that the bands of B subjects remember: tensors, to be recorded or put back as they are.

    Attributes:
        multiplier: [B, H] of the calibrated half-widths.
        mean: [L, B, H] what was foreseen in the last L steps, NaN where nothing was; the row of step t is t modulo L.
        half: [L, B, H] calibrated half-widths of the same, not multiplied.
        clock: [] int64 steps observed.
    """

    multiplier: Tensor
    mean: Tensor
    half: Tensor
    clock: Tensor

    def __len__(self) -> int:
        """Number of subjects B."""
        return len(self.multiplier)

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, multiplier=self.multiplier[index], mean=self.mean[:, index], half=self.half[:, index])

    def tensors(self) -> dict[str, Tensor]:
        """By field; `BandState(**tensors)` is the same state."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class AdaptiveBands:
    """Tracks, for each subject and horizon, the quantile of its own scores at the stated coverage.

    The score of an outcome is its distance from the forecast in calibrated half-widths. After each one the logarithm
    of the multiplier moves by `rate` times (missed - risk): adaptive conformal inference (Gibbs and Candes 2021) on the
    bound instead of its level, which is the quantile tracker of Angelopoulos, Candes and Tibshirani (2023, Conformal
    PID control). The share of outcomes outside the multiplier in force when they came tends to the risk for any
    stream, as long as no bound is reached and no other picture takes over (`renewed`). A forecast for h steps ahead is
    scored h steps later and not before, by the multiplier of that moment: judged by the older one, the tracker would
    go on widening for h steps after it had widened enough.

    Args:
        points: [H] steps ahead.
        coverage: Stated coverage of the calibrated bands.
        config: Rate and bounds.

    Raises:
        InputError: There is no point, or one is not ahead, or the coverage is no share.
    """

    def __init__(
        self, points: Sequence[int] | Tensor, coverage: float = 0.9, config: AdaptiveConfig | None = None
    ) -> None:
        self.points = torch.as_tensor(points, dtype=torch.int64)
        if not len(self.points) or int(self.points.min()) < 1 or not 0.0 < coverage < 1.0:
            raise InputError(f"points {self.points.tolist()} must be steps ahead and coverage {coverage} a share")
        self.risk, self.config = 1.0 - coverage, config or AdaptiveConfig()

    def start(self, size: int) -> BandState:
        """The state of so many subjects before the first moment: the calibrated bands as they are."""
        kept = torch.full((int(self.points.max()) + 1, size, len(self.points)), torch.nan, dtype=torch.float64)
        ones = torch.ones(size, len(self.points), dtype=torch.float64)
        return BandState(ones, kept, kept.clone(), torch.zeros((), dtype=torch.int64))

    def observe(self, state: BandState, reading: Tensor) -> BandState:
        """One step later: score what was foreseen for now by what is measured now.

        Args:
            state: Of B subjects.
            reading: [B] in the quantity's unit, NaN where nothing was measured: no score, and nothing moves.

        Raises:
            InputError: The reading is not one a subject.
        """
        if reading.shape != (len(state),):
            raise InputError(f"reading has shape {tuple(reading.shape)}; expected ({len(state)},): one a subject")
        clock = state.clock + 1
        length = len(state.mean)
        at, point = (clock - self.points) % length, torch.arange(len(self.points))
        moved = self.score(state, reading, state.mean[at, :, point].T, state.half[at, :, point].T)
        # The row that is written next; if nothing is issued, nothing old may be scored in its place.
        mean, half = state.mean.clone(), state.half.clone()
        mean[clock % length], half[clock % length] = torch.nan, torch.nan
        return BandState(moved.multiplier, mean, half, clock)

    def score(self, state: BandState, reading: Tensor, mean: Tensor, half: Tensor) -> BandState:
        """Multipliers after a reading [B], for what was foreseen for it from each horizon: [B, H]; NaN moves nothing.

        For an agent whose plans change from step to step: what it foresaw for a plan says nothing about what was done
        instead, so it forecasts once more from its belief of h steps ago, told what was done, and gives that.
        """
        missed = (reading.double()[:, None] - mean).abs() > state.multiplier * half
        known = ~torch.isnan(reading[:, None] + mean + half)
        moved = state.multiplier.log() + self.config.rate * (missed.double() - self.risk)
        bounded = moved.clamp(math.log(self.config.least), math.log(self.config.most)).exp()
        return replace(state, multiplier=torch.where(known, bounded, state.multiplier))

    def renewed(self, state: BandState, who: Tensor) -> BandState:
        """Another picture of some subjects is in force from now on, as `Pictures.since` tells.

        Their multipliers go back towards 1, for some of what was learned made up for the errors of the picture that
        is gone. What that one foresaw is not scored any more: it says nothing about the bands of the one in force.

        Args:
            state: Of B subjects.
            who: [B] bool.

        Raises:
            InputError: It is not one a subject, or no bool.
        """
        if who.shape != (len(state),) or who.dtype != torch.bool:
            raise InputError(f"who is {who.dtype} of shape {tuple(who.shape)}; expected bool ({len(state)},)")
        if not who.any():
            return state
        gone = who[None, :, None]
        return replace(
            state,
            multiplier=torch.where(who[:, None], state.multiplier**self.config.keep, state.multiplier),
            mean=state.mean.masked_fill(gone, torch.nan),
            half=state.half.masked_fill(gone, torch.nan),
        )

    def issue(self, state: BandState, forecast: Forecast, quantity: str) -> BandState:
        """Remember the forecast that was made now: of one plan for each subject, the one that is carried out.

        Raises:
            InputError: The forecast is of several plans a subject, or of another grid.
        """
        mean, half = self._parts(state, forecast, quantity)
        return self.remember(state, mean, half)

    def remember(self, state: BandState, mean: Tensor, half: Tensor) -> BandState:
        """The same from means and calibrated half-widths [B, H] in the quantity's unit."""
        row, means, halves = state.clock % len(state.mean), state.mean.clone(), state.half.clone()
        means[row], halves[row] = mean.double(), half.double()
        return replace(state, mean=means, half=halves)

    def apply(self, state: BandState, forecast: Forecast, quantity: str) -> tuple[Tensor, Tensor]:
        """Lower and upper end [B, H] of the band to show, clamped nowhere; raises as `issue`."""
        mean, half = self._parts(state, forecast, quantity)
        return mean - state.multiplier * half, mean + state.multiplier * half

    def _parts(self, state: BandState, forecast: Forecast, quantity: str) -> tuple[Tensor, Tensor]:
        mean = forecast.mean[quantity]
        if mean.shape != (len(state), 1, len(self.points)) or not torch.equal(forecast.points, self.points):
            raise InputError(
                f"the forecast has shape {tuple(mean.shape)}; expected ({len(state)}, 1, {len(self.points)}): one plan "
                "for each subject, on the grid of the bands"
            )
        # An end may be cut off at a bound of the channel; the other one then still has the calibrated distance.
        half = torch.maximum(forecast.upper[quantity] - mean, mean - forecast.lower[quantity])
        return mean[:, 0].double(), half[:, 0].double()
