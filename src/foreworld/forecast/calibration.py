"""What was learned from held-out subjects about a model's errors, by how long a subject has been known."""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.novelty import NoveltyModel


class Stage(BaseModel):
    """What holds once a subject has been known for a while: a model errs less about those whom it has watched.

    Attributes:
        after: Moments of history from which it holds.
        bands: As in `Calibration`.
        trajectory: As in `Calibration`.
    """

    model_config = ConfigDict(frozen=True)

    after: int = Field(ge=1)
    bands: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    trajectory: dict[str, dict[str, float]] = Field(default_factory=dict)


class MonitorLimits(BaseModel):
    """How much a healthy model is surprised (`agent.monitor`).

    Attributes:
        surprise: By running mean: what is exceeded at the false-alarm rate, in half-widths of the band. One that
            calibration did not know has no limit.
        usual: Their means; where they start. One number is that of all.
        jump: Greatest distance of two forecasts before and after an outstanding action, in half-widths of the band.
        false_alarm: Share of a healthy model's moments above one of the limits, at most.
    """

    model_config = ConfigDict(frozen=True)

    surprise: tuple[float, ...]
    usual: tuple[float, ...] | float
    jump: float
    false_alarm: float


class Calibration(BaseModel):
    """What was learned from held-out subjects about the model's errors.

    Errors are calibrated by how long a subject has been known (Mondrian conformal prediction, Vovk et al. 2005), so
    that a claimed risk holds on the first day and not only on average over many.

    Attributes:
        coverage: Coverage of the display bands.
        bands: By quantity: [H] half-widths in units of the predicted scale, from the first moment on.
        trajectory: By guardrail, then by risk level (as text): bound on the trajectory score, likewise.
        later: Stages that follow, the longest known last.
        novelty: Thresholds of novelty, or None before calibration.
        monitor: Limits of surprise, or None before calibration; without them nobody watches the model.
        subjects: Number of subjects it was fitted on.
        notes: Where it came from, round by round.
    """

    model_config = ConfigDict(frozen=True)

    coverage: float = Field(default=0.9, gt=0, lt=1)
    bands: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    trajectory: dict[str, dict[str, float]] = Field(default_factory=dict)
    later: tuple[Stage, ...] = ()
    novelty: NoveltyModel | None = None
    monitor: MonitorLimits | None = None
    subjects: int = 0
    notes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        starts = [stage.after for stage in self.later]
        if starts != sorted(set(starts)):
            raise ValueError(f"stages of a calibration must follow one another, got {starts}")
        return self

    @property
    def stages(self) -> tuple[Calibration | Stage, ...]:
        """All stages, the first moment's first."""
        return (self, *self.later)

    def stage(self, known: Tensor) -> Tensor:
        """[B] index of the stage for numbers of known moments [B]: 0 is the first, 1 the first of `later`."""
        if not self.later:
            return torch.zeros_like(known, dtype=torch.int64)
        starts = torch.tensor([stage.after for stage in self.later], dtype=torch.int64)
        return torch.searchsorted(starts, known.long(), right=True)

    def trajectory_bounds(self, guardrail: str, risk: float) -> Tensor:
        """[stages] the score to subtract from a guardrail's margin at this risk; 0 before any was calibrated.

        Raises:
            InputError: Others were calibrated and this one was not: its margin would silently go untightened.
        """
        if not self.trajectory:
            return torch.zeros(1 + len(self.later), dtype=torch.float64)
        bounds: list[float] = []
        for part in self.stages:
            bound = part.trajectory.get(guardrail, {}).get(f"{risk:g}")
            if bound is None and not bounds:
                levels = ", ".join(sorted(part.trajectory.get(guardrail, {}), key=float))
                known = f"guardrail {guardrail} at {levels}" if levels else f"only {', '.join(sorted(self.trajectory))}"
                raise InputError(
                    f"guardrail {guardrail} was not calibrated at risk {risk:g}: the model was calibrated for {known}; "
                    "use one of those, or calibrate again with the guardrails that are planned with"
                )
            # A stage that had too little for this level is held to what the stage before is held to.
            bounds.append(bounds[-1] if bound is None else bound)
        return torch.tensor(bounds, dtype=torch.float64)
