"""The closed loop's other half: patients, their sensor and pump, stepped together through a scenario.

    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(), seed=0))
    seen = simulator.reset()
    while simulator.t < simulator.steps:
        seen = simulator.step(patients.basal / 12)

No randomness lives here: what happens follows from the patients, the scenario and the insulin alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.physiology import (
    ALIVE,
    FAILURE_GLUCOSE,
    PMOL_PER_UNIT,
    advance,
    initial_state,
    subcutaneous_glucose,
)
from foreworld.domains.treatment.scenario import Scenario
from foreworld.domains.treatment.sensor import SAMPLE_MINUTES, read_sensor
from foreworld.domains.treatment.tables import Patients
from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PUMP_INCREMENT = 0.05  # pmol/min, simglucose's Insulet and Cozmo
PUMP_LIMIT = 30.0  # U/min, Insulet; far above any dose, so the pump is no guardrail


class SimulatorConfig(BaseModel):
    """How the equations are solved.

    Attributes:
        meal_units: `fixed`, or `legacy` to stand beside results of simglucose <= 0.2.2.
        substeps: Runge-Kutta steps a minute; 1 is within 0.1 mg/dL of simglucose, 2 within 0.005.
        round_pump: round the rate to the pump's increment of 0.05 pmol/min.
        failure_glucose: mg/dL below which a patient has failed and stays frozen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    meal_units: Literal["fixed", "legacy"] = "fixed"
    substeps: int = Field(default=1, ge=1, le=10)
    round_pump: bool = False
    failure_glucose: float = Field(default=FAILURE_GLUCOSE, ge=0.0)


@dataclass(frozen=True)
class Observation:
    """What a controller may see at a decision.

    Attributes:
        t: index of the decision.
        minute: minutes since the first midnight.
        cgm: `[B]` sensor reading in mg/dL, NaN where dropped.
        announced: `[B]` grams of carbohydrate entered at this decision.
    """

    t: int
    minute: int
    cgm: FloatArray
    announced: FloatArray


@dataclass(frozen=True)
class Trajectory:
    """What happened in `run`: `cgm`, `bg` (mg/dL), `announced` (g) and `alive` `[B, n + 1]`, `insulin` (U) `[B, n]`."""

    cgm: FloatArray
    bg: FloatArray
    announced: FloatArray
    alive: BoolArray
    insulin: FloatArray


class Simulator:
    """A batch of patients in a scenario.

    Attributes:
        t: index of the current decision; `minute` is its time.
        state: `[B, 19]`, see `physiology`.
        rows: `[B]` row of the scenario that each subject follows.
        cgm: `[B]` current sensor reading in mg/dL, NaN where dropped.
        bg: `[B]` current true subcutaneous glucose in mg/dL; not for controllers.
        bg_minutes: `[B, step_minutes]` true glucose at the end of each minute of the last step.
    """

    def __init__(self, patients: Patients, scenario: Scenario, config: SimulatorConfig | None = None) -> None:
        if patients.names != scenario.names:
            raise InputError("the scenario was drawn for other patients; use Scenario.draw(patients, ...)")
        self.patients = patients
        self.scenario = scenario
        self.config = config or SimulatorConfig()
        self.rows: npt.NDArray[np.intp] = np.arange(len(patients))
        self._params = np.ascontiguousarray(patients.params)
        self.reset()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        """Number of steps in the scenario."""
        return self.scenario.steps

    @property
    def minute(self) -> int:
        """Minutes since the first midnight."""
        return self.t * self.scenario.config.step_minutes

    @property
    def announced(self) -> FloatArray:
        """`[B]` grams entered at this decision."""
        grams: FloatArray = self.scenario.announced[self.rows, self.t]
        return grams

    @property
    def alive(self) -> BoolArray:
        """`[B]` False once glucose fell below the failure bound."""
        result: BoolArray = self.state[:, ALIVE] > 0.0
        return result

    def reset(self) -> Observation:
        """Back to the first midnight and the basal steady state."""
        self.t = 0
        self.state = initial_state(self.patients)
        self.bg = subcutaneous_glucose(self.state, self._params)
        self.bg_minutes = np.repeat(self.bg[:, None], self.scenario.config.step_minutes, axis=1)
        self._sampled = self.bg.copy()
        self._held = np.full(len(self), np.nan)
        self._read()
        return self.observation()

    def observation(self) -> Observation:
        """What a controller sees now."""
        return Observation(self.t, self.minute, self.cgm.copy(), self.announced)

    def step(self, insulin: FloatArray) -> Observation:
        """Deliver `insulin` `[B]`, in U, at a constant rate over the coming step; return what is seen after it.

        Raises:
            InputError: the shape is wrong, a dose is negative or not finite, or the scenario is over.
        """
        minutes = self.scenario.config.step_minutes
        if self.t >= self.steps:
            raise InputError(f"the scenario ended after {self.steps} steps; call reset() or draw more days")
        dose = np.asarray(insulin, dtype=np.float64)
        if dose.shape != (len(self),):
            raise InputError(f"insulin has shape {dose.shape}; expected ({len(self)},), in U for the step")
        if not np.all(np.isfinite(dose) & (dose >= 0.0)):
            bad = int(np.flatnonzero(~(np.isfinite(dose) & (dose >= 0.0)))[0])
            raise InputError(f"insulin of subject {bad} is {dose[bad]} U; it must be finite and at least 0")
        rate = dose / minutes
        if self.config.round_pump:
            rate = np.round(rate * PMOL_PER_UNIT / PUMP_INCREMENT) * PUMP_INCREMENT / PMOL_PER_UNIT
        rate = np.minimum(rate, PUMP_LIMIT)
        clock = np.arange(self.minute, self.minute + minutes)
        self.bg_minutes = advance(
            self.state,
            self._params,
            self.scenario.meals[self.rows, self.minute : self.minute + minutes],
            np.repeat(rate[:, None], minutes, axis=1),
            self.scenario.sensitivity[self.rows[:, None], clock[None, :] // 60],
            meal_units=self.config.meal_units,
            substeps=self.config.substeps,
            floor=self.config.failure_glucose,
        )
        self.bg = self.bg_minutes[:, -1].copy()
        sampled = np.flatnonzero((clock + 1) % SAMPLE_MINUTES[self.scenario.config.sensor] == 0)
        if sampled.size:
            self._sampled = self.bg_minutes[:, sampled[-1]].copy()
        self.t += 1
        self._read()
        return self.observation()

    def clone(self) -> Simulator:
        """An independent simulator in the same state, on the same scenario."""
        return self.branch(1)

    def branch(self, k: int) -> Simulator:
        """A simulator in which each subject stands `k` times in a row, in the same state with the same future.

        Subject `b` of this simulator is rows `b * k ... b * k + k - 1` of the new one: give each another dose and the
        difference is the exact counterfactual. `reset()` of a branch returns to the first midnight.
        """
        if k < 1:
            raise InputError(f"k={k} must be at least 1")
        other = copy.copy(self)
        repeat = np.repeat(np.arange(len(self)), k)
        if k > 1:
            other.patients = self.patients.select(repeat)
            other._params = np.ascontiguousarray(self._params[repeat])
        other.rows = self.rows[repeat]
        other.state = self.state[repeat]
        other.bg, other.bg_minutes = self.bg[repeat], self.bg_minutes[repeat]
        other.cgm, other._sampled, other._held = self.cgm[repeat], self._sampled[repeat], self._held[repeat]
        return other

    def run(self, policy: Callable[[Observation], FloatArray], steps: int | None = None) -> Trajectory:
        """Let `policy` choose `insulin[B]`, in U, for the next `steps` steps (all that remain by default)."""
        count = self.steps - self.t if steps is None else steps
        seen = self.observation()
        cgm, bg, announced, alive = [seen.cgm], [self.bg.copy()], [seen.announced], [self.alive]
        insulin = []
        for _ in range(count):
            dose = np.asarray(policy(seen), dtype=np.float64)
            seen = self.step(dose)
            insulin.append(dose)
            cgm.append(seen.cgm)
            bg.append(self.bg.copy())
            announced.append(seen.announced)
            alive.append(self.alive)
        doses = np.stack(insulin, axis=1) if insulin else np.zeros((len(self), 0))
        return Trajectory(
            cgm=np.stack(cgm, axis=1),
            bg=np.stack(bg, axis=1),
            announced=np.stack(announced, axis=1),
            alive=np.stack(alive, axis=1),
            insulin=doses,
        )

    def _read(self) -> None:
        noise = self.scenario.noise[self.rows, self.t]
        self.cgm, self._held = read_sensor(self._sampled, noise, self.scenario.faults, self.rows, self.t, self._held)
