"""The greatest dose that the independent checker lets pass, worked out at once for a batch, as a bound for planning.

It is a second account of `rules.insulin_rules` and never the last word: the checker judges every dose itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from foreworld.agent.check_rules import StaticRange
from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board
from foreworld.domains.treatment.past import Past
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
    past = Past.of(history)
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
