"""A PID controller on the basal rate, tuned for each patient; it is told of no meal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.dosing import (
    HOLD_MINUTES,
    FloatArray,
    Memory,
    basal_step,
    dose_cap,
    held_glucose,
    line,
)
from foreworld.domains.treatment.metrics import time_below, time_in_range
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation, Simulator, SimulatorConfig
from foreworld.domains.treatment.tables import Patients
from foreworld.errors import InputError

# Beyond every evaluation seed, and beyond a thousand times one: episodes of one patient count up from there.
TUNING_SEED = 1_000_000_000
# Gains and target, least and greatest: where most people's lie, and a wider box for a child whose meals are an adult's.
USUAL = ((0.004, 0.15), (1e-6, 1e-3), (0.1, 12.0), (105.0, 150.0))
GENTLE = ((5e-4, 0.15), (1e-8, 1e-3), (0.01, 12.0), (105.0, 200.0))
NEAR = 2.0  # the last round stays within this factor of the best so far


@dataclass(frozen=True)
class PIDGains:
    """Gains by patient, in fractions of the profile basal, so that they fit a child and an adult alike.

    Attributes:
        names: `[N]` patients.
        proportional: `[N]` per mg/dL above the target.
        integral: `[N]` per mg/dL and minute.
        derivative: `[N]` per mg/dL/min of rise.
        target: `[N]` mg/dL.
    """

    names: tuple[str, ...]
    proportional: FloatArray
    integral: FloatArray
    derivative: FloatArray
    target: FloatArray

    def rows(self, patients: Patients) -> list[int]:
        """The row of each patient; patients may come in any order and more than once.

        Raises:
            InputError: a patient has no gains.
        """
        position = {name: row for row, name in enumerate(self.names)}
        missing = sorted(set(patients.names) - set(position))
        if missing:
            raise InputError(f"no PID gains for {missing[0]}; run tune_pid for every patient of the batch")
        return [position[name] for name in patients.names]


class PIDConfig(BaseModel):
    """What is common to all patients.

    Attributes:
        suspend: mg/dL below which no insulin is delivered.
        trend_minutes: readings that make the slope; sensor noise forbids a two-point difference.
        most: greatest integral term, in basal rates.
        least: smallest integral term, in basal rates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suspend: float = Field(default=80.0, gt=0.0)
    trend_minutes: float = Field(default=20.0, ge=10.0)
    most: float = Field(default=3.0, ge=0.0)
    least: float = Field(default=-1.0, le=0.0)


class PID:
    """`basal x (1 + P error + I sum of error + D slope)`, anti-windup by clamping, low suspend: the arm `pid`."""

    _summed: FloatArray

    def __init__(self, gains: PIDGains, config: PIDConfig | None = None) -> None:
        self.gains = gains
        self.config = config or PIDConfig()

    def reset(self, patients: Patients) -> None:
        """See `Controller`."""
        self._start(patients, self.gains.rows(patients))

    def act(self, seen: Observation) -> FloatArray:
        """See `Controller`."""
        x, gains, rows = self.config, self.gains, self._rows
        history = self._memory.see(seen)
        glucose, slope = held_glucose(history), np.nan_to_num(line(history, x.trend_minutes)[1])
        error = np.nan_to_num(glucose - gains.target[rows])
        summed = np.clip(self._summed + gains.integral[rows] * STEP_MINUTES * error, x.least, x.most)
        wanted = 1.0 + gains.proportional[rows] * error + summed + gains.derivative[rows] * slope
        dose = np.clip(self._basal * wanted, 0.0, self._cap)
        dose = np.where(glucose < x.suspend, 0.0, dose)
        # Anti-windup: where the pump cannot follow, the integral only moves back towards what it can deliver.
        stuck = ((dose <= 0.0) & (error < 0.0)) | ((dose >= self._cap) & (error > 0.0))
        blind = np.isnan(glucose)
        self._summed = np.where(stuck | blind, self._summed, summed)
        return np.where(blind, self._basal, dose)

    def _start(self, patients: Patients, rows: list[int]) -> None:
        self._rows = rows
        self._basal, self._cap = basal_step(patients), dose_cap(patients)
        self._memory = Memory(patients, max(HOLD_MINUTES, self.config.trend_minutes))
        self._summed = np.zeros(len(patients))


class _Candidates(PID):
    """Every patient with every candidate at once: row `b * k + j` is patient `b` with candidate `j`."""

    def reset(self, patients: Patients) -> None:
        self._start(patients, list(range(len(patients))))


def tune_pid(
    patients: Patients,
    *,
    seed: int = TUNING_SEED,
    candidates: int = 160,
    days: int = 8,
    scenario: ScenarioConfig | None = None,
    simulator: SimulatorConfig | None = None,
    config: PIDConfig | None = None,
) -> PIDGains:
    """Tune the gains of each patient on that patient, by random search: where most lie, more widely, near the best.

    That is more than any other arm knows of an unseen patient, and is how the reference comparator was tuned. The
    tuning days must not be evaluation days: evaluation seeds are small numbers, `seed` is `TUNING_SEED` or above.

    Args:
        patients: whom to tune for; who is there several times is tuned once.
        seed: of the days and of the candidates.
        candidates: gains to try for each patient in the first round, and half as many in each of the other two.
        days: length of the trial.
        scenario: how the days look, `days` apart; by default weight-scaled meals, unannounced.
        simulator: the simulator that the gains are for; its defaults if None.
        config: common to all.

    Returns:
        For each patient the gains with the best time in range less 2 x time below 70, 10 x time below 54, and 0.02 for
        each mg/dL that the lowest value lies below 80.

    Raises:
        InputError: a seed below `TUNING_SEED`, which may be one that is evaluated, or fewer than two candidates.
    """
    if seed < TUNING_SEED:
        raise InputError(f"tuning seed {seed} may be an evaluation seed; use {TUNING_SEED} or above")
    if candidates < 2:
        raise InputError(f"tuning needs at least two candidates, got {candidates}")
    # Episodes of one patient are rows of the batch; the days of a trial depend on name and seed alone.
    patients = patients.select(np.sort(np.unique(patients.names, return_index=True)[1]))
    look = (scenario or ScenarioConfig(announced=False)).model_copy(update={"days": days})
    once = Simulator(patients, Scenario.draw(patients, look, seed), simulator)
    generator, rows = np.random.default_rng(seed), np.arange(len(patients))
    best, score = np.full((len(USUAL), len(patients)), np.nan), np.full(len(patients), -np.inf)
    for box, count in ((USUAL, candidates), (GENTLE, candidates // 2), (None, candidates // 2)):
        low, high = best / NEAR, best * NEAR
        if box is not None:
            low, high = (np.tile(np.array(box)[:, end, None], len(patients)) for end in (0, 1))
        low[-1], high[-1] = np.clip(low[-1], *GENTLE[-1]), np.clip(high[-1], *GENTLE[-1])
        # The same draws for every patient: a patient's gains then do not depend on the batch.
        draw = generator.uniform(size=(len(USUAL), 1, count))
        tried = low[..., None] * (high / low)[..., None] ** draw
        found = _scores(once, tried, config)
        at = np.argmax(found, axis=1)
        better = found[rows, at] > score
        best, score = np.where(better, tried[:, rows, at], best), np.where(better, found[rows, at], score)
    return PIDGains(patients.names, *best)


def _scores(once: Simulator, tried: FloatArray, config: PIDConfig | None) -> FloatArray:
    """[N, K] score of gains [4, N, K] on the days of a simulator of N patients."""
    size, candidates = tried.shape[1:]
    simulator = once.branch(candidates)
    controller = _Candidates(PIDGains(simulator.patients.names, *tried.reshape(len(USUAL), -1)), config)
    controller.reset(simulator.patients)
    bg = simulator.run(controller.act).bg.reshape(size, candidates, -1)
    score: FloatArray = time_in_range(bg) - 2.0 * time_below(bg, 70.0) - 10.0 * time_below(bg, 54.0)
    # Few days hold few lows: gains that only just avoid them here would not on other days.
    score -= 0.02 * np.maximum(80.0 - bg.min(axis=2), 0.0)
    return score
