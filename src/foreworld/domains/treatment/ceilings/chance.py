"""Random numbers for compiled code that depend on nothing but what they are for: subject, moment, particle, draw.

SplitMix64 (Steele, Lea, Flood 2014) applied to the sum of odd multiples of the four, so that no draw depends on the
batch or on how many were drawn before.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

KeyArray = npt.NDArray[np.uint64]

_compile = njit(cache=True)

_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)


def subject_keys(names: Sequence[str], seed: int) -> KeyArray:
    """[B] one key a subject, from the seed and its name."""
    return np.array([(seed << 32) + zlib.crc32(name.encode()) for name in names], dtype=np.uint64)


def _uniform_source(key: np.uint64, moment: int, particle: int, draw: int) -> float:
    """A number in (0, 1)."""
    x = (
        key * _STEPS[2]
        + np.uint64(moment) * _STEPS[0]
        + np.uint64(particle) * _STEPS[1]
        + np.uint64(draw) * _FACTORS[1]
    )
    x = (x ^ (x >> _SHIFTS[0])) * _FACTORS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _FACTORS[1]
    x = x ^ (x >> _SHIFTS[2])
    return (float(x >> _SHIFTS[3]) + 0.5) * 2.0**-53


uniform: Any = _compile(_uniform_source)


def _normal_source(key: np.uint64, moment: int, particle: int, draw: int) -> float:
    """A standard normal number; uses `draw` and `draw + 1` (Box and Muller 1958)."""
    radius = math.sqrt(-2.0 * math.log(uniform(key, moment, particle, draw)))
    return radius * math.cos(2.0 * math.pi * uniform(key, moment, particle, draw + 1))


normal: Any = _compile(_normal_source)
