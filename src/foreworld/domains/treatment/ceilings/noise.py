"""What a filter knows of the sensor's noise: its distribution and its autocorrelation.

The noise is a Johnson SU transform of a Gaussian series interpolated between knots (`sensor`). Transformed back, it is
close to a Gaussian autoregression of order two with heavier tails; its coefficients are the Yule-Walker ones of the
noise itself, drawn once. When the knots come, and that the spline between them could be solved for, is not used: it is
an accident of the simulator that no real sensor has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from foreworld.domains.treatment.sensor import DELTA, GAMMA, LAMBDA, XI, cgm_noise

FloatArray = npt.NDArray[np.float64]

_SERIES, _SAMPLES = 32, 2880


@dataclass(frozen=True)
class NoiseModel:
    """The transformed noise given none, one or two values before it.

    Attributes:
        weights: [3, 2] of the last and the last but one, by how many of them are known.
        spread: [3] standard deviation of what remains.
    """

    weights: FloatArray
    spread: FloatArray


def transformed(noise: FloatArray) -> FloatArray:
    """Noise in mg/dL, any shape, to about standard normal values."""
    return np.asarray(GAMMA + DELTA * np.arcsinh((noise - XI) / LAMBDA))


@cache
def noise_model(sensor: str = "GuardianRT") -> NoiseModel:
    """The autoregression of a sensor's noise."""
    series = transformed(cgm_noise(range(_SERIES), _SAMPLES, sensor))
    variance, one, two = (float((series[:, lag:] * series[:, : _SAMPLES - lag]).mean()) for lag in range(3))
    first = one / variance
    second = np.linalg.solve([[variance, one], [one, variance]], [one, two])
    weights = np.array([[0.0, 0.0], [first, 0.0], second])
    rest = np.array([variance, variance - first * one, variance - second @ np.array([one, two])])
    return NoiseModel(weights, np.sqrt(rest))
