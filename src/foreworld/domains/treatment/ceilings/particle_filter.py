"""The filter: the true equations and parameters, but of the present only what the sensor shows, as an upper bound.

    forecaster = make_filter(patients, scenario_config)
    run_agent(insulin_agent(forecaster), simulator)

It knows each patient's parameters, the basal steady state of the first moment, the insulin it gave, the readings with
the noise's distribution and autocorrelation, what was announced with the statistics of its error, and the statistics of
meals. It knows neither the true grams nor meals that were not announced: particles draw them. A bootstrap particle
filter (Gordon, Salmond, Smith 1993); its particles are the scenarios that a plan is judged in.

It takes the sensor to be sound and insulin sensitivity to be constant, so it is no ceiling where there are faults or
drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.ceilings import particles as steps
from foreworld.domains.treatment.ceilings.chance import subject_keys
from foreworld.domains.treatment.ceilings.equations_model import CeilingSizes, EquationsModel, ReadyScenarios, ready
from foreworld.domains.treatment.ceilings.habits import STEPS_A_DAY, habits_of
from foreworld.domains.treatment.ceilings.imagine import FOOD_SCALE, Equations, insulin_of
from foreworld.domains.treatment.ceilings.kinetics import ACTION, DELAYED, after, transition
from foreworld.domains.treatment.ceilings.noise import noise_model
from foreworld.domains.treatment.physiology import MealUnits, initial_state, subcutaneous_glucose
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.sensor import HIGHEST, LOWEST
from foreworld.domains.treatment.tables import Patients
from foreworld.errors import InputError
from foreworld.model.belief import History


class FilterConfig(BaseModel):
    """Sizes and constants of the filter, chosen on the nine training patients.

    Attributes:
        particles: N a subject.
        sizes: Grid, and scenarios E of a forecast.
        sharpness: Power of the likelihood; below 1 because the noise is no exact autoregression.
        share: Resample where the effective number of particles is below this share.
        food_jitter: Standard deviation of the logarithm by which food is jittered at resampling.
        glucose_jitter: The same of glucose.
        seed: Of the particles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    particles: int = Field(default=512, ge=2)
    sizes: CeilingSizes = CeilingSizes(members=24)
    sharpness: float = Field(default=0.5, gt=0.0, le=1.0)
    share: float = Field(default=0.5, ge=0.0, le=1.0)
    food_jitter: float = Field(default=0.05, ge=0.0)
    glucose_jitter: float = Field(default=0.005, ge=0.0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Cloud:
    """N particles of each of B subjects at one moment; a function of the past alone.

    Attributes:
        x: [B, N, 19] as in `physiology`; the insulin states are not kept up.
        done: [B, N] int64, a bit for each meal of the day that has begun.
        noise: [B, N, 2] the sensor's last two transformed errors.
        logs: [B, N] log weights.
        known: [B] int64 how many of those errors are known.
        insulin: [B, 7] insulin states.
        rows: [B] int64 row of the patients.
        time: [B] float64 stamp, min.
        count: [B] int64 moments seen.
    """

    x: np.ndarray
    done: np.ndarray
    noise: np.ndarray
    logs: np.ndarray
    known: np.ndarray
    insulin: np.ndarray
    rows: np.ndarray
    time: Tensor
    count: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: Tensor) -> Self:
        """Those of some subjects."""
        return self._each(lambda value: value[index] if isinstance(value, Tensor) else value[index.numpy()])

    def copy(self) -> Self:
        """One whose arrays may be changed."""
        return self._each(lambda value: value.clone() if isinstance(value, Tensor) else value.copy())

    def weights(self) -> np.ndarray:
        """[B, N] normalised."""
        result = np.empty_like(self.logs)
        for row, logs in enumerate(self.logs):
            steps.probabilities(logs, result[row])
        return result

    def _each(self, change: Any) -> Self:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


class ParticleFilter(EquationsModel):
    """Infers food and glucose from the sensor.

    Args:
        patients: B patients in the order in which histories hold them.
        scenario: What the statistics of meals, counts and sensor are.
        config: Sizes.
        meal_units: As the simulator's.
    """

    def __init__(
        self,
        patients: Patients,
        scenario: ScenarioConfig,
        config: FilterConfig | None = None,
        *,
        meal_units: MealUnits = "fixed",
    ) -> None:
        self.settings = config or FilterConfig()
        sizes = self.settings.sizes
        super().__init__(Equations(patients.params, sizes.grid.points, FOOD_SCALE[meal_units]), sizes)
        if scenario.step_minutes != STEP_MINUTES:
            raise InputError(f"the filter needs decisions every {STEP_MINUTES} min")
        self.patients, self.habits = patients, habits_of(scenario, patients.weight)
        self._noise = noise_model(scenario.sensor)
        self._keys = subject_keys(patients.names, self.settings.seed)
        self._minute = transition(patients.params, 1.0)

    def encode(self, history: History) -> Cloud:
        """Filter whole histories, which begin at the basal steady state.

        Raises:
            InputError: They are not those of the patients, differ in length, or have another step.
        """
        if len(history) != len(self.patients) or bool((history.lengths != history.times.shape[1]).any()):
            raise InputError(f"the filter was made for {len(self.patients)} patients, with histories of equal length")
        values = history.values
        cloud = self._start(history.times[:, 0])
        self._see(cloud, values["cgm"][:, 0], values["carbs"][:, 0])
        for t in range(1, history.times.shape[1]):
            seen = {"cgm": values["cgm"][:, t], "carbs": values["carbs"][:, t]}
            cloud = self.update(cloud, history.times[:, t], seen, {"insulin": values["insulin"][:, t - 1]})
        return cloud

    def update(
        self, belief: Cloud, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Cloud:
        """Five minutes later: move, weigh by the reading, resample, take in what is announced."""
        if not torch.allclose(time - belief.time, torch.full_like(belief.time, STEP_MINUTES)):
            raise InputError(f"the filter needs one observation every {STEP_MINUTES} min, missing values as NaN")
        cloud, day = belief.copy(), self._step_of_day(belief.time)
        # Meals never straddle midnight, so the day's list begins anew there.
        cloud.done[day == 0] = 0
        moved = self._move(cloud, day, action["insulin"].double().numpy())
        moved = replace(moved, time=time.double(), count=belief.count + 1)
        self._see(moved, observation["cgm"], observation["carbs"])
        return moved

    def prepare(self, belief: Cloud, exogenous: Tensor | None = None) -> ReadyScenarios:
        """E equally likely particles and the course of their food; announcements are in them already."""
        chosen = np.empty((self.config.members, len(belief)), dtype=np.int64)
        steps.choose(belief.x, belief.logs, self.equations.params[belief.rows], chosen)
        states = belief.x[np.arange(len(belief)), chosen]
        return ready(self.equations.scenarios(states, belief.rows, belief.insulin))

    def estimate(self, belief: Cloud) -> np.ndarray:
        """[B] posterior mean of subcutaneous glucose, mg/dL."""
        size, count = belief.logs.shape
        params = np.repeat(self.equations.params[belief.rows], count, axis=0)
        glucose = subcutaneous_glucose(belief.x.reshape(size * count, -1), params).reshape(size, count)
        result: np.ndarray = (belief.weights() * glucose).sum(1)
        return result

    # --- parts -------------------------------------------------------------------------------------------------

    def _start(self, time: Tensor) -> Cloud:
        size, count = len(self.patients), self.settings.particles
        state = initial_state(self.patients)
        return Cloud(
            x=np.repeat(state[:, None], count, axis=1),
            done=np.zeros((size, count), dtype=np.int64),
            noise=np.zeros((size, count, 2)),
            logs=np.zeros((size, count)),
            known=np.zeros(size, dtype=np.int64),
            insulin=insulin_of(state),
            rows=np.arange(size),
            time=time.double(),
            count=torch.ones(size, dtype=torch.int64),
        )

    def _step_of_day(self, time: Tensor) -> np.ndarray:
        """[B] five-minute step of the day."""
        result: np.ndarray = np.round(time.numpy() / STEP_MINUTES).astype(np.int64) % STEPS_A_DAY
        return result

    def _move(self, cloud: Cloud, day: np.ndarray, dose: np.ndarray) -> Cloud:
        """Deliver `dose` [B] U over five minutes; changes the cloud's arrays, but for the insulin's."""
        rows, habits = cloud.rows, self.habits
        insulin, course = cloud.insulin, [cloud.insulin]
        for _ in range(STEP_MINUTES):
            insulin = after(self._minute[rows], insulin, dose / STEP_MINUTES)
            course.append(insulin)
        by_minute = np.stack(course, axis=1)
        steps.move(
            cloud.x, cloud.done, self.equations.params[rows],
            np.ascontiguousarray(by_minute[:, :, ACTION]), np.ascontiguousarray(by_minute[:, :, DELAYED]),
            habits.start[day] * habits.hidden, habits.grams[rows], habits.spread[rows], habits.uniform,
            self.equations.food_scale, self._keys[rows], cloud.count.numpy(),
        )  # fmt: skip
        return replace(cloud, insulin=insulin)

    def _see(self, cloud: Cloud, cgm: Tensor, carbs: Tensor) -> None:
        """Weigh by readings [B] and take in counts [B], in place."""
        rows, habits, settings = cloud.rows, self.habits, self.settings
        params, keys, moments = self.equations.params[rows], self._keys[rows], cloud.count.numpy()
        reading = cgm.double().numpy()
        # At its ends the sensor says no more than that; such a reading counts as missing.
        reading = np.where((reading > LOWEST) & (reading < HIGHEST), reading, np.nan)
        steps.weigh(
            cloud.x, cloud.noise, cloud.logs, cloud.known, params, reading,
            self._noise.weights, self._noise.spread, settings.sharpness,
        )  # fmt: skip
        steps.resample(
            cloud.x, cloud.done, cloud.noise, cloud.logs, params, settings.share,
            settings.food_jitter, settings.glucose_jitter, keys, moments,
        )  # fmt: skip
        # An announced meal began within the last five minutes.
        share = habits.share[(self._step_of_day(cloud.time) - 1) % STEPS_A_DAY]
        steps.announce(
            cloud.x, cloud.done, cloud.logs, carbs.double().numpy(), share, habits.grams[rows], habits.spread[rows],
            habits.uniform, habits.error, habits.triple, self.equations.food_scale, keys, moments,
        )  # fmt: skip
