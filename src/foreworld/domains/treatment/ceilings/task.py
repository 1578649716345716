"""The insulin task with costs for someone who knows the patient: the same guardrails, a sharper edge.

The task's own costs keep their distance from both ends of the range, because models err; whoever has the true equations
need not, and may foresee a meal. The guardrails on states, the dose limits and the checker stay what they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreworld.agent.agent import Agent
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.task import PROFILES, CoveredDose, GlucoseObjective, InsulinTask
from foreworld.forecast.forecaster import Forecast, Forecaster, Imagined
from foreworld.planning.objective import time_weights
from foreworld.planning.planners.base import Planner
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.profile import Profile

# mg/dL; chosen on the nine training patients: the oracle's time in range in all four settings.
HIGH_FROM, LOW_FROM = 100.0, 95.0
HIGH_WIDTH, LOW_WIDTH = 50.0, 12.0


class EdgeObjective(GlucoseObjective):
    """The task's terms with other numbers: highs count from lower on, lows only near the edge, and there steeply."""

    def terms(self, forecast: Forecast, actions: Tensor, imagined: Imagined) -> dict[str, Tensor]:
        """By term, [E, B, S] or [B, S]."""
        glucose, weights = forecast.samples["cgm"], time_weights(forecast.points)
        high = torch.clamp((glucose - HIGH_FROM) / HIGH_WIDTH, min=0.0) ** 2
        low = torch.clamp((LOW_FROM - glucose) / LOW_WIDTH, min=0.0) ** 2
        return {
            "high": high @ weights,
            "low": low @ weights,
            "insulin": 0.02 * (actions[..., 0].square() @ weights),
        }


class CeilingTask(InsulinTask):
    """The insulin task with `EdgeObjective`."""

    def objective(self, profile: Profile) -> EdgeObjective:
        """Glucose within range, by the profile's weights."""
        return EdgeObjective(profile)


def ceiling_agent(
    forecaster: Forecaster,
    *,
    profile: Profile = PROFILES["standard"],
    planner: Planner | None = None,
    limits: InsulinLimits | None = None,
    seed: int = 0,
) -> Agent:
    """`loop.insulin_agent` with the costs of `CeilingTask`; that one itself takes the same forecasters.

    Args:
        forecaster: From `make_oracle` or `make_filter`.
        profile: Preference profile.
        planner: Search; iCEM with 24 candidates and 3 iterations if None, as good here as twice as many.
        limits: Numbers of the insulin pack, for planner and checker alike.
        seed: Of the candidates.
    """
    planner = planner or CEMPlanner(CEMConfig.icem(samples=24, iterations=3))
    agent = insulin_agent(forecaster, profile=profile, planner=planner, limits=limits, seed=seed)
    task = agent.task
    assert isinstance(task, InsulinTask)
    agent.task = CeilingTask(task.limits, tuple(g for g in task.guardrails if not isinstance(g, CoveredDose)))
    return agent
