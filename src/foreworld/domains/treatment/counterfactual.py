"""The protocol `treatment/counterfactual`: what would have happened with other insulin, against the exact answer.

    record = record_therapy(load_patients(UNSEEN), config.therapy, seed=0)
    branches = branch_out(record, grid, config, seed=0)
    samples = compare(branches, ForecasterEffect(forecaster).effect(branches, branches.insulin), 120)
    samples.sign(), samples.slope(), samples.rmse()

From a state of ordinary therapy the simulator is branched. In every branch all the insulin that therapy gave over the
coming hours, basal and boluses alike, is multiplied by 0, 0.5, 1 or 2; meals, and everything else, are the same. The
truth is the difference in true glucose from the branch with factor 1: exact, without sensor noise. A model predicts the
same difference from its belief before the branching. The insulin is given as a fixed sequence: in no branch does
therapy answer to what it caused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.forecast_arms import PatientARX, beliefs_along, rows
from foreworld.domains.treatment.forecasting import DAY, ForecastConfig, Record
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.windows import future_amounts
from foreworld.errors import InputError
from foreworld.evidence.statistics import Interval, cluster_bootstrap
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

CHUNK = 1024  # states imagined at a time; bounds memory


class CounterfactualConfig(BaseModel):
    """The protocol's numbers.

    Attributes:
        therapy: Days, meals and basal of the therapy that is branched; branches start after its `fit_days`.
        factors: On the insulin of the coming hours; 1 must be among them.
        minutes: When glucose is compared.
        states: States of each patient.
        least: Smallest true change that is judged, mg/dL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    therapy: ForecastConfig = ForecastConfig(scenario=ScenarioConfig())
    factors: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    minutes: tuple[int, ...] = (60, 120, 240)
    states: int = Field(default=48, ge=1)
    least: float = Field(default=5.0, gt=0)


@dataclass(frozen=True)
class Branches:
    """K branches from N states of each of B patients, and their exact effects at M times.

    Attributes:
        config: The protocol.
        record: The therapy that was branched.
        grid: Horizon grid on which insulin is given to the models.
        at: [B, N] moments of the states.
        insulin: [B, N, K, H] U, mean amount a step in each interval.
        carbs: [B, N, H] g, entries to come, the same in all branches.
        bg: [B, N, K, M] true glucose, mg/dL; NaN where the patient failed by then.
    """

    config: CounterfactualConfig
    record: Record
    grid: HorizonGrid
    at: Tensor
    insulin: Tensor
    carbs: Tensor
    bg: FloatArray

    @property
    def usual(self) -> int:
        """Which of the K branches has the factor 1."""
        return self.config.factors.index(1.0)

    @property
    def change(self) -> FloatArray:
        """[B, N, K, M] true change from the branch with factor 1, mg/dL."""
        result: FloatArray = self.bg - self.bg[:, :, self.usual, None]
        return result


def branch_out(record: Record, grid: HorizonGrid, config: CounterfactualConfig, seed: int) -> Branches:
    """Follow a record through the simulator and branch it at random moments after its fitting days.

    Args:
        record: From `record_therapy`.
        grid: Of the models that are judged.
        config: The protocol.
        seed: Of the moments, which all patients of a record share.

    Raises:
        InputError: No branch has factor 1, the grid ends too early, or the record is too short.
    """
    if 1.0 not in config.factors:
        raise InputError(f"factors {config.factors} lack 1, the branch that all are compared with")
    marks = [minute // STEP_MINUTES for minute in config.minutes]
    if max(marks) > grid.last:
        raise InputError(f"effects at {max(config.minutes)} min are beyond the grid's {grid.last} steps")
    # Factors hold to the end of the grid's interval that is compared last, so that intervals are not torn apart.
    span = min(point for point in grid.points if point >= max(marks))
    moments = np.arange(config.therapy.fit_days * DAY, record.bg.shape[1] - grid.last)
    if len(moments) < config.states:
        raise InputError(f"{len(moments)} moments after the fitting days are too few for {config.states} states")
    chosen = np.sort(np.random.default_rng(seed).choice(moments, config.states, replace=False))
    at = torch.from_numpy(chosen).expand(len(record.patients), -1)
    given = record.history.values["insulin"].double()
    factors = torch.ones(len(config.factors), grid.last, dtype=torch.float64)
    factors[:, :span] = torch.tensor(config.factors, dtype=torch.float64)[:, None]
    future = given[torch.arange(len(given))[:, None, None], at[:, :, None] + torch.arange(grid.last)]
    insulin = (future[:, :, None] * factors) @ grid.averaging().double().T
    bg = _glucose_in_branches(record, chosen, config.factors, marks)
    return Branches(config, record, grid, at, insulin, future_amounts(record.history, at, grid)[1], bg)


def _glucose_in_branches(
    record: Record, moments: npt.NDArray[np.int64], factors: Sequence[float], marks: Sequence[int]
) -> FloatArray:
    """[B, N, K, M] true glucose `marks` steps after each moment; NaN where the patient failed."""
    simulator, given = Simulator(record.patients, record.scenario), record.history.values["insulin"].double().numpy()
    subjects, several = len(record.patients), np.asarray(factors)
    bg = np.full((subjects, len(moments), len(factors), len(marks)), np.nan)
    for n, moment in enumerate(moments):
        while simulator.t < moment:
            simulator.step(given[:, simulator.t])
        branch = simulator.branch(len(factors))
        for ahead in range(1, max(marks) + 1):
            branch.step((given[:, branch.t, None] * several).ravel())
            if ahead in marks:
                now = np.where(branch.alive, branch.bg, np.nan)
                bg[:, n, :, list(marks).index(ahead)] = now.reshape(subjects, -1)
    return bg


class EffectArm(Protocol):
    """Predicts what other insulin would change."""

    def effect(self, branches: Branches, insulin: Tensor) -> FloatArray:
        """[B, N, K, M] predicted change from the branch with factor 1, mg/dL.

        Args:
            branches: States; what followed them is not to be read, except the entries.
            insulin: [B, N, K, H] U a step: `branches.insulin`, or `shuffled(branches)` for the negative control.
        """


class ForecasterEffect:
    """A model's imagined branches, one against the other."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    def effect(self, branches: Branches, insulin: Tensor) -> FloatArray:
        """See `EffectArm`."""
        return _imagined_change(self.forecaster, branches.record.history, branches, insulin, branches.at)


class PatientEffect:
    """The ARX fitted on each patient's own first days."""

    def __init__(self, arx: PatientARX) -> None:
        self.arx = arx

    def effect(self, branches: Branches, insulin: Tensor) -> FloatArray:
        """See `EffectArm`."""
        record, parts = branches.record, []
        fitted = self.arx.fit(record.before(branches.config.therapy.fit_days * DAY))
        for row, forecaster in enumerate(fitted):
            one = slice(row, row + 1)
            part = Branches(
                branches.config,
                record,
                branches.grid,
                branches.at[one],
                branches.insulin[one],
                branches.carbs[one],
                branches.bg[one],
            )
            parts.append(_imagined_change(forecaster, rows(record.history, [row]), part, insulin[one], part.at))
        return np.concatenate(parts)


class ConstantEffect:
    """For each factor and time, the mean change that training patients had: what needs no model of the state.

    Args:
        training: Branches of training patients, under the same protocol.
    """

    def __init__(self, training: Branches) -> None:
        self.mean = np.nanmean(training.change, axis=(0, 1))

    def effect(self, branches: Branches, insulin: Tensor) -> FloatArray:
        """See `EffectArm`; the sequences are not read, only which branch it is."""
        return np.broadcast_to(self.mean, branches.bg.shape).copy()


def shuffled(branches: Branches, seed: int) -> Tensor:
    """The negative control: every branch is given the insulin of another branch of anybody's, [B, N, K, H] U.

    Sequences change hands in hours of basal, so that they stay plausible for whom they are given to.
    """
    basal = torch.from_numpy(branches.record.patients.basal)[:, None, None, None]
    relative = (branches.insulin / basal).flatten(0, 2)
    order = torch.randperm(len(relative), generator=torch.Generator().manual_seed(seed))
    return relative[order].reshape(branches.insulin.shape) * basal


@torch.no_grad()
def _imagined_change(
    forecaster: Forecaster, history: History, branches: Branches, insulin: Tensor, at: Tensor
) -> FloatArray:
    """[B, N, K, M] change of the mean forecast from that of the branch with factor 1."""
    if forecaster.model.config.grid != branches.grid:
        raise InputError("the model's horizon grid is not that of the branches; branch on the model's grid")
    beliefs = beliefs_along(forecaster.model, history, at)
    carbs, actions = branches.carbs.flatten(0, 1).float(), insulin.flatten(0, 1).float()
    means = []
    for index in torch.split(torch.arange(at.numel()), CHUNK):
        imagined = forecaster.begin(beliefs.select(index), carbs[index, :, None])
        means.append(forecaster.forecast(imagined, actions[index, ..., None]).mean["cgm"].double())
    mean = torch.cat(means).reshape(*insulin.shape)
    change = mean - mean[:, :, branches.usual, None]
    values: FloatArray = (change @ _reading(branches.grid, branches.config.minutes).T).numpy()
    return values


def _reading(grid: HorizonGrid, minutes: Sequence[int]) -> Tensor:
    """[M, H] weights that read a change, zero at the start, linearly between the grid's points."""
    weights = torch.zeros(len(minutes), len(grid), dtype=torch.float64)
    for row, minute in enumerate(minutes):
        step = minute / STEP_MINUTES
        after = next(i for i, point in enumerate(grid.points) if point >= step)
        before = grid.points[after - 1] if after else 0
        share = (step - before) / (grid.points[after] - before)
        weights[row, after] = share
        if after:
            weights[row, after - 1] = 1.0 - share
    return weights


@dataclass(frozen=True)
class EffectSamples:
    """True and predicted changes that are large enough to be judged; patients are the independent units.

    Attributes:
        subjects: [n] patient of each sample.
        true: [n] mg/dL.
        predicted: [n] mg/dL.
    """

    subjects: tuple[str, ...]
    true: FloatArray
    predicted: FloatArray

    def __len__(self) -> int:
        return len(self.subjects)

    def __add__(self, other: EffectSamples) -> EffectSamples:
        """Samples of another seed; a patient of both stays one unit."""
        return EffectSamples(
            self.subjects + other.subjects,
            np.concatenate([self.true, other.true]),
            np.concatenate([self.predicted, other.predicted]),
        )

    def sign(self) -> Interval:
        """Share of predictions with the right sign; no change predicted is wrong."""
        right = (np.sign(self.true) == np.sign(self.predicted)).astype(float)
        return cluster_bootstrap(right, self.subjects)

    def slope(self) -> Interval:
        """Least-squares slope of predicted on true change, through the origin: no other insulin, no change."""
        return cluster_bootstrap(self.predicted / self.true, self.subjects, weights=self.true**2)

    def rmse(self) -> Interval:
        """Root mean squared error of the predicted change, mg/dL."""
        return cluster_bootstrap((self.predicted - self.true) ** 2, self.subjects, transform=np.sqrt)


def compare(branches: Branches, predicted: FloatArray, minutes: int) -> EffectSamples:
    """The samples at one time where glucose truly changed by at least `least`.

    Args:
        branches: The truth.
        predicted: [B, N, K, M] from an `EffectArm`.
        minutes: One of the protocol's times.

    Raises:
        InputError: The time is not one of the protocol's, or nothing changed enough.
    """
    if minutes not in branches.config.minutes:
        raise InputError(f"{minutes} min is not compared; choose among {branches.config.minutes}")
    column = branches.config.minutes.index(minutes)
    true, guess = branches.change[..., column], predicted[..., column]
    # Comparison with NaN is false: who failed is not judged.
    judged = np.abs(true) >= branches.config.least
    if not judged.any():
        raise InputError(f"no true change of {branches.config.least} mg/dL at {minutes} min; branch more states")
    names = np.asarray(branches.record.patients.names)
    return EffectSamples(tuple(names[np.nonzero(judged)[0]].tolist()), true[judged], guess[judged])
