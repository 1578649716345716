"""What the dosing rules share: the protocol's cap, what a controller remembers, insulin and carbs on board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation
from foreworld.domains.treatment.tables import Patients
from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]

LIMITS = InsulinLimits()
HOLD_MINUTES = 15.0  # a CGM reading stands for this long when none follows


class Controller(Protocol):
    """Decides the insulin of a batch of subjects every five minutes."""

    def reset(self, patients: Patients) -> None:
        """Forget everything and serve these patients, who stand at profile basal."""

    def act(self, seen: Observation) -> FloatArray:
        """The insulin of the coming 5 minutes, `[B]` U, at most `dose_cap(patients)`."""


def basal_step(patients: Patients) -> FloatArray:
    """Profile basal of one step, `[B]` U."""
    result: FloatArray = patients.basal * (STEP_MINUTES / 60.0)
    return result


def dose_cap(patients: Patients, limits: InsulinLimits = LIMITS) -> FloatArray:
    """The treatment protocols' cap on one step: 4 x basal x 5 min + min(10 U, 100 g / CR), `[B]` U.

    The checker's rule `step_dose` judges the same bound; both read its numbers from `limits`.
    """
    basal = patients.basal * (limits.step_basal_multiplier * limits.step_minutes / 60)
    result: FloatArray = basal + np.minimum(limits.step_bolus, limits.step_bolus_carbs / patients.cr)
    return result


@dataclass(frozen=True)
class History:
    """What was seen and done up to now, one row a subject.

    Attributes:
        minute: `[T + 1]` time of each observation, rising; the last is now.
        cgm: `[B, T + 1]` mg/dL, NaN where missing.
        insulin: `[B, T]` U delivered between an observation and the next.
        announced: `[B, T + 1]` g entered at each observation.

    Raises:
        InputError: shapes disagree, time does not rise, or a dose or an entry is negative or not finite.
    """

    minute: FloatArray
    cgm: FloatArray
    insulin: FloatArray
    announced: FloatArray

    def __post_init__(self) -> None:
        subjects, seen = self.cgm.shape
        shapes = {"minute": (seen,), "insulin": (subjects, seen - 1), "announced": (subjects, seen)}
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise InputError(f"history {name} has shape {found}; beside cgm {self.cgm.shape} it must be {shape}")
        if not np.all(np.diff(self.minute) > 0.0):
            raise InputError("history minute must rise from one observation to the next")
        for name, unit in (("insulin", "U"), ("announced", "g")):
            values = getattr(self, name)
            if not np.all(np.isfinite(values) & (values >= 0.0)):
                raise InputError(f"history {name} must be finite and at least 0 {unit}")

    def last(self, minutes: float) -> History:
        """The part seen at most `minutes` ago, the present in any case."""
        first = min(int(np.searchsorted(self.minute, self.minute[-1] - minutes)), len(self.minute) - 1)
        return History(self.minute[first:], self.cgm[:, first:], self.insulin[:, first:], self.announced[:, first:])


class Memory:
    """The last minutes of a closed loop as a `History`, for a controller that is asked step by step.

    Before the loop began the sensor is silent, nobody ate, and basal was delivered.
    """

    def __init__(self, patients: Patients, minutes: float) -> None:
        size, length = len(patients), int(np.ceil(minutes / STEP_MINUTES))
        self._ago = STEP_MINUTES * np.arange(-length, 1.0)
        self._cgm = np.full((size, length + 1), np.nan)
        self._insulin = np.repeat(basal_step(patients)[:, None], length, axis=1)
        self._announced = np.zeros((size, length + 1))

    def see(self, seen: Observation) -> History:
        """Add what is seen now and return the history that ends with it; valid until the next call."""
        for kept, new in ((self._cgm, seen.cgm), (self._announced, seen.announced)):
            kept[:, :-1] = kept[:, 1:]
            kept[:, -1] = new
        return History(seen.minute + self._ago, self._cgm, self._insulin, self._announced)

    def done(self, insulin: FloatArray) -> None:
        """Add what is delivered from now to the next observation, `[B]` U."""
        self._insulin[:, :-1] = self._insulin[:, 1:]
        self._insulin[:, -1] = insulin

    def resume(self, history: History) -> None:
        """Take over a record, one row for each subject; its last observation is the one that `see` is given next."""
        count = min(history.insulin.shape[1], self._insulin.shape[1])
        if count:
            self._insulin[:, -count:] = history.insulin[:, -count:]
            self._cgm[:, -count:] = history.cgm[:, -count - 1 : -1]
            self._announced[:, -count:] = history.announced[:, -count - 1 : -1]


def iob_above_basal(patients: Patients, history: History, *, dia: float, peak: float) -> FloatArray:
    """Insulin on board above the profile basal, `[B]` U.

    Steps below basal count as zero, never as a credit: insulin withheld does not undo insulin given. What was given
    before the history began is taken for basal.

    Args:
        patients: the batch.
        history: what was delivered.
        dia: duration of action, min.
        peak: time of peak action, min.
    """
    middle = (history.minute[:-1] + history.minute[1:]) / 2.0
    usual = patients.basal[:, None] * (np.diff(history.minute) / 60.0)
    share = insulin_on_board(history.minute[-1] - middle, dia=dia, peak=peak)
    result: FloatArray = (np.maximum(history.insulin - usual, 0.0) * share).sum(axis=1)
    return result


def carbs_on_board(history: History, minutes: float) -> FloatArray:
    """Announced carbohydrate still to be absorbed, `[B]` g: each entry runs off linearly over `minutes`."""
    left = np.maximum(1.0 - (history.minute[-1] - history.minute) / minutes, 0.0)
    result: FloatArray = (history.announced * left).sum(axis=1)
    return result


def held_glucose(history: History, minutes: float = HOLD_MINUTES) -> FloatArray:
    """The newest reading if it is at most `minutes` old, else NaN, `[B]` mg/dL."""
    recent = history.last(minutes)
    valid = np.isfinite(recent.cgm)
    newest = valid.shape[1] - 1 - np.argmax(valid[:, ::-1], axis=1)
    result: FloatArray = recent.cgm[np.arange(len(newest)), newest]
    return result


def line(history: History, minutes: float) -> tuple[FloatArray, FloatArray]:
    """The least-squares line through the readings of the last `minutes`, NaN with fewer than three.

    Returns:
        Its value now, `[B]` mg/dL, and its slope, `[B]` mg/dL/min.
    """
    recent = history.last(minutes)
    valid = np.isfinite(recent.cgm)
    count = np.where(valid.sum(axis=1) >= 3, valid.sum(axis=1), np.nan)
    reading = np.where(valid, recent.cgm, 0.0)
    ago = recent.minute - recent.minute[-1]
    middle = (valid * ago).sum(axis=1) / count
    time = np.where(valid, ago - middle[:, None], 0.0)
    spread = np.where(np.isnan(count), np.nan, (time**2).sum(axis=1))
    slope: FloatArray = (time * reading).sum(axis=1) / spread
    return reading.sum(axis=1) / count - slope * middle, slope
