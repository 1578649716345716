"""Which law does correctness follow: errors that compound, or errors that are recovered from?

A forecast is correct or wrong at every horizon. Two laws say with what probability it is correct n steps ahead:

- *compounding*: each step goes wrong with probability e, for good: (1 - e)^n. The argument that autoregressive models
  are doomed (LeCun 2022, A path towards autonomous machine intelligence; and talks since) assumes it.
- *recoverable*: a chain of two states that goes wrong with probability a a step and right again with probability b:
  pi + (1 - pi) (1 - a - b)^n, with pi = b / (a + b). With b = 0 it is the first law.

- *floor*: never right again but by chance, c + (1 - c) (1 - e)^n. With one c for all n this is the second law letter by
  letter, with pi = c: a better fit of the chain shows no recovery by itself. So c is not fitted here, but measured, at
  every horizon: how often forecasts are correct when they are shuffled.

All start correct. Being correct *at all steps so far* is geometric under all and cannot tell them apart: what does
is being correct at n. Laws are compared by the likelihood of the correct and wrong forecasts at every horizon, by AIC
(Akaike 1974). Horizons of one forecast depend on one another, so the likelihood is a composite one and AIC alone is too
sure: the interval comes from resampling patients. Horizons may be weighted: two thirds of a grid that is fine at first
would otherwise speak of its first two hours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]

_TINY = 1e-12
_SLOPES = (math.log(1e-7), math.log(20.0))  # of the logarithm of a rate a step
_ZOOMS, _GRID = 50, 13


@dataclass(frozen=True)
class Compounding:
    """(1 - e)^n.

    Attributes:
        e: Probability that a step goes wrong.
        log_likelihood: Of what it was fitted to, in nats.
    """

    e: float
    log_likelihood: float

    parameters = 1

    def correct(self, steps: FloatArray) -> FloatArray:
        """Probability of being correct so many steps ahead."""
        return (1.0 - self.e) ** np.asarray(steps, dtype=np.float64)

    @property
    def aic(self) -> float:
        """Akaike's criterion; smaller is better."""
        return 2.0 * (self.parameters - self.log_likelihood)


@dataclass(frozen=True)
class Recoverable:
    """pi + (1 - pi) (1 - a - b)^n.

    Attributes:
        a: Probability that a step from correct goes wrong.
        b: Probability that a step from wrong goes right.
        log_likelihood: Of what it was fitted to, in nats.
    """

    a: float
    b: float
    log_likelihood: float

    parameters = 2

    @property
    def pi(self) -> float:
        """Share correct in the long run."""
        return self.b / (self.a + self.b)

    def correct(self, steps: FloatArray) -> FloatArray:
        """Probability of being correct so many steps ahead."""
        return self.pi + (1.0 - self.pi) * (1.0 - self.a - self.b) ** np.asarray(steps, dtype=np.float64)

    @property
    def aic(self) -> float:
        """Akaike's criterion; smaller is better."""
        return 2.0 * (self.parameters - self.log_likelihood)


@dataclass(frozen=True)
class Floor:
    """c + (1 - c) (1 - e)^n, with c by horizon.

    Attributes:
        e: Probability that a step goes wrong, for good.
        points: Steps ahead at which chance is known.
        chance: c there; between them linear.
        log_likelihood: Of what it was fitted to, in nats.
    """

    e: float
    points: tuple[float, ...]
    chance: tuple[float, ...]
    log_likelihood: float

    parameters = 1  # c is measured, not fitted

    def correct(self, steps: FloatArray) -> FloatArray:
        """Probability of being correct so many steps ahead."""
        n = np.asarray(steps, dtype=np.float64)
        chance = np.interp(n, self.points, self.chance)
        result: FloatArray = chance + (1.0 - chance) * (1.0 - self.e) ** n
        return result

    @property
    def aic(self) -> float:
        """Akaike's criterion; smaller is better."""
        return 2.0 * (self.parameters - self.log_likelihood)


def interval_weights(points: npt.ArrayLike) -> FloatArray:
    """[H] the length of the interval that ends at each point of a grid, in units of their mean: they sum to H."""
    gaps = np.diff(np.asarray(points, dtype=np.float64), prepend=0.0)
    weights: FloatArray = gaps / gaps.mean()
    return weights


def fit_compounding(
    steps: npt.ArrayLike, correct: npt.ArrayLike, total: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Compounding:
    """The most likely e.

    Args:
        steps: [H] steps ahead.
        correct: [H] forecasts that were correct there.
        total: [H] forecasts that were judged there.
        weights: [H] how much each horizon counts, such as `interval_weights`; 1 if None.

    Raises:
        InputError: Shapes disagree, there is no forecast, more are correct than there are, or a weight is negative.
    """
    n, right, wrong, _ = _counts(steps, correct, total, weights)

    def likelihood(log_rate: FloatArray, _: FloatArray) -> FloatArray:
        return _bernoulli(np.exp(-np.exp(log_rate)[..., None] * n), right, wrong)

    log_rate, _, best = _climb(likelihood, _SLOPES, (0.0, 0.0))
    return Compounding(-math.expm1(-math.exp(log_rate)), best)


def fit_floor(
    steps: npt.ArrayLike,
    correct: npt.ArrayLike,
    total: npt.ArrayLike,
    chance: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> Floor:
    """The most likely e where what is wrong for good is still correct by chance.

    Args:
        steps: [H] steps ahead, ascending.
        correct: As `fit_compounding`.
        total: As `fit_compounding`.
        chance: [H] share of forecasts that are correct by chance there.
        weights: As `fit_compounding`.

    Raises:
        InputError: As `fit_compounding`, or `chance` holds no [H] shares.
    """
    points, floor = np.asarray(steps, dtype=np.float64), np.asarray(chance, dtype=np.float64)
    if floor.shape != points.shape or not np.all((floor >= 0.0) & (floor <= 1.0)):
        raise InputError(f"chance of shape {floor.shape} for {points.shape} steps; give a share in 0..1 for each")
    n, right, wrong, _ = _counts(steps, correct, total, weights)
    low = np.interp(n, points, floor)

    def likelihood(log_rate: FloatArray, _: FloatArray) -> FloatArray:
        return _bernoulli(low + (1.0 - low) * np.exp(-np.exp(log_rate)[..., None] * n), right, wrong)

    log_rate, _, best = _climb(likelihood, _SLOPES, (0.0, 0.0))
    return Floor(-math.expm1(-math.exp(log_rate)), tuple(points.tolist()), tuple(floor.tolist()), best)


def fit_recoverable(
    steps: npt.ArrayLike, correct: npt.ArrayLike, total: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Recoverable:
    """The most likely a and b with a + b <= 1; arguments and errors as `fit_compounding`."""
    n, right, wrong, _ = _counts(steps, correct, total, weights)

    def likelihood(pi: FloatArray, rate: FloatArray) -> FloatArray:
        return _bernoulli(pi + (1.0 - pi) * np.exp(-rate * n), right, wrong)

    return _chain(likelihood)


def fit_sequences(gaps: npt.ArrayLike, moves: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Recoverable:
    """The chain that is most likely for whole sequences of correct and wrong, not for each horizon by itself.

    Where the two fits of the chain disagree, correctness is no chain of two states with constant rates.

    Args:
        gaps: [G] steps between two judged horizons.
        moves: [G, 2, 2] how often from (0 wrong, 1 correct) to (0 wrong, 1 correct) over that gap.
        weights: [G] how much each gap counts; 1 if None.

    Raises:
        InputError: Shapes disagree, nothing was counted, or a weight is negative.
    """
    gap, move = np.asarray(gaps, dtype=np.float64), np.asarray(moves, dtype=np.float64)
    if move.shape != (len(gap), 2, 2) or not move.sum() > 0.0:
        raise InputError(f"moves of shape {move.shape} for {len(gap)} gaps; give counts [G, 2, 2], not all 0")
    move = move * _weights(weights, gap)[:, None, None]

    def likelihood(pi: FloatArray, rate: FloatArray) -> FloatArray:
        left = np.exp(-rate * gap)
        stays, returns = pi + (1.0 - pi) * left, pi * (1.0 - left)
        return _bernoulli(stays, move[:, 1, 1], move[:, 1, 0]) + _bernoulli(returns, move[:, 0, 1], move[:, 0, 0])

    return _chain(likelihood)


def fit_first_errors(
    gaps: npt.ArrayLike, kept: npt.ArrayLike, lost: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Compounding:
    """The most likely e of the *first* error: what compounding would make of how long forecasts stay correct.

    Args:
        gaps: [G] steps between two judged horizons.
        kept: [G] forecasts never wrong before that were correct at the end of the gap.
        lost: [G] those that were wrong there for the first time.
        weights: [G] how much each gap counts; 1 if None.

    Raises:
        InputError: As `fit_compounding`.
    """
    total = np.asarray(kept, dtype=np.float64) + np.asarray(lost, dtype=np.float64)
    return fit_compounding(gaps, kept, total, weights)


def misfit(
    law: Compounding | Recoverable | Floor,
    steps: npt.ArrayLike,
    correct: npt.ArrayLike,
    total: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Root mean square difference between the law and the share that was correct, over horizons; a share."""
    n, right, wrong, weight = _counts(steps, correct, total, weights)
    return float(np.sqrt(np.average((law.correct(n) - right / (right + wrong)) ** 2, weights=weight)))


class _Counts(NamedTuple):
    """Of the horizons that were judged and count, the steps ahead, weighted numbers right and wrong, and the weight."""

    n: FloatArray
    right: FloatArray
    wrong: FloatArray
    weight: FloatArray


def _counts(
    steps: npt.ArrayLike, correct: npt.ArrayLike, total: npt.ArrayLike, weights: npt.ArrayLike | None
) -> _Counts:
    n, right, all_ = (np.asarray(part, dtype=np.float64) for part in (steps, correct, total))
    if not (n.ndim == 1 and n.shape == right.shape == all_.shape):
        raise InputError(f"{n.shape} steps, {right.shape} correct and {all_.shape} in all; give one of each a horizon")
    weight = _weights(weights, n)
    judged = (all_ > 0.0) & (weight > 0.0)
    if not judged.any() or np.any(right > all_) or np.any(right < 0.0) or np.any(n <= 0.0):
        raise InputError("no forecast was judged, more are correct than there are, or a horizon is not ahead")
    return _Counts(n[judged], (weight * right)[judged], (weight * (all_ - right))[judged], weight[judged])


def _weights(weights: npt.ArrayLike | None, of: FloatArray) -> FloatArray:
    weight = np.ones_like(of) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != of.shape or not np.all(weight >= 0.0):
        raise InputError(f"weights of shape {weight.shape} for {of.shape} horizons; give one of at least 0 for each")
    return weight


def _bernoulli(share: FloatArray, right: FloatArray, wrong: FloatArray) -> FloatArray:
    """[...] log likelihood of counts [H] under shares [..., H]."""
    safe = np.clip(share, _TINY, 1.0 - _TINY)
    result: FloatArray = np.log(safe) @ right + np.log1p(-safe) @ wrong
    return result


def _chain(likelihood: Callable[[FloatArray, FloatArray], FloatArray]) -> Recoverable:
    """The chain that is most likely, from its likelihood by pi and minus the logarithm of 1 - a - b, [..., 1] each."""

    # How steeply correctness falls at first and where it ends are told apart best; rate and end are not.
    def of(log_slope: FloatArray, logit: FloatArray) -> tuple[FloatArray, FloatArray]:
        pi = 1.0 / (1.0 + np.exp(-logit))
        return pi[..., None], (np.exp(log_slope) / (1.0 - pi))[..., None]

    log_slope, logit, best = _climb(lambda *at: likelihood(*of(*at)), _SLOPES, (-14.0, 14.0))
    pi, rate = (float(part[0]) for part in of(np.array(log_slope), np.array(logit)))
    moved = -math.expm1(-rate)
    return Recoverable((1.0 - pi) * moved, pi * moved, best)


def _climb(
    likelihood: Callable[[FloatArray, FloatArray], FloatArray], first: tuple[float, float], second: tuple[float, float]
) -> tuple[float, float, float]:
    """The best of a grid, then of a smaller one around it, and so on: no start to choose and no gradient."""
    bounds, centre = (first, second), [sum(first) / 2.0, sum(second) / 2.0]
    width, best = [first[1] - first[0], second[1] - second[0]], -math.inf
    for _ in range(_ZOOMS):
        axes = [
            np.clip(np.linspace(c - w / 2.0, c + w / 2.0, _GRID), *b) if w else np.array([c])
            for c, w, b in zip(centre, width, bounds, strict=True)
        ]
        one, two = np.meshgrid(*axes, indexing="ij")
        found = likelihood(one, two)
        at = np.unravel_index(int(np.argmax(found)), found.shape)
        if found[at] >= best:
            best, centre = float(found[at]), [float(one[at]), float(two[at])]
        # An axis whose best lies at the edge of its window is followed instead of narrowed.
        width = [w if w and place in (0, _GRID - 1) else 0.6 * w for w, place in zip(width, at, strict=True)]
    return centre[0], centre[1], best
