"""The recursive arm: a network foresees the next reading, takes it for a reading, and foresees the next, 144 times."""

from __future__ import annotations

import torch
from torch import Tensor

from foreworld.domains.treatment.error_growth.stepwise import Course, StepNetwork
from foreworld.domains.treatment.forecast_arms import NINETY
from foreworld.domains.treatment.forecasting import Prediction, Record
from foreworld.model.dynamics import HorizonGrid


class Recursive:
    """The arm; its own band widens as a random walk of one-step errors would, which is what recursion claims.

    Args:
        network: Foresees one step.
    """

    def __init__(self, network: StepNetwork) -> None:
        self.network = network

    @torch.no_grad()
    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`; nothing is fitted."""
        course = Course.ahead_of(record, at, self.network.config.past + 1, grid)
        for done in range(grid.last):
            course.glucose[:, course.past + done] = self.network.foresee(course, done)
        mean = course.forecast(at, grid)
        half = NINETY * float(self.network.scale) * torch.tensor(grid.points, dtype=torch.float64).sqrt()
        return Prediction(mean, mean - half, mean + half)
