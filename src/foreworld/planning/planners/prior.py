"""Sampling with a prior: the search begins with what is usually done, not with what could be."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.planners.judged import Problem
from foreworld.planning.planners.points import uniforms


class Prior(Protocol):
    """Knows what is usually done; learned (`agent.policy`) or written down."""

    def propose(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Mean and spread of plans, both [B, K, A] in the unit cube of `problem.space`."""


class PriorPlanner(CEMPlanner):
    """CEM whose first candidates come from a prior; with one iteration, sampling from the prior and nothing else.

    The prior decides where to look, never what may be done: its candidates are judged as everybody's.

    Args:
        prior: Proposes.
        config: As of CEM.
        broad: Share of the first candidates that are spread over the whole space, against a prior that is wrong.

    Raises:
        InputError: `broad` is no share.
    """

    def __init__(self, prior: Prior, config: CEMConfig | None = None, *, broad: float = 0.25) -> None:
        super().__init__(config)
        if not 0.0 <= broad <= 1.0:
            raise InputError(f"broad is a share within 0 and 1, got {broad}")
        self.prior, self.broad = prior, broad

    def sweep(self, problem: Problem, count: int) -> Tensor:
        """[B, count, K A] draws from the prior, the rest spread evenly.

        Raises:
            InputError: The prior gives another shape than the space has.
        """
        shape = problem.space.shape
        mean, spread = self.prior.propose(problem)
        if mean.shape != (len(problem), *shape) or spread.shape != mean.shape:
            raise InputError(
                f"the prior gave shapes {tuple(mean.shape)} and {tuple(spread.shape)}, expected "
                f"{(len(problem), *shape)}: [B, K, A]"
            )
        points = uniforms(problem.keys, count, shape[0] * shape[1])
        drawn = mean.flatten(1)[:, None] + spread.flatten(1)[:, None] * torch.special.ndtri(points)
        drawn = torch.nan_to_num(drawn, nan=0.5).clamp(0, 1)
        # The prior's own choice is among them; the first gives way to the best of what was suggested.
        drawn[:, 1] = torch.nan_to_num(mean.flatten(1), nan=0.5).clamp(0, 1)
        wide = int(self.broad * count)
        return torch.cat([drawn[:, : count - wide], points[:, count - wide :]], dim=1)
