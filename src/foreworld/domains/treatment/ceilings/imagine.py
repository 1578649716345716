"""The true equations in coarse steps: what many candidate doses lead to in many scenarios of food, at once.

Doses decide the insulin's course alone and food the appearance of glucose alone, so each is worked out once and only
the three glucose states are stepped for every pair of them. Steps are of five minutes for insulin (exactly) and food
(conserving its mass) and of 2.5 for glucose (Heun); `tests/domains/treatment/ceilings/test_imagine.py` holds the
result to the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from foreworld.domains.treatment.ceilings.kinetics import KINETIC, transition

# Private, and on purpose the very functions of the simulator: a copy could come to differ from it.
from foreworld.domains.treatment.physiology import _eat
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.tables import COLUMN

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]

FOOD = (0, 1, 2, 13, 14, 15, 16, 17)  # the states of `physiology` that are about food
GLUCOSE = (3, 4, 12)
FOOD_SCALE = {"fixed": 1000.0, "legacy": 1.0}

_BW, _VG, _KABS, _KMAX, _KMIN, _B, _D, _F = (
    COLUMN[name] for name in ("BW", "Vg", "kabs", "kmax", "kmin", "b", "d", "f")
)
_VMX, _VM0, _KM0, _K1, _K2 = (COLUMN[name] for name in ("Vmx", "Vm0", "Km0", "k1", "k2"))
_KP1, _KP2, _KP3, _KE1, _KE2, _FSNC, _KSC = (COLUMN[n] for n in ("kp1", "kp2", "kp3", "ke1", "ke2", "Fsnc", "ksc"))
EMPTY = 1.0  # mg in the gut below which it is left alone: less than 0.01 mg/dL of glucose

_compile = njit(cache=True, fastmath=False)
# Candidates lie side by side and are stepped by vector instructions, which must be allowed to contract a x b + c. No
# NaN or infinity is allowed to be assumed away.
_vectorise = njit(cache=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy")


def _empty_stomach_source(x: FloatArray, p: FloatArray, meal: float, reference: float, minutes: float) -> float:
    """Advance solid and liquid by a midpoint step in place; return the mg that reached the intestine."""
    wide, narrow = 2.5 / (reference * (1.0 - p[_B])), 2.5 / (reference * p[_D])
    solid, liquid = x[0], x[1]
    rate = 0.0
    for stage in range(2):
        food = solid + liquid - p[_B] * reference
        rest = solid + liquid - p[_D] * reference
        rate = p[_KMIN] + 0.5 * (p[_KMAX] - p[_KMIN]) * (np.tanh(wide * food) - np.tanh(narrow * rest) + 2.0)
        if stage == 0:
            half = 0.5 * minutes
            solid, liquid = (
                x[0] + half * (meal - p[_KMAX] * x[0]),
                x[1] + half * (p[_KMAX] * x[0] - rate * x[1]),
            )
    emptied: float = minutes * rate * liquid
    moved = minutes * p[_KMAX] * solid
    x[0] += minutes * meal - moved
    x[1] += moved - emptied
    return emptied


_empty_stomach: Any = _compile(_empty_stomach_source)


def _absorb_source(x: FloatArray, p: FloatArray, meal: float, reference: float, minutes: float) -> float:
    """Advance the gut by a step in place; return the glucose that appears in it, mg.

    The intestine is solved exactly for an even inflow: a fast one would be unstable in steps of minutes.
    """
    emptied: float = _empty_stomach(x, p, meal, reference, minutes)
    left = np.exp(-p[_KABS] * minutes)
    before = x[2]
    x[2] = left * before + (1.0 - left) / (p[_KABS] * minutes) * emptied
    appeared: float = before + emptied - x[2]
    return appeared


absorb: Any = _compile(_absorb_source)


def _appearance_source(
    states: FloatArray, params: FloatArray, plans: FloatArray, food_scale: float, appearance: SingleArray
) -> None:
    """Glucose appearance of each scenario: `states` [E, B, 19], `plans` [E, B, M, 2], `appearance` [E, B, T]."""
    scenarios, subjects, steps = appearance.shape
    for e in range(scenarios):
        for b in range(subjects):
            x, p = states[e, b].copy(), params[b]
            share = p[_F] / p[_BW] / 5.0
            for t in range(steps):
                planned = False
                for m in range(plans.shape[2]):
                    planned = planned or (5 * t <= plans[e, b, m, 0] < 5 * t + 5)
                if planned or x[13] > 0.0 or x[17] > 0.0:
                    total = 0.0
                    for minute in range(5 * t, 5 * t + 5):
                        meal = 0.0
                        for m in range(plans.shape[2]):
                            if plans[e, b, m, 0] == minute:
                                meal += plans[e, b, m, 1]
                        reference = max(_eat(x, meal, food_scale), 1e-9)
                        total += absorb(x, p, x[17] * 1000.0, reference, 1.0)
                    appearance[e, b, t] = total * share
                elif x[0] + x[1] + x[2] < EMPTY:
                    appearance[e, b, t] = 0.0
                else:
                    reference = max(x[14] + x[15] * food_scale, 1e-9)
                    total = absorb(x, p, 0.0, reference, 2.5)
                    total += absorb(x, p, 0.0, reference, 2.5)
                    appearance[e, b, t] = total * share


_appearance: Any = _compile(_appearance_source)


def _insulin_source(
    start: FloatArray,
    matrix: FloatArray,
    doses: FloatArray,
    interval: IndexArray,
    action: SingleArray,
    delayed: SingleArray,
) -> None:
    """Insulin's course of each candidate: `start` [B, 7], `doses` [B, S, H] U a step, results [B, T + 1, S]."""
    subjects, candidates, _ = doses.shape
    now, then = np.empty((9, candidates)), np.empty((7, candidates))
    for b in range(subjects):
        for i in range(7):
            now[i] = start[b, i]
        now[7] = 1.0
        for t in range(len(interval) + 1):
            action[b, t] = now[1]
            delayed[b, t] = now[3]
            if t == len(interval):
                break
            for s in range(candidates):
                now[8, s] = doses[b, s, interval[t]] / 5.0
            for i in range(7):
                then[i] = 0.0
                for j in range(9):
                    weight = matrix[b, i, j]
                    if weight != 0.0:
                        for s in range(candidates):
                            then[i, s] += weight * now[j, s]
            now[:7] = then


_insulin: Any = _vectorise(_insulin_source)


def _glucose_source(
    start: SingleArray,
    params: SingleArray,
    appearance: SingleArray,
    action: SingleArray,
    delayed: SingleArray,
    sensitivity: SingleArray,
    point: IndexArray,
    result: SingleArray,
) -> None:
    """Step glucose of every scenario and candidate.

    `start` [E, B, 3], `appearance` [E, B, T], `action` and `delayed` [B, T + 1, S], `sensitivity` [B, T], `point` [T]
    column of the result that the end of a step fills, or -1; `result` [E, B, S, H] mg/dL.
    """
    scenarios, subjects, steps = appearance.shape
    candidates = action.shape[2]
    half, one, zero, h = np.float32(0.5), np.float32(1.0), np.float32(0.0), np.float32(2.5)
    plasma, tissue = np.empty(candidates, np.float32), np.empty(candidates, np.float32)
    skin = np.empty(candidates, np.float32)
    for b in range(subjects):
        p = params[b]
        vm0, km0, k1, k2, ksc = p[_VM0], p[_KM0], p[_K1], p[_K2], p[_KSC]
        kp1, kp2, ke1, ke2, fsnc = p[_KP1], p[_KP2], p[_KE1], p[_KE2], p[_FSNC]
        left = np.exp(-ksc * h)
        # Weights of the plasma's start and end in the skin, which is solved exactly for a straight line between them.
        late = one - (one - left) / (ksc * h)
        early = one - left - late
        for e in range(scenarios):
            plasma[:], tissue[:], skin[:] = start[e, b, 0], start[e, b, 1], start[e, b, 2]
            for t in range(steps):
                meal = appearance[e, b, t] - fsnc
                vmx, kp3 = p[_VMX] * sensitivity[b, t], p[_KP3] * sensitivity[b, t]
                for part in range(2):
                    # Both halves lie between the insulin of the step's ends.
                    first, second = one - half * np.float32(part), half * np.float32(part)
                    third, fourth = half * (one - np.float32(part)), half * (one + np.float32(part))
                    for s in range(candidates):
                        x0 = first * action[b, t, s] + second * action[b, t + 1, s]
                        x1 = third * action[b, t, s] + fourth * action[b, t + 1, s]
                        d0 = first * delayed[b, t, s] + second * delayed[b, t + 1, s]
                        d1 = third * delayed[b, t, s] + fourth * delayed[b, t + 1, s]
                        g, q = plasma[s], tissue[s]
                        exchange = k1 * g - k2 * q
                        da = max(kp1 - kp2 * g - kp3 * d0, zero) + meal - ke1 * max(g - ke2, zero) - exchange
                        db = exchange - (vm0 + vmx * x0) * q / (km0 + q)
                        ga, qa = g + h * da, q + h * db
                        exchange = k1 * ga - k2 * qa
                        dc = max(kp1 - kp2 * ga - kp3 * d1, zero) + meal - ke1 * max(ga - ke2, zero) - exchange
                        dd = exchange - (vm0 + vmx * x1) * qa / (km0 + qa)
                        ga = max(g + half * h * (da + dc), zero)
                        plasma[s], tissue[s] = ga, max(q + half * h * (db + dd), zero)
                        skin[s] = left * skin[s] + early * g + late * ga
                if point[t] >= 0:
                    for s in range(candidates):
                        result[e, b, s, point[t]] = skin[s] / p[_VG]


_glucose: Any = _vectorise(_glucose_source)


@dataclass(frozen=True)
class Scenarios:
    """E equally likely states of the food and glucose of B subjects, and what else a roll-out needs.

    Attributes:
        glucose: [E, B, 3] plasma, tissue, subcutaneous glucose, mg/kg.
        appearance: [E, B, T] glucose that appears from food in each step to come, mg/kg/min.
        insulin: [B, 7] insulin states (`kinetics.KINETIC`).
        sensitivity: [B, T] factor on insulin sensitivity in each step to come.
        rows: [B] row of the patients.
    """

    glucose: SingleArray
    appearance: SingleArray
    insulin: FloatArray
    sensitivity: SingleArray
    rows: IndexArray

    def select(self, index: IndexArray) -> Scenarios:
        """Those of some subjects."""
        return Scenarios(
            np.ascontiguousarray(self.glucose[:, index]),
            np.ascontiguousarray(self.appearance[:, index]),
            self.insulin[index],
            self.sensitivity[index],
            self.rows[index],
        )


class Equations:
    """The true equations of some patients, ready for roll-outs.

    Args:
        params: [N, P] true parameters, columns as `tables.PARAMS`.
        points: [H] steps ahead at which glucose is wanted.
        food_scale: From `FOOD_SCALE`.
    """

    def __init__(self, params: FloatArray, points: tuple[int, ...], food_scale: float = 1000.0) -> None:
        self.params, self.points, self.food_scale = np.ascontiguousarray(params), points, food_scale
        self.matrix = transition(self.params, STEP_MINUTES)
        self._single = self.params.astype(np.float32)
        self._interval = np.searchsorted(np.array(points), np.arange(1, points[-1] + 1))
        self._point = np.full(points[-1], -1)
        self._point[np.array(points) - 1] = np.arange(len(points))

    def scenarios(
        self,
        states: FloatArray,
        rows: IndexArray,
        insulin: FloatArray,
        sensitivity: FloatArray | None = None,
        meals: FloatArray | None = None,
    ) -> Scenarios:
        """Work out the food's course.

        Args:
            states: [E, B, 19] as in `physiology`; of the insulin states nothing is read.
            rows: [B] row of the patients.
            insulin: [B, 7].
            sensitivity: [B, T]; 1 if None.
            meals: [E, B, M, 2] minute ahead and grams of meals still to begin; none if None. A negative minute is
                no meal.
        """
        count, size = states.shape[:2]
        steps = self.points[-1]
        none = np.full((count, size, 0, 2), -1.0)
        appearance = np.zeros((count, size, steps), dtype=np.float32)
        plans = none if meals is None else meals
        _appearance(np.ascontiguousarray(states), self.params[rows], plans, self.food_scale, appearance)
        scale = np.ones((size, steps)) if sensitivity is None else sensitivity
        return Scenarios(
            np.ascontiguousarray(states[:, :, GLUCOSE], dtype=np.float32),
            appearance,
            np.ascontiguousarray(insulin),
            np.ascontiguousarray(scale, dtype=np.float32),
            rows,
        )

    def roll_out(self, scenarios: Scenarios, doses: FloatArray) -> SingleArray:
        """Glucose of every candidate in every scenario.

        Args:
            scenarios: E of B subjects.
            doses: [B, S, H] U a step in each interval between the points.

        Returns:
            [E, B, S, H] subcutaneous glucose at the points, mg/dL.
        """
        (size, candidates, _), steps = doses.shape, self.points[-1]
        action = np.empty((size, steps + 1, candidates), dtype=np.float32)
        delayed = np.empty_like(action)
        _insulin(
            scenarios.insulin, self.matrix[scenarios.rows], np.ascontiguousarray(doses), self._interval, action, delayed
        )
        result = np.empty((len(scenarios.glucose), size, candidates, len(self.points)), dtype=np.float32)
        _glucose(
            scenarios.glucose, self._single[scenarios.rows], scenarios.appearance, action, delayed,
            scenarios.sensitivity, self._point, result,
        )  # fmt: skip
        return result


def insulin_of(state: FloatArray) -> FloatArray:
    """The insulin states [B, 7] of whole states [B, 19]."""
    return np.ascontiguousarray(state[:, KINETIC])
