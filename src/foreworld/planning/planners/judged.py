"""Judging candidates: forecast, cost, margins, and a key that ranks whatever is feasible above whatever is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast, Forecaster, Imagined, check_finite
from foreworld.model.belief import History
from foreworld.planning.guardrail import Guardrail, margin_of
from foreworld.planning.objective import Objective
from foreworld.planning.space import ActionSpace

# Keys are float64: a feasible candidate's is its cost, and an infeasible one's is at least this, which no cost reaches.
INFEASIBLE = 1e100
# What a margin that cannot be told (NaN) counts as, in the guardrail's unit: worse than any violation that can.
UNKNOWN = 1e6


@dataclass(frozen=True)
class Problem:
    """One planning problem for B subjects.

    Attributes:
        forecaster: Imagines.
        imagined: The subjects' beliefs, made ready.
        objective: What is wanted.
        guardrails: What must hold.
        space: What may be done.
        history: What was measured and done, raw units; for action guardrails.
        keys: [B] int64, one random key a subject (from the seed, the subject and the time), so that a decision does
            not depend on who else is in the batch.
        suggestions: [B, N, K, A] raw block values to try first, or None: the previous plan, the fallback's dose.
    """

    forecaster: Forecaster
    imagined: Imagined
    objective: Objective
    guardrails: Sequence[Guardrail]
    space: ActionSpace
    history: History
    keys: Tensor
    suggestions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.imagined.belief)

    @cached_property
    def held(self) -> Imagined | None:
        """The beliefs made ready for amounts that are held over the space's blocks, where the model offers it."""
        return self.imagined.hold(self.space.blocks)


@dataclass(frozen=True)
class Judged:
    """Candidates with their forecast, cost, margins and rank.

    Attributes:
        blocks: [B, S, K, A] raw block values.
        forecast: Of the candidates.
        cost: [B, S].
        margins: By guardrail [B, S].
        feasible: [B, S].
        violation: [B, S] float64, 0 where feasible: the worst shortfall weighted by severity, plus a tier for what is
            worse (an action guardrail broken, then an unsound or novel forecast).
        key: [B, S] float64 ranking key, smaller is better; every feasible one is below every infeasible one.
    """

    blocks: Tensor
    forecast: Forecast
    cost: Tensor
    margins: dict[str, Tensor]
    feasible: Tensor
    violation: Tensor
    key: Tensor

    def pick(self, candidate: int) -> Judged:
        """One candidate of each subject, with S = 1."""
        part = slice(candidate, candidate + 1)
        return Judged(
            self.blocks[:, part],
            self.forecast.pick(torch.full((len(self.key),), candidate)),
            self.cost[:, part],
            {name: margin[:, part] for name, margin in self.margins.items()},
            self.feasible[:, part],
            self.violation[:, part],
            self.key[:, part],
        )


def judge(problem: Problem, blocks: Tensor) -> Judged:
    """Forecast, cost and margins of candidates [B, S, K, A].

    Raises:
        InputError: The objective or a guardrail gave another shape than [B, S]; it would compare subjects with
            candidates.
    """
    actions = problem.space.expand(blocks)
    if problem.held is None:
        forecast = problem.forecaster.forecast(problem.imagined, actions)
    else:
        forecast = problem.forecaster.forecast(problem.held, blocks)
    cost = problem.objective.cost(forecast, actions, problem.imagined)
    margins = {g.name: margin_of(g, forecast, actions, problem.history) for g in problem.guardrails}
    for what, values in (("the objective", cost), *((f"guardrail {name}", m) for name, m in margins.items())):
        if values.shape != blocks.shape[:2]:
            raise InputError(f"{what} gave shape {tuple(values.shape)}, expected {tuple(blocks.shape[:2])}: [B, S]")
    sound = check_finite(forecast) & torch.isfinite(cost) & (forecast.novelty <= 1.0)
    feasible = sound
    short = torch.zeros(cost.shape, dtype=torch.float64)
    tier = torch.where(sound, 0.0, 2.0).double()
    for guardrail in problem.guardrails:
        margin = margins[guardrail.name].double()
        feasible = feasible & (margin >= 0)
        missed = torch.nan_to_num(torch.clamp(-margin, min=0.0), nan=UNKNOWN, posinf=UNKNOWN)
        short = torch.maximum(short, missed * 10.0 ** (guardrail.severity - 5))
        if guardrail.risk == 0.0:
            # An action guardrail holds exactly and can always be met, so the nearest candidate must meet it, too.
            tier = torch.maximum(tier, (~(margin >= 0)).double())
    # Between tiers short / (1 + short) keeps the order of shortfalls of any size.
    violation = torch.where(feasible, 0.0, tier + short / (1.0 + short))
    costs = torch.clamp(cost.double(), -INFEASIBLE / 2, INFEASIBLE / 2)
    key = torch.where(feasible, costs, INFEASIBLE * (1.0 + violation))
    return Judged(blocks, forecast, cost, margins, feasible, violation, key)
