"""Random windows for training: batches that repeat exactly from a seed and resume where they stopped.

reader = WindowReader(store, length=12, split="train", seed=0)
batch = next(reader)      # batch.values["cgm"] is [B, 13], batch.values["insulin"] is [B, 12]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import tensorstore as ts

from foreworld.episodes.schema import Role
from foreworld.episodes.segments import Segment
from foreworld.episodes.store import EpisodeStore
from foreworld.errors import InputError

MEMORY_BYTES = 512 * 1024 * 1024
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class WindowBatch:
    """Windows of L actions and L+1 observations, cut from B places in the store.

    Attributes:
        values: By channel: observations and exogenous [B, L+1, *shape], actions [B, L, *shape],
            statics [B, *shape]; in the channel's unit and dtype, NaN where missing. Of a reader with `every` above 1
            observations are [B, L / every + 1, *shape].
        masks: By channel, True where measured: [B, L+1], [B, L] or [B].
        times: [B, L+1] float64 in the schema's time unit, of the observations.
        episodes: [B] index of the episode of each window.
        starts: [B] index of the window's first observation in its episode.
    """

    values: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    times: np.ndarray
    episodes: np.ndarray
    starts: np.ndarray


class WindowReader:
    """Endless batches of windows, each drawn uniformly from all places where a window fits in an episode.

    Arrays that fit in memory are read once and held; of the others, the next batches are being read while the
    present one is used. Given the same store, seed and settings it gives the same batches, also after
    `load_state_dict`.
    """

    def __init__(
        self,
        store: EpisodeStore,
        length: int,
        *,
        seed: int,
        batch_size: int = 128,
        split: str | None = None,
        channels: Sequence[str] | None = None,
        in_memory: bool | None = None,
        every: int = 1,
        clips: int = 1,
    ) -> None:
        """Look up where windows fit; episodes appended later are not seen.

        Args:
            store: Where to read.
            length: Actions a window, L; a window has L+1 observations.
            seed: Seed of the draw.
            batch_size: Windows a batch, B.
            split: Part whose episodes are used (`EpisodeStore.episodes_of`); all if None.
            channels: Channels to read; all if None.
            in_memory: Hold all channels in memory, or none; if None, from the smallest up to 512 MiB together.
                Time stamps are always held.
            every: Observations at every so many steps alone, such as frames one block of actions apart.
            clips: Windows of the same episode, one after the other: B is a multiple of it.

        Raises:
            InputError: An option is wrong, or no episode is long enough.
        """
        if length < 1 or batch_size < 1:
            raise InputError(f"a window needs length >= 1 and batch_size >= 1, got {length} and {batch_size}")
        if every < 1 or length % every:
            raise InputError(f"length {length} must be a multiple of every={every}, at least 1")
        if clips < 1 or batch_size % clips:
            raise InputError(f"batch_size {batch_size} must be a multiple of clips={clips}, at least 1")
        self._length, self._batch_size, self._every, self._clips = length, batch_size, every, clips
        chosen = np.asarray(store.episodes_of(split) if split else range(len(store)), dtype=np.int64)
        room = np.maximum(store.lengths[chosen] - length + 1, 0)
        if not room.any():
            longest = int(store.lengths[chosen].max(initial=0))
            raise InputError(
                f"no window of {length} actions fits in the {len(chosen)} episodes of {split or 'the store'} "
                f"(the longest has {longest} actions); give a shorter length"
            )
        self._episodes = chosen
        self._room, self._places = room, np.cumsum(room)
        schema = store.schema
        self._channels = tuple(schema[name] for name in (schema.names() if channels is None else channels))
        self._columns = {"times": _Column(store.segments, "times", Role.observation)}
        for channel in self._channels:
            name = f"values/{channel.name}"
            self._columns[name] = _Column(store.segments, name, channel.role)
            if any(segment.has_mask(channel.name) for segment in store.segments):
                name = f"masks/{channel.name}"
                self._columns[name] = _Column(store.segments, name, channel.role)
        self._hold(in_memory)
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._ahead: deque[tuple[dict[str, Any], Callable[[], WindowBatch]]] = deque()

    def __iter__(self) -> Self:
        """The reader itself; it never ends."""
        return self

    def __next__(self) -> WindowBatch:
        """The next batch.

        Raises:
            FormatError: Data in the store are damaged; the message names the file.
        """
        while len(self._ahead) <= _BATCHES_AHEAD:
            before = dict(self._generator.bit_generator.state)
            self._ahead.append((before, self._issue()))
        _, finish = self._ahead.popleft()
        return finish()

    @property
    def places(self) -> int:
        """Number of different windows."""
        return int(self._places[-1])

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state from which the batches after the last one given go on."""
        state = self._ahead[0][0] if self._ahead else dict(self._generator.bit_generator.state)
        return {"generator": state, **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a reader with the same store, length, batch size and split.

        Raises:
            InputError: The state is of another reader.
        """
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise InputError(
                    f"the saved state is of a reader with {name} {state.get(name)}, this one has {value}; "
                    "use the same store, split and settings to resume"
                )
        self._generator.bit_generator.state = state["generator"]
        self._ahead.clear()

    def _settings(self) -> dict[str, int]:
        settings = {"length": self._length, "batch_size": self._batch_size, "places": self.places}
        # Named only where they differ from what readers did before there were such options.
        return settings | {k: v for k, v in {"every": self._every, "clips": self._clips}.items() if v > 1}

    def _hold(self, in_memory: bool | None) -> None:
        self._columns["times"].hold()
        budget = MEMORY_BYTES
        for column in sorted(self._columns.values(), key=lambda column: column.nbytes):
            budget -= column.nbytes
            if in_memory or (in_memory is None and budget >= 0):
                column.hold()

    def _issue(self) -> Callable[[], WindowBatch]:
        """Draw the places of one batch, start all its reads, and give what awaits them."""
        draw = self._generator.integers(0, self.places, self._batch_size // self._clips)
        at = np.searchsorted(self._places, draw, side="right")
        before = np.concatenate([[0], self._places[:-1]])
        starts = draw - before[at]
        if self._clips > 1:
            at = at.repeat(self._clips)
            starts = (self._generator.random(len(at)) * self._room[at]).astype(np.int64)
        episodes = self._episodes[at]
        # One batch object a reading: windows that share a shard share its index and its files.
        reads = ts.Batch()
        finish = {
            name: column.issue(episodes, starts, self._length, self._every, reads)
            for name, column in self._columns.items()
        }
        reads.submit()

        def collect() -> WindowBatch:
            values = {c.name: finish[f"values/{c.name}"]() for c in self._channels}
            masks = {}
            for channel in self._channels:
                present = channel.measured(values[channel.name])
                key = f"masks/{channel.name}"
                masks[channel.name] = present & finish[key]() if key in finish else present
            return WindowBatch(values, masks, finish["times"](), episodes, starts)

        return collect


class _Column:
    """One array over all segments, held in memory or read from disk."""

    def __init__(self, segments: Sequence[Segment], name: str, role: Role) -> None:
        self._segments = segments
        self._name = name
        self._role = role
        # A mask is stored only where one was given: a segment without it has measured everything.
        channel = name.removeprefix("masks/")
        self._absent = [name.startswith("masks/") and not segment.has_mask(channel) for segment in segments]
        rows = [segment.first_rows(role) for segment in segments]
        self._segment_of = np.repeat(np.arange(len(segments)), [len(segment) for segment in segments])
        self._row = np.concatenate([first[:-1] for first in rows])
        self._sizes = [int(first[-1]) for first in rows]
        self._base = np.concatenate([[0], np.cumsum(self._sizes)])
        self._held: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        for segment, absent in zip(self._segments, self._absent, strict=True):
            if not absent:
                array = segment.array(self._name)
                return int(self._base[-1] * np.prod(array.shape[1:]) * array.dtype.numpy_dtype.itemsize)
        return 0

    def hold(self) -> None:
        """Read it whole into memory."""
        parts = []
        for segment, absent, size in zip(self._segments, self._absent, self._sizes, strict=True):
            if absent:
                parts.append(np.ones(size, dtype=bool))
            else:
                parts.append(segment.result(segment.array(self._name).read(), self._name))
        self._held = np.concatenate(parts)

    def issue(
        self, episodes: np.ndarray, starts: np.ndarray, length: int, every: int, reads: Any
    ) -> Callable[[], np.ndarray]:
        """Start reading windows of L actions at [B] places; the result awaits them: [B, ...]."""
        static = self._role is Role.static
        steps = np.arange(length) if self._role is Role.action else np.arange(0, length + 1, every)
        segment_of = self._segment_of[episodes]
        rows = self._row[episodes] + (0 if static else starts)
        if self._held is not None:
            held = self._held
            rows = rows + self._base[segment_of]
            return lambda: held[rows] if static else held[rows[:, None] + steps]
        lead, stride = () if static else (len(steps),), 1 if self._role is Role.action else every
        futures: list[tuple[Segment, Any]] = []
        for number, row in zip(segment_of.tolist(), rows.tolist(), strict=True):
            segment = self._segments[number]
            if self._absent[number]:
                futures.append((segment, None))
            else:
                cut = row if static else slice(row, row + int(steps[-1]) + 1, stride)
                futures.append((segment, segment.array(self._name)[cut].read(batch=reads)))

        def collect() -> np.ndarray:
            return np.stack(
                [np.ones(lead, bool) if f is None else segment.result(f, self._name) for segment, f in futures]
            )

        return collect
