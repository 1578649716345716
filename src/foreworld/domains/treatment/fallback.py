"""The standard of care that acts when foreworld refuses: a bolus calculator that cannot be talked into a low.

It is the arithmetic of a pump's bolus calculator, made safe: announced carbs and a correction, less the insulin on
board; part of a meal's insulin only once glucose confirms the meal; and suspension of all insulin when glucose is low,
heads for low, or when the insulin on board would take it there. It reads nothing but measured data and the profile.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.dosing import (
    LIMITS,
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
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation
from foreworld.domains.treatment.tables import Patients

BoolArray = npt.NDArray[np.bool_]


class FallbackConfig(BaseModel):
    """The constants, tuned on patients #001-003 of each group and patients jittered from them alone.

    Attributes:
        target: mg/dL that corrections aim at.
        meal_share: share of the carbs on board that insulin covers unasked.
        correction_share: share of a correction that is trusted; correction factors are rough.
        top_up: share of what is needed that a step without an entry delivers.
        dead_band: hours of basal below which a need is left alone.
        carb_minutes: how long announced carbs count as on board.
        dia: duration of insulin action, min; subcutaneous tails are longer than pumps assume.
        peak: time of peak insulin action, min.
        lead_minutes: how far ahead the trend counts in a correction.
        suspend: mg/dL below which insulin stops.
        predict_minutes: how far ahead the line through the last readings must stay above `predict_low`.
        predict_low: mg/dL.
        fit_minutes: readings that make the line.
        eventual_low: mg/dL that glucose must not fall below by the insulin on board less the carbs on board.
        cr_rule: CR is taken to be at least this many g / usual daily insulin (the 500 rule is 500) ...
        cf_rule: ... and CF at least this many mg/dL / usual daily insulin (the 1800 rule): a record that claims to need
            far more insulin than the profile basal implies is not trusted. Daily insulin is twice the basal.
        correction_hours: a correction is at most this many hours of basal, however high glucose is.
        reserve: share of the correction factor by which insulin on board is taken to lower glucose.
        quiet_minutes: after a silence this long the last reading says nothing any more.
        remember_minutes: how long lows are remembered.
        low: mg/dL below which a reading counts as a low.
        caution: share by which insulin is reduced for each remembered hour of lows ...
        most_caution: ... at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: float = Field(default=112.0, gt=0.0)
    meal_share: float = Field(default=0.7, ge=0.0, le=1.0)
    correction_share: float = Field(default=0.7, ge=0.0, le=1.0)
    top_up: float = Field(default=0.23, ge=0.0, le=1.0)
    dead_band: float = Field(default=0.2, ge=0.0)
    carb_minutes: float = Field(default=160.0, gt=0.0)
    dia: float = Field(default=480.0, gt=0.0)
    peak: float = Field(default=85.0, gt=0.0)
    lead_minutes: float = Field(default=22.0, ge=0.0)
    suspend: float = Field(default=86.0, gt=0.0)
    predict_minutes: float = Field(default=55.0, gt=0.0)
    predict_low: float = Field(default=79.0, gt=0.0)
    fit_minutes: float = Field(default=30.0, gt=0.0)
    eventual_low: float = Field(default=47.0, ge=0.0)
    cr_rule: float = Field(default=350.0, ge=0.0)
    cf_rule: float = Field(default=1170.0, ge=0.0)
    correction_hours: float = Field(default=3.3, ge=0.0)
    reserve: float = Field(default=0.6, ge=0.0)
    quiet_minutes: float = Field(default=60.0, gt=0.0)
    remember_minutes: float = Field(default=1440.0, gt=0.0)
    low: float = Field(default=65.0, gt=0.0)
    caution: float = Field(default=0.12, ge=0.0)
    most_caution: float = Field(default=0.4, ge=0.0, le=1.0)


class Fallback:
    """The standard of care, batched over subjects; `dose` is a pure function of a history."""

    def __init__(self, config: FallbackConfig | None = None, limits: InsulinLimits = LIMITS) -> None:
        self.config = config or FallbackConfig()
        self.limits = limits

    @property
    def minutes(self) -> float:
        """How much history `dose` looks at."""
        x = self.config
        return max(x.dia, x.carb_minutes, x.quiet_minutes + x.fit_minutes, x.remember_minutes)

    def dose(self, patients: Patients, history: History) -> FloatArray:
        """The insulin of the coming 5 minutes, `[B]` U.

        Args:
            patients: weight, profile basal, CR and CF are read; nothing else.
            history: up to now; at least the last `minutes`, as what went before is taken for basal alone.
        """
        x, limits = self.config, self.limits
        past = history.last(max(x.dia, x.carb_minutes, x.quiet_minutes + x.fit_minutes))
        glucose, (fitted, slope) = held_glucose(past, limits.max_age), line(past, x.fit_minutes)
        usable = np.isfinite(glucose) & np.isfinite(slope) & ~self._flat(past)
        level, slope = np.where(usable, glucose, x.target), np.where(usable, slope, 0.0)
        board = iob_above_basal(patients, past, dia=x.dia, peak=x.peak)
        daily = 48.0 * patients.basal
        ratio, factor = np.maximum(patients.cr, x.cr_rule / daily), np.maximum(patients.cf, x.cf_rule / daily)
        meal = x.meal_share * carbs_on_board(past, x.carb_minutes) / ratio
        ahead = level + x.lead_minutes * slope
        # Below the target the correction is negative and reduces the meal's insulin in full; above it is only trusted
        # in part.
        away = np.minimum((ahead - x.target) / factor, x.correction_hours * patients.basal)
        need = meal + np.where(away > 0.0, x.correction_share * away, away) - board
        share = np.where(past.announced[:, -1] > 0.0, 1.0, x.top_up)
        bolus = np.where(usable & (need > x.dead_band * patients.basal), share * need, 0.0)
        room = self._room(patients) - board
        bolus = np.minimum(np.minimum(bolus, limits.bolus_per_kg * patients.weight), np.maximum(room, 0.0))
        dose = (basal_step(patients) + bolus) * self._caution(history.last(x.remember_minutes))
        eventual = level + x.reserve * factor * (meal - board)
        low = (level < x.suspend) | (eventual < x.eventual_low) | self._heads_low(level, fitted, slope)
        stop = np.where(usable, low, self._silent_low(past, x.reserve * factor * (meal - board)))
        return np.where(stop, 0.0, np.minimum(dose, dose_cap(patients, limits)))

    def reset(self, patients: Patients) -> None:
        """Serve these patients step by step, see `Controller`."""
        self._patients = patients
        self._memory = Memory(patients, self.minutes)

    def resume(self, patients: Patients, history: History) -> None:
        """As `reset`, going on from a record; its last observation is the one that `act` sees next."""
        self.reset(patients)
        self._memory.resume(history)

    def act(self, seen: Observation) -> FloatArray:
        """The insulin of the coming 5 minutes, `[B]` U."""
        dose = self.dose(self._patients, self._memory.see(seen))
        self._memory.done(dose)
        return dose

    def _heads_low(self, level: FloatArray, fitted: FloatArray, slope: FloatArray) -> BoolArray:
        """Whether the trend leads below the bound, from the last reading, or by the checker's own rule, `[B]` bool."""
        x, limits = self.config, self.limits
        ours = level + x.predict_minutes * slope < x.predict_low
        checkers = fitted + limits.predict_minutes * slope < limits.threshold
        return np.asarray(ours | checkers)

    def _room(self, patients: Patients) -> FloatArray:
        """The checker's bound on insulin on board above basal, `[B]` U."""
        x = self.limits
        usual = np.maximum(x.iob_basal_hours * patients.basal, x.iob_carbs / patients.cr)
        result: FloatArray = np.minimum(usual, x.iob_per_kg * patients.weight)
        return result

    def _flat(self, past: History) -> BoolArray:
        """Whether the sensor repeats itself: real readings are never equal for this long, `[B]` bool."""
        recent = past.last(self.limits.flat_minutes)
        valid = np.isfinite(recent.cgm)
        high = np.where(valid, recent.cgm, -np.inf).max(axis=1)
        low = np.where(valid, recent.cgm, np.inf).min(axis=1)
        result: BoolArray = (valid.sum(axis=1) > self.limits.flat_minutes / 10.0) & (high == low)
        return result

    def _caution(self, past: History) -> FloatArray:
        """The share of insulin that is left to whoever was low in the last day, `[B]`.

        Sensitivity changes from day to day, and the profile does not: who was low for hours is more sensitive than it
        says, or their records are wrong.
        """
        x = self.config
        low = (past.cgm > self.limits.cgm_low) & (past.cgm < x.low)
        hours = low.sum(axis=1) * (STEP_MINUTES / 60.0)
        result: FloatArray = 1.0 - np.minimum(x.caution * hours, x.most_caution)
        return result

    def _silent_low(self, past: History, to_come: FloatArray) -> BoolArray:
        """Without a usable sensor: stop while the last readings were not clearly safe, `[B]` bool.

        Args:
            past: What was seen.
            to_come: `[B]` mg/dL that insulin and carbs on board will yet add.
        """
        x = self.config
        last, slope = held_glucose(past, x.quiet_minutes), self._last_slope(past)
        unsafe = (last < x.target - 20.0) | (last + x.predict_minutes * slope < x.predict_low)
        # After a long silence nothing is known but what is on board.
        return np.asarray(unsafe | (np.where(np.isnan(last), x.target, last) + to_come < x.eventual_low))

    def _last_slope(self, past: History) -> FloatArray:
        """The slope of the line that led to the newest reading of the last hour, 0 without one, `[B]` mg/dL/min."""
        x = self.config
        recent = past.last(x.quiet_minutes + x.fit_minutes)
        valid = np.isfinite(recent.cgm)
        ago = recent.minute - recent.minute[-1]
        newest = np.where(valid, ago, -np.inf).max(axis=1)
        within = valid & (ago >= newest[:, None] - x.fit_minutes)
        _, slope = line(
            History(recent.minute, np.where(within, recent.cgm, np.nan), recent.insulin, recent.announced),
            x.quiet_minutes + x.fit_minutes,
        )
        return np.nan_to_num(slope)
