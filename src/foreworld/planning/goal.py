"""Goals in a latent space: be where a goal frame was taken, or at one of several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast, Imagined
from foreworld.planning.objective import Objective
from foreworld.planning.profile import Profile

Distance = Callable[[Tensor, Tensor], Tensor]


def squared_distance(latents: Tensor, goals: Tensor) -> Tensor:
    """[E, B, S, H, G] squared distances of latents [E, B, S, H, D] from goals [B, G, D]."""
    # (x - g)^2 without the five-dimensional difference: planning spends its time here.
    cross = torch.einsum("ebshd,bgd->ebshg", latents, goals)
    return latents.pow(2).sum(-1, keepdim=True) + goals.pow(2).sum(-1)[:, None, None] - 2.0 * cross


class GoalObjective(Objective):
    """How far imagined scenes are from a goal, the nearest of a subject's set of goals each time.

    Terms: `along`, the mean over the horizon; `closest`, where the plan comes nearest; `last`, at its end, which fails
    where a plan overshoots (`docs/rooms.md`); `effort`, the mean square of the actions.

    Args:
        profile: Weights.
        goals: [B, G, D] latents of G goal frames a subject; NaN where a subject has fewer.
        distance: [E, B, S, H, G] from latents and goals; the squared latent distance if None.

    Raises:
        InputError: A subject has no goal.
    """

    names = ("along", "closest", "last", "effort")

    def __init__(self, profile: Profile, goals: Tensor, distance: Distance | None = None) -> None:
        super().__init__(profile)
        if goals.dim() != 3 or torch.isnan(goals).any(-1).all(-1).any():
            raise InputError(f"goals have shape {tuple(goals.shape)}; give [B, G, D], at least one a subject")
        self.goals, self.distance = goals, distance or squared_distance

    def condition(self) -> Tensor:
        """[B, G D] the goals; where a subject has fewer than others, its first again."""
        goals = torch.where(torch.isnan(self.goals), self.goals[:, :1], self.goals)
        return goals.flatten(1)

    def terms(self, forecast: Forecast, actions: Tensor, imagined: Imagined) -> dict[str, Tensor]:
        """Terms [E, B, S], `effort` [B, S]."""
        if forecast.latents is None:
            raise InputError("this forecast was picked out of another and has no latents to compare with a goal")
        away = self.distance(forecast.latents, self.goals)
        away = torch.where(torch.isnan(away), torch.inf, away).amin(-1)
        wanted = self.profile.weights
        found = {}
        if wanted.get("along"):
            found["along"] = away.mean(-1)
        if wanted.get("closest"):
            found["closest"] = away.amin(-1)
        if wanted.get("last"):
            found["last"] = away[..., -1]
        if wanted.get("effort"):
            found["effort"] = actions.pow(2).mean((-1, -2))
        return found
