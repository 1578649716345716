"""A patient whose future is known in closed form, to try planners on without training anything.

`level(p) = start + gain * (actions summed over the steps up to p)`; three ensemble members lie beside one another.
A subject can be made novel, uncertain far ahead, or not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.forecast.forecaster import Calibration, Forecast, Forecaster, Imagined
from foreworld.forecast.novelty import NoveltyModel
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.guardrail import Guardrail, StateGuardrail
from foreworld.planning.objective import Objective, time_weights
from foreworld.planning.planners.judged import Problem
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace

GRID = HorizonGrid(points=(1, 2, 4, 8))
BLOCKS = (1, 4)
FLOOR = 2.0
FIELDS = ("start", "gain", "strange", "vague", "broken")


def _scalar(name: str, role: Role) -> Channel:
    return Channel(name=name, role=role)


SCHEMA = Schema(
    name="toy",
    step=1.0,
    channels=(
        _scalar("level", Role.observation),
        _scalar("push", Role.action),
        _scalar("pull", Role.action),
        *(_scalar(name, Role.static) for name in (*FIELDS, "cap")),
    ),
)


@dataclass(frozen=True)
class ToyBelief:
    """[B, 5] the fields of `FIELDS`; it is its own prepared prediction."""

    fields: Tensor

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def context(self) -> Tensor:
        """[B, 1] how strange the state is."""
        return self.fields[:, 2:3]

    @property
    def count(self) -> Tensor:
        """[B] nothing is learned from a history."""
        return torch.ones(len(self.fields), dtype=torch.int64)

    def select(self, index: Tensor) -> Self:
        """Some of the subjects."""
        return replace(self, fields=self.fields[index])


@dataclass(frozen=True)
class ToyConfig:
    """Sizes."""

    grid: HorizonGrid = GRID
    members: int = 3


class ToyModel:
    """Answers `model.interface.Imaginer`."""

    schema = SCHEMA
    config = ToyConfig()
    quantities = ("level",)

    def eval(self) -> Self:
        """Nothing to change."""
        return self

    def encode(self, history: History) -> ToyBelief:
        """The statics say it all."""
        return ToyBelief(torch.stack([history.values[name] for name in FIELDS], dim=1).float())

    def update(
        self, belief: ToyBelief, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> ToyBelief:
        """Nothing is learned from a step."""
        return belief

    def normalise_actions(self, belief: ToyBelief, actions: Tensor) -> Tensor:
        """Raw is as good."""
        return actions

    def normalise_exogenous(self, belief: ToyBelief, exogenous: Tensor) -> Tensor:
        """Raw is as good."""
        return exogenous

    def prepare(self, belief: ToyBelief, exogenous: Tensor | None = None) -> ToyBelief:
        """The belief itself."""
        return belief

    def respond(self, prepared: ToyBelief, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, 2]: level and the logarithm of its scale."""
        start, gain, _, vague, broken = (prepared.fields[:, i, None, None] for i in range(5))
        steps = torch.diff(torch.tensor(GRID.points), prepend=torch.zeros(1, dtype=torch.int64))
        level = start + gain * (actions.sum(-1) * steps).cumsum(-1)
        far = (torch.tensor(GRID.points) > 2).float()
        apart = torch.tensor([-0.1, 0.0, 0.1])[:, None, None, None] * (1.0 + 100.0 * vague * far)
        level = torch.where(broken > 0, torch.nan, level + apart)
        return torch.stack([level, torch.full_like(level, -0.7)], dim=-1)

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """The level."""
        return {"level": latents[..., 0]}

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """Its standard deviation."""
        return {"level": torch.exp(latents[..., 1])}


class ToyObjective(Objective):
    """Squared distance of the level from a target, or a bribe for breaking guardrails.

    Args:
        target: Where the level is wanted.
        bribe: Reward for each unit below the floor and each unit of the first action above the cap.
        broken: Whether the cost is NaN.
    """

    names = ("distance",)

    def __init__(self, target: float = 6.0, bribe: float = 0.0, *, broken: bool = False) -> None:
        super().__init__(Profile(name="toy"))
        self.target, self.bribe, self.broken = target, bribe, broken

    def terms(self, forecast: Forecast, actions: Tensor, imagined: Any) -> dict[str, Tensor]:
        """[E, B, S]."""
        level = forecast.samples["level"]
        cost = (level - self.target).square() @ time_weights(forecast.points)
        bribe = torch.clamp(FLOOR - level, min=0.0).sum(-1) + actions[..., 0, 0]
        return {"distance": torch.full_like(cost, torch.nan) if self.broken else cost - self.bribe * bribe}


@dataclass(frozen=True, kw_only=True)
class ToyCap(Guardrail):
    """The first action is at most what the statics say; NaN where they say nothing."""

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """[B, S]."""
        return history.values["cap"][:, None].to(actions.dtype) - actions[:, :, 0, 0]


@dataclass(frozen=True, kw_only=True)
class Needle(Guardrail):
    """Only actions within a hair of one point will do: nobody finds it who is not told."""

    at: float
    width: float = 1e-4

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """[B, S]."""
        return self.width - (actions - self.at).abs().amax((-1, -2))


GUARDRAILS: tuple[Guardrail, ...] = (
    StateGuardrail(
        name="floor", quantity="level", bound=FLOOR, unit="", source="toy", risk=0.1, start=1, horizon=8, severity=5
    ),
    ToyCap(name="cap", unit="", source="toy", severity=3),
)
CALIBRATION = Calibration(
    trajectory={"floor": {"0.1": 0.2}},
    novelty=NoveltyModel(
        mean=(0.0,), precision=((1.0,),), distance=1.0, disagreement=(0.5,) * len(GRID), false_alarm=0.1
    ),
)


def toy_problem(
    fields: Mapping[str, tuple[float, ...]],
    *,
    objective: Objective | None = None,
    guardrails: tuple[Guardrail, ...] = GUARDRAILS,
    lower: float = -1.0,
    upper: float = 1.3,
    levels: tuple[int, ...] = (),
    suggestions: Tensor | None = None,
) -> Problem:
    """A problem for as many subjects as the values of `fields` are long; what is not given is healthy.

    Args:
        fields: By name of `FIELDS` or "cap", one value a subject; at least one.
        objective: `ToyObjective()` if None.
        guardrails: The floor and the cap if not given.
        lower: Of every action; moved a little from subject to subject unless `levels` are given.
        upper: The same.
        levels: As in `ActionSpace`; two actions if given, one otherwise.
        suggestions: As in `Problem`.
    """
    usual = {"start": 5.0, "gain": 0.5, "strange": 0.0, "vague": 0.0, "broken": 0.0, "cap": 0.9}
    batch = max(len(values) for values in fields.values())
    values = {name: torch.tensor(fields.get(name, (usual[name],) * batch)) for name in usual}
    actions = len(levels) or 1
    history = History(
        torch.zeros(batch, 1, dtype=torch.float64),
        {
            "level": values["start"][:, None],
            **{name: torch.zeros(batch, 0) for name in ("push", "pull")},
            **values,
        },
        torch.ones(batch, dtype=torch.int64),
    )
    odd = torch.zeros(batch) if levels else 0.0137 * torch.arange(batch)
    bounds = [(end + odd)[:, None, None].repeat(1, len(BLOCKS), actions) for end in (lower, upper)]
    space = ActionSpace(GRID, BLOCKS, bounds[0], bounds[1], ("push", "pull")[:actions], levels=levels)
    forecaster = Forecaster(ToyModel(), CALIBRATION)
    imagined = forecaster.begin(forecaster.model.encode(history))
    keys = 1000 + 17 * torch.arange(batch)
    return Problem(forecaster, imagined, objective or ToyObjective(), guardrails, space, history, keys, suggestions)


def select(problem: Problem, index: Tensor) -> Problem:
    """The problem of some of its subjects, with their own keys."""
    imagined: Imagined = problem.imagined.select(index)
    return replace(
        problem,
        imagined=imagined,
        space=problem.space.select(index),
        history=select_history(problem.history, index),
        keys=problem.keys[index],
        suggestions=None if problem.suggestions is None else problem.suggestions[index],
    )


def select_history(history: History, index: Tensor) -> History:
    """The histories of some of the subjects."""
    values = {name: value[index] for name, value in history.values.items()}
    return History(history.times[index], values, history.lengths[index])
