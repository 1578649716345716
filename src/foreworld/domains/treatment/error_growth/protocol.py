"""`treatment/error-growth`: how error, bands, statements and correctness grow to twelve hours, and by which law."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.calibrate import UNUSUAL, load_forecaster
from foreworld.domains.treatment.closed_loop import subjects_of
from foreworld.domains.treatment.collect import cohort
from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.error_growth.figure import pictures
from foreworld.domains.treatment.error_growth.growth import Growth, grow, half_width
from foreworld.domains.treatment.error_growth.laws import UNITS, law_rows
from foreworld.domains.treatment.error_growth.learn import LEARNED, ArmsConfig, learn
from foreworld.domains.treatment.error_growth.logs import Log
from foreworld.domains.treatment.error_growth.statements import IN_RANGE, skill
from foreworld.domains.treatment.forecast_arms import ForecasterArm, Persistence, RecentArm
from foreworld.domains.treatment.forecast_protocol import histories_of
from foreworld.domains.treatment.forecasting import DAY, Arm, ForecastConfig, record_therapy, scored_moments
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import Prepared, models_folder, prepare_all, recipe_of
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.tables import Patients, load_patients
from foreworld.episodes.files import one_writer
from foreworld.evidence.parallel import run_all
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples
from foreworld.evidence.stages import cost_of
from foreworld.forecast.forecaster import Forecaster

RECENT = {"foreworld_12h": 144, "foreworld_8h": 96}
"""Arms of the world model with its history cut, in steps: to that of `token`, and to that of the stepwise arms."""
ARMS = ("foreworld", *RECENT, "token", "recursive", "two_rate", "persistence")
MINUTES = (5, 30, 60, 120, 180, 300, 420, 580, 720)
CURVES = {
    "rmse": "mg/dL",
    "coverage_90": "share",
    "width_90": "mg/dL",
    "truth": "share",
    "correct": "share",
    "correct_so_far": "share",
    "correct_by_chance": "share",
    "above_chance": "points",
}
SKILL = "truth_skill"
METRICS = (
    *(f"{name}_{minutes}" for name in (*CURVES, SKILL) for minutes in MINUTES),
    *UNITS,
    "scored",
    "fit_cpu_seconds",
    "fit_steps",
)
UNSEEN_PATIENTS = 21


class GrowthConfig(BaseModel):
    """The protocol's numbers.

    Attributes:
        forecast: Who is recorded and how; the whole grid is scored.
        bands: People that every arm's band is calibrated on, none of them trained on.
        bands_stride: Steps between two of their forecasts.
        arms: Sizes and CPU time of the arms that are trained here.
        repeats: Resamples of the fits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    forecast: ForecastConfig = ForecastConfig(stride=41)
    bands: int = Field(default=40, ge=10)
    bands_stride: int = Field(default=97, ge=1)
    arms: ArmsConfig = ArmsConfig()
    repeats: int = Field(default=200, ge=2)


FULL_GROWTH = GrowthConfig()
QUICK_GROWTH = GrowthConfig(
    forecast=ForecastConfig(days=5, fit_days=3, stride=200),
    bands=12,
    bands_stride=400,
    arms=ArmsConfig(gpt=FULL_GROWTH.arms.gpt.model_copy(update={"samples": 2})),
    repeats=4,
)


def error_growth() -> Protocol:
    """The protocol."""
    return Protocol(
        name="treatment/error-growth",
        version=2,
        description=(
            "Forecast to 12 h with known insulin and entries, as treatment/forecast: a direct model with all of its "
            "history, 12 h and 8 h of it, a token-by-token, a recursive and a two-rate model, and which law the loss "
            "of correctness follows."
        ),
        settings={"growth": FULL_GROWTH.model_dump(mode="json"), "recipe": FULL.model_dump(mode="json")},
        arms=ARMS,
        metrics=METRICS,
        run=run,
        pictures=pictures,
    )


@dataclass(frozen=True)
class Job:
    """One seed; small enough to send to another process."""

    arms: tuple[str, ...]
    seed: int
    subjects: tuple[str, ...]
    made: Prepared
    folder: Path
    config: GrowthConfig


def run(request: Request) -> Sequence[Row]:
    """Train what is missing, score every arm on the same moments of the same patients, and fit the laws."""
    arms = request.arms or ARMS
    config = QUICK_GROWTH if request.quick else FULL_GROWTH
    # What the world model took is everybody's measure of time, so it is needed whatever the arms.
    parts = prepare_all(replace(request, arms=("foreworld", "network")))
    subjects = subjects_of(request.subjects or (3 if request.quick else UNSEEN_PATIENTS))
    jobs = [Job(arms, seed, subjects, parts[seed], _folder(request, seed, config), config) for seed in request.seeds]
    found = dict(zip(request.seeds, run_all(_work, jobs, workers=1 if request.quick else None), strict=True))
    return rows_of(found, config)


@dataclass(frozen=True)
class Measured:
    """One arm in one seed.

    Attributes:
        growth: Its scores.
        failed: Names of the subjects asked for who did not live through the therapy, and so are not scored.
        cpu_seconds: Of training; NaN where nobody knows, 0 where nothing was trained for it.
        steps: Of training.
    """

    growth: Growth
    failed: tuple[str, ...]
    cpu_seconds: float
    steps: float


Found = Mapping[str, Measured]


def rows_of(found: Mapping[int, Found], config: GrowthConfig) -> list[Row]:
    """The rows of what `measure` gave in every seed."""
    samples = Samples(tuple(found), NAMES | Names(frozenset(ARMS), metrics=frozenset(METRICS)))
    columns = [MODEL.grid.points.index(minutes // STEP_MINUTES) for minutes in MINUTES]
    rows: list[Row] = []
    for arm in next(iter(found.values())):
        for seed, by_arm in found.items():
            one = by_arm[arm]
            growth, lived = one.growth, len(one.growth.subjects)
            for name, values in _curves(growth).items():
                for minutes, column in zip(MINUTES, columns, strict=True):
                    samples.add(
                        arm, f"{name}_{minutes}", seed, growth.subjects, values[:, column],
                        unit=CURVES[name], how="rms" if name == "rmse" else "mean",
                    )  # fmt: skip
            samples.add(arm, "scored", seed, (*growth.subjects, *one.failed), [1.0] * lived + [0.0] * len(one.failed))
            for name, value, unit in (("fit_cpu_seconds", one.cpu_seconds, "s"), ("fit_steps", one.steps, "steps")):
                if all(np.isfinite(each[arm].cpu_seconds) for each in found.values()) and value:
                    samples.add(arm, name, seed, growth.subjects[:1], [value], unit=unit, how="max")
        by_seed = {seed: by_arm[arm].growth for seed, by_arm in found.items()}
        for minutes, column in zip(MINUTES, columns, strict=True):
            row = skill(
                arm, f"{SKILL}_{minutes}", [growth.subjects for growth in by_seed.values()],
                [growth.truth[:, column] for growth in by_seed.values()],
                [growth.stays[:, column] for growth in by_seed.values()],
            )  # fmt: skip
            rows += [] if row is None else [row]
        rows += law_rows(arm, by_seed, MODEL.grid.points, config.repeats)
    return [*samples.rows(), *rows]


def _curves(growth: Growth) -> dict[str, FloatArray]:
    """[B, H] by the names of `CURVES`."""
    correct, by_chance = growth.correct / growth.count, growth.by_chance / growth.count
    return {
        "rmse": growth.squared,
        "coverage_90": growth.covered,
        "width_90": growth.width,
        "truth": growth.truth,
        "correct": correct,
        "correct_so_far": growth.so_far / growth.count,
        "correct_by_chance": by_chance,
        "above_chance": 100.0 * (correct - by_chance),
    }


def measure(job: Job, patients: Patients) -> Found:
    """What every arm scored on those of these patients who live through the therapy, and what it cost."""
    config, grid, fit_moments = job.config, MODEL.grid, job.config.forecast.fit_days * DAY
    record = record_therapy(patients, config.forecast, job.seed)
    at = scored_moments(record, grid, config.forecast)
    sparse = config.forecast.model_copy(update={"stride": config.bands_stride})
    others = cohort("calibrate", config.bands, job.seed, UNUSUAL.spread, UNUSUAL.records)
    known = record_therapy(others, sparse, job.seed + 1_000_000)
    known_at = scored_moments(known, grid, sparse)
    found: dict[str, Measured] = {}
    makers = _makers(job)
    for name in job.arms:
        arm, spent, steps = makers[name]()
        half = half_width(arm, known, known_at, grid, fit_moments)
        growth = grow(record, arm.predict(record, at, grid, fit_moments), half, at, grid)
        found[name] = Measured(growth, record.failed, spent, steps)
    return found


def _makers(job: Job) -> dict[str, Callable[[], tuple[Arm, float, float]]]:
    cost = cost_of(job.made.model.parent, "train")
    seconds = cost if np.isfinite(cost) else job.config.arms.seconds

    @cache
    def log() -> Log:
        return Log.of(histories_of(job.made.data))

    @cache
    def world() -> Forecaster:
        return load_forecaster(job.made.model)

    def learned(name: str) -> tuple[Arm, float, float]:
        arm, took = learn(name, log, job.config.arms, seconds=seconds, seed=job.seed, folder=job.folder)
        return arm, took.cpu_seconds, float(took.steps)

    return {
        "foreworld": lambda: (ForecasterArm(world(), IN_RANGE), cost, 0.0),
        **{
            name: lambda steps=steps: (RecentArm(world(), steps, IN_RANGE), 0.0, 0.0)  # type: ignore[misc]
            for name, steps in RECENT.items()
        },
        "persistence": lambda: (Persistence(), 0.0, 0.0),
        **{name: lambda name=name: learned(name) for name in LEARNED},  # type: ignore[misc]
    }


def _work(job: Job) -> Found:
    """`measure` on one thread: jobs run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with one_writer(job.folder / ".lock"):
            return measure(job, load_patients(job.subjects))
    finally:
        torch.set_num_threads(threads)


def _folder(request: Request, seed: int, config: GrowthConfig) -> Path:
    """Where the trained arms of a seed are kept."""
    store = recipe_of(request).key(seed, request.data)
    text = f"{store} {request.model} {config.arms.model_dump_json()}"
    return models_folder() / f"error-growth-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
