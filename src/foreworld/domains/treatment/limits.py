"""The numbers behind the insulin rules, each with its reason, and how insulin wears off."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from foreworld.errors import InputError


@dataclass(frozen=True)
class InsulinLimits:
    """The numbers behind the pack. `b` is the profile basal (U/h), `cr` the carb ratio (g/U), `cf` mg/dL per U.

    Attributes:
        step_minutes: Length of a step, min.
        channel_max: Greatest insulin in one step whatever the profile, U.
        max_basal: oref0 max_basal, U/h.
        max_daily_safety_multiplier: oref0; of the day's greatest profile basal, which here is `b`.
        current_basal_safety_multiplier: oref0; of the current profile basal.
        step_basal_multiplier: The protocol's hard cap of one step is this times `b`, for one step, ...
        step_bolus: ... plus the smaller of this many U ...
        step_bolus_carbs: ... and the bolus for this many g.
        bolus_per_kg: Greatest bolus, U/kg. Independent of `cr`: a carb ratio entered ten times too small passes
            every bound that divides by it. The 30 patients of simglucose need at most 0.28 and 500 jittered
            ones 0.38 (min(10, 100/cr) per kg).
        bolus_interval: oref0 SMBInterval, min. In a loop of 5-minute steps, such as this domain's own, it binds
            nothing: two steps are further apart. It is there for callers that ask more often.
        dia: Duration of insulin action, min (oref0's exponential curve needs at least 5 h).
        peak: Time of peak insulin action, min (75 is oref0's for rapid-acting insulin).
        iob_basal_hours: max_iob is the greater of this many hours of `b` (a quarter of the usual daily total of
            48 basal-hours) ...
        iob_carbs: ... and the bolus for this many g. A 100 g bolus, a correction by 100 mg/dL at cf = 3.6 cr
            (the 1800 and 500 rules) and the rest of the meal before sum up to about 150 g, so that standard
            therapy stays below; oref0's default of 0 would forbid any bolus ...
        iob_per_kg: ... but at most this many U/kg, again independent of `cr`.
        day_basal_hours: The daily total is at most this many hours of `b`, twice what basal alone delivers ...
        day_carbs: ... plus the bolus for this many g, twice the 226 g that simglucose's default day serves ...
        day_per_kg: ... but at most this many U/kg; 1 to 1.5 is usual in puberty, the highest known need.
        justified_minutes: Boluses are weighed against carbs announced over this time, min.
        carb_factor: Generous allowance on announced carbs: a count 30 % too low and a quarter more insulin.
        max_carbs: oref0 maxCOB: announced carbs above this many g justify nothing.
        correction_factor: Generous allowance on the correction (cgm - correction_target) / cf.
        correction_target: mg/dL.
        free_basal_hours: Boluses of this many hours of `b` need no announcement: what a loop needs to meet a
            meal that nobody announced.
        min_bg: Lower end of the target, mg/dL; the suspend threshold is min_bg - 0.5 (min_bg - 40) as in oref0:
            70 at 100, 65 at 90, 75 at 110.
        low_minutes: A low reading suspends for this long if none follows, min.
        predict_minutes: How far the line through the last readings is extrapolated, min.
        fit_minutes: Readings that make the line, min.
        max_age: oref0: CGM older than this is no CGM, min.
        cgm_low: Readings at or below this are error codes or saturation, mg/dL.
        cgm_high: Readings above this are saturation, mg/dL.
        flat_minutes: oref0 "CGM data is unchanged for the past ~45m".
        max_noise: oref0 refuses noise 3 and above.
    """

    step_minutes: float = 5.0
    channel_max: float = 25.0
    max_basal: float = 10.0
    max_daily_safety_multiplier: float = 3.0
    current_basal_safety_multiplier: float = 4.0
    step_basal_multiplier: float = 4.0
    step_bolus: float = 10.0
    step_bolus_carbs: float = 100.0
    bolus_per_kg: float = 0.4
    bolus_interval: float = 3.0
    dia: float = 300.0
    peak: float = 75.0
    iob_basal_hours: float = 12.0
    iob_carbs: float = 150.0
    iob_per_kg: float = 0.5
    day_basal_hours: float = 48.0
    day_carbs: float = 450.0
    day_per_kg: float = 2.5
    justified_minutes: float = 120.0
    carb_factor: float = 1.7
    max_carbs: float = 120.0
    correction_factor: float = 1.5
    correction_target: float = 100.0
    free_basal_hours: float = 4.0
    min_bg: float = 100.0
    low_minutes: float = 30.0
    predict_minutes: float = 30.0
    fit_minutes: float = 30.0
    max_age: float = 12.0
    cgm_low: float = 38.0
    cgm_high: float = 600.0
    flat_minutes: float = 45.0
    max_noise: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"insulin limit {field.name} is {value}; it must be a finite number above 0")
        if self.peak >= self.dia / 2:
            raise InputError(f"insulin limit peak {self.peak:g} min must be below half of dia {self.dia:g} min")

    @property
    def threshold(self) -> float:
        """Suspend threshold in mg/dL (oref0)."""
        return self.min_bg - 0.5 * (self.min_bg - 40.0)

    def max_safe_basal(self, basal: float) -> float:
        """oref0's maxSafeBasal in U/h; the day's greatest profile basal is `basal`, as the profile has one rate."""
        return min(
            self.max_basal, self.max_daily_safety_multiplier * basal, self.current_basal_safety_multiplier * basal
        )


def insulin_on_board(ages: np.ndarray, *, dia: float, peak: float) -> np.ndarray:
    """Share of a dose still to act at each age: the exponential curve of oref0 and Loop.

    Args:
        ages: Any shape, min, at least 0.
        dia: Duration of action, min.
        peak: Time of peak action, min, below dia / 2.

    Returns:
        Shares of the shape of `ages`: 1 at age 0, 0 from `dia` on.

    Source: https://github.com/LoopKit/Loop/issues/388 (D. Hochberg), as in oref0 `lib/iob/calculate.js`.
    """
    tau = peak * (1 - peak / dia) / (1 - 2 * peak / dia)
    rise = 2 * tau / dia
    scale = 1 / (1 - rise + (1 + rise) * math.exp(-dia / tau))
    age = np.minimum(ages, dia)
    shape = age**2 / (tau * dia * (1 - rise)) - age / tau - 1
    share: np.ndarray = 1 - scale * (1 - rise) * (shape * np.exp(-age / tau) + 1)
    return np.where(ages >= dia, 0.0, share)
