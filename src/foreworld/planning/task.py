"""What a domain gives to planning: the pieces of a task, each readable on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.guardrail import Guardrail
from foreworld.planning.objective import Objective
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace


class Task(Protocol):
    """One task of a domain."""

    @property
    def guardrails(self) -> Sequence[Guardrail]:
        """What must hold."""

    @property
    def max_age(self) -> dict[str, float]:
        """By predicted quantity: how old its last measurement may be for a plan, in the schema's time unit."""

    def objective(self, profile: Profile) -> Objective:
        """What is wanted, under a preference profile."""

    def space(self, grid: HorizonGrid, history: History) -> ActionSpace:
        """What may be done at this moment."""

    def suggestions(self, space: ActionSpace, history: History) -> Tensor:
        """[B, N, K, A] block values worth trying first: doing nothing, the usual, the fallback's action."""

    def fallback(self, history: History) -> Tensor:
        """[B, A] the standard of care's action on measured data alone, raw units; NaN never."""

    def last_resort(self, history: History) -> Tensor:
        """[B, A] the action that always passes the checker."""
