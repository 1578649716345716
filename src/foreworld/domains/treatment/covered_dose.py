"""How much insulin is covered by what was measured and announced: a bound that believes in no meal to come.

A model that has seen how somebody lives foresees the next meal, and doses for it before it is eaten or announced. Most
days it is right. On the day it is not, the insulin cannot be taken back.
"""

from __future__ import annotations

import numpy as np

from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board
from foreworld.domains.treatment.past import Past
from foreworld.domains.treatment.remembered import remembered
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.model.belief import History


@remembered
def covered_dose(
    history: History, limits: InsulinLimits, bound: float, carbs_minutes: float, count_error: float
) -> np.ndarray:
    """Greatest dose of the coming 5 minutes, [B] U, that is covered if nothing is eaten but what was announced.

    Glucose on the line through the last readings, `limits.predict_minutes` ahead, raised by what announced
    carbohydrate may still bring and lowered by the insulin on board, ends at `bound` by the profile's correction factor
    (the eventual glucose of oref0's `determine-basal`, with the trend). Insulin on board is that above the profile
    basal, so what was withheld counts as room. The profile basal is always covered; without a line through recent
    readings nothing is bounded here, and `dose_limit` alone does.

    Args:
        history: Of B subjects.
        limits: Numbers of the insulin pack.
        bound: mg/dL.
        carbs_minutes: Announced carbohydrate is gone after so long, evenly.
        count_error: An announced count may be this many times too small.
    """
    past = Past.of(history)
    basal, ratio, factor = (past.statics[name] for name in ("basal", "cr", "cf"))
    step = basal * STEP_MINUTES / 60.0
    with np.errstate(all="ignore"):
        left = insulin_on_board(past.ages, dia=limits.dia, peak=limits.peak)
        board = np.where(past.acted, (past.insulin - step[:, None]) * left, 0.0).sum(1)
        eaten = (np.maximum(past.carbs, 0.0) * np.clip(1.0 - past.back / carbs_minutes, 0.0, 1.0)).sum(1)
        spare = (past.line(limits) - bound) / factor + count_error * eaten / ratio - board
    covered: np.ndarray = np.where(np.isfinite(spare), np.maximum(spare, 0.0) + step, np.inf)
    return covered
