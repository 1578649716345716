"""The fast mode: a policy's one plan, held to the same guardrails; where it breaks one, the deliberate search."""

from __future__ import annotations

import torch
from torch import Tensor

from foreworld.planning.guardrail import check_guardrails, digest
from foreworld.planning.planners.base import Best, Decisions, Planner
from foreworld.planning.planners.judged import Judged, Problem, judge
from foreworld.planning.planners.prior import Prior


class FastPlanner(Planner):
    """Judges one candidate a subject and searches only for those whose candidate may not be done.

    Args:
        policy: Proposes (`agent.policy.Policy`).
        deliberate: Searches for the others; None answers them with what ends, middle and suggestions offer.
    """

    def __init__(self, policy: Prior, deliberate: Planner | None = None) -> None:
        self.policy, self.deliberate = policy, deliberate
        self._quick: Judged | None = None

    @torch.no_grad()
    def plan(self, problem: Problem) -> Decisions:
        """A plan or a refusal for every subject; raises as `Planner.plan`."""
        check_guardrails(problem.guardrails, problem.space.grid.last)
        mean, _ = self.policy.propose(problem)
        # No margin of an action that is not a number passes, so such a plan is searched for anew.
        told = torch.isfinite(mean).flatten(1).all(1)
        blocks = problem.space.decode(torch.nan_to_num(mean)[:, None])
        quick = judge(problem, torch.where(told[:, None, None, None], blocks, torch.nan))
        if bool(quick.feasible.all()):
            provenance = {
                "planner": type(self).__name__,
                "profile": problem.objective.profile.name,
                "guardrails": digest(problem.guardrails),
            }
            return Decisions(quick, quick, torch.zeros(len(problem), dtype=torch.bool), problem, provenance)
        self._quick = quick
        return super().plan(problem)

    def opening(self, problem: Problem) -> Tensor | None:
        """Of the deliberate search."""
        return None if self.deliberate is None else self.deliberate.opening(problem)

    def search(self, problem: Problem, best: Best) -> None:
        """The deliberate search; whoever's own plan may be done keeps it, so that no subject depends on another."""
        quick, self._quick = self._quick, None
        if self.deliberate is not None:
            self.deliberate.search(problem, best)
        if quick is None:
            return
        may = quick.feasible[:, 0]
        best.key = torch.where(may, quick.key[:, 0], best.key)
        best.blocks = torch.where(may[:, None, None], quick.blocks[:, 0], best.blocks)
        # Nothing else was weighed for them.
        best.rejected_cost = torch.where(may, torch.inf, best.rejected_cost)
        best.take(quick)
