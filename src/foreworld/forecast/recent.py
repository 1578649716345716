"""A model that knows a subject only as far back as told: the population's model, to compare a person's with.

    forgetful = Forgetful(model, steps=72)     # never knows more than the last 72 steps

It stands where the model stands: same schema, grid, calibration and planner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from foreworld.episodes.schema import Role, Schema
from foreworld.errors import InputError
from foreworld.model.belief import Belief, History
from foreworld.model.interface import Ready, Sizes
from foreworld.model.world_model import WorldModel


class Around(ABC):
    """Answers as the world model inside it does; subclasses differ in what the belief is made of.

    Args:
        model: In evaluation mode from `eval()` on.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self.schema, self.quantities = model.schema, model.quantities

    @property
    def config(self) -> Sizes:
        """Grid and ensemble size."""
        return self.model.config

    def eval(self) -> Self:
        """Into evaluation mode."""
        self.model.eval()
        return self

    @abstractmethod
    def encode(self, history: History) -> Any:
        """The belief at the end of each history."""

    def normalise_actions(self, belief: Any, actions: Tensor) -> Tensor:
        """As the model."""
        return self.model.normalise_actions(belief.belief, actions)

    def normalise_exogenous(self, belief: Any, exogenous: Tensor) -> Tensor:
        """As the model."""
        return self.model.normalise_exogenous(belief.belief, exogenous)

    def prepare(self, belief: Any, exogenous: Tensor | None = None) -> Ready:
        """As the model, of the belief in force."""
        return self.model.prepare(belief.belief, exogenous)

    def respond(self, prepared: Any, actions: Tensor) -> Tensor:
        """As the model."""
        return self.model.respond(prepared, actions)

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """As the model."""
        return self.model.read(latents)

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """As the model."""
        return self.model.read_scale(latents)


def last_of(schema: Schema, history: History, steps: int) -> History:
    """The last so many steps of histories of one length, with the moments at both ends.

    Raises:
        InputError: The histories are not of one length.
    """
    moments = history.times.shape[1]
    if not bool((history.lengths == moments).all()):
        raise InputError("histories to cut must be of one length; cut them one by one")
    first = max(0, moments - 1 - steps)
    values = {
        name: value if schema[name].role is Role.static else value[:, first:] for name, value in history.values.items()
    }
    return History(history.times[:, first:], values, history.lengths - first)


def longer(
    schema: Schema, history: History, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
) -> History:
    """The history one moment later: what was done since, and what is seen then; as the arguments of `update`."""
    new = {**observation, **action}
    values = {
        name: value
        if schema[name].role is Role.static
        else torch.cat([value, new[name].to(value.dtype)[:, None]], dim=1)
        for name, value in history.values.items()
    }
    return History(torch.cat([history.times, time.double()[:, None]], dim=1), values, history.lengths + 1)


@dataclass(frozen=True)
class Brief:
    """A belief made of the last few steps alone.

    Attributes:
        belief: Of them.
        window: They themselves, from which the next belief is made.
    """

    belief: Belief
    window: History

    def __len__(self) -> int:
        """Number of subjects B."""
        return len(self.belief)

    @property
    def count(self) -> Tensor:
        """[B] moments behind it."""
        return self.belief.count

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, belief=self.belief.select(index), window=self.window.select(index))


class Forgetful(Around):
    """Knows the present and the population, never the person: every belief is made of the last few steps.

    Args:
        model: Whose beliefs these are.
        steps: How far back it remembers; 72 steps of five minutes hold most of the insulin that still acts.
    """

    def __init__(self, model: WorldModel, steps: int = 72) -> None:
        super().__init__(model)
        if steps < 1:
            raise InputError(f"a memory of {steps} steps is none; give at least 1")
        self.steps = steps

    def encode(self, history: History) -> Brief:
        """From the last steps of each history."""
        window = last_of(self.schema, history, self.steps)
        return Brief(self.model.encode(window), window)

    def along(self, history: History, at: Sequence[int]) -> list[Belief]:
        """The beliefs in force at some moments of histories of one length, each of the last steps before it alone."""
        return [self.encode(history.until(self.schema, t + 1)).belief for t in at]

    def update(
        self, belief: Brief, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Brief:
        """One step more, the oldest forgotten."""
        return self.encode(longer(self.schema, belief.window, time, observation, action))
