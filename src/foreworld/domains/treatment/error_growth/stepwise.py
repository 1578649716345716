"""A small network from a window of the past and the inputs to come to glucose one step, or one hour, later.

The parts of the arms that feed their own forecasts back: `recursive` and `two_rate`.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from foreworld.domains.treatment.error_growth.budget import Cost, descend
from foreworld.domains.treatment.error_growth.logs import Log
from foreworld.domains.treatment.forecasting import Record
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.windows import TYPICAL_GLUCOSE
from foreworld.errors import InputError
from foreworld.model.dynamics import HorizonGrid

_FITTED = 20_000  # moments from which the statistics of the inputs are taken


class StepConfig(BaseModel):
    """Sizes and training.

    Attributes:
        ahead: Steps to the reading that is foreseen.
        readings: Readings of the past, one a step.
        steps: Steps of past insulin and carbohydrate, in bins of `bin_steps`.
        bin_steps: Steps a bin; also of the inputs to come, where more than one lies ahead.
        hidden: Width of the three hidden layers.
        batch: Moments a training step.
        lr: Peak learning rate.
        seed: Of weights and batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ahead: int = Field(default=1, ge=1)
    readings: int = Field(default=36, ge=2)
    steps: int = Field(default=96, ge=1)
    bin_steps: int = Field(default=3, ge=1)
    hidden: int = Field(default=160, ge=1)
    batch: int = Field(default=512, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    seed: int = 0

    @property
    def past(self) -> int:
        """Moments of the past that are read, the present included."""
        return max(self.readings, self.steps)


class Course:
    """What is known around N moments: the past, the inputs to come, and the readings foreseen so far.

    Attributes:
        glucose: [N, past + horizon] mg/dL; after the present, what was foreseen.
        insulin: [N, past + horizon] hours of basal, from each moment to the next.
        carbs: [N, past + horizon] g/kg.
        day: [N, past + horizon] share of the day.
        profile: [N, 7].
        past: How many of the moments are up to the present, which is included.
    """

    def __init__(self, log: Log, rows: Tensor, at: Tensor, past: int, horizon: int) -> None:
        when = at[:, None] + torch.arange(1 - past, horizon + 1)
        # Before a record began, nothing was eaten and glucose stood where it was first seen.
        inside, there = when.clamp(min=0), when >= 0
        self.past, self.profile = past, log.profile[rows]
        rows = rows[:, None]
        self.glucose, self.day = log.held[rows, inside].clone(), log.day[rows, inside]
        self.insulin = torch.where(there, log.insulin[rows, inside], torch.full((), 1.0 / 12.0))
        self.carbs = torch.where(there, log.carbs[rows, inside], torch.zeros(()))

    @classmethod
    def ahead_of(cls, record: Record, at: Tensor, past: int, grid: HorizonGrid) -> Self:
        """Of moments [B, N] of a record as one batch; readings after the present are hidden."""
        rows = torch.arange(len(at)).repeat_interleave(at.shape[1])
        course = cls(Log.of([record.history]), rows, at.flatten(), past, grid.last)
        course.glucose[:, past:] = float("nan")
        return course

    def forecast(self, at: Tensor, grid: HorizonGrid) -> Tensor:
        """[B, N, H] what was foreseen at the points of the grid, from moments [B, N]."""
        return self.glucose[:, self.past - 1 + torch.tensor(grid.points)].double().reshape(*at.shape, -1)


class StepNetwork(nn.Module):
    """The change of glucose over the coming `ahead` steps, mg/dL."""

    centre: Tensor
    spread: Tensor
    typical: Tensor
    scale: Tensor

    def __init__(self, config: StepConfig) -> None:
        super().__init__()
        self.config, hidden = config, config.hidden
        inputs = config.readings + 2 * (config.steps // config.bin_steps) + 2 * -(-config.ahead // config.bin_steps) + 9
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("typical", torch.ones(()))
        self.register_buffer("scale", torch.ones(()))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 1),
        )

    def inputs(self, course: Course, done: int = 0) -> Tensor:
        """[N, I] what is read `done` steps after the present: nothing later than the reading that is foreseen."""
        config, now = self.config, course.past + done
        last, day = course.glucose[:, now - 1 : now] - TYPICAL_GLUCOSE, 2.0 * torch.pi * course.day[:, now - 1 : now]
        # Insulin at a moment is delivered after it, an entry is made at it.
        given = course.insulin[:, now - 1 - config.steps : now - 1]
        eaten = course.carbs[:, now - config.steps : now]
        to_come = course.insulin[:, now - 1 : now - 1 + config.ahead], course.carbs[:, now : now + config.ahead]
        return torch.cat(
            [
                last,
                course.glucose[:, now - config.readings : now].diff(dim=1),
                *(_binned(part, config.bin_steps) for part in (given, eaten, *to_come)),
                course.profile,
                torch.sin(day),
                torch.cos(day),
            ],
            dim=1,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[N] changes in mg/dL."""
        change: Tensor = self.layers((inputs - self.centre) / self.spread)[:, 0]
        return change * self.typical

    def foresee(self, course: Course, done: int) -> Tensor:
        """[N] glucose `ahead` steps after the last one known or foreseen, within the sensor's range."""
        channel = SCHEMA["cgm"]
        level: Tensor = course.glucose[:, course.past + done - 1] + self(self.inputs(course, done))
        return torch.clamp(level, min=channel.low, max=channel.high)


def train_steps(network: StepNetwork, log: Log, seconds: float) -> Cost:
    """Squared error on true pasts, `ahead` steps at once; trains in place.

    Args:
        network: What to train.
        log: What to learn from.
        seconds: CPU time to spend.

    Raises:
        InputError: No record is longer than `ahead` steps.
    """
    config = network.config
    generator = torch.Generator().manual_seed(config.seed)
    long = torch.nonzero(log.lengths > config.ahead + 1)[:, 0]
    if not len(long):
        raise InputError(f"no record is longer than {config.ahead} steps")

    def batch(size: int) -> tuple[Tensor, Tensor]:
        rows = long[torch.randint(len(long), (size,), generator=generator)]
        room = (log.lengths[rows] - config.ahead).double()
        at = (torch.rand(size, generator=generator, dtype=torch.float64) * room).long()
        course = Course(log, rows, at, config.past + 1, config.ahead)
        inputs = network.inputs(course)
        change = log.glucose[rows, at + config.ahead] - course.glucose[:, course.past - 1]
        sound = ~torch.isnan(change)
        return inputs[sound], change[sound]

    x, y = batch(_FITTED)
    network.centre.copy_(x.mean(0))
    network.spread.copy_(x.std(0).clamp(min=1e-3))
    network.typical.copy_(y.std().clamp(min=1.0))

    def loss() -> Tensor:
        inputs, change = batch(config.batch)
        missed: Tensor = ((network(inputs) - change) / network.typical) ** 2
        return missed.mean()

    cost = descend(network, loss, seconds, config.lr)
    with torch.no_grad():
        x, y = batch(_FITTED)
        network.scale.copy_(((network(x) - y) ** 2).mean().sqrt())
    return cost


def _binned(amounts: Tensor, size: int) -> Tensor:
    """Sums of each `size` steps of [N, K]; the first bin is shorter where K is no multiple."""
    short = -amounts.shape[1] % size
    return nn.functional.pad(amounts, (short, 0)).reshape(len(amounts), -1, size).sum(-1)
