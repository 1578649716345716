"""`rooms/speed`: what a decision takes on one core, and how fast a model trains.

All times are CPU seconds of one thread, but for what a second core adds, which is told by the clock: run it on a quiet
machine. Models are the recipes' own: how many rounds it takes to imagine ways through a scene depends on
what is imagined. Everything runs one after the other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from foreworld.domains.rooms.fast_mode import Timed
from foreworld.domains.rooms.loop import SEARCH, By, Planned
from foreworld.domains.rooms.making import make_all, runs
from foreworld.domains.rooms.prepare import Prepared, RoomsRecipe, prepare, scene_seeds
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.training_speed import matmul_flops, step_flops, train_some, two_cores
from foreworld.episodes.options import Options
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples
from foreworld.planning.planners.cem import CEMPlanner

NAME, VERSION = "rooms/speed", 2
UNITS = {
    "cpu_ms_one_scene": "ms",
    "cpu_ms_per_decision": "ms",
    "planning_ms_one_scene": "ms",
    "start_ms_a_scene": "ms",
    "cpu_ms_with_start": "ms",
    "evaluations_a_plan": "evaluations",
    "evaluations_per_second": "1/s",
    "matmul_gflops": "GFLOP/s",
    "planning_gflops": "GFLOP/s",
    "planning_of_peak": "share",
    "frames_per_cpu_second": "frames/s",
    "step_ms": "ms",
    "step_ms_read": "ms",
    "step_ms_encode": "ms",
    "step_ms_predict": "ms",
    "step_ms_regular": "ms",
    "step_ms_rest": "ms",
    "training_gflops": "GFLOP/s",
    "training_of_peak": "share",
    "speedup_threads": "times",
    "speedup_processes": "times",
    "speedup_apart": "times",
}


class Task(Options):
    """What is timed under one name.

    Attributes:
        rooms: What scenes are like.
        recipe: Of the model.
        by: How far a goal is.
        horizon: Blocks that are planned ahead.
    """

    rooms: RoomsConfig
    recipe: RoomsRecipe
    by: By
    horizon: int = 3


class SpeedConfig(Options):
    """What is timed.

    Attributes:
        tasks: By arm.
        decisions: In each scene.
        together: Scenes that are decided for side by side.
        alone: Scenes that are decided for one after the other.
        episode: Decisions that share what a start costs.
        steps: Of training.
    """

    tasks: dict[str, Task]
    decisions: int = 20
    together: int = 100
    alone: int = 10
    episode: int = 50
    steps: int = 40

    def quick(self) -> Self:
        """A smoke run."""
        few = {"decisions": 4, "together": 8, "alone": 2, "steps": 3}
        tasks = {name: task.model_copy(update={"recipe": task.recipe.quick()}) for name, task in self.tasks.items()}
        return self.model_copy(update={**few, "tasks": tasks})


@dataclass(frozen=True)
class Decided:
    """What deciding took.

    Attributes:
        start: CPU seconds a scene before the first decision: goals are looked at, and ways are worked out.
        decision: CPU seconds, encoding included.
        planning: Without encoding.
        evaluations: Intervals that the predictor foresaw.
        evaluation: CPU seconds of one.
        flops: Of planning, in matrix products.
    """

    start: float
    decision: float
    planning: float
    evaluations: float
    evaluation: float
    flops: float


def decide(player: Planned, scenes: Scenes, decisions: int) -> Decided:
    """Begin, and decide for all scenes some times; the first decision brings caches up and is not counted.

    Args:
        player: Its planner is `Timed`.
        scenes: Drawn anew.
        decisions: How many for each.
    """
    timer = player.planner
    assert isinstance(timer, Timed)
    frames, going = scenes.reset(), np.ones(len(scenes), dtype=bool)
    began = time.process_time()
    player.begin(scenes, frames)
    start = time.process_time() - began
    frames = scenes.step(player.act(frames, going))
    model = player.agent.forecaster.model
    respond, evaluations, responding, spent, timer.spent = model.respond, 0, 0.0, 0.0, 0.0

    def counted(prepared: Any, actions: Tensor) -> Tensor:
        nonlocal evaluations, responding
        before = time.process_time()
        found = respond(prepared, actions)
        responding += time.process_time() - before
        evaluations += int(np.prod(actions.shape[:3])) * model.config.members
        return found

    object.__setattr__(model, "respond", counted)
    for _ in range(decisions):
        before = time.process_time()
        action = player.act(frames, going)
        spent += time.process_time() - before
        frames = scenes.step(action)
    object.__setattr__(model, "respond", respond)
    problem, each = player.last.decisions.problem, decisions * len(scenes)
    with FlopCounterMode(display=False) as counter:
        timer.planner.plan(problem)
    return Decided(
        start / len(scenes), spent / each, timer.spent / each, evaluations / each, responding / max(evaluations, 1),
        counter.get_total_flops() / len(scenes),
    )  # fmt: skip


def measure(task: Task, prepared: Prepared, config: SpeedConfig, seed: int, *, second: bool) -> dict[str, float]:
    """Figures by metric, of one recipe and seed.

    Args:
        task: What is timed.
        prepared: Its model.
        config: How much.
        seed: Of the scenes.
        second: Whether to ask what a second core adds.
    """
    seeds = scene_seeds(seed, range(config.together), held_out=True)

    def player() -> Planned:
        return Planned(prepared, horizon=task.horizon, planner=Timed(CEMPlanner(SEARCH)), by=task.by, seed=seed)

    def alone() -> list[Decided]:
        return [decide(player(), Scenes(task.rooms, [one]), config.decisions) for one in seeds[: config.alone]]

    # A machine may be slow for some seconds: single scenes are timed at three moments that lie apart.
    ones = alone()
    many = decide(player(), Scenes(task.rooms, seeds), config.decisions)
    ones += alone()
    train, store = task.recipe.train, prepared.store
    trained, peak = train_some(store, train, config.steps), matmul_flops()
    ones += alone()
    # Of what came with other work in between, the median is the least disturbed.
    one = {name: float(np.median([getattr(each, name) for each in ones])) for name in ("start", "decision", "planning")}
    training, frames = step_flops(store, train) / trained.cpu_seconds, train.clips * train.frames
    planning = many.flops / many.planning
    found = {
        "cpu_ms_one_scene": 1e3 * one["decision"],
        "cpu_ms_per_decision": 1e3 * many.decision,
        "planning_ms_one_scene": 1e3 * one["planning"],
        "start_ms_a_scene": 1e3 * one["start"],
        "cpu_ms_with_start": 1e3 * (one["decision"] + one["start"] / config.episode),
        "evaluations_a_plan": many.evaluations,
        "evaluations_per_second": 1.0 / many.evaluation,
        "matmul_gflops": 1e-9 * peak,
        "planning_gflops": 1e-9 * planning,
        "planning_of_peak": planning / peak,
        "frames_per_cpu_second": frames / trained.cpu_seconds,
        "step_ms": 1e3 * trained.cpu_seconds,
        **{f"step_ms_{part}": 1e3 * spent for part, spent in trained.parts.items()},
        "training_gflops": 1e-9 * training,
        "training_of_peak": training / peak,
    }
    both = two_cores(store, train, config.steps) if second else None
    if both is not None:
        found |= {f"speedup_{mode}": both["one"] / both[mode] for mode in ("threads", "processes")}
        found["speedup_apart"] = 2.0 * both["one"] / both["apart"]  # two batches in that time
    return found


def speed(config: SpeedConfig) -> Protocol:
    """The protocol."""
    return Protocol(
        name=NAME,
        version=VERSION,
        description=(
            "CPU time of a decision, with one scene and with many side by side, what it costs to begin, how fast "
            "models train on one core and on two, and the share of what the core can multiply that is reached; an arm "
            "a recipe."
        ),
        settings=config.model_dump(mode="json"),
        arms=tuple(config.tasks),
        metrics=tuple(UNITS),
        run=lambda request: rows_of(config, request),
    )


def rows_of(config: SpeedConfig, request: Request) -> list[Row]:
    """Time the recipes of a request, each seed once."""
    arms = request.arms or tuple(config.tasks)
    if request.quick:
        config = config.quick()
    samples = Samples(request.seeds, NAMES | Names(frozenset(config.tasks), frozenset(), frozenset(UNITS)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for arm in arms:
            task = config.tasks[arm]
            folders = {seed: runs() / task.recipe.key(seed) for seed in request.seeds}
            make_all(task.recipe, folders, request)
            for seed, folder in folders.items():
                prepared = prepare(folder, task.recipe, seed=seed, progress="none")
                found = measure(task, prepared, config, seed, second=not request.quick)
                for metric, value in found.items():
                    samples.add(arm, metric, seed, [f"seed {seed}"], [value], unit=UNITS[metric])
                request.tell(f"{arm}, seed {seed}: {found['cpu_ms_one_scene']:.1f} ms a decision, "
                             f"{found['frames_per_cpu_second']:.0f} frames a CPU second")  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return samples.rows()
