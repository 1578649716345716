"""`rooms/ablation`: what keeps a latent from collapsing or being taken over, at equal CPU time of training.

Four ways to keep a latent from collapsing (none, VICReg, SIGReg, painting the frame again), each with and without the
remedies against what is easier to predict than the agent, here a disc that drifts by itself. An arm trains for as many
steps as take the CPU time of the headline's, by what a step of each was measured to cost beside the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field

from foreworld.domains.rooms.figure_ablation import pictures
from foreworld.domains.rooms.floors import FLOORS, UNLEARNED, floor_of
from foreworld.domains.rooms.loop import SEARCH, Outcome, Planned, run_pairs
from foreworld.domains.rooms.making import make_all, runs
from foreworld.domains.rooms.pairs import drawn
from foreworld.domains.rooms.prepare import RoomsRecipe, prepare
from foreworld.domains.rooms.running import add_episodes
from foreworld.domains.rooms.speed import Task
from foreworld.domains.rooms.training_speed import train_some
from foreworld.episodes.files import read_json, write_json
from foreworld.episodes.options import Options
from foreworld.evidence.kept import folder_digest
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples
from foreworld.evidence.stages import cost_of
from foreworld.learning.diagnose import Diagnosis

NAME, VERSION = "rooms/ablation", 2
REGULARISERS = ("none", "vicreg", "sigreg", "reconstruct")
REMEDIES = "_remedies"
KINDS = tuple(f"{one}{remedies}" for one in REGULARISERS for remedies in ("", REMEDIES))
HEADLINE = f"sigreg{REMEDIES}"
UNITS = {
    "success": "share",
    "solved_at_start": "share",
    "steps_to_goal": "steps",
    "probe_linear": "R2",
    "probe_perceptron": "R2",
    "variance": "1",
    "dead": "share",
    "rank": "dimensions",
    "sensitivity": "share",
    "error_1": "of spread",
    "error_4": "of spread",
    "persistence_1": "of spread",
    "steps_trained": "steps",
    "train_cpu_seconds": "s",
}


class AblationTask(Task):
    """A task; its recipe is the headline's, SIGReg with remedies.

    Attributes:
        budget: Actions an episode has at most.
        vicreg: Weight of VICReg, where the recipe's is that of SIGReg. A collapsed latent costs about as much by both.
        reconstruct: Weight of painting the frame again.
    """

    budget: int
    vicreg: float = Field(gt=0)
    reconstruct: float = Field(default=1.0, gt=0)

    def of(self, kind: str, steps: int) -> RoomsRecipe:
        """The recipe of an arm."""
        if kind == HEADLINE and steps == self.recipe.train.fit.steps:
            return self.recipe
        train, way = self.recipe.train, kind.removesuffix(REMEDIES)
        changed: dict[str, Any] = {}
        if not kind.endswith(REMEDIES):
            changed = {"within": 0.0, "move": 0.0, "slow": 0.0, "inverse": 0.0}
        if way == "vicreg":
            changed |= {"regulariser": "vicreg", "regular": self.vicreg}
        elif way != "sigreg":
            changed["regulariser"] = "none"
        if way == "reconstruct":
            changed["reconstruct"] = self.reconstruct
        fit = train.fit.model_copy(update={"steps": steps, "warmup": min(train.fit.warmup, steps // 4)})
        other = train.model_copy(update={"loss": train.loss.model_copy(update=changed), "fit": fit})
        # Nothing is asked of it: what an arm comes to is the question.
        return self.recipe.model_copy(update={"name": f"{self.recipe.name}-{kind}", "train": other, "gate": None})


class AblationConfig(Options):
    """What is compared.

    Attributes:
        tasks: By the first part of an arm's name.
        count: Scenes a seed.
        share: CPU time of training that an arm has, as a share of what the headline takes for its recipe's steps.
        rounds: Times that a step of each arm is timed, one arm after the other.
        timed: Steps each time.
    """

    tasks: dict[str, AblationTask]
    count: int = Field(default=100, gt=0)
    share: float = Field(default=1.0, gt=0)
    rounds: int = Field(default=3, gt=0)
    timed: int = Field(default=8, gt=0)

    @property
    def arms(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(f"{task}_{kind}" for task in self.tasks for kind in (*KINDS, *FLOORS))

    def quick(self) -> Self:
        """A smoke run."""
        tasks = {
            name: task.model_copy(update={"recipe": _few(task.recipe), "budget": 10})
            for name, task in self.tasks.items()
        }
        return self.model_copy(update={"tasks": tasks, "share": 0.2, "rounds": 1, "timed": 1})


def _few(recipe: RoomsRecipe) -> RoomsRecipe:
    """A smoke run's recipe with still less training: there are eight models of it."""
    quick, few = recipe.quick(), {"steps": 40, "warmup": 5}
    fit, temporal = quick.train.fit.model_copy(update=few), quick.temporal
    if temporal is not None:
        temporal = temporal.model_copy(update={"fit": temporal.fit.model_copy(update=few)})
    changed = {"name": f"{quick.name}-few", "train": quick.train.model_copy(update={"fit": fit}), "temporal": temporal}
    return quick.model_copy(update=changed)


@dataclass(frozen=True)
class Job:
    """One arm in the scenes of one seed.

    Attributes:
        arm: Its name.
        kind: Its last part.
        seed: Of everything in it.
        task: Of the arm.
        recipe: Of its model; a floor's is the headline's.
        store: Recorded by the headline's recipe.
        count: Scenes.
    """

    arm: str
    kind: str
    seed: int
    task: AblationTask
    recipe: RoomsRecipe
    store: Path
    count: int


@dataclass(frozen=True)
class Found:
    """What became of an arm: its episodes, its latent, and CPU seconds of its training (NaN where nobody knows)."""

    outcome: Outcome
    diagnosis: Diagnosis | None = None  # a floor's is none
    trained: float = float("nan")


def run_job(job: Job) -> Found:
    """Train an arm where it is missing, and run its scenes."""
    torch.set_num_threads(1)
    task, folder = job.task, runs() / job.recipe.key(job.seed)
    pairs = drawn(task.rooms, job.seed, job.count)
    if job.kind in UNLEARNED:
        return Found(run_pairs(floor_of(job.kind, job.seed), task.rooms, pairs, task.budget))
    own = folder / "data" == job.store  # the headline's
    prepared = prepare(folder, job.recipe, seed=job.seed, recorded=None if own else job.store, progress="none")
    if job.kind in FLOORS:
        return Found(run_pairs(floor_of(job.kind, job.seed, prepared), task.rooms, pairs, task.budget))
    player = Planned(prepared, horizon=task.horizon, by=task.by, seed=job.seed)
    done = run_pairs(player, task.rooms, pairs, task.budget)
    return Found(done, prepared.diagnosis, cost_of(folder, "train"))


def steps_of(task: AblationTask, config: AblationConfig, store: Path, seed: int) -> Mapping[str, int]:
    """By kind: steps that take as much CPU time as the headline's, measured once for a seed and kept."""
    text = f"{task.recipe.key(seed)} {task.model_dump_json()} {config.share} {config.rounds} {config.timed}"
    name = f"rooms-ablation-{task.recipe.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    path = runs() / name / "steps.json"
    if path.is_file():
        return {kind: int(count) for kind, count in read_json(path)["steps"].items()}
    # One after the other, several times, and the least of each: what else the machine does only adds to it.
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(config.rounds):
        for kind in KINDS:
            costs[kind].append(train_some(store, task.of(kind, 100).train, config.timed).cpu_seconds)
    least = {kind: min(found) for kind, found in costs.items()}
    whole = config.share * task.recipe.train.fit.steps * least[HEADLINE]
    steps = {kind: max(2, round(whole / cost)) for kind, cost in least.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": 1, "steps": steps, "cpu_seconds_a_step": least})
    return steps


def add_samples(samples: Samples, job: Job, found: Found) -> None:
    """What an arm gave in a seed."""
    look = found.diagnosis
    add_episodes(samples, job.arm, job.seed, found.outcome)
    if look is None:
        return
    last = min(4, len(look.error)) - 1
    values = {
        "probe_linear": float(np.mean(list(look.linear.values()))),
        "probe_perceptron": float(np.mean(list(look.perceptron.values()))),
        "variance": look.variance,
        "dead": look.dead,
        "rank": look.rank,
        "sensitivity": look.sensitivity,
        "error_1": look.error[0],
        "error_4": look.error[last],
        "persistence_1": look.persistence[0],
        "steps_trained": float(job.recipe.train.fit.steps),
        "train_cpu_seconds": found.trained,
    }
    for metric, value in values.items():
        if np.isfinite(value):  # a collapsed latent has no spread to be measured by
            samples.add(job.arm, metric, job.seed, [f"seed {job.seed}"], [value], unit=UNITS[metric])


def identity(job: Job) -> dict[str, Any]:
    """Everything that shapes what a job gives, but the source."""
    return {
        "protocol": f"{NAME} v{VERSION}",
        "seed": job.seed,
        "count": job.count,
        "task": job.task.model_dump(mode="json"),
        "recipe": job.recipe.model_dump(mode="json"),
        "store": folder_digest(job.store),
        "search": SEARCH.model_dump(mode="json"),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def ablation(config: AblationConfig) -> Protocol:
    """The protocol."""
    return Protocol(
        name=NAME,
        version=VERSION,
        description=(
            "A disc drifts by itself. No regulariser, VICReg, SIGReg and painting the frame again, each without and "
            "with remedies (regularising within episodes, an inverse head, movement asked for), at equal CPU time of "
            "training: success beside what a probe reads and what the latent looks like; floors besides."
        ),
        settings=config.model_dump(mode="json"),
        arms=config.arms,
        metrics=tuple(UNITS),
        run=lambda request: rows_of(config, request),
        keeps=True,
        pictures=pictures,
    )


def rows_of(config: AblationConfig, request: Request) -> list[Row]:
    """Run the arms of a request."""
    arms = request.arms or config.arms
    config = config.quick() if request.quick else config
    count = request.subjects or (8 if request.quick else config.count)
    samples = Samples(request.seeds, NAMES | Names(frozenset(config.arms), frozenset(), frozenset(UNITS)))
    jobs: list[Job] = []
    for name, task in config.tasks.items():
        mine = [arm for arm in arms if arm.startswith(f"{name}_")]
        if not mine:
            continue
        folders = {seed: runs() / task.recipe.key(seed) for seed in request.seeds}
        make_all(task.recipe, folders, request)
        for seed, folder in folders.items():
            request.tell(f"{name}, seed {seed}: timing a step of each arm")
            steps = steps_of(task, config, folder / "data", seed)
            for arm in mine:
                kind = arm.removeprefix(f"{name}_")
                recipe = task.recipe if kind in FLOORS else task.of(kind, steps[kind])
                jobs.append(Job(arm, kind, seed, task, recipe, folder / "data", count))
    request.tell(f"{NAME}: {len(jobs)} models of one arm and seed each")
    for job, found in run_sampled(
        run_job, jobs, add_samples, samples, identity=identity, kept=request.kept,
        workers=1 if request.quick else None, report=request.tell,
    ):  # fmt: skip
        success = found.outcome.reached[~found.outcome.solved].mean()
        spent = f" after {found.trained:.0f} CPU seconds of training" if np.isfinite(found.trained) else ""
        request.tell(f"{job.arm}, seed {job.seed}: {success:.1%}{spent}")
    return _complete(samples)


def _complete(samples: Samples) -> list[Row]:
    """Rows of figures that there are in every seed; of one that was not finite in some, there is none."""
    parts: Sequence[dict[str, Any]] = samples.parts()
    whole = Samples(samples.seeds, samples.names)
    whole.extend([part for part in parts if set(part["seeds"]) == set(samples.seeds)])
    return whole.rows()
