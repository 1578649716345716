"""Trained parts for the protocols: the model that was given, or one for each seed, made once and reused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from foreworld.domains.treatment.policies.made import POLICY_ARMS, make_policy, policy_config, policy_name
from foreworld.domains.treatment.prepare import FULL, QUICK, Recipe, collected, learned, prepare, silent_folder
from foreworld.evidence.parallel import run_all
from foreworld.evidence.protocol import Request

# Arms that need the world model, and those that are fitted on the store itself.
MODEL_ARMS = ("foreworld", "foreworld_shuffled", "unguarded")
DATA_ARMS = ("arx", "arx_signed", "arx_population", "network")
GROUPS = ("all", "unseen", "adult", "adolescent", "child")


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
        policies: By arm of `POLICY_ARMS` that was asked for, its folder and the CPU seconds that it took.
    """

    model: Path
    data: Path
    cpu_seconds: float
    policies: Mapping[str, tuple[Path, float]] = field(default_factory=dict)


def recipe_of(request: Request) -> Recipe:
    """The recipe of a request: the full one, or the smoke run's."""
    return QUICK if request.quick else FULL


def prepare_all(
    request: Request, report: Callable[[str], None] | None = None, *, announced: bool = True
) -> dict[int, Prepared]:
    """The trained parts of every seed; those still missing are made side by side.

    Args:
        request: Seeds, and the model or data that were given.
        report: Takes a line at each stage; that of the request if None.
        announced: As in `prepare`.
    """
    jobs = [(request, seed, announced) for seed in request.seeds]
    if request.model is not None or request.quick:
        return {job[1]: _prepare(job) for job in jobs}
    (report or request.tell)(f"preparing {len(jobs)} models in {models_folder()} (those that are there are reused)")
    return dict(zip(request.seeds, run_all(_prepare, jobs), strict=True))


def _prepare(job: tuple[Request, int, bool]) -> Prepared:
    request, seed, announced = job
    recipe = recipe_of(request)
    folder = models_folder() / recipe.key(seed, request.data)
    data = request.data or folder / "data"
    asked = set(request.arms or (*MODEL_ARMS, *DATA_ARMS))
    model, spent = request.model or folder / "model", float("nan")
    if request.model is None and asked & set(MODEL_ARMS):
        _, spent = prepare(
            folder, recipe, seed=seed, data=request.data, announced=announced, progress="none", report=request.tell
        )
        model = model if announced else silent_folder(folder)
    # Some arms learn from the store itself, and some from nothing.
    elif request.data is None and asked & set(DATA_ARMS):
        collected(folder, recipe, seed=seed)
    policies = {}
    for arm in POLICY_ARMS:
        if arm in asked:
            if request.data is None:
                collected(folder, recipe, seed=seed)
            name, make = policy_name(arm, recipe), partial(make_policy, policy_config(arm, recipe, seed), data)
            policies[arm] = learned(folder, recipe, name, make, seed=seed, data=request.data)
    return Prepared(model, data, spent, policies)
