"""A plain supervised network of the world model's size, on the world model's data: what the structure must beat.

    network = train_network([history], NetworkConfig(grid=grid, steps=6000))     # an `Arm` of the forecast protocol

A multi-layer perceptron reads a window of the past, the profile, and the insulin and entries up to the horizon point
asked for, and gives the change of glucose there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from foreworld.domains.treatment.forecast_arms import banded, rows
from foreworld.domains.treatment.forecasting import Prediction, Record
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.windows import (
    WindowConfig,
    future_amounts,
    future_readings,
    interval_steps,
    past_inputs,
    windows_at,
)
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

CHUNK = 2048  # moments forecast at a time; bounds memory


class NetworkConfig(BaseModel):
    """Sizes and training; the defaults match the world model's 228,000 weights on its grid of 41 points or so.

    Attributes:
        grid: Horizon points.
        window: How much of the past is read.
        hidden: Width of the three hidden layers.
        steps: Gradient steps.
        batch: Moments a step; the world model sees 16 windows x 16 moments.
        points: Horizon points of each moment a step.
        lr: Peak learning rate of AdamW, with a cosine decay.
        stride: Steps between two moments that are trained on.
        seed: Of weights and batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: HorizonGrid
    window: WindowConfig = WindowConfig(readings=36)
    hidden: int = Field(default=288, ge=1)
    steps: int = Field(default=6000, ge=1)
    batch: int = Field(default=256, ge=1)
    points: int = Field(default=4, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    stride: int = Field(default=4, ge=1)
    seed: int = 0


class DirectNetwork(nn.Module):
    """Inputs and a horizon point to the change of glucose, mg/dL.

    Insulin after the point is hidden: therapy answers to readings, so a later bolus would give the reading away.
    """

    centre: Tensor
    spread: Tensor
    typical: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        points, hidden = len(config.grid), config.hidden
        width = config.window.size + 2 * points
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("typical", torch.ones(points))
        self.register_buffer("scale", torch.ones(points))
        before = torch.tril(torch.ones(points, points))
        self.register_buffer("seen", torch.cat([torch.ones(points, config.window.size), before, before], dim=1))
        self.horizon = nn.Parameter(torch.randn(points, hidden) * 0.3)
        self.first = nn.Linear(width, hidden)
        self.rest = nn.Sequential(
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, inputs: Tensor, points: Tensor) -> Tensor:
        """[n, P] changes in mg/dL at grid indices `points` [P] from [n, I] inputs."""
        read = ((inputs - self.centre) / self.spread)[:, None] * self.seen[points]
        out: Tensor = self.rest(self.first(read) + self.horizon[points])[..., 0]
        return out * self.typical[points]

    def inputs(self, history: History, at: Tensor) -> tuple[Tensor, Tensor]:
        """[n, I] inputs and [n] last readings at moments [B, N]."""
        window = windows_at(history, at, self.config.window)
        insulin, carbs = (x.flatten(0, 1) for x in future_amounts(history, at, self.config.grid))
        steps = interval_steps(self.config.grid)
        future = [insulin * steps / window.basal[:, None], carbs * steps / window.weight[:, None]]
        return torch.cat([past_inputs(window, self.config.window), *future], dim=1).float(), window.cgm[:, -1]

    @torch.no_grad()
    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`; nothing is fitted here."""
        if grid != self.config.grid:
            raise InputError("the network's horizon grid is not the protocol's; train it on the protocol's grid")
        inputs, last = self.inputs(record.history, at)
        points = torch.arange(len(grid))
        change = torch.cat([self(part, points) for part in torch.split(inputs, CHUNK)]).double()
        channel = SCHEMA["cgm"]
        mean = torch.clamp(change + last[:, None], min=channel.low, max=channel.high).reshape(*at.shape, -1)
        return banded(mean, self.scale.double().expand(len(at), -1))


def train_network(histories: Sequence[History], config: NetworkConfig) -> DirectNetwork:
    """Squared error, in units of each horizon's typical change; one subject in ten is held out for the band.

    Args:
        histories: Logged records in batches; moments with a missing target are left out.
        config: Sizes and steps.

    Raises:
        InputError: No moment can be trained on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = DirectNetwork(config)
    inputs: list[Tensor] = []
    changes: list[Tensor] = []
    held: list[Tensor] = []
    for history in histories:
        for row in range(len(history)):
            one, last_moment = rows(history, [row]), int(history.lengths[row]) - config.grid.last
            if last_moment <= 1:
                continue
            at = torch.arange(1, last_moment, config.stride)[None]
            x, last = network.inputs(one, at)
            y = (future_readings(one, at, config.grid)[0] - last[:, None]).float()
            sound = ~torch.isnan(y).any(1)
            held.append(torch.full((int(sound.sum()),), len(inputs) % 10 == 9))
            inputs.append(x[sound])
            changes.append(y[sound])
    if not any(len(part) for part in inputs):
        raise InputError(f"no moment to train on; records must be longer than {config.grid.last} steps")
    x, y, band = torch.cat(inputs), torch.cat(changes), torch.cat(held)
    past = config.window.size
    network.centre[:past] = x[~band, :past].mean(0)
    network.spread.copy_(x[~band].std(0).clamp(min=1e-3))
    network.typical.copy_(y[~band].std(0).clamp(min=1.0))
    _descend(network, x[~band], y[~band], config)
    if not bool(band.any()):
        band = ~band
    with torch.no_grad():
        every = torch.arange(len(config.grid))
        error = torch.cat([network(part, every) for part in torch.split(x[band], CHUNK)]) - y[band]
        network.scale.copy_((error**2).mean(0).sqrt())
    return network


def _descend(network: DirectNetwork, x: Tensor, y: Tensor, config: NetworkConfig) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-2)
    network.train()
    for step in range(config.steps):
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
        optimiser.param_groups[0]["lr"] = config.lr * rate
        pick = torch.randint(len(x), (config.batch,), generator=generator)
        points = torch.randperm(len(config.grid), generator=generator)[: config.points]
        loss = (((network(x[pick], points) - y[pick][:, points]) / network.typical[points]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
