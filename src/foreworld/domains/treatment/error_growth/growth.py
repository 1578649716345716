"""What is scored, by subject and horizon: error, band, the statement "stays in range", and what is correct."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.error_growth.statements import stated, stayed
from foreworld.domains.treatment.forecasting import Arm, Prediction, Record
from foreworld.domains.treatment.windows import future_readings
from foreworld.forecast.conformal import masked_quantiles
from foreworld.model.dynamics import HorizonGrid

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
        stays: [B, H] share of the same forecasts after which glucose did stay there.
        correct: [B, H] forecasts that were correct here.
        by_chance: [B, H] those that would be, were each judged on the reading of another moment of the same subject:
            the mean over all other moments, which is what shuffling gives on average.
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
    stays: FloatArray
    correct: FloatArray
    by_chance: FloatArray
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
    truly = stayed(record, at, grid)
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
        "truth": (stated(forecast) == truly).double().mean(1),
        "stays": truly.double().mean(1),
        "correct": correct.sum(1),
        "by_chance": _by_chance(mean, readings),
        "so_far": so_far.sum(1),
        "count": count,
        "moves": moves,
        "erred": after[..., -1].sum(1),
        "recovered": (after & correct).any(-1).sum(1),
    }
    return Growth(record.patients.names, **{name: part.double().numpy() for name, part in numbers.items()})


def _by_chance(mean: Tensor, readings: Tensor) -> Tensor:
    """[B, H] forecasts that other moments' forecasts would get right, on average; 0 with one moment alone."""
    moments, known = mean.shape[1], ~torch.isnan(readings)
    found = torch.zeros_like(mean[:, 0])
    for apart in range(1, moments):
        off = torch.nan_to_num((mean.roll(apart, dims=1) - readings).abs())
        found += (known & (off <= tolerance(readings))).sum(1)
    return found / max(moments - 1, 1)
