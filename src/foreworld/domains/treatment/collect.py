"""Logged data to learn from: virtual people on standard basal-bolus therapy, with the variation that real life has.

    store = collect("runs/data", CollectConfig(subjects=300, days=8), seed=0)

Nobody plans here and nothing of the 21 unseen patients is read: subjects are jittered from the nine training patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.controllers import BasalBolus
from foreworld.domains.treatment.dosing import FloatArray, basal_step, dose_cap
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation, Simulator, Trajectory
from foreworld.domains.treatment.tables import GROUPS, TRAINING, Patients, concatenate, jitter, load_patients
from foreworld.episodes import Episode, EpisodeStore, fit_statistics
from foreworld.errors import InputError

# Shares of time below 54 and above 250 mg/dL that a clinic would barely let stand on exact basal-bolus therapy.
BARELY_LOW, BARELY_HIGH = 0.15, 0.6
# Seeds of cohorts: those of different purposes must not meet.
PURPOSES = {"fit": 1, "calibrate": 2, "tune": 3, "visit": 4}
ROUNDS = 100  # of drawing a cohort: more would take the seeds of the next purpose


class Habit(BaseModel):
    """How some of the people recorded live.

    Attributes:
        share: Of the people; shares are relative to one another.
        meals: Meal plan.
        announced: Whether they enter what they eat, and dose for it. Those who do not are given their insulin at times
            that have nothing to do with meals or glucose: a model that is told the insulin to come would otherwise
            read the meal from it.
        trouble: Whether sensitivity drifts, sensors fail and entries are forgotten (`TROUBLE`).
        extra: Boluses a day at unplanned times, whatever glucose is.
        extra_hours: Least and greatest of them, in hours of profile basal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(gt=0)
    meals: Literal["weight_scaled", "stock", "g2p2c"] = "weight_scaled"
    announced: bool = True
    trouble: bool = False
    extra: float = Field(default=1.5, ge=0)
    extra_hours: tuple[float, float] = (0.2, 2.0)

    def scenario(self, base: ScenarioConfig) -> ScenarioConfig:
        """Their days."""
        change = {"meals": self.meals, "announced": self.announced}
        return base.model_copy(update=change | (TROUBLE if self.trouble else {}))


TROUBLE: dict[str, float] = {
    "sensitivity_drift": 0.3,
    "circadian": 0.2,
    "missed_bolus": 0.1,
    "dropout_per_day": 1.0,
    "stuck_per_day": 0.5,
    "bias_per_day": 0.3,
    "compression_per_night": 0.5,
}
# No protocol's meals, and no way of living with them, is foreign to the model.
HABITS = (
    Habit(share=0.36),
    Habit(share=0.22, meals="stock"),
    Habit(share=0.12, meals="g2p2c"),
    Habit(share=0.12, announced=False, extra=8.0, extra_hours=(0.3, 4.0)),
    Habit(share=0.08, announced=False, meals="g2p2c", extra=8.0, extra_hours=(0.3, 4.0)),
    Habit(share=0.1, trouble=True),
)
ANNOUNCING = (Habit(share=0.5), Habit(share=0.35, meals="stock"), Habit(share=0.15, meals="g2p2c"))


class CollectConfig(BaseModel):
    """Who is recorded, for how long, and how much chance there is in their therapy.

    Attributes:
        subjects: Virtual people.
        days: Days recorded for each.
        spread: Jitter of the physiological parameters (standard deviation of the logarithm).
        records: Jitter of carb ratio and correction factor against what the person would need.
        groups: Age groups.
        scenario: Carb error and sensor; `days` and what a habit says are taken from there.
        habits: How they live.
        basal_low: Least factor on the profile basal.
        basal_high: Greatest factor.
        pause: Share of basal segments without insulin, half an hour to four hours long.
        dose_error: Standard deviation of the logarithm of each bolus.
        missed: Share of boluses that are forgotten.
        exact_log: Whether the log holds grams truly eaten; otherwise those announced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subjects: int = Field(default=1400, ge=1)
    days: int = Field(default=10, ge=1)
    spread: float = Field(default=0.4, ge=0)
    records: float = Field(default=0.15, ge=0)
    groups: tuple[str, ...] = Field(default=GROUPS, min_length=1)
    scenario: ScenarioConfig = ScenarioConfig()
    habits: tuple[Habit, ...] = Field(default=HABITS, min_length=1)
    basal_low: float = Field(default=0.5, ge=0)
    basal_high: float = Field(default=1.5, ge=0)
    pause: float = Field(default=0.18, ge=0, le=1)
    dose_error: float = Field(default=0.3, ge=0)
    missed: float = Field(default=0.2, ge=0, le=1)
    exact_log: bool = False


class LoggedTherapy:
    """Basal-bolus therapy as people live it: boluses off the mark, basal changed, pumps paused, corrections.

    Args:
        config: How much chance there is.
        seed: Of that chance.
        habit: How these people live.
    """

    def __init__(self, config: CollectConfig, seed: int, habit: Habit = ANNOUNCING[0]) -> None:
        self.config, self.seed, self.habit = config, seed, habit

    def reset(self, patients: Patients) -> None:
        """Serve these patients from now on."""
        self._patients = patients
        self._generator = np.random.default_rng([self.seed, 77])
        self._factor = np.ones(len(patients))
        self._left = np.zeros(len(patients), dtype=int)

    def act(self, seen: Observation) -> FloatArray:
        """The insulin of the coming 5 minutes, [B] U."""
        config, patients, draw = self.config, self._patients, self._generator
        size = len(patients)
        self._change_basal(size)
        glucose = np.nan_to_num(seen.cgm, nan=120.0)
        correction = np.where(glucose > 150.0, (glucose - 140.0) / patients.cf, 0.0)
        bolus = np.where(seen.announced > 0.0, seen.announced / patients.cr + correction, 0.0)
        bolus *= np.exp(config.dose_error * draw.standard_normal(size) - config.dose_error**2 / 2)
        bolus *= draw.random(size) >= config.missed
        # What is done at unplanned times must not depend on glucose: a model that is told the insulin to come would
        # read the glucose to come from it, and take the insulin's own effect for smaller than it is.
        extra = draw.random(size) < self.habit.extra * STEP_MINUTES / 1440.0
        bolus += extra * patients.basal * draw.uniform(*self.habit.extra_hours, size)
        basal = basal_step(patients) * self._factor
        result: FloatArray = np.minimum(basal + np.maximum(bolus, 0.0), dose_cap(patients))
        return result

    def _change_basal(self, size: int) -> None:
        config, draw = self.config, self._generator
        kind = draw.random(size)
        paused = kind < config.pause
        boosted = (kind >= config.pause) & (kind < 1.67 * config.pause)
        factor = draw.uniform(config.basal_low, config.basal_high, size)
        factor = np.where(paused, 0.0, np.where(boosted, config.basal_high + factor, factor))
        paused_for = draw.integers(30 // STEP_MINUTES, 240 // STEP_MINUTES, size)
        boosted_for = draw.integers(30 // STEP_MINUTES, 120 // STEP_MINUTES, size)
        long = draw.integers(120 // STEP_MINUTES, 360 // STEP_MINUTES, size)
        over = self._left <= 0
        self._factor = np.where(over, factor, self._factor)
        held = np.where(paused, paused_for, np.where(boosted, boosted_for, long))
        self._left = np.where(over, held, self._left - 1)


def cohort(
    purpose: Literal["fit", "calibrate", "tune", "visit"],
    count: int,
    seed: int,
    spread: float = 0.4,
    records: float = 0.15,
    groups: Sequence[str] = GROUPS,
) -> Patients:
    """Virtual people jittered from the nine training patients, on a profile that a clinic would have let stand.

    A drawn person is kept only if three days of exact basal-bolus therapy keep them below 54 mg/dL for at most 15 %
    and above 250 mg/dL for at most 60 % of the time: a clinic would have changed the profile of the others. (A stricter
    filter gave a model that controlled worse: it had seen too few unusual people.)

    Args:
        purpose: Cohorts of different purposes have no person in common.
        count: How many.
        seed: Of the draw.
        spread: See `CollectConfig`.
        records: See `CollectConfig`.
        groups: Age groups of their parents.

    Raises:
        InputError: Almost nobody drawn is plausible.
    """
    parents, round_ = load_patients([name for name in TRAINING if name.split("#")[0] in groups]), 0
    kept: list[Patients] = []
    while sum(map(len, kept)) < count:
        if round_ == ROUNDS:
            raise InputError(
                f"{ROUNDS} draws of {count} people at spread {spread:g} gave only {sum(map(len, kept))} whose profile "
                "a clinic would let stand; use a smaller spread"
            )
        drawn = jitter(
            parents, count, seed=(seed * 10 + PURPOSES[purpose]) * ROUNDS + round_, spread=spread, records=records
        )
        scenario = Scenario.draw(drawn, ScenarioConfig(days=3, carb_error_sd=0.0, sensor_noise=False), seed=9)
        therapy = BasalBolus()
        therapy.reset(drawn)
        bg = Simulator(drawn, scenario).run(therapy.act).bg[:, 1440 // STEP_MINUTES :]
        fine = ((bg < 54.0).mean(1) <= BARELY_LOW) & ((bg > 250.0).mean(1) <= BARELY_HIGH)
        kept.append(drawn.select(np.flatnonzero(fine)))
        round_ += 1
    everyone = concatenate(kept)
    chosen = everyone.select(np.arange(count))
    names = tuple(f"{purpose}{seed}-{name.split('~')[0]}-{i:04d}" for i, name in enumerate(chosen.names))
    return Patients(names, chosen.group, chosen.params, chosen.x0, chosen.weight, chosen.basal, chosen.cr, chosen.cf)


def statics_of(patients: Patients) -> dict[str, np.ndarray]:
    """The static channels [B]."""
    return {
        "weight": patients.weight.astype(np.float32),
        "basal": patients.basal.astype(np.float32),
        "cr": patients.cr.astype(np.float32),
        "cf": patients.cf.astype(np.float32),
        "age_group": np.array([AGE_GROUPS.index(group) for group in patients.group], dtype=np.int32),
    }


AGE_GROUPS = SCHEMA["age_group"].categories
assert set(AGE_GROUPS) == set(GROUPS)


def episodes(
    patients: Patients, trajectory: Trajectory, carbs: np.ndarray, info: dict[str, object]
) -> Iterator[Episode]:
    """One episode for each patient who lived through it.

    Args:
        patients: B patients.
        trajectory: What happened.
        carbs: [B, N + 1] grams as the log holds them.
        info: Facts kept with each episode.
    """
    statics = statics_of(patients)
    times = STEP_MINUTES * np.arange(trajectory.cgm.shape[1], dtype=np.float64)
    for i, name in enumerate(patients.names):
        # Below 10 mg/dL the simulated patient is frozen: what follows is no physiology.
        if not trajectory.alive[i, -1]:
            continue
        values = {
            "cgm": trajectory.cgm[i].astype(np.float32),
            "insulin": trajectory.insulin[i].astype(np.float32),
            "carbs": carbs[i].astype(np.float32),
            **{key: value[i] for key, value in statics.items()},
        }
        yield Episode(name, times, values, info=dict(info))


def record_therapy(patients: Patients, config: CollectConfig, seed: int, days: int) -> list[Episode]:
    """The logged episodes of those who lived through their therapy.

    Args:
        patients: On logged therapy; the first share of them has the first habit, and so on.
        config: How much chance there is in their therapy.
        seed: Of meals, sensors and therapy.
        days: Days recorded.
    """
    bounds = np.cumsum([0.0, *(habit.share for habit in config.habits)])
    bounds *= len(patients) / bounds[-1]
    # Cohorts are drawn at random, so neighbours in the list have nothing in common.
    edges = np.rint(bounds).astype(int)
    kept: list[Episode] = []
    for number, habit in enumerate(config.habits):
        if edges[number] == edges[number + 1]:
            continue
        part = patients.select(np.arange(edges[number], edges[number + 1]))
        days_of = habit.scenario(config.scenario).model_copy(update={"days": days})
        scenario = Scenario.draw(part, days_of, seed=seed)
        therapy = LoggedTherapy(config, seed * 10 + number, habit)
        therapy.reset(part)
        trajectory = Simulator(part, scenario).run(therapy.act)
        carbs = scenario.grams if config.exact_log else scenario.announced
        info: dict[str, object] = {"policy": "therapy", "seed": seed, "habit": habit.model_dump(mode="json")}
        kept += episodes(part, trajectory, carbs[:, : trajectory.cgm.shape[1]], info)
    return kept


def collect(path: str | Path, config: CollectConfig | None = None, *, seed: int = 0) -> EpisodeStore:
    """Record logged therapy into a new store, with statistics and a split into `fit` and `validate` by subject.

    Args:
        path: Folder of the new store.
        config: Who and how long.
        seed: Of people, meals, sensors and therapy.

    Returns:
        The store.
    """
    config = config or CollectConfig()
    patients = cohort("fit", config.subjects, seed, config.spread, config.records, config.groups)
    store = EpisodeStore.create(path, SCHEMA)
    store.append(record_therapy(patients, config, seed, config.days))
    store.split("default", {"fit": 0.92, "validate": 0.08}, seed)
    fitted = (store.episode(i) for i in store.episodes_of("default/fit"))
    store.set_statistics(fit_statistics(SCHEMA, fitted))
    return store
