"""The statement "glucose stays in range until then": who makes it, whether it was right, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.forecasting import Prediction, Record
from foreworld.domains.treatment.windows import future_readings
from foreworld.evidence.rows import Row
from foreworld.evidence.statistics import ratio_bootstrap
from foreworld.model.dynamics import HorizonGrid

IN_RANGE = (70.0, 180.0)  # mg/dL; Battelino et al., Diabetes Care 2019; 42:1593-1603


def stated(forecast: Prediction) -> Tensor:
    """[B, N, H] whether a forecast says that glucose stays in range at every point up to each.

    By most of its futures where it has them, otherwise by its mean: a mean of futures stays in range more often than
    any of them.
    """
    if forecast.stays is not None:
        return forecast.stays > 0.5
    mean = forecast.mean
    return ((mean >= IN_RANGE[0]) & (mean <= IN_RANGE[1])).cummin(dim=2).values


def stayed(record: Record, at: Tensor, grid: HorizonGrid) -> Tensor:
    """[B, N, H] whether every reading of the sensor up to each point was in range, also between the points."""
    every = future_readings(record.history, at, HorizonGrid(points=tuple(range(1, grid.last + 1))))
    inside = torch.isnan(every) | ((every >= IN_RANGE[0]) & (every <= IN_RANGE[1]))
    return inside.cummin(dim=2).values[..., torch.tensor(grid.points) - 1]


def skill(
    arm: str, metric: str, subjects: Sequence[Sequence[str]], right: Sequence[FloatArray], stays: Sequence[FloatArray]
) -> Row | None:
    """What the statements add to the best constant one: 0 if they are right as often, 1 if always.

    (share right - share right of the constant) / (1 - that share), both pooled over all subjects and seeds; the
    interval resamples subjects with both. The constant is what is right more often of "stays" and "does not".

    Args:
        arm: Who stated.
        metric: Of the row.
        subjects: By seed, B names.
        right: By seed, [B] share of statements that were right.
        stays: By seed, [B] share of the same forecasts after which glucose stayed in range.

    Returns:
        None where the constant is always right in some seed: nothing is left to know.
    """
    often = float(np.concatenate(stays).mean()) >= 0.5
    constant = [one if often else 1.0 - one for one in stays]
    gained = [one - base for one, base in zip(right, constant, strict=True)]
    left = [1.0 - base for base in constant]
    if any(part.sum() <= 0.0 for part in left):
        return None
    names = [name for of in subjects for name in of]
    found, n = ratio_bootstrap(np.concatenate(gained), np.concatenate(left), names), len(set(names))
    return Row(
        arm=arm,
        group="all",
        metric=metric,
        value=found.value,
        low=found.low if n > 1 else None,
        high=found.high if n > 1 else None,
        n=n,
        unit="ratio",
        by_seed=tuple(float(one.sum() / base.sum()) for one, base in zip(gained, left, strict=True)),
    )
