"""What oref0 is told about a patient: a profile fitted to the patient's own measured response.

With the simulator's own table of correction factors and carb ratios oref0 does far worse. It is given the better
profile, which needs a test bolus and a test meal of every patient: more than any other arm knows of the unseen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.dosing import FloatArray, basal_step
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation, Simulator, SimulatorConfig
from foreworld.domains.treatment.tables import Patients

PUMP_STEP = 0.05  # U/h and U, oref0's basal rates and micro-boluses
TEST_BOLUS_HOURS = 1.0  # of profile basal: small, so that the liver does not answer
TEST_GRAMS_PER_KG = 0.2  # small, so that no sugar is lost to the kidney


class Oref0Config(BaseModel):
    """What is common to all patients; names in brackets are oref0's own. What is not named here has oref0's default.

    Chosen on patients #001-003 of each group; insulin action and target are those of the reference comparator.

    Attributes:
        target: mg/dL, lower and upper end of the target (min_bg, max_bg).
        dia_hours: duration of insulin action, h (dia).
        peak: time of peak insulin action, min (insulinPeakTime).
        max_iob_hours: greatest insulin on board above basal, in hours of profile basal (max_iob).
        micro_minutes: greatest micro-bolus, in minutes of profile basal, with carbs on board (maxSMBBasalMinutes) ...
        micro_minutes_unannounced: ... and with more insulin than carbs on board (maxUAMSMBBasalMinutes).
        temp_multiplier: greatest temporary basal, in profile basals (max_basal).
        test_hours: how long the response to a test bolus and a test meal is measured, h.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: float = Field(default=110.0, ge=80.0, le=200.0)
    dia_hours: float = Field(default=9.0, ge=5.0, le=12.0)
    peak: float = Field(default=100.0, ge=50.0, le=120.0)
    max_iob_hours: float = Field(default=12.0, ge=0.0)
    micro_minutes: float = Field(default=30.0, gt=0.0, le=120.0)
    micro_minutes_unannounced: float = Field(default=30.0, gt=0.0, le=120.0)
    temp_multiplier: float = Field(default=3.0, gt=0.0, le=4.0)
    test_hours: float = Field(default=9.0, ge=3.0, le=24.0)


@dataclass(frozen=True)
class Response:
    """What a patient's tests showed.

    Attributes:
        sensitivity: `[B]` deepest fall for each unit, mg/dL/U (ISF).
        ratio: `[B]` grams whose area above baseline a unit's area below it makes up for, g/U (CR).
    """

    sensitivity: FloatArray
    ratio: FloatArray


def measure_response(patients: Patients, hours: float = 9.0, simulator: SimulatorConfig | None = None) -> Response:
    """Test each patient on the simulator, from the basal steady state and without noise: once a bolus, once a meal.

    The bolus is one hour of profile basal, the meal 0.2 g/kg. The record's CR and CF are not looked at.

    Args:
        patients: the batch.
        hours: how long each test is followed.
        simulator: the one that the patients are then treated in; its defaults if None.
    """
    bolus, grams = TEST_BOLUS_HOURS * patients.basal, TEST_GRAMS_PER_KG * patients.weight
    steps = round(60.0 * hours / STEP_MINUTES)
    nothing = np.zeros(len(patients))
    rest = _test(patients, nothing, nothing, steps, simulator)
    fall = rest - _test(patients, bolus, nothing, steps, simulator)
    rise = _test(patients, nothing, grams, steps, simulator) - rest
    per_unit, per_gram = fall.sum(axis=1) / bolus, rise.sum(axis=1) / grams
    return Response(sensitivity=fall.max(axis=1) / bolus, ratio=per_unit / per_gram)


def _test(
    patients: Patients, bolus: FloatArray, grams: FloatArray, steps: int, simulator: SimulatorConfig | None
) -> FloatArray:
    """Glucose after a bolus (U) and a meal (g) at the first midnight, `[B, steps + 1]` mg/dL."""
    look = ScenarioConfig(days=math.ceil((steps + 1) * STEP_MINUTES / 1440), announced=False, sensor_noise=False)
    quiet = Scenario.draw(patients, look, seed=0)
    meals = np.zeros_like(quiet.meals)
    meals[:, 0] = grams

    def dose(seen: Observation) -> FloatArray:
        return basal_step(patients) + (bolus if seen.t == 0 else 0.0)

    return Simulator(patients, replace(quiet, meals=meals), simulator).run(dose, steps).bg


def oref0_profiles(patients: Patients, response: Response, config: Oref0Config, *, smb: bool) -> list[dict[str, Any]]:
    """Each patient's profile in oref0's own names and units; see oref0's lib/profile/index.js.

    Args:
        patients: the batch; weight, CR and CF are not read.
        response: of the same patients.
        config: common to all.
        smb: whether micro-boluses are allowed, at all times.
    """
    rows = zip(patients.basal.tolist(), response.sensitivity.tolist(), response.ratio.tolist(), strict=True)
    return [_profile(*row, config, smb) for row in rows]


def _profile(basal: float, sensitivity: float, ratio: float, x: Oref0Config, smb: bool) -> dict[str, Any]:
    return {
        "current_basal": basal,
        "max_daily_basal": basal,
        "basalprofile": [{"i": 0, "start": "00:00:00", "minutes": 0, "rate": basal}],
        # oref0 rounds rates to the pump's step after it has capped them: down here, so that the cap holds.
        "max_basal": round(math.floor(x.temp_multiplier * basal / PUMP_STEP) * PUMP_STEP, 2),
        "max_daily_safety_multiplier": x.temp_multiplier,
        "current_basal_safety_multiplier": 4.0,
        "max_iob": x.max_iob_hours * basal,
        "sens": sensitivity,
        "isfProfile": {"sensitivities": [{"offset": 0, "start": "00:00:00", "sensitivity": sensitivity}]},
        "carb_ratio": ratio,
        "min_bg": x.target,
        "max_bg": x.target,
        "temptargetSet": False,
        "out_units": "mg/dL",
        "dia": x.dia_hours,
        "curve": "rapid-acting",
        "useCustomPeakTime": True,
        "insulinPeakTime": x.peak,
        "model": "554",  # a pump with the finer steps, which children need
        "bolus_increment": PUMP_STEP,
        "enableUAM": True,
        "enableSMB_always": smb,
        "maxSMBBasalMinutes": x.micro_minutes,
        "maxUAMSMBBasalMinutes": x.micro_minutes_unannounced,
    }
