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

CARBS_MINUTES = 180.0  # announced carbohydrate is gone after so long, evenly (oref0 and Loop assume 3 to 4 hours)
COUNT_ERROR = 1.2  # an announced count may be this many times too small


@remembered
def covered_dose(history: History, limits: InsulinLimits, bound: float) -> np.ndarray:
    """Greatest dose of the coming 5 minutes, [B] U, that is covered if nothing more is eaten.

    Glucose on the line through the last readings, `limits.predict_minutes` ahead, raised by what announced
    carbohydrate may still bring and lowered by the insulin on board, ends at `bound` by the profile's correction factor
    (the eventual glucose of oref0's `determine-basal`, with the trend). Insulin on board counts what was withheld,
    too. The profile basal is always covered; what cannot be known bounds nothing here, for `dose_limit` does.

    Args:
        history: Of B subjects.
        limits: Numbers of the insulin pack.
        bound: mg/dL.
    """
    past = Past.of(history)
    basal, ratio, factor = (past.statics[name] for name in ("basal", "cr", "cf"))
    step = basal * STEP_MINUTES / 60.0
    with np.errstate(all="ignore"):
        left = insulin_on_board(past.ages, dia=limits.dia, peak=limits.peak)
        board = np.where(past.acted, (past.insulin - step[:, None]) * left, 0.0).sum(1)
        eaten = (np.maximum(past.carbs, 0.0) * np.clip(1.0 - past.back / CARBS_MINUTES, 0.0, 1.0)).sum(1)
        spare = (past.line(limits) - bound) / factor + COUNT_ERROR * eaten / ratio - board
    covered: np.ndarray = np.where(np.isfinite(spare), np.maximum(spare, 0.0) + step, np.inf)
    return covered
