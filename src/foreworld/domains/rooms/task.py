"""The task: move the agent to where a goal frame was taken, and stay out of where it must not go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foreworld.domains.rooms.source import ACTIONS, FRAME, PLACE
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.goal import Distance, GoalObjective
from foreworld.planning.guardrail import Guardrail
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace
from foreworld.planning.zone import KeepOut

STANDARD = Profile(name="standard", weights={"along": 1.0, "closest": 0.0, "last": 0.0, "effort": 0.0})


@dataclass(frozen=True, kw_only=True)
class Reach(Guardrail):
    """An action stays within what the agent can do: what every plan is held to where nothing else is forbidden."""

    name: str = "reach"
    unit: str = "share"
    source: str = "the environment's action space"
    severity: int = 1
    bound: float = 1.0

    def margin(self, forecast: object, actions: Tensor, history: History) -> Tensor:
        """Distance of the greatest part of an action from the bound."""
        return self.bound - actions.abs().amax((-1, -2))


@dataclass(frozen=True, kw_only=True)
class WayLeft(Guardrail):
    """There is a way to the goal that keeps out of every zone; where there is none, no movement is a plan.

    Attributes:
        left: [B] as `planning.hierarchy.Towards.left` found it at the start.
    """

    name: str = "way_left"
    unit: str = "share"
    source: str = "ways that were walked in the log"
    severity: int = 1
    left: tuple[bool, ...]

    def margin(self, forecast: object, actions: Tensor, history: History) -> Tensor:
        """[B, S] how much may be moved, less what is moved: staying violates it least."""
        may = torch.where(torch.tensor(self.left)[:, None], 2.0, -1.0)
        return may - actions.abs().mean((-1, -2))


def keep_out(
    low: tuple[tuple[float, ...], ...],
    high: tuple[tuple[float, ...], ...],
    horizon: int,
    risk: float,
    far: float | None = None,
) -> KeepOut:
    """The guardrail of zones, one box a scene, px."""
    return KeepOut(
        name="no_go", unit="px", source="the zone that was given", severity=5, risk=risk, horizon=horizon,
        quantities=PLACE, low=low, high=high, far=far,
    )  # fmt: skip


@dataclass(frozen=True)
class GoTo:
    """A task for B scenes.

    Attributes:
        goals: [B, G, D] latents of goal frames.
        rails: What must hold.
        blocks: Last interval of each block of held actions, exclusive; every interval is its own if empty.
        distance: As in `GoalObjective`.
    """

    goals: Tensor
    rails: tuple[Guardrail, ...] = (Reach(),)
    blocks: tuple[int, ...] = ()
    distance: Distance | None = None
    max_age: dict[str, float] = field(default_factory=dict)

    @property
    def guardrails(self) -> Sequence[Guardrail]:
        """What must hold."""
        return self.rails

    def objective(self, profile: Profile) -> GoalObjective:
        """What is wanted."""
        return GoalObjective(profile, self.goals, self.distance)

    def space(self, grid: HorizonGrid, history: History) -> ActionSpace:
        """All directions, up to full speed."""
        blocks = self.blocks or tuple(range(1, len(grid) + 1))
        high = torch.ones(len(history), len(blocks), len(ACTIONS))
        return ActionSpace(grid, blocks, -high, high, ACTIONS)

    def suggestions(self, space: ActionSpace, history: History) -> Tensor:
        """Staying."""
        return torch.zeros_like(space.lower)[:, None]

    def fallback(self, history: History) -> Tensor:
        """Staying where one is."""
        return torch.zeros(len(history), len(ACTIONS))

    def last_resort(self, history: History) -> Tensor:
        """The same."""
        return self.fallback(history)


__all__ = ["FRAME", "STANDARD", "GoTo", "Reach"]
