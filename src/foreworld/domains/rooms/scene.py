"""N scenes at once: an agent that is moved, a goal, and, if wanted, a disc that moves by itself.

    scenes = Scenes(RoomsConfig(layout="two_rooms"), seeds=range(64))
    pixels = scenes.reset()          # [64, 64, 64, 3] uint8
    pixels = scenes.step(actions)    # [64, 2] within -1 to 1

Each scene draws from a seed of its own, so what happens in it does not depend on which others are beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from foreworld.domains.rooms.layout import BoolArray, FloatArray, Layouts, Part, maze, random_two_rooms, two_rooms
from foreworld.domains.rooms.motion import move
from foreworld.domains.rooms.render import Appearance, ByteArray, Camera
from foreworld.episodes.options import Options
from foreworld.errors import InputError

TRIES = 10_000


class RoomsConfig(Options):
    """What a scene is like.

    Attributes:
        layout: `two_rooms` as in `swm/TwoRoom-v1`, `random_two_rooms` with a wall and a door of its own in each scene,
            or a `maze` of its own.
        cells: Rooms a side of a maze.
        shared: Seed of one layout for all scenes; None gives each its own. With `seed` it is the seed of the recording
            or the evaluation (`of`).
        part: Of random two rooms: `all` of them, those that may be `seen` in training, or the `unseen` others.
        frame: Side of a frame, px.
        radius: Of the agent, px of the scene.
        speed: px a step.
        reach: The goal is reached when the agent's centre comes nearer than this, px.
        goal: Where it is drawn: in `another` room, in the `same`, or `any`where.
        other: Whether a disc that nobody moves drifts about.
        agent_colour: And so on: as in `Appearance`.
        wall_colour: Of walls.
        background_colour: Of the floor.
        view: Share of the scene's side that is seen, as in `Camera`.
    """

    layout: Literal["two_rooms", "random_two_rooms", "maze"] = "two_rooms"
    cells: int = Field(default=4, ge=2)
    shared: int | Literal["seed"] | None = None
    part: Part = "all"
    frame: int = Field(default=64, ge=8)
    radius: float = Field(default=7.0, gt=0)
    speed: float = Field(default=5.0, gt=0)
    reach: float = Field(default=16.0, gt=0)
    goal: Literal["another", "same", "any"] = "another"
    other: bool = False
    agent_colour: tuple[int, int, int] = (255, 0, 0)
    wall_colour: tuple[int, int, int] = (0, 0, 0)
    background_colour: tuple[int, int, int] = (255, 255, 255)
    view: float = Field(default=1.0, gt=0, le=2)

    def of(self, seed: int) -> Self:
        """What scenes are like under a seed: the same, but for a layout that they share and that is the seed's."""
        return self.model_copy(update={"shared": seed}) if self.shared == "seed" else self

    def layouts(self, generators: Sequence[np.random.Generator]) -> Layouts:
        """One layout a generator."""
        if self.layout == "two_rooms":
            return two_rooms(len(generators))
        if self.shared == "seed":
            raise InputError("the layout that scenes share is that of a seed: take the configuration `of` one")
        if self.shared is not None:
            return self._own(np.random.default_rng(self.shared)).select(np.zeros(len(generators), dtype=np.int64))
        return Layouts.stack([self._own(generator) for generator in generators])

    def _own(self, generator: np.random.Generator) -> Layouts:
        """The layout of one scene."""
        if self.layout == "random_two_rooms":
            return random_two_rooms(generator, 1, part=self.part)
        return maze(generator, 1, cells=self.cells)

    @property
    def side(self) -> float:
        """Of a scene, px."""
        return 65.0 if self.layout == "random_two_rooms" else 224.0

    @property
    def look(self) -> Appearance:
        """Its colours."""
        door = self.background_colour
        return Appearance(agent=self.agent_colour, wall=self.wall_colour, door=door, background=self.background_colour)


@dataclass
class Scenes:
    """N scenes that are stepped together.

    Attributes:
        config: Of all of them.
        seeds: One a scene.
        layout_seeds: One a scene that layouts are drawn from, so that several scenes can have the same; that of the
            scene itself if None.
        layouts: Drawn from the seeds.
        position: [N, 2] px, centre of the agents.
        goal: [N, 2] px.
        other: [N, 2] px, centre of the discs that nobody moves; NaN where there is none.
    """

    config: RoomsConfig
    seeds: Sequence[int]
    layout_seeds: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not len(self.seeds):
            raise InputError("give at least one seed: one a scene")
        if self.layout_seeds is not None and len(self.layout_seeds) != len(self.seeds):
            raise InputError(f"{len(self.seeds)} scenes need as many layout seeds, got {len(self.layout_seeds)}")
        self._generators = [np.random.default_rng(seed) for seed in self.seeds]
        own = self.layout_seeds is None
        drawn = self._generators if own else [np.random.default_rng(seed) for seed in self.layout_seeds or ()]
        self.layouts = self.config.layouts(drawn)
        count = len(self.seeds)
        self._radius = np.full(count, self.config.radius, dtype=np.float32)
        self._speed = np.full(count, self.config.speed, dtype=np.float32)
        side = min(self.config.frame, self.layouts.size)
        self.camera = Camera(self.layouts, side, (self.config.look,), self.config.view)
        self.position = self.goal = np.zeros((count, 2), dtype=np.float32)
        self.other = np.full((count, 2), np.nan, dtype=np.float32)
        self._drift = np.zeros((count, 2), dtype=np.float32)

    def __len__(self) -> int:
        """Number of scenes N."""
        return len(self.seeds)

    def reset(self) -> ByteArray:
        """Draw start, goal and the other disc anew; [N, frame, frame, 3]."""
        self.position = np.stack([self._free(n) for n in range(len(self))])
        rooms = self.layouts.rooms(self.position)
        self.goal = np.stack([self._goal(n, int(rooms[n])) for n in range(len(self))])
        if self.config.other:
            self.other = np.stack([self._anywhere(n) for n in range(len(self))])
            self._drift = np.stack([g.normal(size=2) for g in self._generators]).astype(np.float32)
        return self.frames()

    def restart(self, which: BoolArray) -> ByteArray:
        """Draw start and goal anew in some scenes [N]; [N, frame, frame, 3] of all."""
        for n in np.flatnonzero(which):
            self.position[n] = self._free(int(n))
            self.goal[n] = self._goal(int(n), int(self.layouts.rooms(self.position)[n]))
        return self.frames()

    def place(self, position: FloatArray, goal: FloatArray) -> ByteArray:
        """Start from given places [N, 2] instead."""
        self.position, self.goal = position.astype(np.float32), goal.astype(np.float32)
        return self.frames()

    def step(self, action: npt.NDArray[np.floating]) -> ByteArray:
        """Move the agents by actions [N, 2] and see what came of it.

        Raises:
            InputError: The shape is wrong, or an action is not a number.
        """
        if action.shape != (len(self), 2):
            raise InputError(f"actions have shape {action.shape}, expected ({len(self)}, 2): right and down, a scene")
        if not np.isfinite(action).all():
            raise InputError("an action is not a finite number; give two within -1 and 1")
        self.position = move(self.layouts, self.position, action.astype(np.float32), self._radius, self._speed)
        if self.config.other:
            self._move_other()
        return self.frames()

    def frames(self, position: FloatArray | None = None) -> ByteArray:
        """[N, frame, frame, 3] with the agents here, or at `position` [N, 2]."""
        return self.camera.frames(self.position if position is None else position, self._radius, self._shown)

    def goal_frames(self) -> ByteArray:
        """[N, frame, frame, 3] with each agent at its goal, and any other disc at a place that tells nothing."""
        if self.config.other:
            elsewhere = np.stack([self._anywhere(n) for n in range(len(self))])
            return self.camera.frames(self.goal, self._radius, elsewhere)
        return self.frames(self.goal)

    @property
    def distance(self) -> FloatArray:
        """[N] px from agent to goal."""
        found: FloatArray = np.linalg.norm(self.position - self.goal, axis=1)
        return found

    @property
    def reached(self) -> BoolArray:
        """[N] whether the goal is reached."""
        return self.distance < self.config.reach

    @property
    def _shown(self) -> FloatArray | None:
        return self.other if self.config.other else None

    def _anywhere(self, n: int) -> FloatArray:
        low = self.layouts.border + self.config.radius
        return self._generators[n].uniform(low, self.layouts.size - low, 2).astype(np.float32)

    def _free(self, n: int) -> FloatArray:
        """A place where the agent touches nothing."""
        layout = self.layouts.select(slice(n, n + 1))
        for _ in range(TRIES):
            place = self._anywhere(n)
            if not layout.walled(place[None], self._radius[:1])[0]:
                return place
        raise InputError(f"no place for an agent of radius {self.config.radius:g} px was found in scene {n}")

    def _goal(self, n: int, room: int) -> FloatArray:
        """A free place in the room that the configuration asks for, not reached from the start."""
        layout = self.layouts.select(slice(n, n + 1))
        for _ in range(TRIES):
            place = self._free(n)
            same = int(layout.rooms(place[None])[0]) == room
            if np.linalg.norm(place - self.position[n]) < self.config.reach:
                continue
            if self.config.goal == "any" or same == (self.config.goal == "same"):
                return place
        raise InputError(f"no goal in {self.config.goal} room was found in scene {n}")

    def _move_other(self) -> None:
        """A smooth random walk that the border turns back."""
        push = np.stack([g.normal(size=2) for g in self._generators]).astype(np.float32)
        self._drift = 0.9 * self._drift + 0.4 * push
        low = np.float32(self.layouts.border + self.config.radius)
        moved = self.other + self._drift
        self._drift = np.where((moved < low) | (moved > self.layouts.size - low), -self._drift, self._drift)
        self.other = np.clip(moved, low, self.layouts.size - low).astype(np.float32)
