"""Gradient descent through the model, from many starts at once."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.planning.planners.base import Best, Planner
from foreworld.planning.planners.judged import Judged, Problem, judge
from foreworld.planning.planners.points import uniforms


class GradientConfig(BaseModel):
    """Settings.

    Attributes:
        samples: Starts: the best of what was suggested, and points spread over the space.
        iterations: Steps from each.
        rate: First step, as a share of the range of the action that moves most; the last one is a tenth of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=16, ge=1)
    iterations: int = Field(default=12, ge=1)
    rate: float = Field(default=0.2, gt=0, le=1)


class GradientPlanner(Planner):
    """The switching subgradient method (Polyak 1967): down the cost where all guardrails hold, else back to them.

    Cost and shortfall are never weighed against one another, and every step on the way is judged as a candidate. Only
    the direction of a gradient counts, so neither unit matters. A discrete action has none and stays as it started.
    """

    def __init__(self, config: GradientConfig | None = None) -> None:
        self.config = config or GradientConfig()

    def search(self, problem: Problem, best: Best) -> None:
        """Step down from every start, judging each step."""
        config, space = self.config, problem.space
        x = uniforms(problem.keys, config.samples, space.shape[0] * space.shape[1])
        x[:, 0] = space.encode(best.blocks[:, None]).flatten(1)
        for iteration in range(config.iterations):
            judged, slope = self._slope(problem, x)
            best.take(judged)
            rate = config.rate * 0.1 ** (iteration / max(config.iterations - 1, 1))
            steepest = slope.abs().amax(-1, keepdim=True).clamp(min=1e-30)
            x = (x - rate * slope / steepest).clamp(0, 1)
        best.take(judge(problem, space.decode(x.reshape(*x.shape[:-1], *space.shape))))

    def _slope(self, problem: Problem, x: Tensor) -> tuple[Judged, Tensor]:
        """Candidates [B, S, K A] judged, and the gradient of what counts; 0 where there is none."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            judged = judge(problem, problem.space.decode(at.reshape(*x.shape[:-1], *problem.space.shape)))
            goes = torch.where(judged.feasible, judged.cost.double(), judged.violation)
            known = goes[torch.isfinite(goes)]
            if not known.requires_grad:
                return judged, torch.zeros_like(x)
            (slope,) = torch.autograd.grad(known.sum(), at)
        return judged, torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
