"""`rooms/no-go`: a zone that must not be entered, given as a predicate on what is read out of the latents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from foreworld.domains.rooms.calibrate import CalibrateRoomsConfig, calibrate_rooms
from foreworld.domains.rooms.floors import StraightLine
from foreworld.domains.rooms.layout import BoolArray
from foreworld.domains.rooms.loop import By, Outcome, Planned, Player, joined, run_scenes
from foreworld.domains.rooms.prepare import prepare
from foreworld.domains.rooms.running import Experiment, ExperimentConfig, Job, add_cost
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.zones import zoned
from foreworld.evidence.samples import Samples

NAME, VERSION = "rooms/no-go", 1
ARMS = ("foreworld", "foreworld_free", "straight_line")
GROUPS = ("open", "shut")
METRICS = ("success", "entered", "steps_to_goal", "refusals", "refused_throughout", "cpu_ms_per_decision")
TOGETHER = 100  # scenes that are run side by side


class NoGoConfig(ExperimentConfig):
    """An evaluation of keeping out.

    Attributes:
        rooms: What scenes are like.
        calibrate: Of its claims, on other scenes.
        shut: Share of zones that cover the door.
        budget: Actions an episode has at most.
        by: How far a goal is.
        horizon: Blocks that are planned ahead.
        risk: That a plan enters, as claimed.
        watched: Blocks of a plan that must keep out: an agent that stops at once can always stay outside after them.
        far: px from a zone from which on it does not matter how far: what a block leads to at most.
    """

    rooms: RoomsConfig = RoomsConfig()
    calibrate: CalibrateRoomsConfig = CalibrateRoomsConfig()
    count: int = 200
    shut: float = 0.25
    budget: int = 150
    by: By = "imagined"
    horizon: int = 3
    risk: float = 0.01
    watched: int = 1
    far: float = 20.0

    def quick(self) -> Self:
        """A smoke run."""
        few = self.calibrate.model_copy(update={"scenes": 40, "budget": 20, "rounds": 1})
        return super().quick().model_copy(update={"calibrate": few, "budget": 40})


@dataclass(frozen=True)
class Kept:
    """What became of it, and where a way was left."""

    outcome: Outcome
    open: BoolArray


def run_job(job: Job[NoGoConfig]) -> Kept:
    """One arm in the scenes of one seed; `foreworld` is calibrated first."""
    torch.set_num_threads(1)
    config = job.config
    pairs, zones, left = zoned(config.rooms, job.seed, job.count, shut=config.shut)
    player: Player = StraightLine()
    if job.arm != "straight_line":
        prepared = prepare(job.folder, config.recipe, seed=job.seed, progress="none")
        player = Planned(
            prepared, horizon=config.horizon, by=config.by, seed=job.seed, risk=config.risk, watched=config.watched,
            far=config.far,
        )  # fmt: skip
        if job.arm == "foreworld":
            calibration = calibrate_rooms(player, config.rooms, config.calibrate, seed=job.seed)
            player = replace(player, calibration=calibration)
    parts = []
    for first in range(0, len(pairs), TOGETHER):
        part = slice(first, first + TOGETHER)
        scenes = Scenes(config.rooms, pairs.seeds[part])
        frames = scenes.place(pairs.start[part], pairs.goal[part])
        mine = zones.part(part)
        if job.arm == "foreworld" and isinstance(player, Planned):
            player = replace(player, zones=mine)
        parts.append(run_scenes(player, scenes, config.budget, frames=frames, zone=mine.crossed))
    return Kept(joined(parts), left)


def add_samples(samples: Samples, job: Job[NoGoConfig], kept: Kept) -> None:
    """What an arm gave in a seed."""
    done, names = kept.outcome, [f"{job.seed}/{n}" for n in range(len(kept.open))]
    groups = [("open",) if way else ("shut",) for way in kept.open]
    taken = np.maximum(done.steps, 1)

    def add(metric: str, values: np.ndarray, **how: Any) -> None:
        samples.add(job.arm, metric, job.seed, names, values, groups, **how)

    add("success", done.reached.astype(float), how="wilson")
    add("entered", (done.entered > 0).astype(float), how="wilson")
    add("steps_to_goal", done.steps.astype(float), unit="steps")
    if job.arm.startswith("foreworld"):
        add("refusals", done.refused / taken, weights=taken)
        add("refused_throughout", (done.refused == done.steps).astype(float), how="wilson")
    add_cost(samples, job, done)


NO_GO = Experiment(
    NAME,
    VERSION,
    "A box that must not be entered lies somewhere, or covers the door, given as a predicate on the place that is read "
    "out. Scenes where a way is left (`open`), and where none is (`shut`).",
    ARMS,
    METRICS,
    run_job,
    add_samples,
    groups=GROUPS,
    unlearned=("straight_line",),
    told=lambda kept: f"{kept.outcome.reached[kept.open].mean():.1%} where a way is left",
)
