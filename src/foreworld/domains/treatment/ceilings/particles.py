"""The steps of the particle filter as compiled functions: move, announce, weigh, resample, choose.

Each changes its arrays in place. Shapes: B subjects, N particles, K meals of a day; `x` [B, N, 19] are states as in
`physiology`, of which the insulin's are left alone: insulin given is known, so all particles share one course of it.
`done` [B, N] holds a bit for each meal of the day that has begun; `noise` [B, N, 2] the last two transformed errors of
the sensor that each particle implies; `logs` [B, N] unnormalised log weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from foreworld.domains.treatment.ceilings.chance import KeyArray, normal, uniform
from foreworld.domains.treatment.ceilings.imagine import EMPTY, absorb
from foreworld.domains.treatment.physiology import _eat
from foreworld.domains.treatment.sensor import DELTA, GAMMA, LAMBDA, XI
from foreworld.domains.treatment.tables import COLUMN

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_BW, _VG, _F = COLUMN["BW"], COLUMN["Vg"], COLUMN["f"]
_VMX, _VM0, _KM0, _K1, _K2 = (COLUMN[name] for name in ("Vmx", "Vm0", "Km0", "k1", "k2"))
_KP1, _KP2, _KP3, _KE1, _KE2, _FSNC, _KSC = (COLUMN[n] for n in ("kp1", "kp2", "kp3", "ke1", "ke2", "Fsnc", "ksc"))
_TAILS = 4.0  # degrees of freedom of the noise's innovations: splines between knots give them heavy tails
_UNHEARD_OF = 1e-4  # weight of a meal at a time when the statistics know of none
_DRAWS = 16  # random numbers reserved for each meal and particle

_compile = njit(cache=True)


def _grams_source(key: np.uint64, moment: int, n: int, draw: int, mean: float, spread: float, even: bool) -> float:
    """The size of a meal, g."""
    away: float = normal(key, moment, n, draw)
    if even:
        away = 2.0 * uniform(key, moment, n, draw) - 1.0
    return max(mean + spread * away, 0.0)


_grams: Any = _compile(_grams_source)


def _rates_source(
    g: float, q: float, p: FloatArray, appearance: float, action: float, delayed: float
) -> tuple[float, float]:
    """Rates of plasma and tissue glucose, mg/kg/min."""
    exchange = p[_K1] * g - p[_K2] * q
    production = max(p[_KP1] - p[_KP2] * g - p[_KP3] * delayed, 0.0)
    plasma = production + appearance - p[_FSNC] - p[_KE1] * max(g - p[_KE2], 0.0) - exchange
    return plasma, exchange - (p[_VM0] + p[_VMX] * action) * q / (p[_KM0] + q)


_rates: Any = _compile(_rates_source)


def _minute_source(
    x: FloatArray, p: FloatArray, meal: float, food_scale: float, action: FloatArray, delayed: FloatArray
) -> None:
    """One minute of one particle; `action` and `delayed` [2] at its ends."""
    appearance = 0.0
    if meal > 0.0 or x[13] > 0.0 or x[17] > 0.0 or x[0] + x[1] + x[2] > EMPTY:
        reference = max(_eat(x, meal, food_scale), 1e-9)
        appearance = absorb(x, p, x[17] * 1000.0, reference, 1.0) * p[_F] / p[_BW]
    g, q = x[3], x[4]
    ga, qa = _rates(g, q, p, appearance, action[0], delayed[0])
    gb, qb = _rates(g + ga, q + qa, p, appearance, action[1], delayed[1])
    x[3], x[4] = max(g + 0.5 * (ga + gb), 0.0), max(q + 0.5 * (qa + qb), 0.0)
    left = math.exp(-p[_KSC])
    x[12] = left * x[12] + (1.0 - left) * 0.5 * (g + x[3])


_minute: Any = _compile(_minute_source)


def _move_source(
    x: FloatArray,
    done: IntArray,
    params: FloatArray,
    action: FloatArray,
    delayed: FloatArray,
    start: FloatArray,
    grams: FloatArray,
    spread: FloatArray,
    even: bool,
    food_scale: float,
    keys: KeyArray,
    moments: IntArray,
) -> None:
    """Five minutes: unannounced meals begin by chance, `start` [B, K]; `action` and `delayed` [B, 6] by minute."""
    subjects, count, _ = x.shape
    for b in range(subjects):
        for n in range(count):
            onset, meal = -1, 0.0
            for k in range(start.shape[1]):
                if start[b, k] <= 0.0 or (done[b, n] >> k) & 1:
                    continue
                if uniform(keys[b], moments[b], n, _DRAWS * k) < start[b, k]:
                    done[b, n] |= 1 << k
                    onset = int(5.0 * uniform(keys[b], moments[b], n, _DRAWS * k + 1))
                    meal += _grams(keys[b], moments[b], n, _DRAWS * k + 2, grams[b, k], spread[b, k], even)
            for minute in range(5):
                food = meal if minute == onset else 0.0
                ends = slice(minute, minute + 2)
                _minute(x[b, n], params[b], food, food_scale, action[b, ends], delayed[b, ends])


move: Any = _compile(_move_source)


def _count_source(count: float, true: float, error: float) -> float:
    """Density of a count given the true grams, per g and up to a constant."""
    # Counts are off by clip(1 + error N, 0.3, 1.7); the ends gather little.
    ratio = (count / true - 1.0) / error
    return math.exp(-0.5 * ratio * ratio) / (error * true)


_count: Any = _compile(_count_source)


def _announce_source(
    x: FloatArray,
    done: IntArray,
    logs: FloatArray,
    counts: FloatArray,
    share: FloatArray,
    grams: FloatArray,
    spread: FloatArray,
    even: bool,
    error: float,
    triple: float,
    food_scale: float,
    keys: KeyArray,
    moments: IntArray,
) -> None:
    """A count [B] g was entered now: each particle draws which meal it is and how large, and is weighed by the count.

    Where the statistics know of no meal at this time, the grams are the count with its error.
    """
    subjects, number, _ = x.shape
    chance = np.empty(share.shape[1])
    for b in range(subjects):
        if counts[b] <= 0.0:
            continue
        for n in range(number):
            total, last = 0.0, -1
            for k in range(share.shape[1]):
                chance[k] = 0.0 if (done[b, n] >> k) & 1 else share[b, k]
                total += chance[k]
            meal = counts[b] * min(max(1.0 + error * normal(keys[b], moments[b], n, 200), 0.3), 1.7)
            likely = _UNHEARD_OF / counts[b]
            if total > 0.0:
                level = total * uniform(keys[b], moments[b], n, 202)
                for k in range(share.shape[1]):
                    if chance[k] > 0.0 and level >= 0.0:
                        last, level = k, level - chance[k]
                done[b, n] |= 1 << last
                likely = total
                if error > 0.0:
                    meal = max(_grams(keys[b], moments[b], n, 204, grams[b, last], spread[b, last], even), 0.5)
                    likely *= (1.0 - triple) * _count(counts[b], meal, error) + triple * _count(
                        counts[b] / 3.0, meal, error
                    ) / 3.0
            logs[b, n] += math.log(likely + 1e-12)
            # The first bite was up to four minutes ago: those minutes' food is swallowed at once.
            for _ in range(int(5.0 * uniform(keys[b], moments[b], n, 206))):
                _eat(x[b, n], meal, food_scale)
                meal = 0.0
                x[b, n, 0] += 1000.0 * x[b, n, 17]
            x[b, n, 13] += meal


announce: Any = _compile(_announce_source)


def _weigh_source(
    x: FloatArray,
    noise: FloatArray,
    logs: FloatArray,
    known: IntArray,
    params: FloatArray,
    cgm: FloatArray,
    weights: FloatArray,
    spreads: FloatArray,
    sharpness: float,
) -> None:
    """Weigh the particles by the error `cgm` [B] - glucose that each implies; `known` [B] errors come before it."""
    subjects, count, _ = x.shape
    for b in range(subjects):
        if not math.isfinite(cgm[b]):
            known[b] = 0
            continue
        weight, spread = weights[known[b]], spreads[known[b]]
        # A t distribution's scale at which it has the standard deviation `spread`.
        scale = spread * math.sqrt((_TAILS - 2.0) / _TAILS)
        for n in range(count):
            u = (cgm[b] - x[b, n, 12] / params[b, _VG] - XI) / LAMBDA
            z = GAMMA + DELTA * math.asinh(u)
            r = (z - weight[0] * noise[b, n, 0] - weight[1] * noise[b, n, 1]) / scale
            likely = -0.5 * (_TAILS + 1.0) * math.log(1.0 + r * r / _TAILS) - 0.5 * math.log(1.0 + u * u)
            logs[b, n] += sharpness * likely
            noise[b, n, 1], noise[b, n, 0] = noise[b, n, 0], z
        known[b] = min(known[b] + 1, len(spreads) - 1)


weigh: Any = _compile(_weigh_source)


def _probabilities_source(logs: FloatArray, result: FloatArray) -> float:
    """Normalised weights [N] of one subject; returns the effective number of particles."""
    most, total, squares = -np.inf, 0.0, 0.0
    for value in logs:
        most = max(most, value)
    for n in range(len(logs)):
        # Particles that have all failed alike count alike.
        result[n] = math.exp(logs[n] - most) if math.isfinite(most) else 1.0
        total += result[n]
    for n in range(len(logs)):
        result[n] /= total
        squares += result[n] * result[n]
    return 1.0 / squares


probabilities: Any = _compile(_probabilities_source)


def _resample_source(
    x: FloatArray,
    done: IntArray,
    noise: FloatArray,
    logs: FloatArray,
    params: FloatArray,
    share: float,
    food_jitter: float,
    glucose_jitter: float,
    keys: KeyArray,
    moments: IntArray,
) -> None:
    """Systematic resampling where fewer than `share` of the particles count, with a little jitter.

    Food is jittered by a factor on all of it (which is the same meal in another size), glucose by as much as a sensor
    could not tell; so that copies do not stay copies.
    """
    subjects, count, _ = x.shape
    chance, old = np.empty(count), np.empty(count, np.int64)
    for b in range(subjects):
        if probabilities(logs[b], chance) >= share * count:
            continue
        level, at = uniform(keys[b], moments[b], 0, 300) / count, 0
        total = chance[0]
        for n in range(count):
            while total < level + n / count and at < count - 1:
                at += 1
                total += chance[at]
            old[n] = at
        x[b], done[b], noise[b] = x[b][old], done[b][old], noise[b][old]
        logs[b] = 0.0
        for n in range(count):
            factor = math.exp(food_jitter * normal(keys[b], moments[b], n, 302))
            for i in (0, 1, 2, 13, 14, 15):
                x[b, n, i] *= factor
            factor = math.exp(glucose_jitter * normal(keys[b], moments[b], n, 304))
            for i in (3, 4, 12):
                x[b, n, i] *= factor


resample: Any = _compile(_resample_source)


def _choose_source(x: FloatArray, logs: FloatArray, params: FloatArray, chosen: IntArray) -> None:
    """Equally likely representatives `chosen` [E, B]: the middles of E equal parts of the particles' order.

    They are ordered by where glucose would be if all food on board were in the blood.
    """
    scenarios, subjects = chosen.shape
    count = x.shape[1]
    chance, height = np.empty(count), np.empty(count)
    for b in range(subjects):
        probabilities(logs[b], chance)
        for n in range(count):
            food = 1000.0 * x[b, n, 13] + x[b, n, 0] + x[b, n, 1] + x[b, n, 2]
            height[n] = x[b, n, 3] + params[b, _F] / params[b, _BW] * food
        order = np.argsort(height)
        total, at = chance[order[0]], 0
        for e in range(scenarios):
            while total < (e + 0.5) / scenarios and at < count - 1:
                at += 1
                total += chance[order[at]]
            chosen[e, b] = order[at]


choose: Any = _compile(_choose_source)
