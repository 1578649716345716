"""What all planners share: what is judged whatever the search does, and answering with plans or refusals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import check_finite
from foreworld.planning.guardrail import Guardrail, check_guardrails, digest
from foreworld.planning.plan import Alternative, Plan, Reason, Refusal
from foreworld.planning.planners.judged import Judged, Problem, judge


@dataclass(frozen=True)
class Opened:
    """What a search begins with, judged already: the best of what was suggested, and the search's own `opening`.

    Attributes:
        points: [B, N, K A] in the unit cube.
        key: [B, N] as of `Judged`.
    """

    points: Tensor
    key: Tensor


@dataclass
class Best:
    """The best candidates seen so far, and the cheapest rejected ones.

    Attributes:
        blocks: [B, K, A] raw block values of the best.
        key: [B] its ranking key.
        rejected: [B, K, A] of the cheapest rejected one.
        rejected_cost: [B] what that would cost; infinite where there is none.
        opened: What the planner's `opening` came to; None where it has none.
    """

    blocks: Tensor
    key: Tensor
    rejected: Tensor
    rejected_cost: Tensor
    opened: Opened | None = None

    @classmethod
    def empty(cls, problem: Problem) -> Best:
        """Nothing seen yet."""
        batch = len(problem)
        shape = (batch, *problem.space.shape)
        return cls(
            problem.space.lower.clone(),
            torch.full((batch,), torch.inf, dtype=torch.float64),
            torch.zeros(shape),
            torch.full((batch,), torch.inf),
        )

    def take(self, judged: Judged, count: int | None = None) -> None:
        """Compare with new candidates, or with the first `count` of them."""
        rows, part = torch.arange(len(self.key)), slice(count)
        key = judged.key[:, part]
        at = key.argmin(1)
        better = key[rows, at] < self.key
        self.key = torch.where(better, key[rows, at], self.key)
        self.blocks = torch.where(better[:, None, None], judged.blocks[rows, at], self.blocks)
        cost = torch.where(judged.feasible | ~torch.isfinite(judged.cost), torch.inf, judged.cost)[:, part]
        at = cost.argmin(1)
        cheaper = cost[rows, at] < self.rejected_cost
        self.rejected_cost = torch.where(cheaper, cost[rows, at], self.rejected_cost)
        self.rejected = torch.where(cheaper[:, None, None], judged.blocks[rows, at], self.rejected)

    def put(self, rows: Tensor, other: Best) -> None:
        """What `other` found for the subjects of `rows`, [B] bool."""
        self.key, self.rejected_cost = (
            torch.where(rows, theirs, mine)
            for theirs, mine in ((other.key, self.key), (other.rejected_cost, self.rejected_cost))
        )
        self.blocks, self.rejected = (
            torch.where(rows[:, None, None], theirs, mine)
            for theirs, mine in ((other.blocks, self.blocks), (other.rejected, self.rejected))
        )


@dataclass(frozen=True)
class Decisions:
    """Answers for B subjects; `decisions[i]` is the `Plan` or `Refusal` of one.

    Attributes:
        chosen: The chosen or nearest candidate of each subject, judged (S = 1).
        rejected: The cheapest rejected candidate of each, judged (S = 1).
        rejected_any: [B] whether there was one cheaper than the chosen.
        problem: What was asked.
        provenance: The same for all subjects.
        told: [B] whether the least actions, and all that was suggested, could be judged; all true if None. Where they
            could not, the nearest candidate came nearest only among what could: it may ask for more than the
            alternative that nobody could judge, and is no answer.
    """

    chosen: Judged
    rejected: Judged
    rejected_any: Tensor
    problem: Problem
    provenance: dict[str, Any] = field(default_factory=dict)
    told: Tensor | None = None

    def __len__(self) -> int:
        return len(self.problem)

    @property
    def planned(self) -> Tensor:
        """[B] whether the answer is a plan."""
        return self.chosen.feasible[:, 0]

    @property
    def first(self) -> Tensor:
        """[B, A] the action to do now, raw units; meaningful where `planned`."""
        return self.chosen.blocks[:, 0, 0]

    def reason(self, i: int) -> Reason | None:
        """Why subject `i` has no plan, or None."""
        if bool(self.planned[i]):
            return None
        forecast = self.chosen.forecast
        if not bool(self._finite[i]) or bool(torch.isnan(forecast.novelty[i, 0])):
            return Reason.model_invalid
        unknown = self._unknown(i)
        if float(forecast.novelty[i, 0]) > 1.0 or any(g.horizon > int(forecast.usable[i, 0]) for g in unknown):
            return Reason.novel_state
        # The forecast is sound and reaches far enough, so what cannot be told is what was measured.
        if unknown:
            return Reason.stale_data
        return Reason.no_safe_plan if self.told is None or bool(self.told[i]) else Reason.novel_state

    @cached_property
    def _finite(self) -> Tensor:
        """[B] whether forecast and cost of the chosen candidate are finite; worked out once for all subjects."""
        return (check_finite(self.chosen.forecast) & torch.isfinite(self.chosen.cost))[:, 0]

    def _unknown(self, i: int) -> list[Guardrail]:
        """Guardrails whose margin cannot be told even for the nearest candidate."""
        return [g for g in self.problem.guardrails if bool(torch.isnan(self.chosen.margins[g.name][i, 0]))]

    def __getitem__(self, i: int) -> Plan | Refusal:
        if not -len(self) <= i < len(self):
            raise IndexError(f"subject {i} of {len(self)}")
        i %= len(self)
        space, names = self.problem.space, [g.name for g in self.problem.guardrails]
        actions = space.expand(self.chosen.blocks[i : i + 1])[0, 0]
        margins = {name: float(self.chosen.margins[name][i, 0]) for name in names}
        guardrails = tuple(self.problem.guardrails)
        reason = self.reason(i)
        if reason is not None:
            return Refusal(
                reason, self._detail(i, reason), actions, space.channels, margins, "", self.provenance, guardrails
            )
        rejected = (self._alternative(i, names),) if bool(self.rejected_any[i]) else ()
        forecast = self.chosen.forecast.row(i)
        cost = float(self.chosen.cost[i, 0])
        schema = self.problem.forecaster.model.schema
        return Plan(
            actions, space.channels, forecast, margins, cost, rejected, self.provenance, guardrails,
            schema.step, schema.time_unit, schema.units,
        )  # fmt: skip

    def _alternative(self, i: int, names: list[str]) -> Alternative:
        actions = self.problem.space.expand(self.rejected.blocks[i : i + 1])[0, 0]
        margins = {name: float(self.rejected.margins[name][i, 0]) for name in names}
        broken = {name: value for name, value in margins.items() if not value >= 0}
        worst = min(broken, key=lambda name: broken[name] if broken[name] == broken[name] else -torch.inf, default="")
        name = worst or "novelty"
        value = margins[worst] if worst else 1.0 - float(self.rejected.forecast.novelty[i, 0])
        return Alternative(actions, float(self.rejected.cost[i, 0]), name, value)

    def _detail(self, i: int, reason: Reason) -> str:
        if reason is Reason.model_invalid:
            return "The model's forecast, or the cost of it, is not finite."
        if reason is Reason.stale_data:
            return f"Guardrail {self._unknown(i)[0].name} cannot be judged on what was measured."
        if reason is Reason.novel_state:
            novelty, usable = float(self.chosen.forecast.novelty[i, 0]), int(self.chosen.forecast.usable[i, 0])
            if novelty > 1.0:
                return f"This state is unlike what the model was trained on: novelty {novelty:.2f}, limit 1."
            unknown = self._unknown(i)
            if not unknown:
                return (
                    "No candidate meets every guardrail, and what less would lead to is unlike what the model was "
                    "trained on: nothing can be said to come nearest."
                )
            farthest = max(unknown, key=lambda g: g.horizon)
            return (
                f"The ensemble agrees as it does on familiar data for {usable} steps only; "
                f"guardrail {farthest.name} looks {farthest.horizon} steps ahead."
            )
        return "No candidate meets every guardrail."


class Planner(ABC):
    """Searches candidates; honours every guardrail whatever the search does.

    Subclasses implement `search`, which feeds `Best` with judged candidates. What was suggested, both ends of the
    space (all actions least, all greatest) and its middle have been judged before it starts.
    """

    def opening(self, problem: Problem) -> Tensor | None:
        """[B, N, K A] points of the unit cube that `search` begins with whatever was suggested, or None.

        They are judged together with what was suggested, as with few candidates it is the number of forecasts that
        takes time; `search` finds them in `Best.opened`.
        """
        return None

    @abstractmethod
    def search(self, problem: Problem, best: Best) -> None:
        """Judge candidates and hand them to `best.take`."""

    @torch.no_grad()
    def plan(self, problem: Problem) -> Decisions:
        """A plan or a refusal for every subject.

        Raises:
            InputError: The guardrails cannot work together with the horizon, or a shape is wrong.
        """
        check_guardrails(problem.guardrails, problem.space.grid.last)
        best = Best.empty(problem)
        given = blocks = _first(problem)
        # Where what is seen is unlike anything known no candidate can be trusted, and nothing is searched for.
        lost = problem.imagined.distance > 1.0
        some = bool(lost.any())
        searched = not (some and bool(lost.all()))
        opening = self.opening(problem) if searched else None
        if opening is not None:
            own = problem.space.decode(opening.reshape(*opening.shape[:2], *problem.space.shape))
            blocks = torch.cat([given, own], dim=1)
        # Nothing of this leaves, nor is it differentiated; what is kept with the problem is made before.
        _ = problem.held
        with torch.inference_mode():
            first = judge(problem, blocks)
        if some:
            best.take(first, given.shape[1])
        unsearched = replace(best)
        if searched:
            best.take(first)
            if opening is not None:
                best.opened = _opened(problem, first, given.shape[1], opening)
            self.search(problem, best)
        if some:
            best.put(lost, unsearched)  # nobody's answer depends on who else is asked for
        both = judge(problem, torch.stack([best.blocks, best.rejected], dim=1))
        chosen, rejected = both.pick(0), both.pick(1)
        cheaper = torch.isfinite(best.rejected_cost) & ~rejected.feasible[:, 0]
        cheaper &= ~chosen.feasible[:, 0] | (best.rejected_cost < chosen.cost[:, 0])
        provenance = {
            "planner": type(self).__name__,
            "profile": problem.objective.profile.name,
            "guardrails": digest(problem.guardrails),
        }
        return Decisions(chosen, rejected, cheaper, problem, provenance, _told(first, given.shape[1]))


def _opened(problem: Problem, judged: Judged, given: int, opening: Tensor) -> Opened:
    """The best of the first `given` candidates, and the opening that follows them."""
    at = judged.key[:, :given].argmin(1, keepdim=True)
    best = judged.blocks[torch.arange(len(at)), at[:, 0]][:, None]
    return Opened(
        torch.cat([problem.space.encode(best).flatten(2), opening], dim=1),
        torch.cat([judged.key.gather(1, at), judged.key[:, given:]], dim=1),
    )


def _told(judged: Judged, given: int) -> Tensor:
    """[B] whether the first and, after ends and middle, every suggestion of the `given` ones could be judged."""
    known = judged.forecast.novelty <= 1.0
    for margin in judged.margins.values():
        known = known & ~torch.isnan(margin)
    return known[:, 0] & known[:, 3:given].all(1)


def _first(problem: Problem) -> Tensor:
    """[B, 3 + N, K, A] ends and middle of the space, and the suggestions within the bounds (NaN: the least)."""
    space, given = problem.space, problem.suggestions
    middle = space.decode(torch.full_like(space.lower, 0.5)[:, None])
    ends = torch.cat([space.lower[:, None], space.upper[:, None], middle], dim=1)
    if given is None:
        return ends
    if given.dim() != 4 or given[:, 0:0].shape != (len(space.lower), 0, *space.shape):
        raise InputError(
            f"suggestions have shape {tuple(given.shape)}, expected [B, N, K, A] with B, K, A "
            f"{tuple(space.lower.shape)}"
        )
    given = torch.where(torch.isnan(given), space.lower[:, None], given.to(ends.dtype))
    return torch.cat([ends, space.clip(space.snap(given))], dim=1)
