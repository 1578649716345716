"""The sepsis task: survival by the critic's account, among admissible treatments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreworld.agent.check import Level, Rule
from foreworld.agent.check_rules import Bounds, FiniteAction
from foreworld.agent.critic import Critic, LongRun
from foreworld.domains.treatment.sepsis.ward import ACTIONS
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.admissible import Declared, Familiar
from foreworld.planning.guardrail import Guardrail
from foreworld.planning.objective import Objective
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace

STANDARD = Profile(name="standard", description="Chance of survival.")
DECLARED = Declared(
    name="declared", unit="", channel="admissible", severity=5, source="ICU-Sepsis, info['admissible_actions']"
)


@dataclass(frozen=True)
class SepsisTask:
    """What is wanted and what may be done."""

    guardrails: Sequence[Guardrail]
    familiar: Familiar
    critic: Critic

    @property
    def max_age(self) -> dict[str, float]:
        """State and score are seen at every step."""
        return {"sofa": 0.0}

    def objective(self, profile: Profile) -> Objective:
        """Survival: the reward is 1 for it, so the value is its chance."""
        return LongRun(profile, self.critic)

    def space(self, grid: HorizonGrid, history: History) -> ActionSpace:
        """One of the treatments for the coming step."""
        lower = torch.zeros(len(history), 1, 1)
        return ActionSpace(grid, (len(grid),), lower, lower + ACTIONS - 1, ("action",), levels=(ACTIONS,))

    def suggestions(self, space: ActionSpace, history: History) -> Tensor:
        """The fallback's."""
        return self.fallback(history)[:, None, None, :]

    def fallback(self, history: History) -> Tensor:
        """What was given most often in this state."""
        return torch.nan_to_num(self.familiar.logged(history)).argmax(1)[:, None].float()

    def last_resort(self, history: History) -> Tensor:
        """Neither fluid nor vasopressor."""
        return torch.zeros(len(history), 1)


def rules() -> tuple[Rule, ...]:
    """Of the independent checker: the treatment exists."""
    source = "ICU-Sepsis: five levels of two drugs"
    return (
        FiniteAction(name="finite", channel="action", source=source),
        Bounds(name="exists", channel="action", source=source, low=0.0, high=Level(ACTIONS - 1.0)),
    )
