"""The continuous glucose sensor: simglucose's noise, reproduced number for number, and the faults real sensors have.

The noise is the model of Breton and Kovatchev, "Analysis, modeling, and simulation of the accuracy of continuous
glucose sensors" (J Diabetes Sci Technol 2008; 2:853-862): an AR(1) series every 15 minutes through a Johnson SU
transform, interpolated to the sampling time. simglucose interpolates ten intervals at a time with a not-a-knot cubic
spline; such a spline is linear in its knots, so here it is one precomputed matrix for the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# simglucose 0.2.11, params/sensor_params.csv: the same distribution for every sensor.
PERSISTENCE, XI, LAMBDA, GAMMA, DELTA = 0.7, -5.47, 15.9574, -0.5444, 1.6898
KNOT_MINUTES = 15
KNOTS = 10  # spline intervals drawn at a time
LOWEST, HIGHEST = 39.0, 600.0  # mg/dL
SAMPLE_MINUTES = {"GuardianRT": 5, "Dexcom": 3}


@cache
def spline_map(sample_minutes: int) -> FloatArray:
    """The matrix `[samples, 11]` from 11 knots 15 minutes apart to the samples after the first knot.

    It solves for the second derivatives of the cubic spline whose third derivative is continuous at the second and the
    last but one knot (de Boor, "A Practical Guide to Splines", ch. IV), in units of the knot distance.
    """
    size = KNOTS + 1
    left, right = np.zeros((size, size)), np.zeros((size, size))
    for row in range(1, KNOTS):
        left[row, row - 1 : row + 2] = 1.0, 4.0, 1.0
        right[row, row - 1 : row + 2] = 6.0, -12.0, 6.0
    left[0, :3] = left[-1, -3:] = 1.0, -2.0, 1.0
    curvature = np.linalg.solve(left, right)
    count = KNOTS * KNOT_MINUTES // sample_minutes
    position = np.arange(1, count + 1) * sample_minutes / KNOT_MINUTES
    interval = np.minimum(position.astype(np.int64), KNOTS - 1)
    after = (position - interval)[:, None]
    before = 1.0 - after
    identity = np.eye(size)
    result: FloatArray = (
        before * identity[interval]
        + after * identity[interval + 1]
        + (before**3 - before) / 6.0 * curvature[interval]
        + (after**3 - after) / 6.0 * curvature[interval + 1]
    )
    return result


def cgm_noise(seeds: Sequence[int], samples: int, sensor: str = "GuardianRT") -> FloatArray:
    """The first samples of simglucose's `CGMNoise` for each seed, `[B, samples]` mg/dL.

    Raises:
        InputError: the sensor is unknown.
    """
    if sensor not in SAMPLE_MINUTES:
        raise InputError(f"sensor {sensor!r} is unknown; use one of {', '.join(SAMPLE_MINUTES)}")
    spline = spline_map(SAMPLE_MINUTES[sensor])
    blocks = -(-samples // len(spline))
    series = np.empty((len(seeds), blocks * KNOTS + 1))
    for row, seed in enumerate(seeds):
        series[row] = np.random.RandomState(seed).randn(series.shape[1])
    for knot in range(1, series.shape[1]):
        series[:, knot] = PERSISTENCE * (series[:, knot - 1] + series[:, knot])
    knots = XI + LAMBDA * np.sinh((series - GAMMA) / DELTA)
    # A block begins with the knot at which the one before it ended.
    windows = np.lib.stride_tricks.sliding_window_view(knots, KNOTS + 1, axis=1)[:, ::KNOTS]
    return np.ascontiguousarray((windows @ spline.T).reshape(len(seeds), -1)[:, :samples])


@dataclass(frozen=True)
class SensorFaults:
    """What is wrong with a sensor at each decision; every array is `[B, steps + 1]`.

    Attributes:
        dropout: no value arrives (NaN).
        stuck: the last value is repeated.
        gain: factor on the glucose; 1 when the sensor is well calibrated.
        dip: mg/dL by which pressure on the sensor lowers the reading.
    """

    dropout: BoolArray
    stuck: BoolArray
    gain: FloatArray
    dip: FloatArray


@dataclass(frozen=True)
class FaultRates:
    """How often each fault begins, how long it lasts (minutes, uniform) and how large it is; a rate of 0 is off.

    With `regular` a rate is kept exactly, from a random phase on (0.5 is every second day); otherwise it is a mean.
    """

    dropout_per_day: float = 0.0
    stuck_per_day: float = 0.0
    bias_per_day: float = 0.0
    bias_size: float = 0.2
    compression_per_night: float = 0.0
    dropout_minutes: tuple[float, float] = (15.0, 120.0)
    stuck_minutes: tuple[float, float] = (30.0, 120.0)
    bias_minutes: tuple[float, float] = (120.0, 480.0)
    compression_minutes: float = 90.0
    compression_hours: tuple[float, float] = (0.0, 5.0)
    compression_depth: tuple[float, float] = (30.0, 80.0)
    regular: bool = False


def _due(phase: float, rate: float, day: int) -> int:
    """How often something that is kept up at a rate a day falls on this day."""
    return math.floor(phase + (day + 1) * rate) - math.floor(phase + day * rate)


def _windows(
    generator: np.random.Generator, rate: float, minutes: tuple[float, float], day: int, phase: float | None
) -> list[tuple[float, float, float]]:
    """Start and end in minutes, and a sign, of the faults that begin on this day."""
    count = int(generator.poisson(rate)) if phase is None else _due(phase, rate, day)
    starts = day * 1440.0 + generator.uniform(0.0, 1440.0, count)
    lengths = generator.uniform(*minutes, count)
    signs = np.where(generator.uniform(size=count) < 0.5, -1.0, 1.0)
    return list(zip(starts.tolist(), (starts + lengths).tolist(), signs.tolist(), strict=True))


def draw_faults(
    seeds: Sequence[np.random.SeedSequence], rates: FaultRates, steps: int, step_minutes: int
) -> SensorFaults:
    """Draw faults for each subject from its own seed; a longer span begins with the faults of a shorter one.

    Each kind has a generator of its own, so switching one fault on leaves the others where they were.
    """
    shape = (len(seeds), steps + 1)
    faults = SensorFaults(np.zeros(shape, bool), np.zeros(shape, bool), np.ones(shape), np.zeros(shape))
    minute = np.arange(steps + 1) * float(step_minutes)
    days = steps * step_minutes // 1440 + 1
    for row, seed in enumerate(seeds):
        # Spawning would count up the seed that the caller holds; keys of our own leave it untouched.
        kinds = [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, kind)) for kind in range(4)]
        generators = drop, stick, bias, night = [np.random.default_rng(kind) for kind in kinds]
        phases = [generator.uniform() if rates.regular else None for generator in generators]
        for day in range(days):
            for start, end, _ in _windows(drop, rates.dropout_per_day, rates.dropout_minutes, day, phases[0]):
                faults.dropout[row] |= (minute >= start) & (minute < end)
            for start, end, _ in _windows(stick, rates.stuck_per_day, rates.stuck_minutes, day, phases[1]):
                faults.stuck[row] |= (minute >= start) & (minute < end)
            for start, end, sign in _windows(bias, rates.bias_per_day, rates.bias_minutes, day, phases[2]):
                faults.gain[row, (minute >= start) & (minute < end)] = 1.0 + sign * rates.bias_size
            nightly, chance = rates.compression_per_night, night.uniform()
            happens = chance < nightly if phases[3] is None else _due(phases[3], nightly, day) > 0
            start = day * 1440.0 + 60.0 * night.uniform(*rates.compression_hours)
            depth = night.uniform(*rates.compression_depth)
            if happens:
                phase = (minute - start) / rates.compression_minutes
                inside = (phase > 0.0) & (phase < 1.0)
                faults.dip[row, inside] += depth * np.sin(np.pi * phase[inside]) ** 2
    return faults


def read_sensor(
    glucose: FloatArray, noise: FloatArray, faults: SensorFaults, rows: npt.NDArray[np.intp], t: int, last: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """What the sensors show at decision `t`.

    Args:
        glucose: `[B]` true glucose in mg/dL.
        noise: `[B]` mg/dL.
        faults: of the scenario.
        rows: `[B]` row of the scenario that each subject follows.
        t: index of the decision.
        last: `[B]` last value that arrived, NaN if none.

    Returns:
        The reading `[B]` in mg/dL, NaN where dropped, and the last value that arrived, now `[B]`.
    """
    value = np.clip(glucose * faults.gain[rows, t] - faults.dip[rows, t] + noise, LOWEST, HIGHEST)
    held = np.where(faults.stuck[rows, t] & np.isfinite(last), last, value)
    dropped = faults.dropout[rows, t]
    return np.where(dropped, np.nan, held), np.where(dropped, last, held)
