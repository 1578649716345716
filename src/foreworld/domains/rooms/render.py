"""What the camera sees: walls and doors painted flat, and soft round discs on top, as `swm/TwoRoom-v1` paints them.

A disc is blended by exp(-distance^2 / (2 radius^2)), and grey levels are cut off, not rounded. Only the pixels near a
disc are worked out; the rest of a frame is painted once for each layout. A reduced frame is the mean of the full one
over the area of each of its pixels, rounded, so it can be had from anybody's full frame by `reduce`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from foreworld.domains.rooms.layout import VERTICAL, FloatArray, Layouts
from foreworld.errors import InputError, MissingExtraError

try:
    from numba import njit
except ImportError as error:
    raise MissingExtraError("numba", "rooms") from error

ByteArray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

BORDER_LINE = 4  # px
# Beyond this many radii a disc changes no float32: exp(-r^2 / 2) is below half an ulp of one.
REACH = 5.9


@dataclass(frozen=True)
class Appearance:
    """Colours of a scene.

    Attributes:
        agent: Of the agent.
        wall: Of walls and the line around the scene.
        door: Of doors.
        background: Of the floor.
        other: Of discs that nobody moves.
    """

    agent: Colour = (255, 0, 0)
    wall: Colour = (0, 0, 0)
    door: Colour = (255, 255, 255)
    background: Colour = (255, 255, 255)
    other: Colour = (0, 0, 255)


@dataclass(frozen=True)
class Camera:
    """Paints N scenes of fixed layouts.

    Attributes:
        layouts: Of the N scenes.
        size: Side of a frame in pixels: that of the layouts, or a smaller one.
        looks: Of all scenes, or one a scene.
        view: Share of the scene's side that is seen about its middle, px taken from the nearest; beyond the scene is
            what is at its edge.
    """

    layouts: Layouts
    size: int
    looks: tuple[Appearance, ...] = (Appearance(),)
    view: float = 1.0
    _full: ByteArray = field(init=False, repr=False)
    _small: ByteArray = field(init=False, repr=False)
    _which: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count, full = len(self.layouts), self.layouts.size
        if len(self.looks) not in (1, count):
            raise InputError(f"give one appearance, or one for each of the {count} scenes, not {len(self.looks)}")
        if not 0 < self.view <= 2:
            raise InputError(f"a view of {self.view:g} sides of the scene cannot be painted; give above 0 to 2")
        if not 0 < self.size <= full:
            raise InputError(f"frames of {self.size} px cannot be made from scenes of {full} px; give 1 to {full}")
        parts = (self.layouts.axis, self.layouts.centre, self.layouts.door, self.layouts.width)
        keys = [(*(part[n].tobytes() for part in parts), self.looks[n % len(self.looks)]) for n in range(count)]
        first = {key: n for n, key in reversed(list(enumerate(keys)))}
        numbers = {key: i for i, key in enumerate(first)}
        painted = np.stack([_paint(self.layouts, n, self.looks[n % len(self.looks)]) for n in first.values()])
        object.__setattr__(self, "_full", painted)
        object.__setattr__(self, "_small", reduce(painted, self.size))
        object.__setattr__(self, "_which", np.array([numbers[key] for key in keys]))

    def frames(
        self, position: FloatArray, radius: FloatArray, other: FloatArray | None = None, out: ByteArray | None = None
    ) -> ByteArray:
        """[N, size, size, 3] with the agents at these places.

        Args:
            position: [N, 2] px of the scene.
            radius: [N] px.
            other: [N, 2] place of a disc that nobody moves, behind the agent; NaN where there is none.
            out: Where to paint.
        """
        count = len(self.layouts)
        frames = np.empty((count, self.size, self.size, 3), np.uint8) if out is None else out
        discs = np.full((count, 2, 6), np.nan, dtype=np.float32)
        for k, (place, colours) in enumerate(
            ((other, [look.other for look in self.looks]), (position, [look.agent for look in self.looks]))
        ):
            if place is not None:
                discs[:, k, :2], discs[:, k, 2], discs[:, k, 3:] = place, radius, np.array(colours, dtype=np.float32)
        _blend(frames, self._full, self._small, self._which, discs, *_shares(self.layouts.size, self.size))
        if self.view != 1.0:
            seen = 0.5 + self.view * ((np.arange(self.size) + 0.5) / self.size - 0.5)
            nearest = np.clip((seen * self.size).astype(int), 0, self.size - 1)
            frames[:] = frames[:, nearest[:, None], nearest]
        return frames


def reduce(frames: ByteArray, size: int) -> ByteArray:
    """[..., S, S, 3] to [..., size, size, 3]: the mean over the area of each smaller pixel, rounded."""
    full = frames.shape[-2]
    if size == full:
        return frames
    first, weight = _shares(full, size)
    share = np.zeros((size, full), dtype=np.int64)
    for i in range(size):
        share[i, first[i] : first[i] + weight.shape[1]] += weight[i, : full - first[i]]
    whole = int(share[0].sum()) ** 2
    rows = np.tensordot(share, frames.astype(np.int64), axes=(1, -3))  # [size, ..., S, 3]
    sums = np.moveaxis(np.moveaxis(rows, 0, -3), -2, -1) @ share.T
    return ((2 * np.moveaxis(sums, -1, -2) + whole) // (2 * whole)).astype(np.uint8)


def _shares(full: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First pixel of the full frame under each smaller one, and whole-number weights [size, K] of it and the next."""
    common = math.gcd(full, size)
    wide, each = full // common, size // common  # a smaller pixel is wide / each full ones wide
    reach = -(-wide // each) + 1
    first = np.array([i * wide // each for i in range(size)])
    weight = np.zeros((size, reach), dtype=np.int64)
    for i in range(size):
        for k in range(reach):
            p = int(first[i]) + k
            weight[i, k] = max(0, min((i + 1) * wide, (p + 1) * each) - max(i * wide, p * each))
    return first, weight


def _paint(layouts: Layouts, n: int, look: Appearance) -> ByteArray:
    """[S, S, 3] walls, doors and the line around scene n."""
    size, border = layouts.size, round(layouts.border)
    frame = np.empty((size, size, 3), dtype=np.uint8)
    frame[:] = look.background
    at = np.arange(size, dtype=np.float32)
    walled, doored = np.zeros((size, size), dtype=bool), np.zeros((size, size), dtype=bool)
    for wall in range(layouts.axis.shape[1]):
        if np.isnan(layouts.centre[n, wall]):
            continue
        stripe = np.abs(at - layouts.centre[n, wall]) <= layouts.half[n, wall]
        gap = (np.abs(at[:, None] - layouts.door[n, wall]) <= layouts.width[n, wall]).any(1)
        across = np.outer(~gap, stripe), np.outer(gap, stripe)
        solid, opened = across if layouts.axis[n, wall] == VERTICAL else (across[0].T, across[1].T)
        walled, doored = walled | solid, doored | opened
    frame[doored & ~walled] = look.door
    line = min(BORDER_LINE, border)
    for a in (border - line, size - border):
        walled[:, a : a + line] = walled[a : a + line, :] = True
    frame[walled] = look.wall
    return frame


@njit(cache=True)
def _blend(
    frames: ByteArray,
    full: ByteArray,
    small: ByteArray,
    which: npt.NDArray[np.int64],
    discs: FloatArray,
    first: npt.NDArray[np.int64],
    weight: npt.NDArray[np.int64],
) -> None:
    """Paint the discs [N, K, (x, y, radius, red, green, blue)] on the frames of their layouts."""
    side, size, reach = full.shape[1], frames.shape[1], weight.shape[1]
    patch = np.empty((side, side, 3), np.uint8)
    column = np.empty((side, size, 3), np.int64)
    for n in range(len(frames)):
        frames[n] = small[which[n]]
        left, right, top, bottom = _touched(discs[n], side, size)
        if left >= right or top >= bottom:
            continue
        x0, y0 = first[left], first[top]
        x1, y1 = min(side, first[right - 1] + reach), min(side, first[bottom - 1] + reach)
        patch[y0:y1, x0:x1] = full[which[n], y0:y1, x0:x1]
        for k in range(discs.shape[1]):
            if not np.isnan(discs[n, k, 0]):
                _disc(patch, discs[n, k], x0, x1, y0, y1)
        if size == side:
            frames[n, y0:y1, x0:x1] = patch[y0:y1, x0:x1]
        else:
            for c in range(3):
                _columns(column[:, :, c], patch[:, :, c], first, weight, left, right, y0, y1, x1)
                _rows(frames[n, :, :, c], column[:, :, c], first, weight, left, right, top, bottom, y1)


@njit(cache=True)
def _touched(discs: FloatArray, side: int, size: int) -> tuple[int, int, int, int]:
    """Pixels of the smaller frame that any disc touches: all are blended in full and then reduced together."""
    left, right, top, bottom = size, 0, size, 0
    for k in range(len(discs)):
        if np.isnan(discs[k, 0]):
            continue
        x, y, far = discs[k, 0], discs[k, 1], REACH * discs[k, 2] + 1.0
        left = min(left, max(0, int((x - far) * size / side)))
        right = max(right, min(size, int((x + far) * size / side) + 1))
        top = min(top, max(0, int((y - far) * size / side)))
        bottom = max(bottom, min(size, int((y + far) * size / side) + 1))
    return left, right, top, bottom


@njit(cache=True)
def _disc(patch: ByteArray, disc: FloatArray, x0: int, x1: int, y0: int, y1: int) -> None:
    """Blend one disc over the full frame within these pixels."""
    x, y, one = disc[0], disc[1], np.float32(1.0)
    twice = np.float32(2.0) * disc[2] * disc[2]
    across, down = _profile(x, twice, x0, x1, len(patch)), _profile(y, twice, y0, y1, len(patch))
    for i in range(y0, y1):
        for j in range(x0, x1):
            a = down[i - y0] * across[j - x0]
            if a < np.float32(1e-8):
                continue
            for c in range(3):
                patch[i, j, c] = np.uint8(np.float32(patch[i, j, c]) * (one - a) + disc[3 + c] * a)


@njit(cache=True)
def _profile(centre: float, twice: float, start: int, stop: int, side: int) -> FloatArray:
    """How much of a disc is seen along one axis; the greatest on the grid is brought to one."""
    found = np.empty(stop - start, np.float32)
    nearest = np.float32(min(max(round(float(centre)), 0), side - 1)) - centre
    for i in range(start, stop):
        found[i - start] = np.exp(-((np.float32(i) - centre) ** 2 - nearest**2) / twice)
    return found


@njit(cache=True)
def _columns(
    column: npt.NDArray[np.int64], patch: ByteArray, first: npt.NDArray[np.int64], weight: npt.NDArray[np.int64],
    left: int, right: int, y0: int, y1: int, x1: int,
) -> None:  # fmt: skip
    """Reduce one colour across."""
    for i in range(y0, y1):
        for j in range(left, right):
            total = 0
            for p in range(weight.shape[1]):
                if first[j] + p < x1:
                    total += weight[j, p] * patch[i, first[j] + p]
            column[i, j] = total


@njit(cache=True)
def _rows(
    frame: ByteArray, column: npt.NDArray[np.int64], first: npt.NDArray[np.int64], weight: npt.NDArray[np.int64],
    left: int, right: int, top: int, bottom: int, y1: int,
) -> None:  # fmt: skip
    """Reduce one colour down, and round."""
    whole = weight[0].sum() ** 2
    for i in range(top, bottom):
        for j in range(left, right):
            total = 0
            for p in range(weight.shape[1]):
                if first[i] + p < y1:
                    total += weight[i, p] * column[first[i] + p, j]
            frame[i, j] = (2 * total + whole) // (2 * whole)
