"""What is scored, by subject and horizon: error, band, the statement "stays in range", and what is correct."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.forecasting import Arm, Prediction, Record
from foreworld.domains.treatment.windows import future_readings
from foreworld.forecast.conformal import masked_quantiles
from foreworld.model.dynamics import HorizonGrid

IN_RANGE = (70.0, 180.0)  # mg/dL; Battelino et al., Diabetes Care 2019; 42:1593-1603
# ISO 15197:2013 for meters: within 15 mg/dL below 100 mg/dL, and within 15 % from there on.
WITHIN, WITHIN_SHARE, FROM = 15.0, 0.15, 100.0
RISK = 0.1


@dataclass(frozen=True)
class Growth:
    """Scores of one arm in one seed, of B subjects at H horizons; means over each subject's forecasts.

    Attributes:
        subjects: B names.
        squared: [B, H] mean squared error against the sensor, (mg/dL)^2.
        covered: [B, H] share of readings in the 90 % band.
        width: [B, H] mean width of the band, mg/dL.
        truth: [B, H] share of forecasts whose statement "stays in 70 to 180 mg/dL until here" was right.
        correct: [B, H] forecasts that were correct here.
        so_far: [B, H] forecasts that were correct here and at every point before.
        count: [B, H] forecasts judged here.
        moves: [B, H, 2, 2] from (0 wrong, 1 correct) at the point before to the same here; before the first all
            are correct.
        erred: [B] forecasts wrong before the last point, and
        recovered: [B] those of them correct at a later one.
    """

    subjects: tuple[str, ...]
    squared: FloatArray
    covered: FloatArray
    width: FloatArray
    truth: FloatArray
    correct: FloatArray
    so_far: FloatArray
    count: FloatArray
    moves: FloatArray
    erred: FloatArray
    recovered: FloatArray

    def of(self, rows: npt.NDArray[np.int64]) -> Growth:
        """Some subjects, in this order; one may be named twice."""
        parts = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "subjects"}
        return Growth(subjects=tuple(self.subjects[row] for row in rows), **parts)


def tolerance(readings: Tensor) -> Tensor:
    """How far a forecast of these readings may be off and still be correct, mg/dL."""
    return torch.where(readings < FROM, torch.full_like(readings, WITHIN), WITHIN_SHARE * readings)


def half_width(arm: Arm, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Tensor:
    """[H] half of a 90 % band: the conformal quantile of the absolute error over these subjects, mg/dL.

    The same for every arm, whatever bands it has of its own: a subject counts once, as for display bands.

    Raises:
        InputError: Too few subjects.
    """
    truth = future_readings(record.history, at, grid).flatten(0, 1)
    error = (arm.predict(record, at, grid, fit_moments).mean.flatten(0, 1) - truth).abs()
    subject = torch.arange(len(at)).repeat_interleave(at.shape[1])
    return masked_quantiles(error, ~torch.isnan(error), subject, RISK)


def grow(record: Record, forecast: Prediction, half: Tensor, at: Tensor, grid: HorizonGrid) -> Growth:
    """Score forecasts.

    Args:
        record: What happened.
        forecast: From moments [B, N].
        half: [H] from `half_width`.
        at: [B, N].
        grid: Its points.
    """
    readings, mean = future_readings(record.history, at, grid), forecast.mean
    known = ~torch.isnan(readings)
    off = torch.nan_to_num((mean - readings).abs())
    correct = known & (off <= tolerance(readings))
    count = known.sum(1)
    so_far = (correct | ~known).cummin(dim=2).values & known
    right = _stays(mean) == _stays_truly(record, at, grid)
    before = torch.cat([torch.ones_like(known[..., :1]), correct[..., :-1]], dim=2)
    both = known & torch.cat([torch.ones_like(known[..., :1]), known[..., :-1]], dim=2)
    moves = torch.stack(
        [
            torch.stack([(both & (before == was) & (correct == now)).sum(1) for now in (False, True)], dim=-1)
            for was in (False, True)
        ],
        dim=-2,
    )
    wrong = known & ~correct
    # Whether a point lies after the first error: the errors up to the point before it.
    after = torch.cat([torch.zeros_like(wrong[..., :1]), wrong[..., :-1]], dim=2).cummax(dim=2).values
    numbers = {
        "squared": (torch.where(known, off**2, torch.zeros_like(off)).sum(1) / count),
        "covered": ((known & (off <= half)).sum(1) / count),
        "width": (2.0 * half).expand(len(at), -1),
        "truth": right.double().mean(1),
        "correct": correct.sum(1),
        "so_far": so_far.sum(1),
        "count": count,
        "moves": moves,
        "erred": after[..., -1].sum(1),
        "recovered": (after & correct).any(-1).sum(1),
    }
    return Growth(record.patients.names, **{name: part.double().numpy() for name, part in numbers.items()})


def _stays(mean: Tensor) -> Tensor:
    """[B, N, H] whether the forecast is in range at every point up to each."""
    return ((mean >= IN_RANGE[0]) & (mean <= IN_RANGE[1])).cummin(dim=2).values


def _stays_truly(record: Record, at: Tensor, grid: HorizonGrid) -> Tensor:
    """[B, N, H] whether every reading of the sensor up to each point was in range, also between the points."""
    every = future_readings(record.history, at, HorizonGrid(points=tuple(range(1, grid.last + 1))))
    inside = torch.isnan(every) | ((every >= IN_RANGE[0]) & (every <= IN_RANGE[1]))
    return inside.cummin(dim=2).values[..., torch.tensor(grid.points) - 1]
