"""Rooms as a source of episodes: many scenes side by side, recorded by `foreworld.episodes.record`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foreworld.domains.rooms.behaviour import Behaviour
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.episodes.schema import Channel, Kind, Role, Schema

FRAME, ACTIONS, PLACE = "frame", ("right", "down"), ("x", "y")


def schema_of(config: RoomsConfig) -> Schema:
    """What is seen, done and, in some frames, labelled."""
    side, far = config.frame, config.side
    return Schema(
        name=f"rooms-{config.layout}",
        step=1.0,
        time_unit="step",
        channels=(
            Channel(
                name=FRAME,
                role=Role.observation,
                kind=Kind.video,
                dtype="uint8",
                shape=(side, side, 3),
                unit="grey level",
            ),
            *(Channel(name=name, role=Role.observation, unit="px", low=0.0, high=far) for name in PLACE),
            *(Channel(name=name, role=Role.action, unit="share", low=-1.0, high=1.0) for name in ACTIONS),
        ),
    )


class RoomsSource:
    """N scenes in which somebody moves the agent for `steps` steps.

    Attributes:
        subjects: Names of the episodes.
        scenes: Stepped together.
    """

    def __init__(self, config: RoomsConfig, seeds: Sequence[int], layout_seeds: Sequence[int] | None = None) -> None:
        self.scenes = Scenes(config, seeds, layout_seeds)
        self.subjects = list(f"scene{seed}" for seed in seeds)

    def reset(self) -> Mapping[str, np.ndarray]:
        """The first frames."""
        return self._shown(self.scenes.reset())

    def statics(self) -> Mapping[str, np.ndarray]:
        """There are none."""
        return {}

    def step(self, actions: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The next frames."""
        return self._shown(self.scenes.step(np.stack([actions[name] for name in ACTIONS], axis=-1)))

    def _shown(self, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        place = self.scenes.position.astype(np.float32)
        return {FRAME: frames, "x": place[:, 0], "y": place[:, 1]}


class Mover:
    """A behaviour as a policy of `record`.

    Args:
        source: Whose scenes.
        behaviour: Of everybody in them.
        seeds: One a scene.
    """

    def __init__(self, source: RoomsSource, behaviour: Behaviour, seeds: Sequence[int]) -> None:
        self.source, self.behaviour = source, behaviour
        self._generators = [np.random.default_rng((seed, 1)) for seed in seeds]
        self._begun = False

    def __call__(self, seen: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Actions by channel."""
        if not self._begun:
            self.behaviour.start(self.source.scenes, self._generators)
            self._begun = True
        action = self.behaviour.act(self.source.scenes)
        return {name: action[:, k].astype(np.float32) for k, name in enumerate(ACTIONS)}
