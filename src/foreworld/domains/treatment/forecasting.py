"""The protocol `treatment/forecast`: how well glucose is foreseen when the insulin and the entries to come are known.

    record = record_therapy(load_patients(UNSEEN), ForecastConfig(), seed=0)
    scores = score(record, {"foreworld": ForecasterArm(forecaster), ...}, grid, ForecastConfig())

Of the readings of the protocol, the one here comes nearest to the figures measured elsewhere (30 patients: persistence
22.5/36.0/51.1, AR(12) 19.4/31.4/42.6, ARX with known inputs 14.0/19.2/23.9 mg/dL at 30/60/120 min): entries as the
person counted them, wrong by 30 %, boluses within the protocols' cap, whoever failed left out, errors pooled. With
grams truly eaten the same ARX has about 12.6/16.0/19.0. Every arm is given the same channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.controllers import BasalBolus
from foreworld.domains.treatment.dosing import FloatArray, basal_step
from foreworld.domains.treatment.scenario import MINUTES_A_DAY, Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation, Simulator
from foreworld.domains.treatment.tables import Patients
from foreworld.domains.treatment.windows import future_readings
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

DAY = MINUTES_A_DAY // STEP_MINUTES


class ForecastConfig(BaseModel):
    """The protocol's numbers.

    Attributes:
        days: Days recorded.
        fit_days: Of them, those that per-patient models may be fitted on; the rest is scored.
        scenario: Meals, carb error and sensor; `days` is taken from above.
        basal_low: Least factor on the profile basal.
        basal_high: Greatest factor.
        hold_low: Shortest time that a factor holds, in hours.
        hold_high: Longest time.
        stride: Steps between two scored forecasts; no multiple of the 15 minutes at which the sensor's noise is drawn,
            or every forecast would be scored at the same phase of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(default=15, ge=2)
    fit_days: int = Field(default=10, ge=1)
    scenario: ScenarioConfig = ScenarioConfig(meals="stock")
    basal_low: float = Field(default=0.5, ge=0)
    basal_high: float = Field(default=1.5, ge=0)
    hold_low: float = Field(default=3.0, gt=0)
    hold_high: float = Field(default=6.0, gt=0)
    stride: int = Field(default=7, ge=1)


@dataclass(frozen=True)
class Record:
    """Logged therapy of those patients who lived through it.

    Attributes:
        patients: B patients.
        history: Their whole record, [B, N + 1] moments.
        scenario: What happened to them, row by row.
        bg: [B, N + 1] true glucose, mg/dL; no arm sees it.
        failed: Names of the patients left out: below 10 mg/dL the simulated patient stands still.
    """

    patients: Patients
    history: History
    scenario: Scenario
    bg: FloatArray
    failed: tuple[str, ...]

    def before(self, moments: int) -> History:
        """The first moments of the record; nothing later is in it."""
        values = {
            name: value
            if SCHEMA[name].role.value == "static"
            else value[:, : moments - 1 if SCHEMA[name].role.value == "action" else moments].clone()
            for name, value in self.history.values.items()
        }
        lengths = torch.full_like(self.history.lengths, moments)
        return History(self.history.times[:, :moments].clone(), values, lengths)


class RandomBasal:
    """Basal-bolus therapy whose basal is the profile's times a factor that is redrawn every few hours.

    Args:
        config: Range of the factor and how long it holds.
        seed: Of the draws; each patient has a stream of its own.
    """

    def __init__(self, config: ForecastConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._therapy = BasalBolus()

    def reset(self, patients: Patients) -> None:
        """Serve these patients from now on."""
        self._patients = patients
        self._therapy.reset(patients)
        self._streams = [np.random.default_rng([self.seed, *name.encode()]) for name in patients.names]
        self._factor = np.ones(len(patients))
        self._left = np.zeros(len(patients), dtype=int)

    def act(self, seen: Observation) -> FloatArray:
        """The insulin of the coming 5 minutes, [B] U."""
        c = self.config
        for row in np.flatnonzero(self._left <= 0):
            draw = self._streams[row]
            self._factor[row] = draw.uniform(c.basal_low, c.basal_high)
            self._left[row] = round(draw.uniform(c.hold_low, c.hold_high) * 60 / STEP_MINUTES)
        self._left -= 1
        dose: FloatArray = self._therapy.act(seen) + basal_step(self._patients) * (self._factor - 1.0)
        return np.maximum(dose, 0.0)


def record_therapy(patients: Patients, config: ForecastConfig, seed: int) -> Record:
    """Record the protocol's therapy; patients who failed are left out.

    Raises:
        InputError: Everybody failed.
    """
    scenario_config = config.scenario.model_copy(update={"days": config.days})
    scenario, therapy = Scenario.draw(patients, scenario_config, seed), RandomBasal(config, seed)
    therapy.reset(patients)
    run = Simulator(patients, scenario).run(therapy.act)
    alive = np.flatnonzero(run.alive[:, -1])
    if not len(alive):
        raise InputError(f"all {len(patients)} patients failed; use another seed or milder therapy")
    kept = patients.select(alive)
    groups = SCHEMA["age_group"].categories
    values = {
        "cgm": run.cgm[alive],
        "insulin": run.insulin[alive],
        "carbs": run.announced[alive],
        "weight": kept.weight,
        "basal": kept.basal,
        "cr": kept.cr,
        "cf": kept.cf,
        "age_group": np.array([groups.index(group) for group in kept.group]),
    }
    times = np.tile(STEP_MINUTES * np.arange(run.cgm.shape[1], dtype=np.float64), (len(kept), 1))
    failed = tuple(name for row, name in enumerate(patients.names) if row not in set(alive.tolist()))
    # Drawn anew, the rows of those who remain are the same: a subject's draw does not depend on its batch.
    return Record(
        kept,
        History.from_arrays(SCHEMA, times, values),
        Scenario.draw(kept, scenario_config, seed),
        run.bg[alive],
        failed,
    )


@dataclass(frozen=True)
class Prediction:
    """Forecasts from N moments of B subjects.

    Attributes:
        mean: [B, N, H] mg/dL.
        lower: [B, N, H] lower end of the 90 % band.
        upper: [B, N, H] upper end.
        stays: [B, N, H] share of futures that are within a range at every point up to each; None where an arm has no
            futures, or none were asked for.
    """

    mean: Tensor
    lower: Tensor
    upper: Tensor
    stays: Tensor | None = None


class Arm(Protocol):
    """Forecasts with known insulin and entries."""

    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """Forecasts from moments [B, N] at every point of the grid.

        An arm may read all of the record up to each moment, and insulin and entries after it. It may fit itself on
        the first `fit_moments` moments.
        """


@dataclass(frozen=True)
class ForecastScores:
    """Errors of one arm, by subject.

    Attributes:
        subjects: B names.
        groups: B age groups.
        points: H steps ahead.
        squared: [B, H] mean squared error against CGM, (mg/dL)^2.
        bias: [B, H] mean of forecast minus CGM, mg/dL.
        covered: [B, H] share of readings inside the 90 % band.
        count: [B, H] forecasts scored.
    """

    subjects: tuple[str, ...]
    groups: tuple[str, ...]
    points: tuple[int, ...]
    squared: FloatArray
    bias: FloatArray
    covered: FloatArray
    count: npt.NDArray[np.int64]

    def at(self, minutes: int) -> FloatArray:
        """[B] mean squared error at a horizon; its square root after pooling is the RMSE."""
        values: FloatArray = self.squared[:, self.points.index(minutes // STEP_MINUTES)]
        return values

    def rmse(self, minutes: int) -> float:
        """RMSE over all subjects, each with equal weight."""
        return float(np.sqrt(self.at(minutes).mean()))


def scored_moments(record: Record, grid: HorizonGrid, config: ForecastConfig) -> Tensor:
    """[B, N] moments of the scored days from which the whole grid can be scored; the same for every arm.

    Raises:
        InputError: There is none.
    """
    first, last = config.fit_days * DAY, record.history.times.shape[1] - grid.last
    if first >= last:
        raise InputError(
            f"no moment to score: {config.days} days, of which the first {config.fit_days} are for fitting"
        )
    return torch.arange(first, last, config.stride).expand(len(record.patients), -1)


def score(
    record: Record, arms: Mapping[str, Arm], grid: HorizonGrid, config: ForecastConfig
) -> dict[str, ForecastScores]:
    """Score every arm on the same moments and the same readings.

    Args:
        record: From `record_therapy`.
        arms: By name.
        grid: Horizon points.
        config: Says which days are scored.
    """
    at = scored_moments(record, grid, config)
    return {
        name: scores_of(record, at, arm.predict(record, at, grid, config.fit_days * DAY), grid)
        for name, arm in arms.items()
    }


def scores_of(record: Record, at: Tensor, forecast: Prediction, grid: HorizonGrid) -> ForecastScores:
    """The errors of forecasts from moments [B, N], of all readings that were measured."""
    truth = future_readings(record.history, at, grid)
    measured = ~torch.isnan(truth)
    count = measured.sum(1)
    error = torch.where(measured, forecast.mean - truth, torch.zeros_like(truth))
    inside = measured & (truth >= forecast.lower) & (truth <= forecast.upper)
    return ForecastScores(
        subjects=record.patients.names,
        groups=record.patients.group,
        points=grid.points,
        squared=((error**2).sum(1) / count).numpy(),
        bias=(error.sum(1) / count).numpy(),
        covered=(inside.sum(1) / count).double().numpy(),
        count=count.numpy(),
    )
