"""`treatment/tumour` as a protocol: error of counterfactual tumour volumes by horizon and confounding."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from foreworld.domains.treatment.prepared import models_folder
from foreworld.domains.treatment.tumour.growth import DEATH, Patients
from foreworld.domains.treatment.tumour.therapy import HORIZON, Chance, collect, training, treat
from foreworld.domains.treatment.tumour_benchmark.branches import Branches, Plans, branch_out, published
from foreworld.domains.treatment.tumour_benchmark.comparators import filtered, network_volumes, train_network
from foreworld.domains.treatment.tumour_benchmark.predict import FORESEE, Predict
from foreworld.episodes.files import one_writer
from foreworld.evidence.parallel import run_all
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples
from foreworld.learning.train import train
from foreworld.model.checkpoint import load

ARMS = ("foreworld", "foreworld_stepwise", "network", "filter", "oracle")
GAMMAS = (0, 1, 2, 3, 4, 6, 8, 10)
PLANS: tuple[Plans, ...] = ("single", "random", "sliding")
METRICS = (
    "rmse_single_1",
    *(f"rmse_{plans}_{day}" for plans in ("random", "sliding") for day in range(2, HORIZON + 1)),
)


@dataclass(frozen=True)
class Sizes:
    """How large a run is: patients to learn from, to judge the fit by and to test on, and optimiser steps."""

    fit: int = 10_000
    validate: int = 1_000
    test: int = 1_000
    steps: int = 4_000


FULL, QUICK = Sizes(), Sizes(fit=100, validate=20, test=8, steps=5)


def group_of(gamma: int, own: bool) -> str:
    """`gamma_4` is the published test set, `gamma_4_own` the one whose therapy looks at the patient's own tumour."""
    return f"gamma_{gamma}_own" if own else f"gamma_{gamma}"


def tumour(gammas: Sequence[int] = GAMMAS) -> Protocol:
    """The protocol, for these amounts of confounding."""
    groups = tuple(group_of(gamma, own) for gamma in gammas for own in ((False, True) if gamma else (False,)))
    names = Names(frozenset(ARMS), frozenset(groups), frozenset(METRICS))
    return Protocol(
        name="treatment/tumour",
        version=1,
        description=(
            "Counterfactual tumour volumes under chemo- and radiotherapy: root mean square error in % of 1150 cm3, by "
            "days ahead and amount of time-varying confounding."
        ),
        settings={
            "gammas": list(gammas),
            "sizes": list(vars(FULL).values()),
            "training": training(FULL.steps, 0).model_dump(mode="json"),
        },
        arms=ARMS,
        metrics=METRICS,
        run=partial(_run, gammas, NAMES | names),
        groups=groups,
    )


def _run(gammas: Sequence[int], names: Names, request: Request) -> Sequence[Row]:
    arms = request.arms or ARMS
    chosen = gammas[-1:] if request.quick else gammas
    jobs = [(request, gamma, seed, arms) for gamma in chosen for seed in request.seeds]
    scores = run_all(_score, jobs, 1 if request.quick else None)
    found = {(gamma, seed): score for (_, gamma, seed, _), score in zip(jobs, scores, strict=True)}
    rows: list[Row] = []
    for gamma in chosen:
        for own in (False, True) if gamma else (False,):
            # Samples of its own: a figure pooled over gammas would mean nothing.
            samples = Samples(request.seeds, names)
            for seed in request.seeds:
                for arm, metric, subjects, squares, weights in found[gamma, seed][own]:
                    samples.add(arm, metric, seed, subjects, squares, weights=weights, unit="% of 1150 cm3", how="rms")
            rows += [row.model_copy(update={"group": group_of(gamma, own)}) for row in samples.rows()]
    return rows


Job = tuple[Request, int, int, Sequence[str]]
Scores = list[tuple[str, str, list[str], np.ndarray, np.ndarray]]


def _score(job: Job) -> dict[bool, Scores]:
    """`_scores` on one thread: jobs run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _scores(*job)
    finally:
        torch.set_num_threads(threads)


def _scores(request: Request, gamma: int, seed: int, arms: Sequence[str]) -> dict[bool, Scores]:
    """By whose tumour the test therapy looks at (False: as published): squared errors of every arm and metric."""
    sizes = QUICK if request.quick else FULL
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) if request.quick else models_folder() / _key(sizes, gamma, seed)
        predictors = _predictors(request, folder, gamma, seed, sizes, arms)
    n = min(sizes.test, request.subjects or sizes.test)
    found: dict[bool, Scores] = {}
    for own in (False, True) if gamma else (False,):
        found[own] = []
        for number, plans in enumerate(PLANS):
            rng = np.random.default_rng([seed, 100 + number])
            patients, chance = Patients.draw(n, rng), Chance.draw(n, rng)
            courses = treat(patients, gamma, chance, lag=0) if own else published(patients, gamma, chance, plans, rng)
            branches = branch_out(patients, courses, chance, plans, rng)
            for arm, predict in predictors.items():
                squares = (100.0 * (predict(patients, courses, branches) - branches.truth) / DEATH) ** 2
                found[own] += _by_patient(arm, plans, seed, branches, squares)
    return found


def _by_patient(arm: str, plans: Plans, seed: int, branches: Branches, squares: np.ndarray) -> Scores:
    """Mean squared errors of every patient, weighted by the number of branches."""
    patient = np.broadcast_to(branches.patient[:, None], branches.kept.shape)[branches.kept]
    who, row, count = np.unique(patient, return_inverse=True, return_counts=True)
    kept = squares[branches.kept]
    # Patients are drawn anew for every seed and set.
    subjects = [f"{seed}-{plans}-{one}" for one in who]
    return [
        (arm, f"rmse_{plans}_{h + 1}", subjects, np.bincount(row, kept[:, h]) / count, count.astype(np.float64))
        for h in range(kept.shape[1])
        if f"rmse_{plans}_{h + 1}" in METRICS
    ]


def _predictors(
    request: Request, folder: Path, gamma: int, seed: int, sizes: Sizes, arms: Sequence[str]
) -> dict[str, Predict]:
    data = request.data or folder / "data"
    made: dict[str, Predict] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with one_writer(folder / ".lock"):
        learned = {"network"} if request.model else {"network", *FORESEE}
        if learned & set(arms) and request.data is None and not (folder / "collected").exists():
            # What an interrupted run left is incomplete.
            shutil.rmtree(data, ignore_errors=True)
            collect(data, float(gamma), (sizes.fit, sizes.validate), seed)
            (folder / "collected").touch()
        if FORESEE.keys() & set(arms):
            place = request.model or folder / "model"
            if not place.exists():
                train(data, place, training(sizes.steps, seed), progress="none")
            made |= {arm: partial(foresee, load(place)) for arm, foresee in FORESEE.items() if arm in arms}
        if "network" in arms:
            made["network"] = partial(network_volumes, train_network(data, sizes.steps, seed))
    if "filter" in arms:
        made["filter"] = partial(filtered, rng=np.random.default_rng([seed, 200]))
    if "oracle" in arms:
        made["oracle"] = lambda patients, courses, branches: branches.oracle
    return made


def _key(sizes: Sizes, gamma: int, seed: int) -> str:
    text = f"{sizes} {training(sizes.steps, seed).model_dump_json()}"
    return f"tumour-{gamma}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
