"""Zones that must not be entered: boxes drawn for an evaluation, and whether a way to the goal is left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from foreworld.domains.rooms.layout import BoolArray, FloatArray, Layouts
from foreworld.domains.rooms.pairs import Pairs, drawn
from foreworld.domains.rooms.scene import RoomsConfig, Scenes

STEP = 2.0  # px between the places that are tried when a way is looked for
CLEAR = 24.0  # px that a zone stays away from start and goal
DOOR_TRIES = 20  # times that a box over the door is drawn before it lies elsewhere: somebody stands by the door
SIDES = 30.0, 60.0  # px, least and greatest side of a zone


@dataclass(frozen=True)
class Zones:
    """One box a scene.

    Attributes:
        low: [N, 2] px, lesser corner.
        high: [N, 2] px, greater corner.
    """

    low: FloatArray
    high: FloatArray

    def __len__(self) -> int:
        """Number of boxes N."""
        return len(self.low)

    def distance(self, place: FloatArray) -> FloatArray:
        """[N, ...] px from the box of each scene, negative inside, of places [N, ..., 2]."""
        shape = (len(self), *(1,) * (place.ndim - 2), 2)
        beyond = np.maximum(self.low.reshape(shape) - place, place - self.high.reshape(shape))
        outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=-1)
        found: FloatArray = np.where(beyond.max(-1) > 0, outside, beyond.max(-1))
        return found

    def crossed(self, before: FloatArray, after: FloatArray) -> BoolArray:
        """[N] whether the straight way from places [N, 2] to others leads through the inside: a corner that is cut."""
        way = after - before
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(self.low - before) / way, (self.high - before) / way])
        # Who does not move along an axis is between its sides all the way, or never.
        between = np.where((before > self.low) & (before < self.high), -np.inf, np.inf)
        enters = np.where(way == 0, between, ends.min(0)).max(-1)
        leaves = np.where(way == 0, -between, ends.max(0)).min(-1)
        return np.asarray(np.maximum(enters, 0.0) < np.minimum(leaves, 1.0))

    def part(self, index: slice) -> Zones:
        """Those of some scenes."""
        return Zones(self.low[index], self.high[index])

    def corners(self) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
        """As `planning.zone.KeepOut` takes them."""
        return tuple(map(tuple, self.low.tolist())), tuple(map(tuple, self.high.tolist()))


def zoned(config: RoomsConfig, seed: int, count: int, *, shut: float = 0.25) -> tuple[Pairs, Zones, BoolArray]:
    """Starts and goals with a zone each, and [count] whether a way is left.

    Args:
        config: Of the scenes.
        seed: As of `pairs.drawn`.
        count: Scenes.
        shut: Share of zones that cover the first door, so that no way is left where there is one door alone; a few
            less, as no zone lies within `CLEAR` of start or goal.
    """
    pairs = drawn(config, seed, count)
    scenes = Scenes(config, pairs.seeds)
    low, high = np.zeros((count, 2), np.float32), np.zeros((count, 2), np.float32)
    open_ = np.zeros(count, dtype=np.bool_)
    for n, one in enumerate(pairs.seeds):
        generator = np.random.default_rng((one, 4))
        layout = scenes.layouts.select(slice(n, n + 1))
        ends = np.stack([pairs.start[n], pairs.goal[n]])
        low[n], high[n] = _box(generator, layout, ends, generator.random() < shut)
        open_[n] = left(layout, pairs.start[n], pairs.goal[n], low[n], high[n], config)
    return pairs, Zones(low, high), open_


def _box(
    generator: np.random.Generator, layout: Layouts, ends: FloatArray, shut: bool
) -> tuple[FloatArray, FloatArray]:
    """Corners of a box that stays clear of both ends; over the door if `shut`, where that is as clear of them."""
    for tries in range(10_000):
        half = generator.uniform(*SIDES, 2) / 2
        centre = generator.uniform(layout.border + half, layout.size - layout.border - half)
        if shut and tries < DOOR_TRIES:
            axis = int(layout.axis[0, 0])
            centre[axis], centre[1 - axis] = layout.centre[0, 0], layout.door[0, 0, 0]
            half[1 - axis] = layout.width[0, 0, 0] + layout.half[0, 0] + generator.uniform(2.0, 8.0)
            half[axis] = layout.half[0, 0] + generator.uniform(4.0, 12.0)
        low, high = (centre - half).astype(np.float32), (centre + half).astype(np.float32)
        if (Zones(low[None].repeat(2, 0), high[None].repeat(2, 0)).distance(ends) > CLEAR).all():
            return low, high
    raise AssertionError("no zone fits between start and goal")


def left(
    layout: Layouts, start: FloatArray, goal: FloatArray, low: FloatArray, high: FloatArray, config: RoomsConfig
) -> bool:
    """Whether the goal can be reached in a scene by whoever keeps out of the box: a search on a grid."""
    count = int(layout.size / STEP)
    axes = (np.arange(count, dtype=np.float32) + 0.5) * STEP
    grid = np.stack(np.meshgrid(axes, axes, indexing="ij"), axis=-1)
    flat = grid.reshape(-1, 2)
    free = ~blocked(layout, flat, config.radius).reshape(count, count)
    free &= ~((grid > low) & (grid < high)).all(-1)
    reached = (np.linalg.norm(grid - goal, axis=-1) < config.reach) & free
    first = tuple(np.clip((start / STEP).astype(int), 0, count - 1))
    seen = np.zeros((count, count), dtype=np.bool_)
    seen[first] = True
    todo = deque([first])
    while todo:
        i, j = todo.popleft()
        if reached[i, j]:
            return True
        for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= a < count and 0 <= b < count and free[a, b] and not seen[a, b]:
                seen[a, b] = True
                todo.append((a, b))
    return False


def blocked(layout: Layouts, place: FloatArray, radius: float) -> BoolArray:
    """[P] whether an agent in the first scene cannot be at [P, 2]: too near to a wall, and in no door."""
    low, high = layout.border + radius, layout.size - layout.border - radius
    found = np.asarray(((place < low) | (place > high)).any(1))
    for wall in range(layout.axis.shape[1]):
        if np.isnan(layout.centre[0, wall]):
            continue
        axis = int(layout.axis[0, wall])
        across = np.abs(place[:, axis] - layout.centre[0, wall]) < layout.half[0, wall] + radius
        along = place[:, 1 - axis, None]
        door, width = layout.door[0, wall], layout.width[0, wall] + layout.margin
        through = ((along >= door - width) & (along <= door + width)).any(1)
        found |= across & ~through
    return found
