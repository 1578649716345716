"""What both ceilings share as an `Imaginer`: the true equations answer, whatever the belief was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from foreworld.domains.treatment.ceilings.imagine import Equations, Scenarios
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.model.dynamics import HorizonGrid

# Every five minutes where doses begin to act, coarser to twelve hours: below ten, the tail of slow patients' insulin
# is missed and drives them low.
GRID = HorizonGrid(
    points=(1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 21, 24, 28, 32, 36, 44, 52, 60, 72, 84, 100, 116, 132, 144)
)


@dataclass(frozen=True)
class CeilingSizes:
    """Sizes that a forecaster asks for.

    Attributes:
        grid: Steps at which the future is predicted.
        members: Scenarios E.
    """

    grid: HorizonGrid = GRID
    members: int = 1


@dataclass(frozen=True)
class ReadyScenarios:
    """Scenarios as a forecaster hands them back.

    Attributes:
        scenarios: E of B subjects.
        context: [B, 1] zeros: no state is novel to the true equations.
    """

    scenarios: Scenarios
    context: Tensor

    def select(self, index: Tensor) -> Self:
        """Those of some subjects."""
        return replace(self, scenarios=self.scenarios.select(index.numpy()), context=self.context[index])


class EquationsModel:
    """Answers candidates by the true equations; beliefs are the subclasses' matter.

    Args:
        equations: Of the patients.
        config: Sizes; its grid is the equations'.
        spread: mg/dL, the standard deviation that is read out.
    """

    quantities = ("cgm",)
    schema = SCHEMA

    def __init__(self, equations: Equations, config: CeilingSizes, spread: float = 1.0) -> None:
        self.equations, self.config, self._spread = equations, config, spread

    def eval(self) -> Self:
        """Nothing to switch; there for the interface."""
        return self

    def normalise_actions(self, belief: object, actions: Tensor) -> Tensor:
        """Insulin [B, S, H, 1] in U a step, as it is."""
        return actions

    def normalise_exogenous(self, belief: object, exogenous: Tensor) -> Tensor:
        """Carbohydrate [B, H, 1], as it is."""
        return exogenous

    def respond(self, prepared: ReadyScenarios, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, 1]: subcutaneous glucose in mg/dL."""
        glucose = self.equations.roll_out(prepared.scenarios, actions[..., 0].double().numpy())
        return torch.from_numpy(glucose)[..., None]

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Glucose in mg/dL within the channel's bounds."""
        channel = self.schema["cgm"]
        return {"cgm": torch.clamp(latents[..., 0], min=channel.low, max=channel.high)}

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """Standard deviation in mg/dL."""
        return {"cgm": torch.full_like(latents[..., 0], self._spread)}


def ready(scenarios: Scenarios) -> ReadyScenarios:
    """Wrap scenarios of B subjects."""
    return ReadyScenarios(scenarios, torch.zeros(len(scenarios.rows), 1))
