"""The protocols of this domain: what `foreworld evaluate treatment/...` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foreworld.domains.treatment import forecast_protocol
from foreworld.domains.treatment.closed_loop import (
    ARMS,
    Job,
    LoopConfig,
    Run,
    add_samples,
    groups_of,
    run_job,
    subjects_of,
)
from foreworld.domains.treatment.metrics import UNITS
from foreworld.domains.treatment.parallel import run_all
from foreworld.domains.treatment.prepare import FULL, QUICK, Recipe, prepare
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples

GROUPS = ("all", "unseen", "adult", "adolescent", "child")
LOOP_METRICS = (*UNITS, "cpu_ms_per_decision", "refusals", "train_cpu_seconds")


def models_folder() -> Path:
    """Where prepared models are kept for reuse: `runs/models`, or `$FOREWORLD_RUNS/models`."""
    return Path(os.environ.get("FOREWORLD_RUNS", "runs")) / "models"


@dataclass(frozen=True)
class Prepared:
    """The trained parts of one seed.

    Attributes:
        model: Checkpoint folder with its calibration.
        data: Store that linear models are fitted on.
        cpu_seconds: That data, training and calibration took; NaN where the model was given.
    """

    model: Path
    data: Path
    cpu_seconds: float


def prepare_seed(
    request: Request, seed: int, recipe: Recipe, report: Callable[[str], None] = lambda line: None
) -> Prepared:
    """The model given, or one trained for this seed; a finished one is reused."""
    folder = models_folder() / recipe.key(seed)
    data = request.data or folder / "data"
    if request.model is not None:
        return Prepared(request.model, data, float("nan"))
    _, spent = prepare(folder, recipe, seed=seed, data=request.data, report=report)
    return Prepared(folder / "model", data, spent)


def _closed_loop(name: str, config: LoopConfig) -> Callable[[Request], Sequence[Row]]:
    def run(request: Request) -> Sequence[Row]:
        return run_loop(name, config, request).rows()

    return run


def run_loop(
    name: str,
    config: LoopConfig,
    request: Request,
    *,
    taken: Callable[[Job, Run], None] = lambda job, run: None,
    report: Callable[[str], None] = lambda line: None,
) -> Samples:
    """Run the arms of a closed-loop protocol.

    Args:
        name: Of the protocol.
        config: Of the protocol.
        request: Arms, seeds, subjects.
        taken: Called with every job and what it gave, in order.
        report: Takes a line at each stage.
    """
    arms = request.arms or ARMS
    if request.quick:
        config = config.model_copy(update={"days": 1, "burn_in": 0})
    subjects = subjects_of(request.subjects if request.subjects else 4 if request.quick else None)
    recipe = QUICK if request.quick else FULL
    samples = Samples(request.seeds, NAMES | Names(frozenset(ARMS), frozenset(GROUPS), frozenset(LOOP_METRICS)))
    jobs = []
    for seed in request.seeds:
        made = prepare_seed(request, seed, recipe, report) if {"foreworld", "arx"} & set(arms) else None
        for arm in arms:
            job = Job(arm, seed, subjects, config, made.model if made else None, made.data if made else None)
            jobs.append(job)
            if arm == "foreworld" and made is not None and np.isfinite(made.cpu_seconds):
                cost = np.full(len(subjects), made.cpu_seconds)
                samples.add(arm, "train_cpu_seconds", seed, subjects, cost, groups_of(subjects), unit="s", how="max")
    report(f"{name}: {len(jobs)} runs of {len(subjects)} patients, {config.days} days each")
    for job, done in zip(jobs, run_all(run_job, jobs, workers=1 if request.quick else None), strict=True):
        add_samples(samples, job, done)
        taken(job, done)
        share = float(((done.bg >= 70.0) & (done.bg <= 180.0)).mean())
        report(f"{job.arm}, seed {job.seed}: time in range {share:.1%}, {done.cpu_seconds:.0f} CPU s")
    return samples


ANNOUNCED = LoopConfig(scenario=ScenarioConfig())

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="treatment/t1d-announced",
            version=1,
            description=(
                "Track A: meals announced with 30 % carb error at the first decision after the first bite; 14 days "
                "after one of burn-in; scored on true glucose."
            ),
            settings={"loop": ANNOUNCED.model_dump(mode="json"), "recipe": FULL.model_dump(mode="json")},
            arms=ARMS,
            metrics=LOOP_METRICS,
            run=_closed_loop("treatment/t1d-announced", ANNOUNCED),
            groups=GROUPS,
        ),
        *forecast_protocol.protocols(prepare_seed),
    )
}
