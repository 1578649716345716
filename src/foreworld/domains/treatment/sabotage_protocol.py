"""`treatment/sabotage`: does the agent notice that its world model is broken, before a patient does?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.agent.agent import Step
from foreworld.domains.treatment.calibrate import load_forecaster
from foreworld.domains.treatment.closed_loop import Job, groups_of, run_job, subjects_of
from foreworld.domains.treatment.collect import CollectConfig
from foreworld.domains.treatment.identity import run_identity
from foreworld.domains.treatment.loop import insulin_agent, run_agent
from foreworld.domains.treatment.prepare import FULL, Recipe, prepare
from foreworld.domains.treatment.prepared import models_folder, prepare_all
from foreworld.domains.treatment.sabotage import KINDS, sabotage
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.tracks import LoopConfig
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples
from foreworld.forecast.forecaster import Forecaster
from foreworld.planning.plan import Reason

# A model of children, calibrated on children, that is handed everybody else.
CHILDREN = Recipe(
    name="children",
    collect=CollectConfig(groups=("child",), subjects=400),
    steps=3000,
    calibrate=FULL.calibrate.model_copy(
        update={
            "subjects": 40,
            "logged_subjects": 120,
            "logged": FULL.calibrate.logged.model_copy(update={"groups": ("child",)}),
            "looped": FULL.calibrate.looped.model_copy(update={"groups": ("child",)}),
        }
    ),
)
NAME, VERSION, ARM = "treatment/sabotage", 3, "foreworld"
HEALTHY, FOREIGN = "healthy", "other_age_group"
GROUPS = (HEALTHY, FOREIGN, *KINDS)
METRICS = (
    "time_in_range", "time_below_70", "time_below_54", "failures", "refusals", "false_refusals", "noticed",
    "minutes_to_notice", "time_in_range_above_fallback",
)  # fmt: skip
DAYS = 7
KNOWN = 36  # steps; of somebody who was just met too little is known for a plan, which is no false refusal
SETTINGS = {
    "days": DAYS,
    "kinds": list(GROUPS),
    "scenario": ScenarioConfig().model_dump(mode="json"),
    "recipe": FULL.model_dump(mode="json"),
    "foreign": CHILDREN.model_dump(mode="json"),
}


@dataclass(frozen=True)
class _Job:
    kind: str
    seed: int
    subjects: tuple[str, ...]
    days: int
    model: Path
    arm: str = ARM


@dataclass(frozen=True)
class _Found:
    """What one broken model did.

    Attributes:
        bg: [B, N] true glucose.
        noticed: [B] first notice in minutes; NaN: never.
        refused: [B] share of decisions refused.
        unfit: [B] share of them refused because the model was called invalid or the state novel: in somebody who is
            known for `KNOWN` steps, a healthy model is falsely called unfit.
    """

    bg: np.ndarray
    noticed: np.ndarray
    refused: np.ndarray
    unfit: np.ndarray


def _break(forecaster: Forecaster, kind: str) -> Forecaster:
    return forecaster if kind in (HEALTHY, FOREIGN) else sabotage(forecaster, kind)


def _run(job: _Job) -> _Found:
    torch.set_num_threads(1)
    patients = load_patients(job.subjects)
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=job.days), seed=job.seed))
    agent = insulin_agent(_break(load_forecaster(job.model), job.kind), seed=job.seed)
    noticed, refused, unfit = np.full(len(patients), np.nan), np.zeros(len(patients)), np.zeros(len(patients))

    def watch(t: int, real: Simulator, step: Step) -> None:
        invalid = np.array([reason is Reason.model_invalid for reason in step.reasons])
        # What is noticed of a patient who has failed came too late.
        noticed[np.isnan(noticed) & invalid & real.alive] = t * STEP_MINUTES
        refused[:] += [reason is not None for reason in step.reasons]
        if t >= KNOWN:
            unfit[:] += [reason in (Reason.model_invalid, Reason.novel_state) for reason in step.reasons]

    loop = run_agent(agent, simulator, watch=watch)
    steps = loop.bg.shape[1]
    return _Found(loop.bg, noticed, refused / steps, unfit / max(steps - KNOWN, 1))


def run(request: Request) -> Sequence[Row]:
    """Each kind of sabotage from the first decision on, on unseen patients, beside the healthy model and the fallback.

    Groups are the kinds. `noticed` is the share of patients for whom the model was called invalid at least once,
    `minutes_to_notice` the mean over all of them of the time until then, in which never counts as the length of the
    run: a mean restricted to the run, which grows if a model is noticed later or less often. Of the group `healthy` it
    is the time to a false alarm, and more is better. `refusals` are all of them; `false_refusals`, of the group
    `healthy` alone, those that call a sound model unfit for somebody it has known for three hours.
    """
    subjects = subjects_of(request.subjects if request.subjects else 2 if request.quick else 21)
    days = 1 if request.quick else DAYS
    kinds = (HEALTHY, "sign_flipped", "nan") if request.quick else GROUPS
    made = prepare_all(request)
    jobs = []
    for seed in request.seeds:
        for kind in kinds:
            model, who = made[seed].model, subjects
            if kind == FOREIGN:
                model = _foreign(seed, request.tell)
                who = tuple(name for name in subjects if not name.startswith("child"))
            jobs.append(_Job(kind, seed, who, days, model))
    standard = {seed: _fallback(seed, subjects, days) for seed in request.seeds}
    names = NAMES | Names(frozenset({ARM}), frozenset(GROUPS), frozenset(METRICS))
    by_kind = {kind: Samples(request.seeds, names) for kind in kinds}
    for job, found in run_sampled(
        _run, jobs, partial(_add, standard), lambda job: by_kind[job.kind], identity=_identity, kept=request.kept,
        workers=1 if request.quick else None, report=request.tell,
    ):  # fmt: skip
        noticed = int(np.sum(~np.isnan(found.noticed)))
        request.tell(f"{job.kind}, seed {job.seed}: noticed in {noticed} of {len(job.subjects)}")
    return [
        row.model_copy(update={"group": kind})
        for kind, samples in by_kind.items()
        for row in samples.rows()
        if row.group == "all"
    ]


def _identity(job: _Job) -> dict[str, Any]:
    """Everything that shapes what a job gives, but the source."""
    shared = run_identity(f"{NAME} v{VERSION}", job.seed, job.subjects, job.model)
    return {**shared, "kind": job.kind, "days": job.days, "settings": SETTINGS}


def _foreign(seed: int, report: Callable[[str], None]) -> Path:
    folder = models_folder() / CHILDREN.key(seed)
    prepare(folder, CHILDREN, seed=seed, progress="none", report=report)
    return folder / "model"


def _fallback(seed: int, subjects: tuple[str, ...], days: int) -> dict[str, float]:
    """Time in range of the fallback alone, by patient."""
    done = run_job(Job("fallback", seed, subjects, LoopConfig(days=days, burn_in=0)))
    return dict(zip(subjects, ((done.bg >= 70.0) & (done.bg <= 180.0)).mean(1).tolist(), strict=True))


def _add(standard: Mapping[int, Mapping[str, float]], samples: Samples, job: _Job, found: _Found) -> None:
    """Put what a job gave into samples; `standard` is the time in range of the fallback by seed and patient."""
    bg, groups = found.bg, groups_of(job.subjects)
    inside = ((bg >= 70.0) & (bg <= 180.0)).mean(1)

    def add(metric: str, values: np.ndarray, unit: str = "share") -> None:
        samples.add(job.arm, metric, job.seed, job.subjects, values, groups, unit=unit)

    add("time_in_range", inside)
    add("time_below_70", (bg < 70.0).mean(1))
    add("time_below_54", (bg < 54.0).mean(1))
    add("failures", (bg.min(1) < 10.0).astype(float))
    add("refusals", found.refused)
    if job.kind == HEALTHY:
        add("false_refusals", found.unfit)
    add("noticed", (~np.isnan(found.noticed)).astype(float))
    above = 100.0 * (inside - np.array([standard[job.seed][name] for name in job.subjects]))
    add("time_in_range_above_fallback", above, "points")
    # Of those noticed alone, a model that is noticed less often would look as if it were noticed sooner.
    length = float(bg.shape[1] * STEP_MINUTES)
    add("minutes_to_notice", np.where(np.isnan(found.noticed), length, found.noticed), "min")


def protocol() -> Protocol:
    """The protocol."""
    return Protocol(
        name=NAME,
        version=VERSION,
        description=(
            "World models broken on purpose (wrong sign, frozen, NaN, an hour late, trained on children, five times "
            "too sure) in the closed loop of track A: what happens to unseen patients, and how soon it is noticed "
            "(minutes_to_notice: mean over all patients, where never noticed counts as the length of the run; of the "
            "healthy model the time to a false alarm)."
        ),
        settings=SETTINGS,
        arms=(ARM,),
        metrics=METRICS,
        run=run,
        groups=GROUPS,
        keeps=True,
    )
