"""`rooms/expectation`: is the model surprised by what cannot be, and by nothing else?

Surprise is how far the latent of a frame lies from what was foreseen one block before, given what was done. Two things
that cannot be: somebody is suddenly elsewhere, and somebody comes out behind a wall that they were pushed against. A
colour that was never seen is no broken law of motion: such scenes are told apart by what they look like first, and are
called unfamiliar instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.rooms.behaviour import Roam
from foreworld.domains.rooms.calibrate import CALIBRATION, fit_familiar
from foreworld.domains.rooms.layout import FloatArray
from foreworld.domains.rooms.prepare import prepare, scene_seeds
from foreworld.domains.rooms.running import Experiment, ExperimentConfig, Job
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.errors import InputError
from foreworld.evidence.samples import Samples
from foreworld.forecast.novelty import mahalanobis
from foreworld.model.latent_model import LatentModel
from foreworld.model.vision import look

NAME, VERSION = "rooms/expectation", 1
ARMS = ("foreworld", "pixels")
COLOURS: dict[str, dict[str, Any]] = {
    "agent_blue": {"agent_colour": (0, 0, 255)},
    "agent_orange": {"agent_colour": (255, 128, 0)},
    "walls_grey": {"wall_colour": (96, 96, 96)},
    "floor_blue": {"background_colour": (225, 225, 255)},
}
METRICS = (
    "auroc_teleport",
    "auroc_crossing",
    "false_alarms",
    *(f"{what}_{colour}" for what in ("broken_law", "unfamiliar") for colour in COLOURS),
)


class ExpectationConfig(ExperimentConfig):
    """What is looked at.

    Attributes:
        rooms: What scenes are like; each with one upright wall.
        blocks: Blocks an episode.
        far: px that a teleport leads away at least.
        alarm: Share of usual episodes that may be called broken, and likewise unfamiliar.
    """

    rooms: RoomsConfig
    count: int = 400
    blocks: int = 5
    far: float = 10.0
    alarm: float = 0.05


@dataclass(frozen=True)
class Episodes:
    """N recorded episodes.

    Attributes:
        scenes: As they were at the end.
        frames: [N, F + 1, H, W, 3] uint8, one block apart.
        actions: [N, F, block, 2].
        position: [N, F + 1, 2] px.
    """

    scenes: Scenes
    frames: Tensor
    actions: Tensor
    position: FloatArray


@dataclass(frozen=True)
class Found:
    """By episode: surprise at what is usual, at a teleport, at a crossing and at standing before the wall.

    Attributes:
        usual: [N] greatest surprise of usual episodes.
        teleport: [K] of episodes in which somebody is elsewhere at the last moment.
        crossing: [M] at coming out behind the wall.
        held: [M] at being held by it, from the same places.
        broken: By colour: [N] whether it is called a broken law of motion.
        unfamiliar: By colour: [N] whether it is called unfamiliar.
        alarms: [N] whether another usual episode is called broken or unfamiliar.
    """

    usual: np.ndarray
    teleport: np.ndarray
    crossing: np.ndarray
    held: np.ndarray
    broken: dict[str, np.ndarray]
    unfamiliar: dict[str, np.ndarray]
    alarms: np.ndarray


def roam(rooms: RoomsConfig, seeds: Sequence[int], blocks: int, block: int) -> Episodes:
    """Somebody who wanders about, walls or not."""
    scenes, behaviour = Scenes(rooms, seeds), Roam()
    frames = [scenes.reset()]
    behaviour.start(scenes, [np.random.default_rng((seed, 5)) for seed in seeds])
    places, acted = [scenes.position.copy()], []
    for step in range(blocks * block):
        action = behaviour.act(scenes)
        acted.append(action)
        seen = scenes.step(action)
        if (step + 1) % block == 0:
            frames.append(seen)
            places.append(scenes.position.copy())
    actions = np.stack(acted, axis=1).reshape(len(seeds), blocks, block, 2)
    return Episodes(scenes, torch.from_numpy(np.stack(frames, 1)), torch.from_numpy(actions), np.stack(places, 1))


@torch.no_grad()
def surprise(model: LatentModel, frames: Tensor, actions: Tensor) -> Tensor:
    """[N, F] distance of each latent from what was foreseen a block before; frames [N, F + 1, ...], as `Episodes`."""
    found = []
    for k in range(actions.shape[1]):
        foreseen = model.step(model.embed(frames[:, k]), actions[:, k], model.around(frames[:, k])).mean(0)
        found.append((foreseen - model.embed(frames[:, k + 1])).norm(dim=-1))
    return torch.stack(found, dim=1)


def difference(frames: Tensor) -> Tensor:
    """[N, F] mean square change of pixels from block to block: what needs no model."""
    return (frames[:, 1:].float() - frames[:, :-1].float()).pow(2).mean((-1, -2, -3))


@torch.no_grad()
def looks(model: LatentModel, frames: Tensor) -> Tensor:
    """[F, N, L] what frames [N, F, ...] look like."""
    return torch.stack([look(model.pixels(frames[:, k]).float()) for k in range(frames.shape[1])])


def run_job(job: Job[ExpectationConfig]) -> Found:
    """All that is asked of one seed."""
    torch.set_num_threads(1)
    config = job.config
    model = prepare(job.folder, config.recipe, seed=job.seed, progress="none").model

    def judged(frames: Tensor, actions: Tensor) -> np.ndarray:
        each = surprise(model, frames, actions) if job.arm == "foreworld" else difference(frames)
        return each.amax(1).numpy()

    def episodes(seed: int, rooms: RoomsConfig = config.rooms) -> Episodes:
        return roam(rooms, scene_seeds(seed, range(job.count), held_out=True), config.blocks, model.block)

    before, usual = episodes(job.seed + CALIBRATION), episodes(job.seed)
    limit = float(np.quantile(judged(before.frames, before.actions), 1.0 - config.alarm))
    familiar = fit_familiar(looks(model, before.frames), config.alarm, 1)
    mean, precision = torch.tensor(familiar.mean), torch.tensor(familiar.precision)

    def strange(frames: Tensor) -> np.ndarray:
        seen = looks(model, frames)
        away = mahalanobis(seen.flatten(0, 1), mean, precision).reshape(seen.shape[:2])
        return (away.amax(0) > familiar.distance).numpy()

    broken, unfamiliar = {}, {}
    for name, colour in COLOURS.items():
        changed = episodes(job.seed, config.rooms.model_copy(update=colour))
        unfamiliar[name] = strange(changed.frames)
        broken[name] = ~unfamiliar[name] & (judged(changed.frames, changed.actions) > limit)
    surprised = judged(usual.frames, usual.actions)
    frames, kept = teleported(usual, config.far)
    crossing, held = crossed(usual.scenes, job.seed, model.block)
    return Found(
        usual=surprised, teleport=judged(frames, usual.actions)[kept], crossing=judged(*crossing), held=judged(*held),
        broken=broken, unfamiliar=unfamiliar, alarms=(surprised > limit) | strange(usual.frames),
    )  # fmt: skip


def teleported(episodes: Episodes, far: float) -> tuple[Tensor, np.ndarray]:
    """Frames in which agents are elsewhere at the last moment, and [N] where that is farther than `far`."""
    scenes = Scenes(episodes.scenes.config, episodes.scenes.seeds, episodes.scenes.layout_seeds)
    scenes.reset()
    elsewhere = scenes.goal  # a free place in the other room
    frames = episodes.frames.clone()
    frames[:, -1] = torch.from_numpy(scenes.frames(elsewhere))
    return frames, np.linalg.norm(elsewhere - episodes.position[:, -1], axis=1) > far


def crossed(scenes: Scenes, seed: int, block: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two frames each of agents that are pushed against the wall: who come out behind it, and whom it holds.

    Raises:
        InputError: Scenes have no upright wall.
    """
    wall, generator = scenes.layouts.centre[:, 0], np.random.default_rng((seed, 6))
    if np.isnan(wall).any() or (scenes.layouts.axis[:, 0] != 0).any():
        raise InputError("crossings are staged at one upright wall a scene")
    reach = scenes.layouts.half[:, 0] + scenes.config.radius + 0.5
    side = generator.choice([-1.0, 1.0], len(scenes))
    low = scenes.layouts.border + scenes.config.radius + 1.0
    along = generator.uniform(low, scenes.layouts.size - low, len(scenes))
    door, width = scenes.layouts.door[:, 0, 0], scenes.layouts.width[:, 0, 0]
    kept = np.abs(along - door) > width + scenes.config.radius + 1.0

    def at(away: np.ndarray) -> FloatArray:
        return np.stack([wall + side * away, along], axis=-1).astype(np.float32)

    start, end, stays = at(reach + 0.5), at(-reach - generator.uniform(0.0, 1.0, len(scenes))), at(reach)
    actions = torch.zeros(len(scenes), 1, block, 2)
    actions[..., 0] = -torch.from_numpy(side).float()[:, None, None]
    first = scenes.frames(start)
    through, held = (torch.from_numpy(np.stack([first, scenes.frames(place)], 1)[kept]) for place in (end, stays))
    pushed = actions[torch.from_numpy(kept)]
    return (through, pushed), (held, pushed)


def above(strange: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """[K] share of usual ones that lie below each strange one, ties by half: their mean is the AUROC."""
    order = np.sort(usual)
    low, high = np.searchsorted(order, strange, "left"), np.searchsorted(order, strange, "right")
    found: np.ndarray = (low + high) / (2.0 * len(usual))
    return found


def add_samples(samples: Samples, job: Job[ExpectationConfig], found: Found) -> None:
    """What was found in a seed; intervals are over the strange episodes."""

    def add(metric: str, values: np.ndarray) -> None:
        names = [f"{job.seed}/{n}" for n in range(len(values))]
        samples.add(job.arm, metric, job.seed, names, values.astype(float), how="bounded")

    add("auroc_teleport", above(found.teleport, found.usual))
    add("auroc_crossing", above(found.crossing, np.concatenate([found.held, found.usual])))
    add("false_alarms", found.alarms)
    for name in COLOURS:
        add(f"broken_law_{name}", found.broken[name])
        add(f"unfamiliar_{name}", found.unfamiliar[name])


EXPECTATION = Experiment(
    NAME,
    VERSION,
    "Surprise at somebody who is suddenly elsewhere, and at one who comes out behind a wall; whether another colour is "
    "called a broken law of motion, or unfamiliar, as it should be.",
    ARMS,
    METRICS,
    run_job,
    add_samples,
    few=60,
)
