"""`treatment/personalisation`: error and control by days of history, and recovery after sensitivity drops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.domains.treatment.calibrate import load_forecaster
from foreworld.domains.treatment.closed_loop import STEPS_A_DAY, groups_of, subjects_of
from foreworld.domains.treatment.forecasting import ForecastScores, record_therapy
from foreworld.domains.treatment.identity import run_identity
from foreworld.domains.treatment.loop import Loop, insulin_agent, planner_share, run_agent
from foreworld.domains.treatment.personalisation.figure import pictures
from foreworld.domains.treatment.personalisation.known import AdaptedScores, adapted_by_days, scores_by_days
from foreworld.domains.treatment.personalisation.settings import (
    ADAPTED,
    ARMS,
    QUICK,
    PersonalisationConfig,
    forecaster_of,
)
from foreworld.domains.treatment.personalisation.step_change import (
    AHEAD,
    WINDOWS,
    StepScores,
    close_loop,
    history_of,
    in_range_by_window,
    recovered,
    score_step,
)
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import GROUPS, prepare_all
from foreworld.domains.treatment.scenario import Scenario
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import Patients, load_patients
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples
from foreworld.evidence.statistics import ratio_bootstrap

FIXED, AFTER = "foreworld_fixed", WINDOWS[1:]
LOOPED = ("foreworld", FIXED)  # of the step change; forecasts of every arm are scored on the log of the second
CONFIG = PersonalisationConfig()
NAME, VERSION = "treatment/personalisation", 3
# The arms that control is compared with, and those that are compared with each.
ABOVE = {
    "population": ("foreworld", FIXED, "population_day"),
    "population_day": ("foreworld", FIXED),
}
METRICS = (
    *(f"{what}_after_{days}d" for what in ("rmse_60", "rmse_120", "coverage_90") for days in CONFIG.known.days),
    *(f"accepted_after_{days}d" for days in CONFIG.known.days if days),
    "time_in_range", "time_below_70", "time_below_54", "refusals",
    *(f"time_in_range_above_{known}" for known in ABOVE),
    *(f"time_in_range_day_{day}" for day in range(1, CONFIG.loop.days + 1)),
    *(f"{what}_{ahead}_{window}" for what in ("coverage_90", "width", "rmse") for ahead in AHEAD for window in WINDOWS),
    *(f"{what}_{ahead}_{window}" for what in ("width_ratio", "rmse_ratio") for ahead in AHEAD for window in AFTER),
    *(f"time_in_range_{window}" for window in WINDOWS),
    "recovered_48_72h", "scored_known", "scored_step",
)  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """What one process does: `kind` is `known`, `adapted`, `control` or `step`.

    Attributes:
        arms: Of a step, those whose forecasts are scored on its log.
        asked: Whether the arm itself was asked for, and not its log alone.
    """

    kind: str
    arm: str
    seed: int
    subjects: tuple[str, ...]
    model: Path
    config: PersonalisationConfig
    arms: tuple[str, ...] = ()
    asked: bool = True


@dataclass(frozen=True)
class _Step:
    """Control of one arm through the change, and what every arm foresaw on its log."""

    subjects: tuple[str, ...]
    in_range: np.ndarray
    scores: dict[str, StepScores]


def _known(job: _Job) -> dict[int, ForecastScores]:
    torch.set_num_threads(1)
    record = record_therapy(load_patients(job.subjects), job.config.known.forecast, job.seed)
    return scores_by_days(load_forecaster(job.model), record, job.config.known)


def _adapted(job: _Job) -> dict[int, AdaptedScores]:
    torch.set_num_threads(1)
    record = record_therapy(load_patients(job.subjects), job.config.known.forecast, job.seed)
    return adapted_by_days(load_forecaster(job.model), record, job.config.known, job.config.adapt)


def _control(job: _Job) -> Loop:
    torch.set_num_threads(1)
    patients, config = load_patients(job.subjects), job.config.loop
    scenario = Scenario.draw(patients, config.scenario.model_copy(update={"days": config.days}), seed=job.seed)
    agent = insulin_agent(forecaster_of(job.arm, job.model, job.config), seed=job.seed)
    return run_agent(agent, Simulator(patients, scenario, config.simulator))


def _step(job: _Job) -> _Step:
    torch.set_num_threads(1)
    config, patients = job.config, load_patients(job.subjects)
    loop = close_loop(job.arm, job.model, patients, config, job.seed)
    scores = {}
    history, alive = history_of(patients, loop), torch.from_numpy(np.flatnonzero(loop.alive))
    for arm in job.arms:
        forecaster = forecaster_of(arm, job.model, config)
        bands = config.bands if arm == "foreworld" else None
        scores[arm] = score_step(forecaster, history.select(alive), config.step, bands)
    kept: Patients = patients.select(alive.numpy())
    return _Step(kept.names, in_range_by_window(loop.bg, config.step), scores)


Found = dict[int, ForecastScores] | dict[int, AdaptedScores] | Loop | _Step


def _work(job: _Job) -> Found:
    """A module-level function, so that other processes can run it."""
    kinds: dict[str, Callable[[_Job], Found]] = {
        "known": _known,
        "adapted": _adapted,
        "control": _control,
        "step": _step,
    }
    return kinds[job.kind](job)


def run(request: Request) -> Sequence[Row]:
    """The three parts on table patients, the unseen first; see docs/personalisation.md for the metrics."""
    asked, config = request.arms or (*ARMS, ADAPTED), QUICK if request.quick else CONFIG
    arms = [arm for arm in asked if arm != ADAPTED]
    subjects = subjects_of(request.subjects if request.subjects else 3 if request.quick else None)
    made = prepare_all(Request(("foreworld",), request.seeds, None, request.quick, request.model, request.data))
    jobs = []
    for seed in request.seeds:
        common = (seed, subjects, made[seed].model, config)
        if FIXED in arms:
            jobs.append(_Job("known", FIXED, *common))
        if ADAPTED in asked:
            jobs.append(_Job("adapted", ADAPTED, *common))
        jobs += [_Job("control", arm, *common) for arm in arms]
        looped = [arm for arm in LOOPED if arm == FIXED or arm in arms]
        jobs += [
            _Job("step", arm, *common, arms=tuple(arms) if arm == FIXED else (), asked=arm in arms) for arm in looped
        ]
    samples = Samples(request.seeds, NAMES | Names(frozenset((*ARMS, ADAPTED)), frozenset(GROUPS), frozenset(METRICS)))
    for job, _ in run_sampled(
        _work, jobs, _add, samples, identity=_identity, kept=request.kept, workers=1 if request.quick else None,
        report=request.tell,
    ):  # fmt: skip
        request.tell(f"{job.kind} of {job.arm}, seed {job.seed}: done")
    return [*samples.rows(), *above_population(samples, arms), *ratios(samples, arms)]


def _identity(job: _Job) -> dict[str, Any]:
    """Everything that shapes what a job gives, but the source."""
    return {
        **run_identity(f"{NAME} v{VERSION}", job.seed, job.subjects, job.model),
        "kind": job.kind,
        "config": job.config.model_dump(mode="json"),
        "arms": list(job.arms),
        "asked": job.asked,
    }


def _add(samples: Samples, job: _Job, found: Found) -> None:
    if isinstance(found, Loop):
        _add_control(samples, job, found)
    elif isinstance(found, _Step):
        _add_step(samples, job, found)
    else:
        _add_known(samples, job, found)


def _add_scored(samples: Samples, job: _Job, arm: str, metric: str, scored: Sequence[str]) -> None:
    """1 for each patient asked for whose forecasts are scored, 0 for those who failed: their record has no end."""
    shares = [float(name in scored) for name in job.subjects]
    samples.add(arm, metric, job.seed, job.subjects, shares, groups_of(job.subjects))


def _add_known(samples: Samples, job: _Job, found: Mapping[int, ForecastScores | AdaptedScores]) -> None:
    for number, (days, part) in enumerate(found.items()):
        scores = part.scores if isinstance(part, AdaptedScores) else part
        groups = groups_of(scores.subjects)
        if not number:  # who is scored does not depend on the days
            _add_scored(samples, job, job.arm, "scored_known", scores.subjects)
        if isinstance(part, AdaptedScores):
            samples.add(job.arm, f"accepted_after_{days}d", job.seed, scores.subjects, part.accepted, groups)
        for minutes in (60, 120):
            samples.add(
                job.arm, f"rmse_{minutes}_after_{days}d", job.seed, scores.subjects, scores.at(minutes), groups,
                unit="mg/dL", how="rms",
            )  # fmt: skip
        samples.add(job.arm, f"coverage_90_after_{days}d", job.seed, scores.subjects, scores.covered.mean(1), groups)


def _add_control(samples: Samples, job: _Job, loop: Loop) -> None:
    groups, first = groups_of(job.subjects), job.config.learnt * STEPS_A_DAY

    def add(metric: str, values: np.ndarray) -> None:
        samples.add(job.arm, metric, job.seed, job.subjects, values, groups)

    inside = (loop.bg >= 70.0) & (loop.bg <= 180.0)
    add("time_in_range", inside[:, first:].mean(1))
    add("time_below_70", (loop.bg[:, first:] < 70.0).mean(1))
    add("time_below_54", (loop.bg[:, first:] < 54.0).mean(1))
    add("refusals", 1.0 - planner_share(loop, first))
    for day in range(loop.bg.shape[1] // STEPS_A_DAY):
        add(f"time_in_range_day_{day + 1}", inside[:, day * STEPS_A_DAY : (day + 1) * STEPS_A_DAY].mean(1))


def _add_step(samples: Samples, job: _Job, found: _Step) -> None:
    if job.asked:
        for number, window in enumerate(WINDOWS):
            samples.add(
                job.arm, f"time_in_range_{window}", job.seed, job.subjects, found.in_range[:, number],
                groups_of(job.subjects),
            )  # fmt: skip
    groups = groups_of(found.subjects)
    for arm, scores in found.scores.items():
        _add_scored(samples, job, arm, "scored_step", found.subjects)
        back = recovered(scores, job.config.step.recovered)
        samples.add(arm, "recovered_48_72h", job.seed, found.subjects, back, groups)
        for ahead in scores.covered:
            for number, window in enumerate(WINDOWS):
                of, end = found.subjects, f"{ahead}_{window}"
                samples.add(arm, f"coverage_90_{end}", job.seed, of, scores.covered[ahead][:, number], groups)
                samples.add(arm, f"width_{end}", job.seed, of, scores.width[ahead][:, number], groups, unit="mg/dL")
                samples.add(
                    arm, f"rmse_{end}", job.seed, of, scores.squared[ahead][:, number], groups, unit="mg/dL", how="rms"
                )


def above_population(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """Percentage points of time in range after `learnt` days above the arms that never learn the person."""
    rows = []
    for known, arm in ((known, arm) for known, those in ABOVE.items() for arm in those):
        if arm not in arms or known not in arms:
            continue
        for group in GROUPS:
            if not samples.subjects(arm, group):
                continue
            found = samples.difference(arm, known, "time_in_range", group)
            rows.append(
                Row(
                    arm=arm,
                    group=group,
                    metric=f"time_in_range_above_{known}",
                    value=100.0 * found.value,
                    low=100.0 * found.low,
                    high=100.0 * found.high,
                    n=len(samples.subjects(arm, group)),
                    unit="points",
                    by_seed=tuple(
                        100.0 * one for one in samples.differences_by_seed(arm, known, "time_in_range", group)
                    ),
                )
            )
    return rows


def ratios(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """Widths and errors after the change as ratios to those before it, resampling patients."""
    rows = []
    for what in ("width", "rmse"):
        change = np.sqrt if what == "rmse" else np.asarray
        for arm, ahead, group, window in itertools.product(arms, AHEAD, GROUPS, AFTER):
            before = samples.values(arm, f"{what}_{ahead}_{WINDOWS[0]}", group)
            after = samples.values(arm, f"{what}_{ahead}_{window}", group)
            names = [subject for _, subject in before]
            if {seed for seed, _ in before} != set(samples.seeds):
                continue  # somebody of the group is needed in every seed
            found = ratio_bootstrap([after[key] for key in before], list(before.values()), names)
            ends = [float(change(end)) for end in (found.value, found.low, found.high)]
            by_seed = []
            for seed in samples.seeds:
                of_seed = [key for key in before if key[0] == seed]
                share = np.mean([after[key] for key in of_seed]) / np.mean([before[key] for key in of_seed])
                by_seed.append(float(change(share)))
            n = len(set(names))
            low, high = (ends[1], ends[2]) if n > 1 else (None, None)
            rows.append(
                Row(
                    arm=arm, group=group, metric=f"{what}_ratio_{ahead}_{window}", value=ends[0], low=low, high=high,
                    n=n, unit="ratio", by_seed=tuple(by_seed),
                )
            )  # fmt: skip
    return rows


def protocol() -> Protocol:
    """The protocol."""
    return Protocol(
        name=NAME,
        version=VERSION,
        description=(
            "Does it learn the person? Forecast error and control by days of history, and recovery of forecasts, bands "
            "and control after insulin sensitivity drops by 40 % on day 8 and stays there; table patients."
        ),
        settings=CONFIG.model_dump(mode="json") | {"recipe": FULL.model_dump(mode="json")},
        arms=(*ARMS, ADAPTED),
        metrics=METRICS,
        run=run,
        groups=GROUPS,
        pictures=pictures,
        keeps=True,
    )
