"""Model predictive path integral control over blocks of actions."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field

from foreworld.planning.planners.base import Best, Planner
from foreworld.planning.planners.judged import Problem, judge
from foreworld.planning.planners.points import uniforms


class MPPIConfig(BaseModel):
    """Settings of MPPI (Williams et al. 2017).

    Attributes:
        samples: Candidates an iteration.
        iterations: Refinements.
        temperature: Of the weights, relative to the spread of the feasible costs.
        spread: Standard deviation of the perturbations, as a share of the range; halves every iteration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=64, ge=4)
    iterations: int = Field(default=3, ge=1)
    temperature: float = Field(default=0.2, gt=0)
    spread: float = Field(default=0.4, gt=0)


class MPPIPlanner(Planner):
    """Moves to the mean of perturbed candidates weighted by exp(-cost); the mean itself is judged too.

    Infeasible candidates have no weight as long as one is feasible; otherwise the least violation counts.
    """

    def __init__(self, config: MPPIConfig | None = None) -> None:
        self.config = config or MPPIConfig()

    def search(self, problem: Problem, best: Best) -> None:
        """Perturb, judge, average."""
        config, (blocks, actions) = self.config, problem.space.shape
        batch, dimensions = len(problem), blocks * actions
        # The best of what was suggested is where the search begins.
        mean = problem.space.encode(best.blocks[:, None]).flatten(1)
        for iteration in range(config.iterations):
            noise = torch.special.ndtri(uniforms(problem.keys + 7919 * iteration, config.samples, dimensions))
            x = (mean[:, None] + config.spread * 0.5**iteration * noise).clamp(0, 1)
            x[:, 0] = mean
            judged = judge(problem, problem.space.decode(x.reshape(batch, -1, blocks, actions)))
            best.take(judged)
            some = judged.feasible.any(1, keepdim=True)
            score = torch.where(some, judged.cost.double(), judged.violation)
            score = torch.where(some & ~judged.feasible, torch.nan, score)
            above = score - torch.nan_to_num(score, nan=torch.inf).amin(1, keepdim=True)
            width = torch.nanmedian(above, dim=1, keepdim=True).values
            above = torch.nan_to_num(above, nan=torch.inf)
            weight = torch.softmax(-above / (config.temperature * width + 1e-9), dim=1).float()
            mean = (weight[:, :, None] * x).sum(1)
        best.take(judge(problem, problem.space.decode(mean.reshape(batch, 1, blocks, actions))))
