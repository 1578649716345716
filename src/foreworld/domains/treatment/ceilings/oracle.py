"""The oracle: the same planner and guardrails on the true equations and the true state, as an upper bound.

    forecaster = make_oracle(simulator)
    run_agent(insulin_agent(forecaster), simulator)

At a decision it knows the state of every patient exactly, which holds the true grams on the table and in the stomach;
the true grams of a meal that is announced at this very decision; and how insulin sensitivity will go (it is part of the
equations). It knows nothing of meals that have not begun, and it never looks at the sensor. Because it reads the
simulator it serves one simulator, at the simulator's own time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.treatment.ceilings.equations_model import CeilingSizes, EquationsModel, ReadyScenarios, ready
from foreworld.domains.treatment.ceilings.imagine import FOOD_SCALE, Equations, insulin_of
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Simulator
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.belief import History


@dataclass(frozen=True)
class TrueState:
    """What is true of B subjects at one moment.

    Attributes:
        state: [B, 19] as in `physiology`.
        meal: [B] g that were announced now and will be on the table within this minute.
        sensitivity: [B, T] factor on insulin sensitivity in each step to come.
        rows: [B] place among the simulator's patients.
        count: [B] int64 moments seen.
    """

    state: np.ndarray
    meal: np.ndarray
    sensitivity: np.ndarray
    rows: np.ndarray
    count: Tensor

    def __len__(self) -> int:
        return len(self.state)

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        at = index.numpy()
        return replace(
            self, state=self.state[at], meal=self.meal[at], sensitivity=self.sensitivity[at], rows=self.rows[at],
            count=self.count[index],
        )  # fmt: skip


class Oracle(EquationsModel):
    """Looks the state up in a simulator.

    Args:
        simulator: The one that the agent acts in.
        config: Grid; `members` is 1.
    """

    def __init__(self, simulator: Simulator, config: CeilingSizes | None = None) -> None:
        config = config or CeilingSizes()
        if simulator.scenario.config.step_minutes != STEP_MINUTES:
            raise InputError(f"the oracle needs decisions every {STEP_MINUTES} min")
        scale = FOOD_SCALE[simulator.config.meal_units]
        super().__init__(Equations(simulator.patients.params, config.grid.points, scale), config)
        self.simulator = simulator

    def encode(self, history: History) -> TrueState:
        """The true state at the end of the histories, which must be the simulator's present.

        Raises:
            InputError: The simulator is at another time, or has other subjects.
        """
        return self._look(history.times[torch.arange(len(history)), history.lengths - 1], history.lengths)

    def update(
        self, belief: TrueState, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> TrueState:
        """The true state now; raises as `encode`."""
        return self._look(time, belief.count + 1)

    def prepare(self, belief: TrueState, exogenous: Tensor | None = None) -> ReadyScenarios:
        """The course of the food that the state holds; of announcements the state knows better."""
        coming = np.full((1, len(belief), 1, 2), -1.0)
        coming[0, :, 0, 0] = np.where(belief.meal > 0.0, 0.0, -1.0)
        coming[0, :, 0, 1] = belief.meal
        return ready(
            self.equations.scenarios(
                belief.state[None], belief.rows, insulin_of(belief.state), belief.sensitivity, coming
            )
        )

    def _look(self, time: Tensor, count: Tensor) -> TrueState:
        simulator = self.simulator
        size, minute = len(simulator), simulator.minute
        if len(time) != size or bool((time != minute).any()):
            raise InputError(
                f"the oracle reads a simulator of {size} subjects at minute {minute} and was asked about {len(time)} "
                f"at minute {float(time[0]):g}; run it in the loop of its own simulator"
            )
        scenario = simulator.scenario
        announced = scenario.announced[simulator.rows, simulator.t] > 0.0
        starting = scenario.meals[simulator.rows, min(minute, scenario.meals.shape[1] - 1)]
        ahead = minute + STEP_MINUTES * np.arange(self.config.grid.last)
        hours = np.minimum(ahead // 60, scenario.sensitivity.shape[1] - 1)
        return TrueState(
            simulator.state.copy(),
            np.where(announced & (minute < scenario.meals.shape[1]), starting, 0.0),
            scenario.sensitivity[simulator.rows[:, None], hours],
            np.arange(size),
            count,
        )


def make_oracle(simulator: Simulator, config: CeilingSizes | None = None) -> Forecaster:
    """The oracle's forecaster for `insulin_agent`; it needs no calibration, as it does not err."""
    return Forecaster(Oracle(simulator, config))
