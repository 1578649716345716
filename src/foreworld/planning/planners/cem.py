"""The cross-entropy method and iCEM over blocks of actions."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.planning.planners.base import Best, Planner
from foreworld.planning.planners.judged import Problem, judge
from foreworld.planning.planners.points import uniforms


class CEMConfig(BaseModel):
    """Settings of CEM (Rubinstein 1999) and iCEM (Pinneri et al. 2020).

    Attributes:
        samples: Candidates in the first iteration.
        iterations: Refinements.
        elites: Share of the candidates that the next distribution is fitted to.
        decay: Each iteration has this share of the candidates of the one before (iCEM; 1 in CEM).
        keep: Elites carried into the next iteration (iCEM; 0 in CEM).
        momentum: Share of the old mean and spread that is kept.
        color: Correlation of the noise between neighbouring blocks (iCEM's coloured noise; 0 in CEM).
        least: Least spread, as a share of the range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=64, ge=4)
    iterations: int = Field(default=3, ge=1)
    elites: float = Field(default=0.15, gt=0, le=1)
    decay: float = Field(default=1.0, gt=0, le=1)
    keep: int = Field(default=0, ge=0)
    momentum: float = Field(default=0.1, ge=0, lt=1)
    color: float = Field(default=0.0, ge=0, lt=1)
    least: float = Field(default=0.02, ge=0)

    @classmethod
    def icem(cls, samples: int = 64, iterations: int = 3) -> CEMConfig:
        """iCEM: kept elites, shrinking populations, coloured noise."""
        return cls(samples=samples, iterations=iterations, decay=0.75, keep=4, color=0.5)


class CEMPlanner(Planner):
    """Fits a Gaussian over block values to the best candidates, feasible ones first."""

    def __init__(self, config: CEMConfig | None = None) -> None:
        self.config = config or CEMConfig()

    def opening(self, problem: Problem) -> Tensor:
        """The sweep but for its first point, which gives way to the best of what was suggested."""
        return self.sweep(problem, self.config.samples)[:, 1:]

    @torch.inference_mode()  # nothing of a search is ever differentiated; it saves a twentieth of the time
    def search(self, problem: Problem, best: Best) -> None:
        """Refine mean and spread; every candidate is judged by every guardrail."""
        config, (blocks, actions) = self.config, problem.space.shape
        batch, dimensions = len(problem), blocks * actions
        mean = torch.full((batch, dimensions), 0.5)
        spread = torch.full((batch, dimensions), 0.35)
        kept: Tensor | None = None
        count = config.samples
        for iteration in range(config.iterations):
            if iteration == 0 and best.opened is not None:
                x, key = best.opened.points, best.opened.key
            else:
                x = self._draw(problem, best, iteration, count, mean, spread)
                if kept is not None:
                    x = torch.cat([kept, x], dim=1)
                judged = judge(problem, problem.space.decode(x.reshape(batch, -1, blocks, actions)))
                best.take(judged)
                key = judged.key
            order = key.argsort(dim=1, stable=True)
            elite = order[:, : max(2, int(config.elites * count))]
            chosen = x.gather(1, elite[:, :, None].expand(-1, -1, dimensions))
            mean = config.momentum * mean + (1 - config.momentum) * chosen.mean(1)
            spread = config.momentum * spread + (1 - config.momentum) * chosen.std(1, correction=0)
            spread = spread.clamp(min=config.least)
            kept = chosen[:, : config.keep] if config.keep else None
            count = max(4, int(count * config.decay))

    def _draw(self, problem: Problem, best: Best, iteration: int, count: int, mean: Tensor, spread: Tensor) -> Tensor:
        """[B, count, K A] candidates of an iteration."""
        if iteration == 0:
            # The best of what was suggested competes for the elites.
            suggested = problem.space.encode(best.blocks[:, None]).flatten(2)
            return torch.cat([suggested, self.sweep(problem, count)[:, 1:]], dim=1)
        noise = torch.special.ndtri(uniforms(problem.keys + 7919 * iteration, count, mean.shape[1]))
        noise = _coloured(noise.reshape(*noise.shape[:2], *problem.space.shape), self.config.color).flatten(2)
        return (mean[:, None] + spread[:, None] * noise).clamp(0, 1)

    def sweep(self, problem: Problem, count: int) -> Tensor:
        """[B, count, K A] where the search begins: uniform, so that no corner is left out because a mean is central."""
        blocks, actions = problem.space.shape
        return uniforms(problem.keys, count, blocks * actions)


def _coloured(noise: Tensor, correlation: float) -> Tensor:
    """First-order autoregressive noise along the blocks of [B, S, K, A], with unit variance."""
    if correlation == 0.0:
        return noise
    parts, fresh = [noise[:, :, 0]], (1 - correlation**2) ** 0.5
    for k in range(1, noise.shape[2]):
        parts.append(correlation * parts[-1] + fresh * noise[:, :, k])
    return torch.stack(parts, dim=2)
