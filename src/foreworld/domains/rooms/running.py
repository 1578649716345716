"""Experiments in rooms: models are made where they are missing, every arm runs in every seed, samples become rows.

REACH = Experiment("rooms/cross-room", 1, "...", ARMS, METRICS, run_job, add_samples)
protocol = REACH.protocol(ReachConfig(recipe=...))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch

from foreworld.domains.rooms.floors import FLOORS, UNLEARNED, floor_of
from foreworld.domains.rooms.loop import SEARCH, Outcome, Player
from foreworld.domains.rooms.making import make_all, runs
from foreworld.domains.rooms.prepare import Prepared, RoomsRecipe, prepare
from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.evidence.kept import folder_digest
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples


class ExperimentConfig(Options):
    """What every experiment has.

    Attributes:
        recipe: Of the model.
        count: Scenes a seed.
    """

    recipe: RoomsRecipe
    count: int

    def quick(self) -> Self:
        """The settings of a smoke run."""
        return self.model_copy(update={"recipe": self.recipe.quick()})


Config = TypeVar("Config", bound=ExperimentConfig)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Config]):
    """One arm in the scenes of one seed.

    Attributes:
        arm: Who.
        seed: Of everything in it.
        config: How.
        folder: Of the model.
        count: Scenes.
    """

    arm: str
    seed: int
    config: Config
    folder: Path
    count: int


@dataclass(frozen=True)
class Experiment(Generic[Config, Result]):
    """A protocol of rooms, but for its settings.

    Attributes:
        name: `rooms/...`.
        version: As of `Protocol`.
        description: As there.
        arms: As there.
        metrics: As there.
        work: Runs a job on one thread; module-level, as it goes to other processes.
        add: Puts what it gave into samples.
        groups: As of `Protocol`.
        unlearned: Arms that need no model.
        costed: Arms whose `train_cpu_seconds` are those of the recipe's model.
        few: Scenes of a smoke run.
        ready: Raises before anything is made where settings, seeds and scenes a seed do not go together.
        told: What is reported of a job that is done.
        pairs: Rows that compare arms.
        settings: What shapes the figures besides the configuration.
    """

    name: str
    version: int
    description: str
    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    work: Callable[[Job[Config]], Result]
    add: Callable[[Samples, Job[Config], Result], object]
    groups: tuple[str, ...] = ("all",)
    unlearned: tuple[str, ...] = ()
    costed: tuple[str, ...] = ()
    few: int = 12
    ready: Callable[[Config, Sequence[int], int], None] = lambda config, seeds, count: None
    told: Callable[[Result], str] = lambda result: "done"
    pairs: Callable[[Samples, Sequence[str]], Sequence[Row]] = lambda samples, arms: ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def protocol(self, config: Config, **more: Any) -> Protocol:
        """With its settings; `more` as of `Protocol`."""
        more = {"settings": config.model_dump(mode="json") | dict(self.settings)} | more
        return Protocol(
            name=self.name,
            version=self.version,
            description=self.description,
            arms=self.arms,
            metrics=self.metrics,
            run=lambda request: self.rows(config, request),
            groups=self.groups,
            keeps=True,
            **more,
        )

    def rows(self, config: Config, request: Request) -> list[Row]:
        """Run the arms of a request."""
        arms = request.arms or self.arms
        config = config.quick() if request.quick else config
        count = request.subjects or (self.few if request.quick else config.count)
        self.ready(config, request.seeds, count)
        folders = {seed: runs() / config.recipe.key(seed) for seed in request.seeds}
        made: dict[int, float] = {}
        if set(arms) - set(self.unlearned):
            made = make_all(config.recipe, folders, request)
        names = Names(frozenset(self.arms), frozenset(self.groups), frozenset(self.metrics))
        samples = Samples(request.seeds, NAMES | names)
        jobs = [Job(arm, seed, config, folders[seed], count) for seed in request.seeds for arm in arms]
        request.tell(f"{self.name}: {len(jobs)} runs of {count} scenes")
        for job, result in run_sampled(
            self.work, jobs, self.add, samples, identity=self.identity, kept=request.kept,
            workers=1 if request.quick else None, report=request.tell,
        ):  # fmt: skip
            request.tell(f"{job.arm}, seed {job.seed}: {self.told(result)}")
        if made and np.isfinite(list(made.values())).all():
            for seed, spent in made.items():
                for arm in set(arms) & set(self.costed):
                    samples.add(arm, "train_cpu_seconds", seed, ["model"], [spent], unit="s", how="max")
        return [*samples.rows(), *self.pairs(samples, arms)]

    def identity(self, job: Job[Config]) -> dict[str, Any]:
        """Everything that shapes what a job gives, but the source."""
        return {
            "protocol": f"{self.name} v{self.version}",
            "seed": job.seed,
            "count": job.count,
            "config": job.config.model_dump(mode="json"),
            "settings": dict(self.settings),
            "model": None if job.arm in self.unlearned else folder_digest(job.folder / "model"),
            "search": SEARCH.model_dump(mode="json"),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }


def begin(job: Job[Any]) -> Player | Prepared:
    """The floor that an arm is, or else the model that it plans with; on one thread."""
    torch.set_num_threads(1)
    if job.arm in UNLEARNED:
        return floor_of(job.arm, job.seed)
    prepared = prepare(job.folder, job.config.recipe, seed=job.seed, progress="none")
    return floor_of(job.arm, job.seed, prepared) if job.arm in FLOORS else prepared


Counted = tuple[np.ndarray, list[str], list[tuple[str, ...]] | None]


def add_outcome(samples: Samples, job: Job[Any], done: Outcome, groups: Sequence[str] | None = None) -> Counted:
    """What an arm gave in a seed, as `add_episodes`, and CPU time a decision, the greatest of all seeds."""
    spent = 1000.0 * done.cpu_seconds / max(done.decisions, 1)
    samples.add(job.arm, "cpu_ms_per_decision", job.seed, ["all"], [spent], unit="ms", how="max")
    return add_episodes(samples, job.arm, job.seed, done, groups)


def add_episodes(samples: Samples, arm: str, seed: int, done: Outcome, groups: Sequence[str] | None = None) -> Counted:
    """What became of episodes; one that is solved at its start is counted, and is part of nothing else.

    Args:
        samples: Where it goes.
        arm: Who moved.
        seed: Of the scenes.
        done: The outcome.
        groups: Of each episode, part of its label; none if None.

    Returns:
        Which episodes were not solved at their start, and their labels and groups, for what else there is to say.

    Raises:
        InputError: All were solved.
    """
    if done.solved.all():
        raise InputError(
            f"all {len(done.solved)} scenes of seed {seed} are solved at their start, which leaves nothing to tell of "
            f"{arm}; give more scenes"
        )
    within: list[tuple[str, ...]] | None = None if groups is None else [(group,) for group in groups]
    names = [f"{seed}/{n}" if groups is None else f"{seed}/{groups[n]}/{n}" for n in range(len(done.reached))]
    samples.add(arm, "solved_at_start", seed, names, done.solved.astype(float), within, how="wilson")
    kept = np.flatnonzero(~done.solved)
    own, mine = [names[n] for n in kept], None if within is None else [within[n] for n in kept]
    samples.add(arm, "success", seed, own, done.reached[kept].astype(float), mine, how="wilson")
    # Who does not get there has used up the budget.
    samples.add(arm, "steps_to_goal", seed, own, done.steps[kept], mine, unit="steps")
    if arm.startswith("foreworld"):
        taken = np.maximum(done.steps[kept], 1)
        samples.add(arm, "refusals", seed, own, done.refused[kept] / taken, mine, weights=taken)
    return kept, own, mine
