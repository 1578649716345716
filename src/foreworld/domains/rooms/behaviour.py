"""Who moves the agent while data are recorded: somebody who wanders, and somebody who knows the way but is unsteady.

Both may look at the layout: they stand for whoever was at the controls when the log was made. Planning never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreworld.domains.rooms.layout import FloatArray
from foreworld.domains.rooms.scene import Scenes
from foreworld.domains.rooms.way import Way


@dataclass
class Wander:
    """Smooth random motion: an Ornstein-Uhlenbeck process on each part of the action.

    Attributes:
        keep: Share of the last action that is kept.
        noise: Standard deviation of what is added.
    """

    keep: float = 0.9
    noise: float = 0.45

    def start(self, scenes: Scenes, generators: Sequence[np.random.Generator]) -> None:
        """Begin an episode."""
        self._generators = generators
        self._action = np.stack([g.normal(size=2) for g in generators]).astype(np.float32)

    def act(self, scenes: Scenes) -> FloatArray:
        """[N, 2] the next actions."""
        pushed = np.stack([g.normal(size=2) for g in self._generators]).astype(np.float32)
        self._action = self.keep * self._action + self.noise * pushed
        return np.clip(self._action, -1.0, 1.0)


@dataclass
class Roam:
    """Heads straight for one random place after the other, walls or not: it slides along what is in its way.

    Knows nothing of the layout, and touches walls and door posts far more often than somebody who knows the way.

    Attributes:
        patience: Steps after which it heads elsewhere, on average.
        noise: Standard deviation of what is added to a unit step before it is cut to -1 to 1.
    """

    patience: float = 20.0
    noise: float = 0.3

    def start(self, scenes: Scenes, generators: Sequence[np.random.Generator]) -> None:
        """Begin an episode."""
        self._generators = generators
        self._target = np.stack([self._anywhere(scenes, g) for g in generators])

    def act(self, scenes: Scenes) -> FloatArray:
        """[N, 2] the next actions."""
        towards = self._target - scenes.position
        length = np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-8)
        for n, generator in enumerate(self._generators):
            if length[n, 0] < scenes.config.speed or generator.random() < 1.0 / self.patience:
                self._target[n] = self._anywhere(scenes, generator)
        pushed = np.stack([g.normal(0.0, self.noise, 2) for g in self._generators])
        action: FloatArray = np.clip(1.5 * towards / length + pushed, -1.0, 1.0).astype(np.float32)
        return action

    def _anywhere(self, scenes: Scenes, generator: np.random.Generator) -> FloatArray:
        return generator.uniform(0.0, scenes.layouts.size, 2).astype(np.float32)


@dataclass
class Expert:
    """Goes to the goal through the doors on the way, each action disturbed, as the expert of stable-worldmodel 0.1.1.

    Attributes:
        noise: Standard deviation of what is added to a unit step before it is cut to -1 to 1.
        repeat: Probability that the last action is done once more.
    """

    noise: float = 3.0
    repeat: float = 0.1

    def start(self, scenes: Scenes, generators: Sequence[np.random.Generator]) -> None:
        """Begin an episode."""
        self._generators = generators
        self._last: FloatArray | None = None
        self._ways = [Way.find(scenes.layouts, n) for n in range(len(scenes))]

    def act(self, scenes: Scenes) -> FloatArray:
        """[N, 2] the next actions."""
        towards = (
            np.stack([way.next(scenes.position[n], scenes.goal[n]) for n, way in enumerate(self._ways)])
            - scenes.position
        )
        length = np.linalg.norm(towards, axis=1, keepdims=True)
        wanted = np.where(length > 1e-8, towards / np.maximum(length, 1e-8), 0.0)
        wanted = wanted + np.stack([g.normal(0.0, self.noise, 2) for g in self._generators])
        again = np.array([g.random() < self.repeat for g in self._generators])
        action = np.clip(wanted, -1.0, 1.0).astype(np.float32)
        if self._last is not None:
            action = np.where(again[:, None], self._last, action)
        self._last = action
        return action


@dataclass
class Mixed:
    """Two behaviours, each in every other scene.

    Attributes:
        one: In the first scene, the third, and so on.
        other: In the others.
    """

    one: Roam | Expert | Wander
    other: Roam | Expert | Wander

    def start(self, scenes: Scenes, generators: Sequence[np.random.Generator]) -> None:
        """Begin an episode."""
        self.one.start(scenes, generators)
        self.other.start(scenes, generators)

    def act(self, scenes: Scenes) -> FloatArray:
        """[N, 2] the next actions."""
        first = (np.arange(len(scenes)) % 2 == 0)[:, None]
        return np.where(first, self.one.act(scenes), self.other.act(scenes))


Behaviour = Roam | Expert | Wander | Mixed
