"""`foreworld evaluate rooms/...`: reaching goals in scenes that nobody learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from foreworld.domains.rooms.expectation import ExpectationConfig, expectation
from foreworld.domains.rooms.film import record as record_film
from foreworld.domains.rooms.film import save_film
from foreworld.domains.rooms.floors import Clone, Nothing, Random, StraightLine
from foreworld.domains.rooms.loop import SEARCH, By, Outcome, Planned, Player, joined, run_scenes
from foreworld.domains.rooms.making import make_all, runs
from foreworld.domains.rooms.no_go import NoGoConfig, no_go
from foreworld.domains.rooms.pairs import Pairs, ahead, drawn
from foreworld.domains.rooms.prepare import BLOCKS, CHECK, SPLIT, Prepared, RoomsRecipe, prepare
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.source import PLACE
from foreworld.domains.rooms.variation import VariationConfig, variation
from foreworld.episodes.options import Options
from foreworld.evidence.kept import folder_digest
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples
from foreworld.learning.fit import FitConfig
from foreworld.learning.latent import TrainLatentConfig
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.latent_loss import LatentLossConfig
from foreworld.model.latent_model import LatentConfig

VERSION = 1
FLOORS = ("nothing", "random", "straight_line", "clone")
PLANNED = ("foreworld", "foreworld_waypoints", "foreworld_flat")
ARMS = (*PLANNED, *FLOORS)
METRICS = (
    "success", "solved_at_start", "steps_to_goal", "refusals", "cpu_ms_per_decision", "train_cpu_seconds",
    "success_above_foreworld_flat",
)  # fmt: skip
LEARNED = (*PLANNED, "clone")
FILMED = 4  # scenes in a film
TOGETHER = 100  # scenes that are run side by side


class ReachConfig(Options):
    """An evaluation of reaching goals.

    Attributes:
        rooms: What scenes are like.
        recipe: Of the model.
        count: Starts a seed.
        ahead: Steps after which a held-out episode's place is the goal; 0 draws start and goal.
        doors: Where they are drawn, the least number of doors on the way.
        budget: Actions an episode has at most.
        by: How far a goal is to `foreworld`.
        horizon: Blocks that are planned ahead where the distance goes round walls.
        flat_horizon: Blocks that `foreworld_flat` plans ahead, by latent distance.
    """

    later: ClassVar[frozenset[str]] = frozenset({"doors"})

    rooms: RoomsConfig = RoomsConfig()
    recipe: RoomsRecipe
    count: int = 400
    ahead: int = 0
    doors: int = 1
    budget: int = 100
    by: By = "temporal"
    horizon: int = 3
    flat_horizon: int = 10


RANDOM = RoomsConfig(layout="random_two_rooms", part="unseen", speed=1.5, radius=2.0, reach=4.5)
# Walls differ, so they are not in the latent: it is where points are, and the predictor looks at what is around them.
SIGHTED = RoomsRecipe(
    name="random-layout",
    rooms=RANDOM.model_copy(update={"part": "seen"}),
    episodes=2000,
    steps=48,
    walkers=4,
    temporal=None,
    waypoints=0,
    places=1500,
    train=TrainLatentConfig(
        model=LatentConfig(quantities=PLACE, grid=BLOCKS, kind="points", width=8, sight=4),
        loss=LatentLossConfig(regular=0.005, within=1.0, inverse=1.0, noise=0.03),
        fit=FitConfig(steps=1000, lr=2e-3, warmup=40, floor=0.0, weight_decay=1e-3, threads=1),
        group=8,
        split=SPLIT,
        check=CHECK,
    ),
)

DISC = {"other": True}
WITH_DISC = SIGHTED.model_copy(update={"name": "distractor", "rooms": SIGHTED.rooms.model_copy(update=DISC)})

# One maze a seed, the same in training and evaluation; start and goal are others. A goal lies far beyond any horizon.
MAZE = RoomsConfig(layout="maze", cells=4, shared="seed")
MAZE_BLOCKS = HorizonGrid(points=tuple(range(2, 21, 2)))  # a block is shorter than walls are thick
IN_A_MAZE = SIGHTED.model_copy(
    update={
        "name": "maze",
        "rooms": MAZE,
        "episodes": 600,
        "steps": 200,
        "walkers": 1,
        "behaviour": "mixed",
        "waypoints": 800,
        "astray": 1.5,
        "places": 0,
        "train": SIGHTED.train.model_copy(
            update={
                "model": SIGHTED.train.model.model_copy(update={"grid": MAZE_BLOCKS}),
                "fit": SIGHTED.train.fit.model_copy(update={"steps": 500}),
            }
        ),
    }
)

TASKS: dict[str, tuple[str, ReachConfig]] = {
    "two-room": (
        "The two rooms of swm/TwoRoom-v1; the goal is where a held-out noisy expert was 25 steps later; 50 actions.",
        ReachConfig(recipe=RoomsRecipe(name="two-rooms"), ahead=25, budget=50),
    ),
    "two-room-far": (
        "The same with the goal 100 steps ahead and 150 actions.",
        ReachConfig(recipe=RoomsRecipe(name="two-rooms"), ahead=100, budget=150),
    ),
    "cross-room": (
        "The same rooms; start and goal in different rooms, 100 actions.",
        ReachConfig(recipe=RoomsRecipe(name="two-rooms"), budget=100),
    ),
    "random-layout": (
        "Two rooms with another wall and door in each scene, none of which was seen in training; start and goal in "
        "different rooms, 200 actions.",
        ReachConfig(rooms=RANDOM, recipe=SIGHTED, budget=200, by="imagined"),
    ),
    "distractor": (
        "The same with a disc that drifts about by itself, and is elsewhere in the goal's frame.",
        ReachConfig(rooms=RANDOM.model_copy(update=DISC), recipe=WITH_DISC, budget=200, by="imagined"),
    ),
    "maze": (
        "Sixteen rooms, a maze of its own for each seed, which recording and evaluation share; at least four "
        "doors, and up to fifteen, between start and goal; 250 actions.",
        ReachConfig(rooms=MAZE, recipe=IN_A_MAZE, doors=4, budget=250, by="waypoints", horizon=5),
    ),
}


@dataclass(frozen=True)
class Job:
    """One arm in the scenes of one seed."""

    arm: str
    seed: int
    config: ReachConfig
    folder: Path
    count: int


def protocols() -> tuple[Protocol, ...]:
    """All of them."""
    return tuple(
        Protocol(
            name=f"rooms/{name}",
            version=VERSION,
            description=description,
            settings={"reach": config.model_dump(mode="json")},
            arms=arms_of(config),
            metrics=METRICS,
            run=_runner(name, config),
            keeps=True,
            film=_filmer(name, config),
        )
        for name, (description, config) in TASKS.items()
    )


def arms_of(config: ReachConfig) -> tuple[str, ...]:
    """Those that there are for a task: waypoints besides where the recipe makes some."""
    apart = config.recipe.waypoints and config.by != "waypoints"
    return tuple(arm for arm in ARMS if arm != "foreworld_waypoints" or apart)


def _runner(name: str, config: ReachConfig) -> Callable[[Request], Sequence[Row]]:
    def run(request: Request) -> Sequence[Row]:
        return rows_of(name, config, request)

    return run


def _filmer(name: str, config: ReachConfig) -> Callable[[Request, Path], Path]:
    def film(request: Request, folder: Path) -> Path:
        return film_of(name, config, request, folder)

    return film


def film_of(name: str, config: ReachConfig, request: Request, folder: Path) -> Path:
    """Film the first scenes of the first seed, as `foreworld` goes through them."""
    recipe, seed = config.recipe.quick() if request.quick else config.recipe, request.seeds[0]
    place = runs() / recipe.key(seed)
    prepared = prepare(place, recipe, seed=seed, progress="none", report=request.tell)
    pairs = pairs_of(config, seed, FILMED)
    scenes = Scenes(config.rooms.of(seed), pairs.seeds[:FILMED])
    scenes.place(pairs.start[:FILMED], pairs.goal[:FILMED])
    job = Job("foreworld", seed, config, place, FILMED)
    player = player_of(job, prepared)
    assert isinstance(player, Planned)
    path = folder / f"{name}-{seed}.gif"
    save_film(path, record_film(player, scenes, config.budget))
    return path


def rows_of(name: str, config: ReachConfig, request: Request) -> list[Row]:
    """Run the arms of a request."""
    arms = request.arms or arms_of(config)
    config = config.model_copy(update={"recipe": config.recipe.quick()}) if request.quick else config
    count = request.subjects or (16 if request.quick else config.count)
    folders = {seed: runs() / config.recipe.key(seed) for seed in request.seeds}
    made: dict[int, float] = {}
    if set(LEARNED) & set(arms):
        made = make_all(config.recipe, folders, request)
    samples = Samples(request.seeds, NAMES | Names(frozenset(ARMS), frozenset(), frozenset(METRICS)))
    jobs = [Job(arm, seed, config, folders[seed], count) for seed in request.seeds for arm in arms]
    request.tell(f"{name}: {len(jobs)} runs of {count} episodes")
    for job, done in run_sampled(
        run_job, jobs, add_samples, samples, identity=lambda job: identity(name, job), kept=request.kept,
        workers=1 if request.quick else None,
        report=request.tell,
    ):  # fmt: skip
        request.tell(f"{job.arm}, seed {job.seed}: {done.reached[~done.solved].mean():.1%}")
    for seed, spent in made.items():
        if np.isfinite(list(made.values())).all():
            for arm in set(arms) & set(PLANNED):
                samples.add(arm, "train_cpu_seconds", seed, ["model"], [spent], unit="s", how="max")
    return [*samples.rows(), *above(samples, arms)]


def run_job(job: Job) -> Outcome:
    """One arm in the scenes of one seed, a part of them at a time."""
    torch.set_num_threads(1)
    config = job.config
    pairs = pairs_of(config, job.seed, job.count)
    prepared = prepare(job.folder, config.recipe, seed=job.seed, progress="none") if job.arm in LEARNED else None
    player = player_of(job, prepared)
    parts = [slice(at, at + TOGETHER) for at in range(0, len(pairs), TOGETHER)]
    return joined([play(player, config, pairs, job.seed, part) for part in parts])


def pairs_of(config: ReachConfig, seed: int, count: int) -> Pairs:
    """Starts and goals of a seed."""
    rooms = config.rooms.of(seed)
    return ahead(rooms, seed, count, config.ahead) if config.ahead else drawn(rooms, seed, count, doors=config.doors)


def play(player: Player, config: ReachConfig, pairs: Pairs, seed: int, part: slice) -> Outcome:
    """Some of the pairs of a seed."""
    scenes = Scenes(config.rooms.of(seed), pairs.seeds[part])
    frames = scenes.place(pairs.start[part], pairs.goal[part])
    return run_scenes(player, scenes, config.budget, frames=frames)


def player_of(job: Job, prepared: Prepared | None) -> Player:
    """Who moves."""
    config = job.config
    if prepared is None:
        floors: dict[str, Callable[[], Player]] = {
            "nothing": Nothing,
            "random": lambda: Random(job.seed),
            "straight_line": StraightLine,
        }
        return floors[job.arm]()
    if job.arm == "clone":
        return Clone(prepared, seed=job.seed)
    horizon = config.flat_horizon if job.arm == "foreworld_flat" else config.horizon
    ways: dict[str, By] = {"foreworld": config.by, "foreworld_waypoints": "waypoints", "foreworld_flat": "straight"}
    return Planned(prepared, horizon=horizon, by=ways[job.arm], seed=job.seed)


def add_samples(samples: Samples, job: Job, done: Outcome) -> None:
    """What an arm gave in a seed; an episode that is solved at its start is counted, and no success."""
    names = [f"{job.seed}/{n}" for n in range(len(done.reached))]
    samples.add(job.arm, "solved_at_start", job.seed, names, done.solved.astype(float), how="wilson")
    kept = np.flatnonzero(~done.solved)
    own = [names[n] for n in kept]
    samples.add(job.arm, "success", job.seed, own, done.reached[kept].astype(float), how="wilson")
    # Who does not get there has used up the budget.
    samples.add(job.arm, "steps_to_goal", job.seed, own, done.steps[kept], unit="steps")
    if job.arm.startswith("foreworld"):
        taken = np.maximum(done.steps[kept], 1)
        samples.add(job.arm, "refusals", job.seed, own, done.refused[kept] / taken, weights=taken)
    spent = 1000.0 * done.cpu_seconds / max(done.decisions, 1)
    samples.add(job.arm, "cpu_ms_per_decision", job.seed, ["all"], [spent], unit="ms", how="max")


def above(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """What ways round walls are worth, paired by episode."""
    if not {"foreworld", "foreworld_flat"} <= set(arms):
        return []
    found = samples.difference("foreworld", "foreworld_flat", "success")
    by_seed = samples.differences_by_seed("foreworld", "foreworld_flat", "success")
    return [
        Row(
            arm="foreworld", group="all", metric="success_above_foreworld_flat", value=100.0 * found.value,
            low=100.0 * found.low, high=100.0 * found.high, n=len(samples.subjects("foreworld")), unit="points",
            by_seed=tuple(100.0 * one for one in by_seed),
        )
    ]  # fmt: skip


def identity(name: str, job: Job) -> dict[str, Any]:
    """Everything that shapes what a job gives, but the source."""
    return {
        "protocol": f"rooms/{name} v{VERSION}",
        "seed": job.seed,
        "count": job.count,
        "reach": job.config.model_dump(mode="json"),
        "model": folder_digest(job.folder / "model") if job.arm in LEARNED else None,
        "search": SEARCH.model_dump(mode="json"),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


# The same model in the rooms of swm/TwoRoom-v1, which are always the same: a third of the training is enough.
TWO_ROOMS_SIGHTED = SIGHTED.model_copy(
    update={
        "name": "two-rooms-sighted",
        "rooms": RoomsConfig(),
        "episodes": 500,
        "walkers": 1,
        "train": SIGHTED.train.model_copy(update={"fit": SIGHTED.train.fit.model_copy(update={"steps": 300})}),
    }
)
NO_GO = NoGoConfig(recipe=TWO_ROOMS_SIGHTED)

EXPECTED = ExpectationConfig(rooms=RANDOM, recipe=SIGHTED)
VARIED = VariationConfig(rooms=RANDOM, recipe=SIGHTED)

PROTOCOLS = {
    protocol.name: protocol for protocol in (*protocols(), no_go(NO_GO), expectation(EXPECTED), variation(VARIED))
}
