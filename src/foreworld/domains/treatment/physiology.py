"""The type 1 diabetes patient as one batched function: thirteen differential equations and a mouth.

The equations are those of Dalla Man, Rizza, Cobelli, "Meal simulation model of the glucose-insulin system"
(IEEE Trans Biomed Eng 2007; 54:1740-1749), with the subcutaneous insulin and glucose compartments of Kovatchev et al.,
"In silico preclinical trials" (J Diabetes Sci Technol 2009; 3:44-55). They are held numerically to simglucose 0.2.11 by
`tests/domains/treatment/test_physiology.py`. Integration is the classical Runge-Kutta method of order four, the gut's
three equations in quarter steps ahead of the rest.

A state is one plain float64 array `[B, 19]`, so cloning a patient is one array copy:

    0 stomach solid, 1 stomach liquid, 2 intestine (mg)       3 plasma, 4 tissue glucose (mg/kg)
    5 plasma insulin (pmol/kg)   6 insulin action on use, 7 and 8 delayed insulin (pmol/L)   9 liver insulin (pmol/kg)
    10, 11 subcutaneous insulin (pmol/kg)   12 subcutaneous glucose (mg/kg)
    13 food still to be eaten (g)   14 stomach content when eating began (mg)   15 food eaten since (g)
    16 is eating (0 or 1)   17 eaten in the last minute (g)   18 alive (0 or 1)
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from foreworld.domains.treatment.tables import COLUMN, PARAMS, Patients
from foreworld.errors import InputError, MissingExtraError

try:
    from numba import njit
except ImportError as error:  # pragma: no cover - depends on the environment
    raise MissingExtraError("numba", "treatment") from error

FloatArray = npt.NDArray[np.float64]
MealUnits = Literal["fixed", "legacy"]

ODE_STATES = 13
STATES = 19
ALIVE = 18
EATING_RATE = 5.0  # g of carbohydrate a minute
PMOL_PER_UNIT = 6000.0
FAILURE_GLUCOSE = 10.0  # mg/dL; below it simglucose ends the episode

# Read by the compiled code as constants.
_BW, _VG, _VI, _IB = COLUMN["BW"], COLUMN["Vg"], COLUMN["Vi"], COLUMN["Ib"]
_KABS, _KMAX, _KMIN, _B, _D, _F = (COLUMN[name] for name in ("kabs", "kmax", "kmin", "b", "d", "f"))
_VMX, _VM0, _KM0, _K1, _K2, _P2U = (COLUMN[name] for name in ("Vmx", "Vm0", "Km0", "k1", "k2", "p2u"))
_M1, _M2, _M4, _M30, _KI = (COLUMN[name] for name in ("m1", "m2", "m4", "m30", "ki"))
_KP1, _KP2, _KP3, _KE1, _KE2, _FSNC = (COLUMN[name] for name in ("kp1", "kp2", "kp3", "ke1", "ke2", "Fsnc"))
_KD, _KSC, _KA1, _KA2 = (COLUMN[name] for name in ("kd", "ksc", "ka1", "ka2"))


_compile = njit(cache=True, fastmath=False)


def _gut_source(
    p: FloatArray, meal: float, stomach: float, solid: float, liquid: float, intestine: float
) -> tuple[float, float, float]:
    """Rates of the three gut states in mg/min; `meal` mg/min, `stomach` the reference content Dbar in mg."""
    if stomach > 0.0:
        rise = math.tanh(2.5 / (stomach * (1.0 - p[_B])) * (solid + liquid - p[_B] * stomach))
        fall = math.tanh(2.5 / (stomach * p[_D]) * (solid + liquid - p[_D] * stomach))
        emptying = p[_KMIN] + 0.5 * (p[_KMAX] - p[_KMIN]) * (rise - fall + 2.0)
    else:
        emptying = p[_KMAX]
    return (
        meal - p[_KMAX] * solid,
        p[_KMAX] * solid - emptying * liquid,
        emptying * liquid - p[_KABS] * intestine,
    )


_gut: Any = _compile(_gut_source)


def _digest_source(x: FloatArray, p: FloatArray, meal: float, stomach: float, minutes: float) -> float:
    """Advance the gut by `minutes` in place, in two Runge-Kutta steps; return the intestine's content in mg."""
    h = 0.5 * minutes
    for _ in range(2):
        a0, a1, a2 = _gut(p, meal, stomach, x[0], x[1], x[2])
        b0, b1, b2 = _gut(p, meal, stomach, x[0] + 0.5 * h * a0, x[1] + 0.5 * h * a1, x[2] + 0.5 * h * a2)
        c0, c1, c2 = _gut(p, meal, stomach, x[0] + 0.5 * h * b0, x[1] + 0.5 * h * b1, x[2] + 0.5 * h * b2)
        d0, d1, d2 = _gut(p, meal, stomach, x[0] + h * c0, x[1] + h * c1, x[2] + h * c2)
        x[0] += h / 6.0 * (a0 + 2.0 * b0 + 2.0 * c0 + d0)
        x[1] += h / 6.0 * (a1 + 2.0 * b1 + 2.0 * c1 + d1)
        x[2] += h / 6.0 * (a2 + 2.0 * b2 + 2.0 * c2 + d2)
    intestine: float = x[2]
    return intestine


_digest: Any = _compile(_digest_source)


def _body_source(
    x: FloatArray, p: FloatArray, intestine: float, insulin: float, sensitivity: float, dx: FloatArray
) -> None:
    """Write the rates of states 3 ... 12 into `dx`; `intestine` mg, `insulin` pmol/kg/min."""
    appearance = p[_F] * p[_KABS] * intestine / p[_BW]
    production = max(p[_KP1] - p[_KP2] * x[3] - sensitivity * p[_KP3] * x[8], 0.0)
    excretion = p[_KE1] * (x[3] - p[_KE2]) if x[3] > p[_KE2] else 0.0
    use = (p[_VM0] + sensitivity * p[_VMX] * x[6]) * x[4] / (p[_KM0] + x[4])
    exchange = p[_K1] * x[3] - p[_K2] * x[4]
    plasma_insulin = x[5] / p[_VI]

    dx[3] = production + appearance - p[_FSNC] - excretion - exchange
    dx[4] = exchange - use
    dx[5] = p[_M1] * x[9] + p[_KA1] * x[10] + p[_KA2] * x[11] - (p[_M2] + p[_M4]) * x[5]
    dx[6] = p[_P2U] * (plasma_insulin - p[_IB] - x[6])
    dx[7] = p[_KI] * (plasma_insulin - x[7])
    dx[8] = p[_KI] * (x[7] - x[8])
    dx[9] = p[_M2] * x[5] - (p[_M1] + p[_M30]) * x[9]
    dx[10] = insulin - (p[_KA1] + p[_KD]) * x[10]
    dx[11] = p[_KD] * x[10] - p[_KA2] * x[11]
    dx[12] = p[_KSC] * (x[3] - x[12])
    # simglucose holds a pool still once it is negative; the pools of insulin action may be negative.
    for i in (3, 4, 5, 9, 10, 11, 12):
        if x[i] < 0.0:
            dx[i] = 0.0


_body: Any = _compile(_body_source)


def _eat_source(state: FloatArray, meal: float, food_scale: float) -> float:
    """Take one minute's bite from the queue, in simglucose's order; return the stomach reference Dbar in mg."""
    state[13] += meal
    bite = min(EATING_RATE, state[13]) if state[13] > 0.0 else 0.0
    state[13] = max(state[13] - bite, 0.0)
    if bite > 0.0 and state[17] <= 0.0:
        state[14] = state[0] + state[1]
        state[15] = 0.0
        state[16] = 1.0
    if state[16] > 0.0:
        state[15] += bite
    if bite <= 0.0 and state[17] > 0.0:
        state[16] = 0.0
    state[17] = bite
    stomach: float = state[14] + state[15] * food_scale
    return stomach


_eat: Any = _compile(_eat_source)


def _advance_source(
    state: FloatArray,
    params: FloatArray,
    meals: FloatArray,
    insulin: FloatArray,
    sensitivity: FloatArray,
    food_scale: float,
    substeps: int,
    floor: float,
    glucose: FloatArray,
) -> None:
    """Advance every row of `state` by `meals.shape[1]` minutes; see `advance`."""
    subjects, minutes = meals.shape
    a, b, c, d = np.empty(13), np.empty(13), np.empty(13), np.empty(13)
    y = np.empty(13)
    h = 1.0 / substeps
    for subject in range(subjects):
        x, p = state[subject], params[subject]
        for minute in range(minutes):
            if x[18] > 0.0:
                stomach = _eat(x, meals[subject, minute], food_scale)
                meal = x[17] * 1000.0
                rate = insulin[subject, minute] * 6000.0 / p[_BW]
                scale = sensitivity[subject, minute]
                for _ in range(substeps):
                    # Nothing flows back into the gut, and the stomach's switch is the steepest part of the model: finer
                    # steps there bring the largest error of the conformance day from 0.22 to 0.03 mg/dL.
                    start = x[2]
                    middle = _digest(x, p, meal, stomach, 0.5 * h)
                    end = _digest(x, p, meal, stomach, 0.5 * h)
                    _body(x, p, start, rate, scale, a)
                    for i in range(3, 13):
                        y[i] = x[i] + 0.5 * h * a[i]
                    _body(y, p, middle, rate, scale, b)
                    for i in range(3, 13):
                        y[i] = x[i] + 0.5 * h * b[i]
                    _body(y, p, middle, rate, scale, c)
                    for i in range(3, 13):
                        y[i] = x[i] + h * c[i]
                    _body(y, p, end, rate, scale, d)
                    for i in range(3, 13):
                        x[i] += h / 6.0 * (a[i] + 2.0 * b[i] + 2.0 * c[i] + d[i])
                if x[12] / p[_VG] < floor:
                    x[18] = 0.0
            glucose[subject, minute] = x[12] / p[_VG]


_advance: Any = _compile(_advance_source)


def initial_state(patients: Patients) -> FloatArray:
    """The basal steady state of each patient, `[B, 19]`, alive and with an empty stomach."""
    state = np.zeros((len(patients), STATES))
    state[:, :ODE_STATES] = patients.x0
    state[:, 14] = state[:, 0] + state[:, 1]
    state[:, ALIVE] = 1.0
    return state


def subcutaneous_glucose(state: FloatArray, params: FloatArray) -> FloatArray:
    """What a perfect sensor would read, `[B]` mg/dL: simglucose's observation `Gsub`."""
    glucose: FloatArray = state[:, 12] / params[:, _VG]
    return glucose


def derivatives(patients: Patients, state: FloatArray, insulin: FloatArray, sensitivity: float = 1.0) -> FloatArray:
    """d(state)/dt per minute, `[B, 13]`, without a meal, at a constant `insulin` rate `[B]` in U/min."""
    result = np.empty((len(patients), ODE_STATES))
    for row, (x, p) in enumerate(zip(state, patients.params, strict=True)):
        _body(x, p, x[2], float(insulin[row]) * PMOL_PER_UNIT / p[_BW], sensitivity, result[row])
        result[row, :3] = _gut(p, 0.0, x[14] + x[15] * 1000.0, x[0], x[1], x[2])
    return result


def advance(
    state: FloatArray,
    params: FloatArray,
    meals: FloatArray,
    insulin: FloatArray,
    sensitivity: FloatArray | None = None,
    *,
    meal_units: MealUnits = "fixed",
    substeps: int = 1,
    floor: float = FAILURE_GLUCOSE,
) -> FloatArray:
    """Advance a batch by whole minutes, changing `state` in place.

    Args:
        state: `[B, 19]`, C-contiguous float64; mutated.
        params: `[B, P]`, columns as `tables.PARAMS`.
        meals: `[B, n]` grams put on the table in each minute; eaten at 5 g/min from a queue.
        insulin: `[B, n]` U/min delivered in each minute.
        sensitivity: `[B, n]` factor on `Vmx` and `kp3` (insulin-dependent use and production), 1 when absent.
        meal_units: `"legacy"` repeats the unit error of simglucose <= 0.2.2 (grams eaten added to milligrams in the
            stomach, issue #41), in which results published before 2023 were obtained.
        substeps: Runge-Kutta steps a minute.
        floor: mg/dL below which a patient counts as failed and the state stays frozen from then on.

    Returns:
        `[B, n]` subcutaneous glucose in mg/dL at the end of each minute.

    Raises:
        InputError: a shape does not fit, or `meal_units` or `substeps` is unknown.
    """
    if meal_units not in ("fixed", "legacy"):
        raise InputError(f"meal_units={meal_units!r} is unknown; use 'fixed' or 'legacy'")
    if substeps < 1:
        raise InputError(f"substeps={substeps} must be at least 1")
    meals = np.ascontiguousarray(meals, dtype=np.float64)
    insulin = np.ascontiguousarray(insulin, dtype=np.float64)
    scale = np.ones_like(meals) if sensitivity is None else np.ascontiguousarray(sensitivity, dtype=np.float64)
    if (
        state.shape != (len(meals), STATES)
        or params.shape != (len(meals), len(PARAMS))
        or not meals.shape == insulin.shape == scale.shape
    ):
        raise InputError(
            f"shapes do not fit: state {state.shape}, params {params.shape}, meals {meals.shape}, "
            f"insulin {insulin.shape}, sensitivity {scale.shape}"
        )
    glucose = np.empty_like(meals)
    food_scale = 1000.0 if meal_units == "fixed" else 1.0
    _advance(state, params, meals, insulin, scale, food_scale, int(substeps), float(floor), glucose)
    return glucose
