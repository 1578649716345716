"""The insulin pack of the independent checker: what a dose must meet on measured data alone.

One action channel, insulin in U per step, is delivered as temporary basal up to the *greatest safe basal* and as
a bolus above it. Names and defaults follow the OpenAPS reference design, oref0 0.7.1 (`determine-basal.js`,
`lib/iob/calculate.js`, `lib/profile`), where it has them; every bound of our own says why it is what it is.
No insulin is the last resort: it passes in every state. The profile basal passes without a valid CGM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foreworld.agent.check import Level, Measured, Reason, Rule, within
from foreworld.agent.check_rules import (
    Bounds,
    FiniteAction,
    FlatSignal,
    Interval,
    RangeGate,
    SoundHistory,
    StaleData,
    StaticRange,
    SuspendBelow,
)
from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board

OREF0 = "OpenAPS reference design, oref0 0.7.1"
OWN = "foreworld"


@dataclass(frozen=True, kw_only=True)
class InsulinRule(Rule):
    """A rule that needs the profile: the statics weight (kg), basal (U/h), cr (g/U) and cf (mg/dL per U)."""

    limits: InsulinLimits

    def hours(self, measured: Measured, hours: float) -> float:
        """Insulin of `hours` of profile basal, U."""
        return measured.static("basal") * hours

    def bolus_for(self, measured: Measured, carbs: float) -> float:
        """Bolus for `carbs` g, U; NaN if the carb ratio is not above zero."""
        ratio = measured.static("cr")
        return carbs / ratio if ratio > 0 else math.nan

    def temp_basal(self, measured: Measured) -> float:
        """The most insulin of one step that counts as basal, U."""
        return self.limits.max_safe_basal(measured.static("basal")) * self.limits.step_minutes / 60

    def least(self, *bounds: float) -> float:
        """The smallest bound, NaN if any is NaN (Python's min would depend on the order)."""
        return math.nan if any(math.isnan(bound) for bound in bounds) else min(bounds)


@dataclass(frozen=True, kw_only=True)
class StepDose(InsulinRule):
    """One step delivers at most step_basal_multiplier * b for the step + min(step_bolus, step_bolus_carbs / cr)."""

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Compare the whole dose of the step."""
        limits = self.limits
        bolus = self.least(limits.step_bolus, self.bolus_for(measured, limits.step_bolus_carbs))
        bound = self.hours(measured, limits.step_basal_multiplier * limits.step_minutes / 60) + bolus
        if within(value, bound):
            return None
        return self.refuse(value, bound, f"{value:g} U in one step is above {bound:g} U")


@dataclass(frozen=True, kw_only=True)
class BolusSize(InsulinRule):
    """What one step delivers above the greatest safe basal is at most bolus_per_kg * weight."""

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Compare the bolus part of the dose."""
        bolus = max(value - self.temp_basal(measured), 0.0) if math.isfinite(value) else math.nan
        bound = measured.static("weight") * self.limits.bolus_per_kg
        if within(bolus, bound):
            return None
        return self.refuse(bolus, bound, f"a bolus of {bolus:g} U is above {bound:g} U for the body weight")


@dataclass(frozen=True, kw_only=True)
class BolusInterval(InsulinRule):
    """At least bolus_interval minutes lie between two steps with a bolus; in one step there is one bolus.

    Two steps of 5 minutes always do with the default of 3: there it refuses nothing. It is for callers that ask more
    often.
    """

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Look for a bolus within the interval."""
        size = Level(self.temp_basal(measured))
        rule = Interval(
            name=self.name, channel=self.channel, unit=self.unit, minutes=self.limits.bolus_interval, size=size
        )
        return rule.judge(measured, value)


@dataclass(frozen=True, kw_only=True)
class MaxIOB(InsulinRule):
    """Insulin on board above the profile basal is at most min(max(iob_basal_hours b, iob_carbs/cr), iob_per_kg kg).

    Steps below the profile basal count as zero, never as a credit: insulin withheld does not undo insulin given.
    """

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Add the excess of this step to what is left of the steps before."""
        limits = self.limits
        basal = self.hours(measured, limits.step_minutes / 60)
        most = -self.least(-self.hours(measured, limits.iob_basal_hours), -self.bolus_for(measured, limits.iob_carbs))
        bound = self.least(most, measured.static("weight") * limits.iob_per_kg)
        past = measured.done(self.channel, limits.dia)
        board = math.nan
        if past is not None:
            ages, doses = past
            left = insulin_on_board(ages, dia=limits.dia, peak=limits.peak)
            board = float(np.maximum(doses - basal, 0.0) @ left) + value - basal
        if within(board, bound):
            return None
        return self.refuse(board, bound, f"insulin on board would be {board:g} U above basal, more than {bound:g} U")


@dataclass(frozen=True, kw_only=True)
class DailyTotal(InsulinRule):
    """Insulin of 24 h is at most min(day_basal_hours b + day_carbs/cr, day_per_kg kg)."""

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Add up the last 24 h and this step."""
        limits = self.limits
        usual = self.hours(measured, limits.day_basal_hours) + self.bolus_for(measured, limits.day_carbs)
        bound = self.least(usual, measured.static("weight") * limits.day_per_kg)
        past = measured.done(self.channel, 1440.0)
        total = math.nan if past is None else float(np.maximum(past[1], 0.0).sum()) + value
        if within(total, bound):
            return None
        return self.refuse(total, bound, f"insulin of 24 h would be {total:g} U, more than {bound:g} U")


@dataclass(frozen=True, kw_only=True)
class JustifiedBolus(InsulinRule):
    """Boluses of the last two hours are at most what announced carbs and a correction could justify, generously.

    The bound is carb_factor * min(carbs, max_carbs) / cr + correction_factor * max(0, cgm - target) / cf
    + free_basal_hours * b, with the carbs announced over the same time and the newest valid CGM (no CGM
    justifies no correction).
    """

    observation: str
    carbs: str

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Add up the boluses and what justifies them."""
        limits = self.limits
        temp = self.temp_basal(measured)
        if within(value, temp):
            return None
        past = measured.done(self.channel, limits.justified_minutes)
        eaten = measured.announced(self.carbs, limits.justified_minutes)
        factor = measured.static("cf")
        if past is None or eaten is None or not factor > 0 or not math.isfinite(value):
            return self.refuse(math.nan, math.nan, f"past {self.channel}, {self.carbs} or cf is not known")
        boluses = float(np.maximum(past[1] - temp, 0.0).sum()) + value - temp
        carbs = min(float(np.maximum(eaten[1], 0.0).sum()), limits.max_carbs)
        age, reading = measured.newest(self.observation)
        valid = age <= limits.max_age and limits.cgm_low < reading <= limits.cgm_high
        excess = max(reading - limits.correction_target, 0.0) if valid else 0.0
        bound = (
            limits.carb_factor * self.bolus_for(measured, carbs)
            + limits.correction_factor * excess / factor
            + self.hours(measured, limits.free_basal_hours)
        )
        if within(boluses, bound):
            return None
        words = f"boluses of {boluses:g} U in {limits.justified_minutes:g} min; {carbs:g} g and CGM justify {bound:g} U"
        return self.refuse(boluses, bound, words)


def insulin_rules(
    limits: InsulinLimits | None = None,
    *,
    channel: str = "insulin",
    cgm: str = "cgm",
    carbs: str = "carbs",
    noise: str | None = None,
) -> tuple[Rule, ...]:
    """The insulin pack.

    Args:
        limits: The numbers; the defaults of `InsulinLimits` if None.
        channel: Action, U per step.
        cgm: Observation, mg/dL.
        carbs: Exogenous channel, g announced at the step.
        noise: Observation with the sensor's noise level (oref0: 0 to 4), if there is one.

    Returns:
        Rules for `Checker`; the statics weight, basal, cr and cf are needed for anything but no insulin.
    """
    x = limits or InsulinLimits()
    return (
        FiniteAction(name="finite_insulin", channel=channel, unit="U", source=OWN),
        Bounds(name="insulin_bounds", channel=channel, unit="U", source=OWN, low=0.0, high=Level(x.channel_max)),
        SoundHistory(name="sound_history", channel=channel, unit="min", source=OWN),
        *_profile_rules(channel),
        *_dose_rules(x, channel, cgm, carbs),
        *_sensor_rules(x, channel, cgm, noise),
    )


def _profile_rules(channel: str) -> tuple[Rule, ...]:
    # Wider than any patient, narrower than a unit error: U/day for U/h, mmol/L for mg/dL, g for kg.
    ranges = (
        ("weight", "", 5.0, 300.0, "kg"),
        ("basal", "", 0.02, 5.0, "U/h"),
        ("basal", "weight", 0.0, 0.05, "U/h/kg"),  # the 30 patients of simglucose: 0.007 to 0.026
        ("cr", "", 1.5, 100.0, "g/U"),
        ("cf", "", 2.0, 500.0, "mg/dL/U"),  # the 30 patients of simglucose: 7.6 to 43
        ("cf", "cr", 0.3, 20.0, "mg/dL/g"),  # 3.6 by the 1800 and 500 rules; 0.2 with cf in mmol/L
    )
    return tuple(
        StaticRange(
            name=f"profile_{static}{f'_per_{per}' if per else ''}",
            channel=channel,
            unit=unit,
            source=OWN,
            static=static,
            per=per,
            low=low,
            high=high,
        )
        for static, per, low, high, unit in ranges
    )


def _dose_rules(x: InsulinLimits, channel: str, cgm: str, carbs: str) -> tuple[Rule, ...]:
    basal = Level(x.step_minutes / 60, "basal")
    protocol = f"hard cap of the treatment protocols; {OREF0} current_basal_safety_multiplier, max_bolus"
    return (
        StepDose(name="step_dose", channel=channel, unit="U", source=protocol, limits=x),
        BolusSize(name="bolus_size", channel=channel, unit="U", source=OWN, limits=x),
        BolusInterval(name="bolus_interval", channel=channel, unit="min", source=f"{OREF0} SMBInterval", limits=x),
        MaxIOB(name="max_iob", channel=channel, unit="U", source=f"{OREF0} max_iob", safe=basal, limits=x),
        DailyTotal(name="daily_total", channel=channel, unit="U", source=OWN, safe=basal, limits=x),
        JustifiedBolus(
            name="justified_bolus",
            channel=channel,
            unit="U",
            source=f"{OWN}; {OREF0} maxCOB",
            observation=cgm,
            carbs=carbs,
            limits=x,
        ),
    )


def _sensor_rules(x: InsulinLimits, channel: str, cgm: str, noise: str | None) -> tuple[Rule, ...]:
    basal = Level(x.step_minutes / 60, "basal")

    def suspend(name: str, source: str, max_age: float, horizon: float) -> SuspendBelow:
        # oref0: 38 and readings of 10 and below are error codes, 11 to 37 are true lows.
        return SuspendBelow(
            name=name,
            channel=channel,
            unit="mg/dL",
            source=source,
            safe=basal,
            observation=cgm,
            threshold=x.threshold,
            max_age=max_age,
            horizon=horizon,
            fit=x.fit_minutes,
            codes=(38.0,),
            code_below=10.0,
        )

    def gate(name: str, observation: str, low: float, high: float) -> RangeGate:
        return RangeGate(
            name=name, channel=channel, unit="U", source=OREF0, safe=basal, observation=observation, low=low, high=high
        )

    return (
        suspend("low_suspend", f"{OREF0} threshold", x.low_minutes, 0.0),
        suspend(
            "predicted_low_suspend", "predictive low-glucose suspend, measured data only", x.max_age, x.predict_minutes
        ),
        StaleData(
            name="cgm_stale",
            channel=channel,
            unit="U",
            source=OREF0,
            safe=basal,
            observation=cgm,
            minutes=x.max_age,
        ),
        gate("cgm_range", cgm, x.cgm_low, x.cgm_high),
        FlatSignal(
            name="cgm_flat",
            channel=channel,
            unit="U",
            source=OREF0,
            safe=basal,
            observation=cgm,
            minutes=x.flat_minutes,
        ),
        *(() if noise is None else (gate("cgm_noise", noise, -1.0, x.max_noise),)),
    )
