"""Many episodes on disk: appended atomically, read by index, split by subject.

The store is a Zarr v3 group whose `zarr.json` carries the schema, the statistics, the splits and the list of
segments. Replacing that one file is the commit point: what it does not list does not exist. A crash while appending
leaves a segment that is not listed, which the next append removes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from foreworld.episodes.episode import Episode
from foreworld.episodes.files import one_writer, sync_folder, write_json
from foreworld.episodes.index import commit_index, new_index, next_number, read_index
from foreworld.episodes.schema import Schema, Statistics
from foreworld.episodes.segments import Segment, reading_context, write_segment
from foreworld.episodes.splits import check_parts, divide_subjects
from foreworld.errors import FormatError, InputError, SchemaError

_SEGMENT_BYTES = 256 * 1024 * 1024


class EpisodeStore:
    """Episodes of one schema in a folder; make one with `create` or `open`.

    Attributes:
        path: Its folder.
        damaged: What `open(..., skip_damaged=True)` left out, one message a segment.
    """

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        self.path = path
        self.damaged: list[str] = []
        self._skip_damaged = skip_damaged
        self._context = reading_context()
        self._known: dict[str, Segment] = {}
        self._load()

    @classmethod
    def create(cls, path: str | Path, schema: Schema) -> Self:
        """Make an empty store.

        Raises:
            InputError: Something is at `path` already.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists already; use EpisodeStore.open, or choose another path")
        folder.mkdir(parents=True, exist_ok=True)
        commit_index(folder, new_index(schema))
        return cls(folder)

    @classmethod
    def open(cls, path: str | Path, *, schema: Schema | None = None, skip_damaged: bool = False) -> Self:
        """Open a store.

        Args:
            path: Its folder.
            schema: If given, the store must have these channels and this step length.
            skip_damaged: Leave out segments with a missing or truncated file instead of raising; `damaged` lists them.

        Raises:
            InputError: There is no store at `path`.
            FormatError: A file is missing, truncated, damaged, or of a newer format.
            SchemaError: The store has another schema than the one given.
        """
        folder = Path(path)
        if not (folder / "zarr.json").is_file():
            raise InputError(f"no episode store at {folder}; make one with EpisodeStore.create, record or import_csv")
        store = cls(folder, skip_damaged=skip_damaged)
        if schema is not None and not schema.same_channels(store.schema):
            raise SchemaError(f"{folder} has another schema: {schema.differences(store.schema)}")
        return store

    def _load(self) -> None:
        """Read the commit point and open what it lists; a segment never changes, so known ones are kept."""
        index = read_index(self.path)
        self._schema = Schema.from_json(json.dumps(index["schema"]), source=f"{self.path / 'zarr.json'}: schema")
        self._splits: dict[str, dict[str, list[str]]] = index["splits"]
        self._index = index
        self.damaged = []
        known: dict[str, Segment] = {}
        for name in index["segments"]:
            try:
                known[name] = self._known.get(name) or Segment(self._segment_path(name), self._context)
            except FormatError as error:
                if not self._skip_damaged:
                    raise
                self.damaged.append(str(error))
        self._known = known
        self._segments = list(known.values())
        self._first = np.concatenate([[0], np.cumsum([len(s) for s in self._segments])]).astype(np.int64)
        self._lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(s.lengths for s in self._segments)])
        self._subject_of = [subject for s in self._segments for subject in s.subjects]

    # Reading

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._subject_of)

    def __iter__(self) -> Iterator[Episode]:
        """All episodes, in the order in which they were appended."""
        return (self.episode(i) for i in range(len(self)))

    @property
    def schema(self) -> Schema:
        """The schema, with the statistics set so far."""
        return self._schema

    @property
    def lengths(self) -> np.ndarray:
        """[n] number of actions of each episode."""
        return self._lengths.copy()

    @property
    def subjects(self) -> tuple[str, ...]:
        """All subjects, each once, in the order of their first episode."""
        return tuple(dict.fromkeys(self._subject_of))

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The committed segments, for readers that need more than whole episodes."""
        return tuple(self._segments)

    def subject(self, i: int) -> str:
        """Subject of episode `i`."""
        return self._subject_of[self._checked(i)]

    def info(self, i: int) -> dict[str, Any]:
        """Facts of episode `i` (source, policy, seed), without reading its arrays."""
        segment, local = self._locate(i)
        return dict(segment.info[local])

    def episode(self, i: int, channels: Iterable[str] | None = None) -> Episode:
        """Read episode `i`; negative indices count from the end.

        Args:
            i: Index in the order of appending.
            channels: Channels to read; all if None (an episode with fewer fits no schema, but is quicker to read).

        Raises:
            InputError: There is no such episode.
            FormatError: Its data are damaged; the message names the file.
        """
        segment, local = self._locate(i)
        wanted = self._schema.channels if channels is None else [self._schema[name] for name in channels]
        return segment.episode(local, wanted)

    def _segment_path(self, name: str) -> Path:
        return self.path / "segments" / name

    def _checked(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise InputError(f"episode {i} is not in {self.path}, which has {len(self)} episodes")
        return i % len(self)

    def _locate(self, i: int) -> tuple[Segment, int]:
        at = self._checked(i)
        number = int(np.searchsorted(self._first, at, side="right")) - 1
        return self._segments[number], at - int(self._first[number])

    # Writing

    def append(self, episodes: Iterable[Episode]) -> int:
        """Add episodes: all of them become visible at once, or none.

        Gather many episodes in one call: each call makes files of its own. At most about 256 MiB are held in memory.

        Args:
            episodes: Episodes of this store's schema; values are cast to the channels' dtypes.

        Returns:
            How many were added.

        Raises:
            SchemaError: An episode does not fit the schema.
            InputError: An episode holds a wrong value, or another writer is using the store.
        """
        with self._change() as index:
            names: list[str] = []
            try:
                added = 0
                for batch in _batches(episodes, self._schema):
                    name = f"{next_number(index['segments']) + len(names):06d}"
                    names.append(name)
                    write_segment(self._segment_path(name), self._schema, batch)
                    added += len(batch)
            except BaseException:
                for name in names:
                    shutil.rmtree(self._segment_path(name), ignore_errors=True)
                raise
            sync_folder(self.path / "segments")
            index["segments"] += names
        return added

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Store the statistics that normalise the channels, fitted on training subjects (`fit_statistics`)."""
        with self._change() as index:
            fitted = self._schema.with_statistics(statistics).model_dump(mode="json")
            Schema.from_json(json.dumps(fitted), source="statistics")
            index["schema"] = fitted

    def split(self, name: str, fractions: Mapping[str, float], seed: int) -> dict[str, list[str]]:
        """Divide the subjects at random and store the division.

        Args:
            name: Name of the division, such as `default`.
            fractions: Share of the subjects by part, such as `{"train": 0.8, "test": 0.2}`; at most 1 in all.
            seed: Seed of the draw; the same subjects and seed give the same division.

        Returns:
            Subjects by part. Subjects that are appended later belong to no part.

        Raises:
            InputError: The shares are wrong, a part would be empty, or another division has this name.
        """
        return self.set_split(name, divide_subjects(self.subjects, fractions, seed))

    def set_split(self, name: str, parts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Store a division of the subjects that was made elsewhere (a published protocol).

        Raises:
            InputError: A subject is unknown or in two parts, or another division has this name.
        """
        with self._change() as index:
            checked = check_parts(name, parts, self.subjects)
            if name in self._splits and self._splits[name] != checked:
                raise InputError(f"split {name!r} exists with other subjects in {self.path}; choose another name")
            index["splits"][name] = checked
        return checked

    def splits(self) -> dict[str, dict[str, list[str]]]:
        """Subjects by part, by name of the division."""
        return {
            name: {part: list(subjects) for part, subjects in parts.items()} for name, parts in self._splits.items()
        }

    def episodes_of(self, split: str) -> list[int]:
        """Indices of the episodes of one part.

        Args:
            split: `division/part`, or the part alone where only one division has it: `default/train` or `train`.

        Raises:
            InputError: No such part, or more than one.
        """
        full = {f"{name}/{part}": subjects for name, parts in self._splits.items() for part, subjects in parts.items()}
        found = [key for key in full if key == split or key.split("/", 1)[1] == split]
        if len(found) != 1:
            what = "is ambiguous" if found else "is unknown"
            raise InputError(f"split {split!r} {what} in {self.path}; it has {', '.join(full) or 'none (use split)'}")
        chosen = set(full[found[0]])
        return [i for i, subject in enumerate(self._subject_of) if subject in chosen]

    def refresh(self) -> None:
        """See what other writers have committed since this store was opened."""
        self._load()

    @contextmanager
    def _change(self) -> Iterator[dict[str, Any]]:
        """Hold the lock, give the newest index to change, commit it, and see the result."""
        with one_writer(self.path / ".lock"):
            self._load()
            segments = self.path / "segments"
            if not (segments / "zarr.json").is_file():
                segments.mkdir(exist_ok=True)
                write_json(segments / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
            listed = set(self._index["segments"])
            for folder in segments.iterdir():
                if folder.is_dir() and folder.name not in listed:
                    shutil.rmtree(folder)
            index = json.loads(json.dumps(self._index))
            yield index
            commit_index(self.path, index)
            self._load()


def _batches(episodes: Iterable[Episode], schema: Schema) -> Iterator[list[Episode]]:
    """Valid episodes in lists of about `_SEGMENT_BYTES`."""
    batch: list[Episode] = []
    size = 0
    for episode in episodes:
        episode.validate(schema)
        batch.append(episode)
        size += sum(array.nbytes for array in episode.values.values())
        if size >= _SEGMENT_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
