"""Intervals for evidence: subjects are the independent units, whatever the number of samples each one gives.

Everything is deterministic: resampling takes an explicit seed. Intervals are two-sided at `level`, 95 % by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]

REPEATS = 4000
_BLOCK = 2_000_000  # counts drawn at a time; bounds the memory of a bootstrap over many episodes


class Interval(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


def _clusters(
    values: npt.ArrayLike, weights: npt.ArrayLike | None, subjects: Sequence[object] | npt.NDArray[np.generic]
) -> tuple[FloatArray, FloatArray]:
    """Weighted sum and weight of every subject, in the order of first appearance, `[G]` each."""
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 1 or x.shape != w.shape or len(subjects) != len(x) or not len(x):
        raise InputError(f"{x.shape} values, {w.shape} weights and {len(subjects)} subjects; give one of each a sample")
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(w)) and np.all(w >= 0.0) and w.sum() > 0.0):
        raise InputError("values must be finite, weights finite, at least 0 and not all 0")
    position: dict[object, int] = {}
    index = np.array([position.setdefault(subject, len(position)) for subject in subjects])
    total, weight = np.zeros(len(position)), np.zeros(len(position))
    np.add.at(total, index, x * w)
    np.add.at(weight, index, w)
    return total, weight


def _resample(columns: FloatArray, repeats: int, seed: int) -> FloatArray:
    """The sums of `columns` `[G, C]` over `G` clusters drawn with replacement, `[repeats, C]`."""
    clusters = len(columns)
    generator = np.random.default_rng(seed)
    block = max(_BLOCK // clusters, 1)
    sums = []
    for start in range(0, repeats, block):
        size = min(block, repeats - start)
        counts = generator.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=size)
        sums.append(counts @ columns)
    return np.concatenate(sums)


def _level(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InputError(f"level {level} must lie between 0 and 1")
    return (1.0 - level) / 2.0


def cluster_bootstrap(
    values: npt.ArrayLike,
    subjects: Sequence[object] | npt.NDArray[np.generic],
    *,
    weights: npt.ArrayLike | None = None,
    transform: Callable[[FloatArray], FloatArray] | None = None,
    level: float = 0.95,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Interval:
    """The pooled mean and its percentile bootstrap interval, resampling whole subjects with all their samples.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13; clusters as in Davison and Hinkley, Bootstrap
    Methods and their Application (1997), 3.8.

    With a few dozen subjects it is too narrow, and how much depends on who adds to the mean. Where everybody does (time
    in range) it holds the truth about 92 times in 100 instead of 95. Where few subjects carry all of it (time below 54
    mg/dL) it does so 50 to 90 times, and nearly always fails because its upper end is too low: a subject like those few
    that was not drawn leaves no trace in the sample. So the upper end of a rare share is no limit, and the worst
    subject belongs beside it. `benchmarks/interval_coverage.py` measures both. BCa (Efron, J Am Stat Assoc 1987;
    82:171-185) does not mend it: it widens where there is a tail to be seen, gains nothing where one subject carries
    all, and holds the truth less often for ratios whose weights differ much.

    Args:
        values: `[n]` samples, over all seeds.
        subjects: `[n]` whom each sample belongs to; equal labels are one independent unit.
        weights: `[n]` weights of the samples; by default equal.
        transform: of the pooled mean, such as `np.sqrt` for a root mean square.
        level: coverage.
        repeats: number of resamples.
        seed: of the resampling.

    Raises:
        InputError: shapes disagree, a value is not finite, or the level is not between 0 and 1.
    """
    tail = _level(level)
    total, weight = _clusters(values, weights, subjects)
    change = transform or (lambda pooled: pooled)
    sums = _resample(np.stack([total, weight], axis=1), repeats, seed)
    # A resample without any weight says nothing; it happens only where most subjects have none.
    sums = sums[sums[:, 1] > 0.0]
    means = sums[:, 0] / sums[:, 1]
    low, high = np.quantile(change(means), [tail, 1.0 - tail])
    value = change(np.array([total.sum() / weight.sum()]))[0]
    return Interval(float(value), float(low), float(high))


def paired_bootstrap(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    subjects: Sequence[object] | npt.NDArray[np.generic],
    *,
    transform: Callable[[FloatArray], FloatArray] | None = None,
    level: float = 0.95,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Interval:
    """The mean of `first` minus that of `second`, paired sample by sample (one subject in one seed).

    Args:
        first: `[n]` samples of one arm.
        second: `[n]` samples of the other, the same subjects and seeds in the same order.
        subjects: `[n]` labels; they are resampled, with both samples.
        transform: of both pooled means before the difference, such as `np.sqrt` for root mean squares.
        level: coverage.
        repeats: number of resamples.
        seed: of the resampling.

    Raises:
        InputError: shapes disagree or a value is not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"cannot pair {a.shape} with {b.shape} samples; both arms need the same subjects and seeds")
    if transform is None:
        return cluster_bootstrap(a - b, subjects, level=level, repeats=repeats, seed=seed)
    tail = _level(level)
    (one, weight), (other, _) = (_clusters(values, None, subjects) for values in (a, b))
    columns = np.stack([one, other, weight], axis=1)
    sums = np.concatenate([columns.sum(0, keepdims=True), _resample(columns, repeats, seed)])
    found = transform(sums[:, 0] / sums[:, 2]) - transform(sums[:, 1] / sums[:, 2])
    low, high = np.quantile(found[1:], [tail, 1.0 - tail])
    return Interval(float(found[0]), float(low), float(high))


def ratio_bootstrap(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    subjects: Sequence[object] | npt.NDArray[np.generic],
    *,
    level: float = 0.95,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Interval:
    """The sum of one over the sum of the other, resampling subjects with both.

    Where the denominator's own interval holds zero this one says nothing, and is wide.

    Args:
        numerators: `[n]`.
        denominators: `[n]` of the same samples.
        subjects: `[n]` labels.
        level: coverage.
        repeats: number of resamples.
        seed: of the resampling.

    Raises:
        InputError: shapes disagree, a value is not finite, or the denominators sum to 0.
    """
    tail = _level(level)
    parts = [_clusters(values, None, subjects)[0] for values in (numerators, denominators)]
    if not parts[1].sum():
        raise InputError("the denominators of a ratio sum to 0")
    sums = _resample(np.stack(parts, axis=1), repeats, seed)
    sums = sums[sums[:, 1] != 0.0]
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [tail, 1.0 - tail])
    return Interval(float(parts[0].sum() / parts[1].sum()), float(low), float(high))


def normal_quantile(share: float) -> float:
    """The point below which a standard normal variable falls with this probability."""
    if not 0.0 < share < 1.0:
        raise InputError(f"share {share} must lie between 0 and 1")
    return _bisect(lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0)), share, -40.0, 40.0)


def _bisect(rising: Callable[[float], float], goal: float, low: float, high: float) -> float:
    """Where a rising function reaches `goal`, to the last bit that bisection can give."""
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < goal else (low, middle)
    return (low + high) / 2.0


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction.

    Press et al., Numerical Recipes (2007), 6.4. For whole k it is P(Binomial(n, x) >= k) with a = k, b = n - k + 1.

    Raises:
        InputError: a or b is not above 0, or x is not in 0..1.
    """
    if not (a > 0.0 and b > 0.0 and 0.0 <= x <= 1.0):
        raise InputError(f"incomplete beta needs a, b > 0 and x in 0..1, not {a}, {b}, {x}")
    if x in (0.0, 1.0):
        return x
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast on the other side only
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or tiny)
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def student_quantile(share: float, freedom: float) -> float:
    """The quantile of Student's t distribution with `freedom` degrees of freedom."""
    if not (0.0 < share < 1.0 and freedom > 0.0):
        raise InputError(f"share {share} must lie between 0 and 1 and the degrees of freedom {freedom} be above 0")
    if share < 0.5:
        return -student_quantile(1.0 - share, freedom)
    # P(|t| > q) = I_{v / (v + q^2)}(v / 2, 1 / 2)
    both = 2.0 * (1.0 - share)
    x = _bisect(lambda point: incomplete_beta(freedom / 2.0, 0.5, point), both, 0.0, 1.0)
    return math.sqrt(freedom * (1.0 - x) / x)


def _counts(successes: float, trials: float) -> None:
    if not (trials > 0 and 0 <= successes <= trials):
        raise InputError(f"{successes} successes of {trials} trials; trials must be above 0 and hold the successes")


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share of independent trials (J Am Stat Assoc 1927; 22:209-212).

    Raises:
        InputError: no trials, or more successes than trials.
    """
    _counts(successes, trials)
    z2 = normal_quantile(1.0 - _level(level)) ** 2
    share = successes / trials
    center = (share + z2 / (2.0 * trials)) / (1.0 + z2 / trials)
    half = math.sqrt(z2 * (share * (1.0 - share) / trials + z2 / (4.0 * trials**2))) / (1.0 + z2 / trials)
    # Rounding must not move a bound off a share of exactly 0 or 1.
    low = 0.0 if successes == 0 else max(center - half, 0.0)
    high = 1.0 if successes == trials else min(center + half, 1.0)
    return Interval(share, low, high)


def newcombe(first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The difference of two shares of the same independent trials, first minus second.

    Newcombe (Statistics in Medicine 1998; 17:2635-2650), method 10: Wilson's limits of both, squared and added, with
    their correlation. Unlike a bootstrap it has a width where all pairs differ alike.

    Args:
        first: `[n]` 0 or 1.
        second: `[n]` 0 or 1 of the same trials.
        level: coverage.

    Raises:
        InputError: shapes disagree, there is no trial, or a value is neither 0 nor 1.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise InputError(f"cannot pair {x.shape} with {y.shape} trials; both need the same, at least one")
    if not np.isin(np.concatenate([x, y]), (0.0, 1.0)).all():
        raise InputError("trials must be 0 or 1")
    n, both, neither = len(x), float((x * y).sum()), float(((1.0 - x) * (1.0 - y)).sum())
    one, other = wilson(float(x.sum()), n, level), wilson(float(y.sum()), n, level)
    apart = both * neither - float((x * (1.0 - y)).sum()) * float((y * (1.0 - x)).sum())
    margins = float(x.sum() * (n - x.sum()) * y.sum() * (n - y.sum()))
    # His correction for continuity, where the correlation is positive.
    phi = (max(apart - n / 2.0, 0.0) if apart > 0.0 else apart) / math.sqrt(margins) if margins else 0.0

    def half(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2.0 * phi * down * up + up**2, 0.0))

    value = one.value - other.value
    low = value - half(one.value - one.low, other.high - other.value)
    high = value + half(other.value - other.low, one.high - one.value)
    return Interval(value, max(low, -1.0), min(high, 1.0))


def clopper_pearson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """The exact interval of a share of independent trials (Clopper and Pearson, Biometrika 1934; 26:404-413).

    Counts need not be whole: an effective sample size gives the interval of Korn and Graubard.

    Raises:
        InputError: no trials, or more successes than trials.
    """
    _counts(successes, trials)
    tail, failures = _level(level), trials - successes
    low, high = 0.0, 1.0
    if successes > 0:
        low = _bisect(lambda p: incomplete_beta(successes, failures + 1.0, p), tail, 0.0, 1.0)
    if failures > 0:
        high = _bisect(lambda p: incomplete_beta(successes + 1.0, failures, p), 1.0 - tail, 0.0, 1.0)
    return Interval(successes / trials, low, high)


def cluster_rate(
    events: npt.ArrayLike, subjects: Sequence[object] | npt.NDArray[np.generic], level: float = 0.95
) -> Interval:
    """The rate of an event and an interval that holds although a subject's trials resemble each other.

    Korn and Graubard (Survey Methodology 1998; 24:193-201): the variance of the ratio estimator between subjects gives
    an effective number of trials, and that the exact interval. It is never larger than the real number, and equals it
    where the rate is 0 or 1, because nothing can then be learnt about clustering.

    Args:
        events: `[n]` 0 or 1, one a trial.
        subjects: `[n]` labels.
        level: coverage.

    Raises:
        InputError: shapes disagree, a value is not 0 or 1, or there is one subject only.
    """
    tail = _level(level)
    happened = np.asarray(events, dtype=np.float64)
    if not np.all((happened == 0.0) | (happened == 1.0)):
        raise InputError("events must be 0 or 1")
    total, trials = _clusters(happened, None, subjects)
    groups, n = len(total), float(trials.sum())
    if groups < 2:
        raise InputError("a cluster-robust interval needs at least two subjects")
    rate = float(total.sum()) / n
    spread = groups / (groups - 1.0) * float(np.sum((total - rate * trials) ** 2)) / n**2
    effective = n
    if spread > 0.0:
        shrink = student_quantile(1.0 - tail, n - 1.0) / student_quantile(1.0 - tail, groups - 1.0)
        effective = min(rate * (1.0 - rate) / spread * shrink**2, n)
    _, low, high = clopper_pearson(rate * effective, effective, level)
    return Interval(rate, low, high)
