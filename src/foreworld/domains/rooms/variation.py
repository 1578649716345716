"""`rooms/variation`: other colours and sizes than any that was learned from. Does it still work, or does it say no?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from foreworld.domains.rooms.calibrate import CalibrateRoomsConfig, calibrate_familiar
from foreworld.domains.rooms.floors import FLOORS, UNLEARNED
from foreworld.domains.rooms.loop import By, Outcome, Planned, run_pairs
from foreworld.domains.rooms.pairs import drawn
from foreworld.domains.rooms.prepare import Prepared
from foreworld.domains.rooms.running import Experiment, ExperimentConfig, Job, add_episodes, begin
from foreworld.domains.rooms.scene import RoomsConfig
from foreworld.evidence.samples import Samples

NAME, VERSION = "rooms/variation", 2
ARMS = ("foreworld", "foreworld_ungated", *FLOORS)
# What is another than in training; sizes as a share of what they were.
FACTORS: dict[str, dict[str, Any]] = {
    "usual": {},
    "agent_blue": {"agent_colour": (0, 0, 255)},
    "agent_orange": {"agent_colour": (255, 128, 0)},
    "agent_dark": {"agent_colour": (180, 0, 0)},
    "walls_grey": {"wall_colour": (96, 96, 96)},
    "walls_blue": {"wall_colour": (0, 0, 160)},
    "floor_blue": {"background_colour": (225, 225, 255)},
    "floor_grey": {"background_colour": (200, 200, 200)},
    "agent_small": {"radius": 0.75},
    "agent_large": {"radius": 1.5},
    "agent_slow": {"speed": 0.75},
    "view_narrow": {"view": 0.9},
    "view_wide": {"view": 1.1},
}
METRICS = ("success", "solved_at_start", "flagged", "refusals", "steps_to_goal")


class VariationConfig(ExperimentConfig):
    """An evaluation of scenes that are unlike those of the training.

    Attributes:
        rooms: What scenes of the training are like, but for their layout.
        calibrate: Of what is familiar, on other scenes.
        count: Scenes a seed and factor.
        budget: Actions an episode has at most.
        by: How far a goal is.
        horizon: Blocks that are planned ahead.
    """

    rooms: RoomsConfig
    calibrate: CalibrateRoomsConfig = CalibrateRoomsConfig()
    count: int = 100
    budget: int = 200
    by: By = "imagined"
    horizon: int = 3

    def quick(self) -> Self:
        """A smoke run."""
        few = self.calibrate.model_copy(update={"scenes": 40, "budget": 10})
        return super().quick().model_copy(update={"calibrate": few, "budget": 20})


def varied(rooms: RoomsConfig, factor: str) -> RoomsConfig:
    """Scenes under a factor."""
    changed = {
        name: value * getattr(rooms, name) if name in ("radius", "speed", "view") else value
        for name, value in FACTORS[factor].items()
    }
    return rooms.model_copy(update=changed)


def run_job(job: Job[VariationConfig]) -> dict[str, Outcome]:
    """One arm in the scenes of one seed, by factor: the same starts, goals and layouts under each."""
    config, player = job.config, begin(job)
    if isinstance(player, Prepared):
        player = planned = Planned(player, horizon=config.horizon, by=config.by, seed=job.seed)
        if job.arm == "foreworld":
            calibration = calibrate_familiar(planned, config.rooms, config.calibrate, seed=job.seed)
            player = replace(planned, calibration=calibration)
    pairs = drawn(config.rooms, job.seed, job.count)
    return {factor: run_pairs(player, varied(config.rooms, factor), pairs, config.budget) for factor in FACTORS}


def add_samples(samples: Samples, job: Job[VariationConfig], found: dict[str, Outcome]) -> None:
    """What an arm gave in a seed, a group a factor."""
    for factor, done in found.items():
        rows, names, groups = add_episodes(samples, job.arm, job.seed, done, [factor] * len(done.reached))
        if job.arm not in FLOORS:
            flagged = (done.refused[rows] > 0).astype(float)
            samples.add(job.arm, "flagged", job.seed, names, flagged, groups, how="wilson")


VARIATION = Experiment(
    NAME,
    VERSION,
    "Random layouts under colours, sizes and speeds that were not learned from, a group each: success of the "
    "model as it is (`foreworld_ungated`), and of the agent that refuses what is unfamiliar, with the share of "
    "episodes in which it does (`flagged`).",
    ARMS,
    METRICS,
    run_job,
    add_samples,
    groups=tuple(FACTORS),
    unlearned=UNLEARNED,
    few=4,
    settings={"factors": FACTORS},
)
