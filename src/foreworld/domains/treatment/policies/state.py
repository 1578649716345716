"""What a learned policy reads at a decision and what it answers: the same for the clone and for offline RL.

A state is a function of what was measured, entered and delivered up to the decision: readings of the last hour, insulin
and entries of the last day in bins that widen into the past, the profile, the clock. Amounts are in hours of the
profile basal (entries through the carb ratio), so that one policy serves people of all sizes. Whether a person
announces meals is not told; the entries of the last day, and how long the record is, show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from foreworld.domains.treatment.collect import statics_of
from foreworld.domains.treatment.dosing import LIMITS, FloatArray
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation
from foreworld.domains.treatment.tables import Patients
from foreworld.domains.treatment.windows import TYPICAL_GLUCOSE, Window, WindowConfig, windows_at
from foreworld.errors import InputError
from foreworld.model.belief import History

STEPS_AN_HOUR = 60 // STEP_MINUTES
BOLUS = LIMITS.step_basal_multiplier  # a dose above so many profile basals holds a bolus
_PROFILE, _CLOCK = 7, 2
_RATIO, _FACTOR = 2, 3  # columns of `Window.profile`


class StateConfig(BaseModel):
    """How much of the past a policy reads, and the range of its doses.

    Attributes:
        lags: Steps back of the readings that are compared with the newest one.
        edges: Steps back at which the bins of past insulin and entries end.
        most: Greatest dose, in profile basals of one step; the protocol's cap is applied besides.
        insulin: What of the insulin delivered is read. Who imitates and reads all of it learns that the next dose is
            the last one, and drifts away with its own errors (de Haan, Jayaraman and Levine 2019, "Causal confusion in
            imitation learning", arXiv:1905.11979).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lags: tuple[int, ...] = Field(default=(1, 2, 3, 4, 6, 9, 12), min_length=1)
    edges: tuple[int, ...] = Field(default=(1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 96, 144, 288), min_length=1)
    most: float = Field(default=240.0, gt=1.0)
    insulin: Literal["all", "boluses", "none"] = "all"

    @model_validator(mode="after")
    def _rising(self) -> StateConfig:
        for name in ("lags", "edges"):
            values = getattr(self, name)
            if values[0] < 1 or any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must rise from 1 step or more, not {values}")
        return self

    @property
    def window(self) -> WindowConfig:
        """The window that a state is worked out from."""
        return WindowConfig(readings=self.lags[-1] + 1, bins=self.edges[-1], bin_steps=1)

    @property
    def size(self) -> int:
        """Width of a state."""
        return 2 + len(self.lags) + 2 * len(self.edges) + 1 + _PROFILE + _CLOCK + 1


def states(window: Window, config: StateConfig) -> Tensor:
    """[B, size] float32 states of B windows.

    In order: the newest reading above 140 mg/dL, in 100 mg/dL and in the hours of basal that would correct it; its rise
    since each lag, in 20 mg/dL; insulin above basal and entries by bin, in hours of basal; the present entry, as
    `log1p` of basal steps; the profile; the clock; the share of the longest bin that the record covers.
    """
    last, basal = window.cgm[:, -1:], window.basal[:, None]
    ratio, factor = (torch.exp(window.profile[:, column : column + 1]) for column in (_RATIO, _FACTOR))
    lags = torch.tensor(config.lags)
    insulin = window.insulin / basal - 1.0 / STEPS_AN_HOUR
    if config.insulin == "boluses":
        insulin = torch.where(window.insulin > basal * (BOLUS / STEPS_AN_HOUR), insulin, torch.zeros_like(insulin))
    elif config.insulin == "none":
        insulin = torch.zeros_like(insulin)
    entries = window.carbs / (ratio * basal)
    angle = 2.0 * math.pi * window.time[:, None] / 1440.0
    parts = (
        (last - TYPICAL_GLUCOSE) / 100.0,
        (last - TYPICAL_GLUCOSE) / (factor * basal),
        (last - window.cgm.flip(1)[:, lags]) / 20.0,
        _binned(insulin, config.edges),
        _binned(entries, config.edges),
        torch.log1p(entries[:, -1:] * STEPS_AN_HOUR),
        window.profile,
        torch.sin(angle),
        torch.cos(angle),
        window.count[:, None].clamp(max=config.edges[-1]) / config.edges[-1],
    )
    return torch.cat(parts, dim=1).float()


def relative_dose(dose: Tensor, basal: Tensor, config: StateConfig) -> Tensor:
    """Doses [B] U of one step as actions [B] in -1..1: the logarithm of 1 + profile basals, -1 is none."""
    steps = (dose * STEPS_AN_HOUR / basal).clamp(0.0, config.most)
    return 2.0 * torch.log1p(steps) / math.log1p(config.most) - 1.0


def basal_steps(action: FloatArray, config: StateConfig) -> FloatArray:
    """The inverse of `relative_dose`, in profile basals of one step."""
    result: FloatArray = np.expm1((np.clip(action, -1.0, 1.0) + 1.0) / 2.0 * math.log1p(config.most))
    return result


class States:
    """The states of a closed loop, one observation after another; each equals that of the whole record so far."""

    def __init__(self, config: StateConfig) -> None:
        self.config = config
        self._patients: Patients | None = None
        self._window: Window | None = None
        self._dose: FloatArray | None = None

    def reset(self, patients: Patients) -> None:
        """Forget everything and serve these patients, who stand at profile basal."""
        self._patients, self._window, self._dose = patients, None, None

    def see(self, seen: Observation) -> Tensor:
        """[B, size] states with what is seen now.

        Raises:
            InputError: `reset` was not called, or the dose since the last observation was not told.
        """
        if self._patients is None:
            raise InputError("this policy serves nobody yet; call reset(patients) first")
        stamp = torch.full((len(self._patients),), float(seen.minute), dtype=torch.float64)
        cgm, carbs = torch.from_numpy(seen.cgm), torch.from_numpy(seen.announced)
        if self._window is None:
            values = {"cgm": seen.cgm[:, None], "carbs": seen.announced[:, None], "insulin": np.zeros((len(stamp), 0))}
            history = History.from_arrays(SCHEMA, stamp[:, None].numpy(), values | statics_of(self._patients))
            start = torch.zeros((len(stamp), 1), dtype=torch.int64)
            self._window = windows_at(history, start, self.config.window)
        elif self._dose is None:
            raise InputError("this policy was not told what was delivered since the last observation; call done(dose)")
        else:
            given = {"insulin": torch.from_numpy(self._dose)}
            self._window = self._window.after(stamp, {"cgm": cgm, "carbs": carbs}, given)
        self._dose = None
        return states(self._window, self.config)

    def done(self, dose: FloatArray) -> None:
        """Add what is delivered from now to the next observation, [B] U."""
        self._dose = np.asarray(dose, dtype=np.float64)


def decisions(
    histories: Sequence[History], share: float, ahead: int, generator: np.random.Generator
) -> Iterator[tuple[History, Tensor]]:
    """Moments of logged records to learn from, [1, N] for each subject.

    All with an entry and a share of the others. Which are taken depends on what was seen and on chance, never on the
    dose that followed: what was done in a given state keeps its distribution.

    Args:
        histories: Logged records.
        share: Of the moments without an entry.
        ahead: Steps that must follow a moment.
        generator: Of the choice.
    """
    for history in histories:
        for row in range(len(history)):
            one = history.select(torch.tensor([row]))
            count = int(one.lengths[0]) - ahead
            if count < 1:
                continue
            entered = one.values["carbs"][0, :count].numpy() > 0.0
            taken = np.flatnonzero(entered | (generator.random(count) < share))
            if len(taken):
                yield one, torch.from_numpy(taken)[None]


def _binned(amounts: Tensor, edges: Sequence[int]) -> Tensor:
    """[B, K] sums of [B, P] amounts, newest last, between the edges counted back from the newest."""
    total = amounts.flip(1).cumsum(1)[:, torch.tensor(edges) - 1]
    return torch.diff(total, dim=1, prepend=torch.zeros_like(total[:, :1]))
