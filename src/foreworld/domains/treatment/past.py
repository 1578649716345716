"""What was measured and done, aged back from the present: what the bounds of a dose are worked out from for a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreworld.agent.check import CLOCK
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.model.belief import History


@dataclass(frozen=True)
class Past:
    """What was measured and done of B subjects, aged back from each one's present; padding is neither reading nor dose.

    Attributes:
        back: [B, T] age of the readings, min.
        cgm: [B, T] NaN where missing.
        carbs: [B, T].
        ages: [B, T - 1] age of the doses, min.
        insulin: [B, T - 1].
        acted: [B, T - 1] whether there was such a step.
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
    acted: np.ndarray
    statics: dict[str, np.ndarray]
    sound: np.ndarray
    age: np.ndarray
    newest: np.ndarray

    @classmethod
    def of(cls, history: History) -> Past:
        """Of B histories."""
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
            acted,
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
