"""What a planner must be better than: staying, moving at random, going straight for the goal, imitating the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from foreworld.domains.rooms.layout import BoolArray, FloatArray
from foreworld.domains.rooms.loop import Player
from foreworld.domains.rooms.prepare import SPLIT, Prepared
from foreworld.domains.rooms.render import ByteArray
from foreworld.domains.rooms.scene import Scenes
from foreworld.domains.rooms.source import ACTIONS, FRAME
from foreworld.episodes import EpisodeStore, WindowReader
from foreworld.errors import InputError

UNLEARNED = ("nothing", "random", "straight_line")
FLOORS = (*UNLEARNED, "clone")


def floor_of(arm: str, seed: int, prepared: Prepared | None = None) -> Player:
    """A floor by its name.

    Args:
        arm: One of `FLOORS`.
        seed: Of its draws.
        prepared: Model and log, for `clone`.

    Raises:
        InputError: There is no such floor, or no log to imitate.
    """
    if arm == "clone":
        if prepared is None:
            raise InputError("who imitates needs a model and a log")
        return Clone(prepared, seed=seed)
    floors: dict[str, Callable[[], Player]] = {
        "nothing": Nothing, "random": lambda: Random(seed), "straight_line": StraightLine,
    }  # fmt: skip
    if arm not in floors:
        raise InputError(f"there is no floor {arm}; there are {', '.join(FLOORS)}")
    return floors[arm]()


class Nothing:
    """Stays."""

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Nothing to prepare."""

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """No movement."""
        return np.zeros((len(going), 2), dtype=np.float32)


class Random:
    """Moves evenly at random.

    Args:
        seed: Of the movements.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng((seed, 2))

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Nothing to prepare."""

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """Any movement."""
        return self._generator.uniform(-1.0, 1.0, (len(going), 2)).astype(np.float32)


class StraightLine:
    """Goes straight for the goal, whatever is in the way; knows the places of agent and goal, which no planner may."""

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Look at the scenes themselves."""
        self._scenes = scenes

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """Towards the goal, no farther than it."""
        away = (self._scenes.goal - self._scenes.position) / self._scenes.config.speed
        action: FloatArray = (away / np.maximum(np.abs(away).max(1, keepdims=True), 1.0)).astype(np.float32)
        return action


@dataclass
class Clone:
    """Imitates the log: a network from the latents of now and of a frame that came later to what was done.

    Goal-conditioned behaviour cloning (Ghosh et al. 2021) on the latents of the world model, which it shares.

    Args:
        prepared: Model and log.
        seed: Of draws and weights.
        steps: Of its training.
        ahead: A goal lies at most so many blocks later.
    """

    prepared: Prepared
    seed: int = 0
    steps: int = 1500
    ahead: int = 12

    hidden: ClassVar[int] = 256

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Learn, once, and look at the goals' frames."""
        if not hasattr(self, "_net"):
            self._net = self._learned()
        with torch.no_grad():
            self._goals = self.prepared.model.embed(torch.from_numpy(scenes.goal_frames()))

    @torch.no_grad()
    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """What would have been done."""
        now = self.prepared.model.embed(torch.from_numpy(frames))
        action: FloatArray = self._net(torch.cat([now, self._goals], dim=1)).clamp(-1.0, 1.0).numpy()
        return action

    def _learned(self) -> nn.Module:
        model, data = self.prepared.model, EpisodeStore.open(self.prepared.store)
        chosen = data.episodes_of(SPLIT)
        length = int(data.lengths[chosen].min())
        reader = WindowReader(
            data, length, seed=self.seed, batch_size=len(chosen), split=SPLIT, channels=(FRAME, *ACTIONS)
        )
        batch = next(reader)
        with torch.no_grad():
            latents = torch.stack([model.embed(torch.from_numpy(clip)) for clip in batch.values[FRAME]])
        done = torch.from_numpy(np.stack([batch.values[name] for name in ACTIONS], axis=-1)).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = nn.Sequential(
                nn.Linear(2 * latents.shape[-1], self.hidden), nn.GELU(),
                nn.Linear(self.hidden, self.hidden), nn.GELU(), nn.Linear(self.hidden, len(ACTIONS)),
            )  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
        generator, far = torch.Generator().manual_seed(self.seed), self.ahead * model.block
        for _ in range(self.steps):
            who = torch.randint(len(latents), (512,), generator=generator)
            when = torch.randint(length - 1, (512,), generator=generator)
            later = torch.randint(1, far + 1, (512,), generator=generator)
            goal = latents[who, (when + later).clamp(max=length)]
            wanted = net(torch.cat([latents[who, when], goal], dim=1))
            optimiser.zero_grad()
            (wanted - done[who, when]).pow(2).mean().backward()
            optimiser.step()
        return net.eval()
