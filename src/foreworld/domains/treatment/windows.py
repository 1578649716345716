"""Fixed windows of the past and the grid of the future: what a linear model or a plain network reads.

Amounts are relative, so that one model serves people of all sizes: insulin in hours of profile basal, carbohydrate in
g/kg. Gaps in the readings are bridged by the last one, as the classical models do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

TYPICAL_GLUCOSE = 140.0  # mg/dL; stands for a reading before the first one arrives
_AGE_GROUPS = len(SCHEMA["age_group"].categories)
_PROFILE = ("weight", "basal", "cr", "cf")


class WindowConfig(BaseModel):
    """How much of the past is read.

    Attributes:
        readings: Last CGM readings.
        bins: Bins of past insulin, and as many of past carbohydrate.
        bin_steps: Steps a bin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    readings: int = Field(default=12, ge=2)
    bins: int = Field(default=24, ge=1)
    bin_steps: int = Field(default=3, ge=1)

    @property
    def steps(self) -> int:
        """Steps of insulin and carbohydrate that are kept."""
        return self.bins * self.bin_steps

    @property
    def size(self) -> int:
        """Width of `past_inputs`."""
        return self.readings + 2 * self.bins + len(_PROFILE) + _AGE_GROUPS


@dataclass(frozen=True)
class Window:
    """The last hours of B subjects; the belief of the linear model. A function of the past alone.

    Attributes:
        cgm: [B, R] mg/dL, the newest last, gaps bridged.
        insulin: [B, P] U delivered in each of the last P steps.
        carbs: [B, P] g entered at each of the last P moments, the present included.
        profile: [B, 7] log of weight, basal, CR and CF; age group as one of three.
        weight: [B] kg.
        basal: [B] U/h.
        time: [B] float64 stamp in minutes.
        count: [B] int64 moments of the record.
    """

    cgm: Tensor
    insulin: Tensor
    carbs: Tensor
    profile: Tensor
    weight: Tensor
    basal: Tensor
    time: Tensor
    count: Tensor

    def __len__(self) -> int:
        return len(self.cgm)

    def select(self, index: Tensor) -> Self:
        """The windows of some subjects."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def after(self, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]) -> Self:
        """The windows one step later.

        Args:
            time: [B] stamp of the new observation.
            observation: `cgm` [B] mg/dL, NaN where missing, and `carbs` [B] g, at that stamp.
            action: `insulin` [B] U delivered since.

        Raises:
            InputError: The stamp is not one step later.
        """
        if not torch.allclose(time - self.time, torch.full_like(self.time, STEP_MINUTES)):
            raise InputError(f"a linear model needs one observation every {STEP_MINUTES} min, missing values as NaN")
        new = observation["cgm"].double()
        new = torch.where(torch.isnan(new), self.cgm[:, -1], new)
        return replace(
            self,
            cgm=torch.cat([self.cgm[:, 1:], new[:, None]], dim=1),
            insulin=torch.cat([self.insulin[:, 1:], action["insulin"].double()[:, None]], dim=1),
            carbs=torch.cat([self.carbs[:, 1:], observation["carbs"].double()[:, None]], dim=1),
            time=time.double(),
            count=self.count + 1,
        )


def windows_at(history: History, at: Tensor, config: WindowConfig) -> Window:
    """The windows of B histories at moments [B, N], as one batch of B * N.

    Before the record began readings stood where the first one does, basal was delivered and nobody ate.

    Raises:
        InputError: A history is not sampled every step.
    """
    steps = history.times.diff(dim=1)
    real = torch.arange(1, history.times.shape[1]) < history.lengths[:, None]
    if not bool((torch.isclose(steps, torch.full_like(steps, STEP_MINUTES)) | ~real).all()):
        raise InputError(f"a linear model needs one observation every {STEP_MINUTES} min, missing values as NaN")
    v = {name: value.double() for name, value in history.values.items()}
    held, basal = held_readings(v["cgm"]), v["basal"]
    rows = torch.arange(len(history))[:, None, None]
    usual = (basal * (STEP_MINUTES / 60.0))[:, None].expand(-1, config.steps)
    readings = torch.cat([held[:, :1].expand(-1, config.readings - 1), held], dim=1)
    insulin = torch.cat([usual, v["insulin"]], dim=1)
    carbs = torch.cat([torch.zeros(len(history), config.steps - 1, dtype=torch.float64), v["carbs"]], dim=1)
    groups = torch.nn.functional.one_hot(history.values["age_group"].long(), _AGE_GROUPS).double()
    profile = torch.cat([torch.stack([torch.log(v[name]) for name in _PROFILE], dim=-1), groups], dim=-1)
    past = at[:, :, None] + torch.arange(config.steps)
    count = at.shape[1]
    return Window(
        cgm=readings[rows, at[:, :, None] + torch.arange(config.readings)].flatten(0, 1),
        insulin=insulin[rows, past].flatten(0, 1),
        carbs=carbs[rows, past].flatten(0, 1),
        profile=profile.repeat_interleave(count, dim=0),
        weight=v["weight"].repeat_interleave(count),
        basal=basal.repeat_interleave(count),
        time=history.times.gather(1, at).flatten(),
        count=(at + 1).flatten(),
    )


def past_inputs(window: Window, config: WindowConfig) -> Tensor:
    """[B, size]: last reading (offset in mg/dL), differences, insulin bins, carbohydrate bins, profile."""
    insulin = window.insulin.reshape(len(window), config.bins, -1).sum(-1) / window.basal[:, None]
    carbs = window.carbs.reshape(len(window), config.bins, -1).sum(-1) / window.weight[:, None]
    last = window.cgm[:, -1:] - TYPICAL_GLUCOSE
    return torch.cat([last, window.cgm.diff(dim=1), insulin, carbs, window.profile], dim=-1)


def future_amounts(history: History, at: Tensor, grid: HorizonGrid) -> tuple[Tensor, Tensor]:
    """What was given and entered after moments [B, N].

    Returns:
        Insulin and carbohydrate [B, N, H] in raw units, the mean amount a step in each interval of the grid.

    Raises:
        InputError: Fewer than `grid.last` steps follow a moment.
    """
    if int(at.max()) + grid.last >= history.times.shape[1]:
        raise InputError(f"{grid.last} steps must follow a moment; the record has {history.times.shape[1]} moments")
    rows, averaging = torch.arange(len(history))[:, None, None], grid.averaging().double()
    after = at[:, :, None] + torch.arange(grid.last)
    insulin = history.values["insulin"].double()[rows, after] @ averaging.T
    carbs = history.values["carbs"].double()[rows, after + 1] @ averaging.T
    return insulin, carbs


def future_readings(history: History, at: Tensor, grid: HorizonGrid) -> Tensor:
    """[B, N, H] readings at the grid's points after moments [B, N], mg/dL, NaN where missing."""
    rows = torch.arange(len(history))[:, None, None]
    return history.values["cgm"].double()[rows, at[:, :, None] + torch.tensor(grid.points)]


def interval_steps(grid: HorizonGrid) -> Tensor:
    """[H] float64 steps in each interval of the grid."""
    return torch.diff(torch.tensor((0, *grid.points), dtype=torch.float64))


def held_readings(cgm: Tensor) -> Tensor:
    """[B, T] readings with every gap bridged by the last reading before it."""
    measured = ~torch.isnan(cgm)
    steps = torch.arange(cgm.shape[1]).expand_as(cgm)
    at = torch.where(measured, steps, torch.full_like(steps, -1)).cummax(dim=1).values
    held = cgm.gather(1, at.clamp(min=0))
    return torch.where(at >= 0, held, torch.full_like(held, TYPICAL_GLUCOSE))
