"""The greatest dose that the independent checker lets pass, worked out at once for a batch, as a bound for planning.

It is a second account of `rules.insulin_rules` and never the last word: the checker judges every dose itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from foreworld.agent.check import CLOCK
from foreworld.agent.check_rules import StaticRange
from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board
from foreworld.domains.treatment.remembered import remembered
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.model.belief import History


@remembered
def dose_limit(history: History, limits: InsulinLimits) -> np.ndarray:
    """Greatest dose of the coming 5 minutes, [B] U, from what was measured and done.

    The rules are those of `rules.insulin_rules`; what cannot be known allows no insulin, or the profile basal where
    they do.

    Args:
        history: Of B subjects.
        limits: Numbers of the insulin pack.
    """
    past = _Past.of(history)
    basal, ratio, factor, weight = (past.statics[name] for name in ("basal", "cr", "cf", "weight"))
    step = basal * STEP_MINUTES / 60.0
    with np.errstate(all="ignore"):
        temp = greatest_basal(basal, limits) * STEP_MINUTES / 60.0
        cap = limits.step_basal_multiplier * step + np.minimum(limits.step_bolus, limits.step_bolus_carbs / ratio)
        cap = np.minimum(cap, temp + weight * limits.bolus_per_kg)
        cap = np.minimum(cap, limits.channel_max)
        # Insulin on board above basal.
        left = insulin_on_board(past.ages, dia=limits.dia, peak=limits.peak)
        board = (np.maximum(past.insulin - step[:, None], 0.0) * left).sum(1)
        usual = np.maximum(limits.iob_basal_hours * basal, limits.iob_carbs / ratio)
        most = np.minimum(usual, limits.iob_per_kg * weight)
        cap = np.minimum(cap, np.maximum(most - board, 0.0) + step)
        daily = np.minimum(limits.day_basal_hours * basal + limits.day_carbs / ratio, limits.day_per_kg * weight)
        cap = np.minimum(cap, np.maximum(daily - past.given(1440.0), step))
        # What announced carbohydrate and a correction could justify.
        eaten = np.minimum(past.announced(limits.justified_minutes), limits.max_carbs)
        valid = (past.age <= limits.max_age) & (past.newest > limits.cgm_low) & (past.newest <= limits.cgm_high)
        excess = np.where(valid, np.maximum(past.newest - limits.correction_target, 0.0), 0.0)
        justified = (
            limits.carb_factor * eaten / ratio
            + limits.correction_factor * excess / factor
            + limits.free_basal_hours * basal
        )
        given = past.given(limits.justified_minutes, above=temp)
        cap = np.minimum(cap, temp + np.maximum(justified - given, 0.0))
        boluses = (past.insulin > temp[:, None]) & (past.ages < limits.bolus_interval)
        cap = np.where(boluses.any(1), np.minimum(cap, temp), cap)
        # Suspend when low or heading low; without enough readings to tell, the profile basal.
        level, ahead = past.level(limits.low_minutes), past.line(limits)
        untold = ~valid | past.flat(limits.flat_minutes) | np.isnan(level) | np.isnan(ahead)
        cap = np.where(untold, np.minimum(cap, step), cap)
        # A rounding error in the line must not let a dose pass that the checker refuses.
        stop = (level < limits.threshold) | (ahead < limits.threshold + 1e-9) | ~_plausible(past.statics, limits)
        stop |= ~past.sound | ~np.isfinite(cap)
    allowed: np.ndarray = np.where(stop, 0.0, cap)
    return allowed


def greatest_basal(basal: np.ndarray, limits: InsulinLimits) -> np.ndarray:
    """oref0's maxSafeBasal [B], U/h (`InsulinLimits.max_safe_basal`)."""
    multiplier = min(limits.max_daily_safety_multiplier, limits.current_basal_safety_multiplier)
    return np.minimum(limits.max_basal, multiplier * basal)


@lru_cache(maxsize=8)
def _profile_rules(limits: InsulinLimits) -> tuple[StaticRange, ...]:
    return tuple(rule for rule in insulin_rules(limits) if isinstance(rule, StaticRange))


def _plausible(statics: dict[str, np.ndarray], limits: InsulinLimits) -> np.ndarray:
    """[B] whether the profile lies in the ranges outside which the checker allows no insulin."""
    fine = np.ones(len(statics["basal"]), dtype=bool)
    for rule in _profile_rules(limits):
        value = statics[rule.static] / (statics[rule.per] if rule.per else 1.0)
        fine &= (value >= rule.low) & (value <= rule.high)
    return fine


@dataclass(frozen=True)
class _Past:
    """Measured data of B subjects, aged back from each one's present; padding is neither reading nor dose.

    Attributes:
        back: [B, T] age of the readings, min.
        cgm: [B, T] NaN where missing.
        carbs: [B, T].
        ages: [B, T - 1] age of the doses, min.
        insulin: [B, T - 1].
        statics: By channel [B].
        sound: [B] whether time increases.
        age: [B] of the newest reading, inf if there is none.
        newest: [B] its value, NaN if there is none.
    """

    back: np.ndarray
    cgm: np.ndarray
    carbs: np.ndarray
    ages: np.ndarray
    insulin: np.ndarray
    statics: dict[str, np.ndarray]
    sound: np.ndarray
    age: np.ndarray
    newest: np.ndarray

    @classmethod
    def of(cls, history: History) -> _Past:
        values = {name: tensor.numpy().astype(np.float64) for name, tensor in history.values.items()}
        times, last = history.times.numpy(), history.lengths.numpy() - 1
        back = times[np.arange(len(times)), last][:, None] - times
        steps = np.arange(times.shape[1])
        seen, acted = steps <= last[:, None], steps[:-1] < last[:, None]
        cgm = np.where(seen & np.isfinite(values["cgm"]), values["cgm"], np.nan)
        age = np.where(np.isnan(cgm), np.inf, back).min(1)
        newest = np.where(back == age[:, None], np.nan_to_num(cgm), 0.0).sum(1)
        return cls(
            back,
            cgm,
            np.where(seen, values["carbs"], 0.0),
            back[:, :-1],
            np.where(acted, values["insulin"], 0.0),
            {name: values[name] for name in ("basal", "cr", "cf", "weight")},
            np.asarray(((np.diff(times, axis=1) > 0) | ~acted).all(axis=1)),
            age,
            np.where(np.isfinite(age), newest, np.nan),
        )

    def given(self, minutes: float, above: np.ndarray | float = 0.0) -> np.ndarray:
        """[B] insulin of the last `minutes`, of each dose what lies above an amount [B]."""
        over = np.maximum(self.insulin - np.reshape(above, (-1, 1)), 0.0)
        total: np.ndarray = np.where(self.ages <= minutes + CLOCK, over, 0.0).sum(1)
        return total

    def announced(self, minutes: float) -> np.ndarray:
        """[B] carbohydrate announced over the last `minutes`, the present included."""
        total: np.ndarray = np.where(self.back <= minutes + CLOCK, np.maximum(self.carbs, 0.0), 0.0).sum(1)
        return total

    def flat(self, minutes: float) -> np.ndarray:
        """[B] whether the sensor has repeated its newest reading for so long; gaps do not end a repetition."""
        reading = ~np.isnan(self.cgm)
        same = self.cgm == self.newest[:, None]
        other = np.where(reading & ~same, self.back, np.inf).min(1)
        span = np.where(same & (self.back < other[:, None]), self.back, -np.inf).max(1, initial=-np.inf) - self.age
        return np.asarray(span >= minutes - CLOCK)

    def level(self, minutes: float) -> np.ndarray:
        """[B] newest reading of the last `minutes` that is no error code; NaN if there is none."""
        genuine = self._genuine(minutes)
        age = np.where(genuine, self.back, np.inf).min(1)
        value = np.where(genuine & (self.back == age[:, None]), np.nan_to_num(self.cgm), 0.0).sum(1)
        return np.where(np.isfinite(age), value, np.nan)

    def line(self, limits: InsulinLimits) -> np.ndarray:
        """[B] least-squares line through the last readings, read `predict_minutes` ahead; NaN with too few or old."""
        mask = self._genuine(limits.fit_minutes)
        n = mask.sum(1)
        safe = np.maximum(n, 1)
        y = np.where(mask, np.nan_to_num(self.cgm), 0.0)
        middle, mean = np.where(mask, -self.back, 0.0).sum(1) / safe, y.sum(1) / safe
        offset = np.where(mask, -self.back - middle[:, None], 0.0)
        slope = (offset * (y - mean[:, None])).sum(1) / np.where(n > 1, (offset**2).sum(1), 1.0)
        age = np.where(mask, self.back, np.inf).min(1)
        told = (n >= 3) & (age <= limits.max_age + CLOCK)
        return np.where(told, mean + slope * (limits.predict_minutes - middle), np.nan)

    def _genuine(self, minutes: float) -> np.ndarray:
        # oref0: 38 and readings of 10 and below are error codes, 11 to 37 are true lows.
        genuine: np.ndarray = (self.back <= minutes + CLOCK) & (self.cgm > 10.0) & (self.cgm != 38.0)
        return genuine
