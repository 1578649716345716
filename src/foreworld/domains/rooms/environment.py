"""Rooms as Gymnasium environments, one scene or many at once.

    import gymnasium
    from foreworld.domains.rooms.environment import register

    register()
    environment = gymnasium.make("foreworld/TwoRoom-v0")
    scenes = gymnasium.make_vec("foreworld/TwoRoom-v0", num_envs=64, vectorization_mode="vector_entry_point")

An observation is a frame and nothing else; `info` has the goal's frame and, for scoring alone, the places of agent and
goal.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from foreworld.domains.rooms.layout import BoolArray, FloatArray
from foreworld.domains.rooms.render import ByteArray
from foreworld.domains.rooms.scene import RoomsConfig, Scenes

STEPS = 200
CONFIGS = {
    "foreworld/TwoRoom-v0": RoomsConfig(layout="two_rooms"),
    "foreworld/RandomTwoRooms-v0": RoomsConfig(layout="random_two_rooms", speed=1.5, radius=2.0, reach=4.5),
    "foreworld/Maze-v0": RoomsConfig(layout="maze", radius=5.0, reach=12.0),
}


class RoomsEnv(gymnasium.Env[ByteArray, FloatArray]):
    """One scene; the layout is drawn from the seed of `reset`, like start and goal.

    Args:
        config: What scenes are like.
        steps: Actions an episode has at most.
        render_mode: `rgb_array` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 -- as Gymnasium has it

    def __init__(self, config: RoomsConfig | None = None, steps: int = STEPS, render_mode: str | None = None) -> None:
        self.config, self.steps, self.render_mode = config or RoomsConfig(), steps, render_mode
        side = self.config.frame
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._scenes: Scenes | None = None
        self._done = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ByteArray, dict[str, Any]]:
        """A new start and goal; a new layout, too, where layouts differ."""
        super().reset(seed=seed)
        self._scenes, self._done = Scenes(self.config, [int(self.np_random.integers(2**31))]), 0
        frame = self._scenes.reset()[0]
        return frame, self._info()

    def step(self, action: FloatArray) -> tuple[ByteArray, float, bool, bool, dict[str, Any]]:
        """Move; the reward is 1 where the goal is reached, which ends the episode."""
        scenes = self._running()
        frame, self._done = scenes.step(np.asarray(action)[None])[0], self._done + 1
        reached = bool(scenes.reached[0])
        return frame, float(reached), reached, self._done >= self.steps, self._info()

    def render(self) -> ByteArray | None:
        """The frame of now."""
        return self._running().frames()[0] if self.render_mode == "rgb_array" else None

    def _info(self) -> dict[str, Any]:
        scenes = self._running()
        return {
            "goal_frame": scenes.goal_frames()[0],
            "position": scenes.position[0].copy(),
            "goal": scenes.goal[0].copy(),
            "distance": float(scenes.distance[0]),
        }

    def _running(self) -> Scenes:
        if self._scenes is None:
            raise gymnasium.error.ResetNeeded("call reset before step or render")
        return self._scenes


class RoomsVectorEnv(VectorEnv[ByteArray, FloatArray, BoolArray]):
    """Many scenes that are painted and moved together; those that end go on with a new episode at the next step.

    Args:
        num_envs: How many.
        config: What scenes are like.
        steps: Actions an episode has at most.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 64, config: RoomsConfig | None = None, steps: int = STEPS) -> None:
        self.num_envs, self.config, self.steps = num_envs, config or RoomsConfig(), steps
        side = self.config.frame
        self.single_observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ByteArray, dict[str, Any]]:
        """New scenes; of one seed, scene `i` is that of seed + i."""
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds = seed if isinstance(seed, list) else None
        if isinstance(seed, int):
            seeds = [seed + i for i in range(self.num_envs)]
        if seeds is None:
            seeds = self.np_random.integers(2**31, size=self.num_envs).tolist()
        self._scenes = Scenes(self.config, seeds)
        self._done = np.zeros(self.num_envs, dtype=np.int64)
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        return self._scenes.reset(), self._info()

    def step(self, actions: FloatArray) -> tuple[ByteArray, Any, BoolArray, BoolArray, dict[str, Any]]:
        """Move all; a scene whose episode ended starts anew instead."""
        fresh = self._ended
        frames = self._scenes.step(np.where(fresh[:, None], 0.0, actions))
        if fresh.any():
            frames = self._scenes.restart(fresh)
        self._done = np.where(fresh, 0, self._done + 1)
        reached = self._scenes.reached & ~fresh
        late = (self._done >= self.steps) & ~reached
        self._ended = reached | late
        return frames, reached.astype(np.float32), reached, late, self._info()

    def _info(self) -> dict[str, Any]:
        scenes = self._scenes
        return {"position": scenes.position.copy(), "goal": scenes.goal.copy(), "distance": scenes.distance}


def register() -> None:
    """Make the environments known to Gymnasium; more than once does no harm."""
    for name, config in CONFIGS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="foreworld.domains.rooms.environment:RoomsEnv",
                vector_entry_point="foreworld.domains.rooms.environment:RoomsVectorEnv",
                kwargs={"config": config},
            )
