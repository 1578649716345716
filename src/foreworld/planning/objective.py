"""Objectives: what a task wants, as a cost that is the mean over scenarios of weighted terms."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast, Imagined
from foreworld.planning.profile import Profile


class Objective(ABC):
    """Sums weighted terms. Uncertainty enters through the mean over scenarios, never as a variance term.

    Args:
        profile: Weights; each must belong to one of `names`.
    """

    names: tuple[str, ...] = ()

    def __init__(self, profile: Profile) -> None:
        unknown = sorted(set(profile.weights) - set(self.names))
        if unknown:
            raise InputError(
                f"profile {profile.name} weighs {unknown[0]!r}, which is no term of {type(self).__name__}; "
                f"its terms are {', '.join(self.names)}"
            )
        self.profile = profile

    @abstractmethod
    def terms(self, forecast: Forecast, actions: Tensor, imagined: Imagined) -> dict[str, Tensor]:
        """Cost terms by name, each [E, B, S], or [B, S] where scenarios do not matter."""

    def condition(self) -> Tensor | None:
        """[B, F] what is wanted of each subject, for a policy to read (`agent.policy`); None if always the same."""
        return None

    def cost(self, forecast: Forecast, actions: Tensor, imagined: Imagined) -> Tensor:
        """[B, S] weighted sum of the terms, averaged over scenarios."""
        total: Tensor | None = None
        for name, term in self.terms(forecast, actions, imagined).items():
            weighted = self.profile.weight(name) * (term.mean(0) if term.dim() == 3 else term)
            total = weighted if total is None else total + weighted
        if total is None:
            raise InputError(f"{type(self).__name__} has no terms")
        return total


def time_weights(points: Tensor) -> Tensor:
    """[H] share of the horizon that each grid interval covers: a mean over time whatever the grid."""
    widths = torch.diff(points.float(), prepend=torch.zeros(1))
    return widths / widths.sum()
