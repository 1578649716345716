"""Where an agent can go: square scenes with walls across them and doors in the walls.

A wall runs across the whole scene, so a maze of rooms is a few walls with several doors each. Lengths are in pixels of
the scene at its own size; x goes right and y down, and a position is the centre of the agent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PATCH = 4  # px of walls and doors that are seen, or unseen, together
Part = Literal["all", "seen", "unseen"]

PARTS = ("axis", "centre", "half", "door", "width")
VERTICAL, HORIZONTAL = 0, 1  # the axis that a wall stands on: x or y


@dataclass(frozen=True)
class Layouts:
    """The walls of N scenes, W walls each at most, with at most M doors a wall.

    Attributes:
        size: Side of the scene.
        border: Width of the strip around the scene that nobody enters.
        axis: [N, W] `VERTICAL` or `HORIZONTAL`.
        centre: [N, W] where the wall stands on its axis; NaN where there is none.
        half: [N, W] half its thickness.
        door: [N, W, M] centre of each door along the wall; NaN where there is none.
        width: [N, W, M] half the width of each door.
        margin: How far beyond a door's edge the centre of an agent still gets through.
    """

    size: int
    border: float
    axis: npt.NDArray[np.int8]
    centre: FloatArray
    half: FloatArray
    door: FloatArray
    width: FloatArray
    margin: float = 0.0

    def __post_init__(self) -> None:
        n, walls = self.axis.shape
        for name in ("centre", "half"):
            if getattr(self, name).shape != (n, walls):
                raise InputError(f"{name} of a layout has shape {getattr(self, name).shape}, expected {(n, walls)}")
        if self.door.shape[:2] != (n, walls) or self.door.shape != self.width.shape:
            raise InputError(
                f"doors of a layout have shapes {self.door.shape} and {self.width.shape}, expected ({n}, {walls}, M)"
            )

    def __len__(self) -> int:
        """Number of scenes N."""
        return len(self.axis)

    @classmethod
    def stack(cls, each: Sequence[Layouts]) -> Layouts:
        """Scenes of one size and number of walls and doors, one after the other."""
        parts: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in each]) for name in PARTS}
        return replace(each[0], **parts)

    def select(self, index: npt.NDArray[np.int64] | slice) -> Self:
        """Some of the scenes."""
        parts: dict[str, Any] = {name: getattr(self, name)[index] for name in PARTS}
        return replace(self, **parts)

    def through(self, wall: int, along: FloatArray, margin: float | None = None) -> BoolArray:
        """[N] whether positions `along` [N] a wall lie in one of its doors, give or take the margin."""
        slack = np.float32(self.margin if margin is None else margin)
        door, width = self.door[:, wall], self.width[:, wall]
        inside = (along[:, None] >= door - width - slack) & (along[:, None] <= door + width + slack)
        return np.asarray(inside.any(1))

    def walled(self, position: FloatArray, radius: FloatArray) -> BoolArray:
        """[N] whether an agent at [N, 2] would touch a wall, in a door or not, or the border."""
        low, high = self.border + radius, self.size - self.border - radius
        touched = np.asarray(((position < low[:, None]) | (position > high[:, None])).any(1))
        rows = np.arange(len(self))
        for wall in range(self.axis.shape[1]):
            away = np.abs(position[rows, self.axis[:, wall]] - self.centre[:, wall])
            touched |= away <= self.half[:, wall] + radius
        return touched

    def rooms(self, position: FloatArray) -> npt.NDArray[np.int64]:
        """[N] number of the room that positions [N, 2] are in; two in one room are on one side of every wall."""
        return self._numbered(position, np.arange(len(self)))

    def rooms_of(self, position: FloatArray) -> npt.NDArray[np.int64]:
        """[P] the same for any number of positions [P, 2], all in the first scene."""
        return self._numbered(position, np.zeros(len(position), dtype=np.int64))

    def _numbered(self, position: FloatArray, scene: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        rows, room = np.arange(len(position)), np.zeros(len(position), dtype=np.int64)
        for wall in range(self.axis.shape[1]):
            beyond = position[rows, self.axis[scene, wall]] > self.centre[scene, wall]
            room = 2 * room + beyond
        return room


def two_rooms(count: int = 1) -> Layouts:
    """The two rooms of `swm/TwoRoom-v1` (stable-worldmodel 0.1.1): one wall across the middle with one door."""
    return _walls(count, size=224, border=14.0, centre=[112.0], half=5.0, door=[[49.0]], width=14.0, margin=1.75)


def random_two_rooms(
    generator: np.random.Generator,
    count: int,
    *,
    part: Part = "all",
    size: int = 65,
    border: float = 5.0,
    half: float = 1.5,
) -> Layouts:
    """Two rooms with another wall and another door in every scene.

    Walls and doors stand at whole pixels, some 1,000 layouts in all, so that a few hundred scenes would meet many that
    others have met. So a quarter of them, in patches of 4 x 4 px of wall and door, is kept apart as `unseen`.
    """
    one = _walls(count, size=size, border=border, centre=[0.0], half=half, door=[[0.0]], width=4.0)
    centre, door = np.zeros((2, count), dtype=np.float32)
    todo = np.ones(count, dtype=np.bool_)
    while todo.any():
        centre[todo] = np.round(generator.uniform(0.3 * size, 0.7 * size, todo.sum()))
        door[todo] = np.round(generator.uniform(border + 8.0, size - border - 8.0, todo.sum()))
        unseen = (centre // PATCH + door // PATCH) % 4 == 0
        todo = np.zeros(count, np.bool_) if part == "all" else unseen != (part == "unseen")
    return replace(one, centre=centre[:, None], door=door[:, None, None])


def maze(
    generator: np.random.Generator, count: int, *, cells: int = 4, size: int = 224, border: float = 14.0
) -> Layouts:
    """A square of rooms, `cells` a side, of which each can be reached from each in one way only.

    The spanning tree is drawn by a randomised depth-first search, which gives long corridors.
    """
    if cells < 2:
        raise InputError(f"a maze needs at least two cells a side, got {cells}")
    inner = (size - 2 * border) / cells
    lines = [border + inner * (i + 1) for i in range(cells - 1)]
    middles = [border + inner * (i + 0.5) for i in range(cells)]
    walls = 2 * (cells - 1)
    made = _walls(
        count, size=size, border=border, centre=[*lines, *lines], half=3.0, door=[middles] * walls, width=inner / 4
    )
    axis, door = made.axis.copy(), made.door.copy()
    axis[:, cells - 1 :] = HORIZONTAL
    for n in range(count):
        opened = _spanning_tree(generator, cells)
        for line in range(cells - 1):
            for cell in range(cells):
                if ((line, cell), (line + 1, cell)) not in opened:
                    door[n, line, cell] = np.nan
                if ((cell, line), (cell, line + 1)) not in opened:
                    door[n, cells - 1 + line, cell] = np.nan
    return replace(made, axis=axis, door=door)


Cell = tuple[int, int]


def _spanning_tree(generator: np.random.Generator, cells: int) -> set[tuple[Cell, Cell]]:
    """Pairs of neighbouring cells (column, row), the lesser first, between which the way is open."""
    opened: set[tuple[Cell, Cell]] = set()
    start = (int(generator.integers(cells)), int(generator.integers(cells)))
    seen, path = {start}, deque([start])
    while path:
        x, y = path[-1]
        near = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        free = [(i, j) for i, j in near if 0 <= i < cells and 0 <= j < cells and (i, j) not in seen]
        if not free:
            path.pop()
            continue
        following = free[int(generator.integers(len(free)))]
        opened.add((min((x, y), following), max((x, y), following)))
        seen.add(following)
        path.append(following)
    return opened


def _walls(
    count: int,
    *,
    size: int,
    border: float,
    centre: list[float],
    half: float,
    door: list[list[float]],
    width: float,
    margin: float = 0.0,
) -> Layouts:
    """The same vertical walls in every scene."""
    if count < 1:
        raise InputError(f"a layout needs at least one scene, got {count}")
    doors = np.tile(np.asarray(door, dtype=np.float32), (count, 1, 1))
    centres = np.tile(np.asarray(centre, dtype=np.float32), (count, 1))
    return Layouts(
        size=size,
        border=border,
        axis=np.full(centres.shape, VERTICAL, dtype=np.int8),
        centre=centres,
        half=np.full(centres.shape, half, dtype=np.float32),
        door=doors,
        width=np.full(doors.shape, width, dtype=np.float32),
        margin=margin,
    )
