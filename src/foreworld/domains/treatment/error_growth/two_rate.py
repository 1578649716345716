"""The two-rate arm: an hourly recursion sets the level, 5-minute steps fill the hour in.

Twelve fed-back levels instead of 144: error has fewer chances to grow, and each is learned over an hour, not over
5 minutes of mostly noise. Nothing emitted reads inputs after its own time: within an hour the steps start from the
level at its beginning, and only the *next* hour's window is bent so that it ends at the level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreworld.domains.treatment.error_growth.stepwise import Course, StepNetwork
from foreworld.domains.treatment.forecast_arms import NINETY
from foreworld.domains.treatment.forecasting import Prediction, Record
from foreworld.model.dynamics import HorizonGrid

HOUR = 12  # steps


class TwoRate:
    """The arm; its own band widens as a random walk of hourly errors would.

    Args:
        coarse: Foresees one hour.
        fine: Foresees one step.
    """

    def __init__(self, coarse: StepNetwork, fine: StepNetwork) -> None:
        self.coarse, self.fine = coarse, fine

    @torch.no_grad()
    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`; nothing is fitted."""
        past = max(self.coarse.config.past, self.fine.config.past) + 1
        course, emitted = Course.ahead_of(record, at, past, grid), []
        bend = torch.arange(1, HOUR + 1) / HOUR
        for begun in range(0, grid.last, HOUR):
            steps = min(HOUR, grid.last - begun)
            level = self.coarse.foresee(course, begun) if steps == HOUR else None
            for done in range(begun, begun + steps):
                course.glucose[:, past + done] = self.fine.foresee(course, done)
            hour = course.glucose[:, past + begun : past + begun + steps]
            emitted.append(hour.clone())
            if level is not None:
                emitted[-1][:, -1] = level
                hour += bend * (level - hour[:, -1])[:, None]
        course.glucose[:, past:] = torch.cat(emitted, dim=1)
        mean, ahead = course.forecast(at, grid), torch.tensor(grid.points, dtype=torch.float64)
        half = NINETY * float(self.coarse.scale) * (ahead / HOUR).sqrt()
        return Prediction(mean, mean - half, mean + half)
