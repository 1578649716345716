"""How good a glucose trace is: consensus times in ranges, variability, risk indices; pure functions of true glucose.

All take `bg`, mg/dL, with time on the last axis in equal steps, and give one value for each trace. Shares are in 0..1.
Consensus ranges: Battelino et al., Diabetes Care 2019; 42:1593-1603.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foreworld.domains.treatment.physiology import FAILURE_GLUCOSE
from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]

UNITS = {
    "time_in_range": "share",
    "time_in_tight_range": "share",
    "time_below_70": "share",
    "time_below_54": "share",
    "time_above_180": "share",
    "time_above_250": "share",
    "mean_glucose": "mg/dL",
    "cv": "ratio",
    "lbgi": "index",
    "hbgi": "index",
    "gri": "index",
    "failures": "share",
    "insulin_per_day": "U/day",
}
"""Every metric of `summarise` with its unit."""


def time_between(bg: FloatArray, low: float, high: float) -> FloatArray:
    """Share of samples with `low <= bg <= high`."""
    return np.asarray(((bg >= low) & (bg <= high)).mean(axis=-1))


def time_in_range(bg: FloatArray) -> FloatArray:
    """Share of time in 70-180 mg/dL, both bounds included."""
    return time_between(bg, 70.0, 180.0)


def time_in_tight_range(bg: FloatArray) -> FloatArray:
    """Share of time in 70-140 mg/dL, both bounds included."""
    return time_between(bg, 70.0, 140.0)


def time_below(bg: FloatArray, bound: float) -> FloatArray:
    """Share of time strictly below `bound`."""
    return np.asarray((bg < bound).mean(axis=-1))


def time_above(bg: FloatArray, bound: float) -> FloatArray:
    """Share of time strictly above `bound`."""
    return np.asarray((bg > bound).mean(axis=-1))


def variation(bg: FloatArray) -> FloatArray:
    """Coefficient of variation, standard deviation / mean, as a share; a stable patient is below 0.36."""
    return np.asarray(bg.std(axis=-1) / bg.mean(axis=-1))


def _risk(bg: FloatArray) -> FloatArray:
    """The symmetrised scale: 0 at 112.5 mg/dL, negative below, positive above."""
    # The scale is not defined below 1 mg/dL; a failed patient may be there.
    return np.asarray(1.509 * (np.log(np.maximum(bg, 1.0)) ** 1.084 - 5.381))


def low_risk(bg: FloatArray) -> FloatArray:
    """Low blood glucose index: the mean of 10 f^2 over *all* samples, counting those with f < 0.

    f = 1.509 (ln(bg)^1.084 - 5.381). Kovatchev et al., Diabetes Care 1997; 20:1655-1658 (scale) and 2006;
    29:2433-2438 (indices). simglucose 0.2.11 averages the non-zero risks only, which is another quantity.
    """
    return np.asarray((10.0 * np.minimum(_risk(bg), 0.0) ** 2).mean(axis=-1))


def high_risk(bg: FloatArray) -> FloatArray:
    """High blood glucose index: as `low_risk`, counting the samples with f > 0."""
    return np.asarray((10.0 * np.maximum(_risk(bg), 0.0) ** 2).mean(axis=-1))


def glycemia_risk_index(bg: FloatArray) -> FloatArray:
    """GRI, 0 best to 100: 3.0 x % below 54 + 2.4 x % in 54-70 + 1.6 x % above 250 + 0.8 x % in 180-250.

    Klonoff et al., J Diabetes Sci Technol 2022 (2023; 17:1226-1242).
    """
    very_low, very_high = time_below(bg, 54.0), time_above(bg, 250.0)
    low, high = time_below(bg, 70.0) - very_low, time_above(bg, 180.0) - very_high
    return np.minimum(100.0 * (3.0 * very_low + 2.4 * low + 1.6 * very_high + 0.8 * high), 100.0)


def failures(bg: FloatArray, bound: float = FAILURE_GLUCOSE) -> FloatArray:
    """1 where glucose was ever below `bound`, else 0."""
    return np.asarray((bg.min(axis=-1) < bound).astype(np.float64))


def insulin_per_day(insulin: FloatArray, step_minutes: float) -> FloatArray:
    """Mean daily insulin in U, from U per step on the last axis."""
    return np.asarray(insulin.mean(axis=-1) * (1440.0 / step_minutes))


def summarise(bg: FloatArray, insulin: FloatArray | None = None, step_minutes: float = 5.0) -> dict[str, FloatArray]:
    """Every metric of `UNITS`; leave the burn-in out before calling.

    Args:
        bg: `[..., N]` true glucose in mg/dL.
        insulin: `[..., M]` U per step; without it `insulin_per_day` is left out.
        step_minutes: length of a step of `insulin`.

    Returns:
        `[...]` by metric.

    Raises:
        InputError: there is no sample, or one is not finite.
    """
    trace = np.asarray(bg, dtype=np.float64)
    if not trace.size or not np.all(np.isfinite(trace)):
        raise InputError("bg must hold at least one sample and be finite, in mg/dL; score true glucose, not the sensor")
    result = {
        "time_in_range": time_in_range(trace),
        "time_in_tight_range": time_in_tight_range(trace),
        "time_below_70": time_below(trace, 70.0),
        "time_below_54": time_below(trace, 54.0),
        "time_above_180": time_above(trace, 180.0),
        "time_above_250": time_above(trace, 250.0),
        "mean_glucose": np.asarray(trace.mean(axis=-1)),
        "cv": variation(trace),
        "lbgi": low_risk(trace),
        "hbgi": high_risk(trace),
        "gri": glycemia_risk_index(trace),
        "failures": failures(trace),
    }
    if insulin is not None:
        result["insulin_per_day"] = insulin_per_day(np.asarray(insulin, dtype=np.float64), step_minutes)
    return result
