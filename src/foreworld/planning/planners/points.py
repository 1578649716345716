"""Where searches begin: evenly spread points, whose draw for a subject depends on its own key alone."""

from __future__ import annotations

import torch
from torch import Tensor


def uniforms(keys: Tensor, count: int, dimensions: int) -> Tensor:
    """[B, count, dimensions] points in (0, 1): a Sobol sequence shifted by each subject's own key.

    The shift is a counter-based hash of key and dimension (Cranley and Patterson 1976 rotation), so the points of a
    subject depend on its key alone.
    """
    table = _sobol(count, dimensions)
    generator = torch.arange(1, dimensions + 1, dtype=torch.int64)
    mixed = _mix(keys[:, None] * 0x9E3779B1 + generator * 0x85EBCA77)
    shift = (mixed % (1 << 24)).float() / (1 << 24)
    points = (table[None] + shift[:, None, :]) % 1.0
    return points.clamp(1e-4, 1 - 1e-4)


_TABLES: dict[tuple[int, int], Tensor] = {}


def _sobol(count: int, dimensions: int) -> Tensor:
    if (count, dimensions) not in _TABLES:
        _TABLES[count, dimensions] = _engine(dimensions).draw(count)
    return _TABLES[count, dimensions]


def _engine(dimensions: int) -> torch.quasirandom.SobolEngine:
    return torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=0)  # type: ignore[no-untyped-call]


def _mix(x: Tensor) -> Tensor:
    # A 31-bit finaliser in the manner of MurmurHash3; masks keep products inside int64.
    x = x & 0x7FFFFFFF
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & 0x7FFFFFFF
    x = ((x ^ (x >> 12)) * 0x297A2D39) & 0x7FFFFFFF
    return x ^ (x >> 15)
