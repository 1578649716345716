"""The classical arms: fixed rules that dose insulin from the sensor, the entries and the patient's profile.

    controller = BasalBolusCap()
    controller.reset(patients)
    trajectory = simulator.run(controller.act)

Each obeys `dose_cap`. A missing reading is held for 15 minutes, then profile basal is delivered.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.dosing import (
    HOLD_MINUTES,
    Controller,
    FloatArray,
    History,
    Memory,
    basal_step,
    carbs_on_board,
    dose_cap,
    held_glucose,
    iob_above_basal,
    line,
)
from foreworld.domains.treatment.fallback import Fallback, FallbackConfig
from foreworld.domains.treatment.pid import PID, PIDConfig, PIDGains, tune_pid
from foreworld.domains.treatment.simulator import Observation
from foreworld.domains.treatment.tables import Patients

__all__ = [
    "PID",
    "BasalBolus",
    "BasalBolusCap",
    "BasalBolusCapConfig",
    "BasalBolusConfig",
    "BasalOnly",
    "Controller",
    "Fallback",
    "FallbackConfig",
    "History",
    "PIDConfig",
    "PIDGains",
    "basal_step",
    "carbs_on_board",
    "dose_cap",
    "held_glucose",
    "iob_above_basal",
    "line",
    "tune_pid",
]


class BasalOnly:
    """Profile basal and nothing else: the arm `nothing`."""

    def reset(self, patients: Patients) -> None:
        """See `Controller`."""
        self._patients = patients

    def act(self, seen: Observation) -> FloatArray:
        """See `Controller`."""
        return np.minimum(basal_step(self._patients), dose_cap(self._patients))


class BasalBolusConfig(BaseModel):
    """Standard therapy as simglucose's `BBController` has it.

    Attributes:
        correct_above: mg/dL above which a meal's bolus includes a correction.
        target: mg/dL that the correction aims at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    correct_above: float = Field(default=150.0, gt=0.0)
    target: float = Field(default=140.0, gt=0.0)


class BasalBolus:
    """Basal and, at an entry, carbs / CR with a correction: `bb` where counts are exact, `bb_error` where not."""

    def __init__(self, config: BasalBolusConfig | None = None) -> None:
        self.config = config or BasalBolusConfig()

    def reset(self, patients: Patients) -> None:
        """See `Controller`."""
        self._patients = patients
        self._memory = Memory(patients, HOLD_MINUTES)

    def act(self, seen: Observation) -> FloatArray:
        """See `Controller`."""
        patients, glucose = self._patients, held_glucose(self._memory.see(seen))
        excess = np.where(glucose > self.config.correct_above, glucose - self.config.target, 0.0)
        bolus = np.where(seen.announced > 0.0, (seen.announced / patients.cr + excess / patients.cf), 0.0)
        return np.minimum(basal_step(patients) + bolus, dose_cap(patients))


class BasalBolusCapConfig(BasalBolusConfig):
    """Standard therapy with a bolus calculator and a pump that suspends.

    Attributes:
        suspend: mg/dL below which basal stops; a meal's bolus is still given.
        dia: duration of insulin action, min.
        peak: time of peak insulin action, min.
    """

    suspend: float = Field(default=80.0, gt=0.0)
    dia: float = Field(default=300.0, gt=0.0)
    peak: float = Field(default=75.0, gt=0.0)


class BasalBolusCap:
    """As `BasalBolus`, the correction less the insulin on board above basal, and low suspend: the arm `bb_cap`."""

    def __init__(self, config: BasalBolusCapConfig | None = None) -> None:
        self.config = config or BasalBolusCapConfig()

    def reset(self, patients: Patients) -> None:
        """See `Controller`."""
        self._patients = patients
        self._memory = Memory(patients, max(self.config.dia, HOLD_MINUTES))

    def act(self, seen: Observation) -> FloatArray:
        """See `Controller`."""
        x, patients = self.config, self._patients
        history = self._memory.see(seen)
        glucose = held_glucose(history)
        board = iob_above_basal(patients, history, dia=x.dia, peak=x.peak)
        excess = np.where(glucose > x.correct_above, glucose - x.target, 0.0)
        correction = np.maximum(excess / patients.cf - board, 0.0)
        bolus = np.where(seen.announced > 0.0, seen.announced / patients.cr + correction, 0.0)
        # Suspension withholds basal; the meal's bolus is the person's own act.
        basal = np.where(glucose < x.suspend, 0.0, basal_step(patients))
        dose: FloatArray = np.minimum(basal + bolus, dose_cap(patients))
        self._memory.done(dose)
        return dose
