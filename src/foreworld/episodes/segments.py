"""One appended batch of episodes on disk: sharded Zarr v3 arrays, written once and never changed.

A segment is a Zarr group with `times`, `values/<channel>` and, where a mask was given, `masks/<channel>`. Episodes
lie one after the other along the first axis; subjects, lengths and the size of every file are the group's attributes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from zarr.codecs import ZstdCodec

from foreworld.episodes.episode import Episode
from foreworld.episodes.files import read_json, sync_tree, write_json
from foreworld.episodes.schema import Channel, Kind, Role, Schema
from foreworld.errors import FormatError

SEGMENT_VERSION = 1
_CHUNK_BYTES = 16 * 1024
_FRAMES_PER_CHUNK = 4
_SHARD_BYTES = 32 * 1024 * 1024
_CACHE_BYTES = 16 * 1024 * 1024


def reading_context() -> Any:
    """Resources of one reader of segments; a store has its own, so that it never sees what another cached."""
    return ts.Context(
        {
            # Keeps the shards' indices, which would otherwise be read again for every window.
            "cache_pool": {"total_bytes_limit": _CACHE_BYTES},
            # Decoding is the work, and more threads cost more processor time than they save.
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
        }
    )


def write_segment(path: Path, schema: Schema, episodes: Sequence[Episode]) -> None:
    """Write valid episodes as one segment and flush it to disk.

    Args:
        path: Folder of the segment; it must not exist.
        schema: Schema of the episodes.
        episodes: At least one episode that has passed `Episode.validate`.
    """
    group = zarr.open_group(str(path), mode="w-", zarr_format=3)
    _write(group, "times", np.concatenate([e.times.astype(np.float64) for e in episodes]), Kind.series)
    masked = []
    for channel in schema.channels:
        join = np.stack if channel.role is Role.static else np.concatenate
        _write(group, f"values/{channel.name}", join([_stored(e, channel) for e in episodes]), channel.kind)
        if any(channel.name in e.masks for e in episodes):
            masked.append(channel.name)
            flags = [_flags(e, channel) for e in episodes]
            _write(group, f"masks/{channel.name}", join(flags), Kind.series)
    table = {
        "format_version": SEGMENT_VERSION,
        "subjects": [e.subject for e in episodes],
        "lengths": [len(e) for e in episodes],
        "info": [e.info for e in episodes],
        "masked": masked,
        "files": _sizes(path),
    }
    write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {"foreworld": table}})
    sync_tree(path)


def _stored(episode: Episode, channel: Channel) -> np.ndarray:
    values = np.asarray(episode.values[channel.name])
    mask = episode.masks.get(channel.name)
    if mask is not None:
        # What a mask hides is stored as one fixed value, so that it never depends on leftovers in memory.
        hidden = np.nan if np.dtype(channel.dtype).kind == "f" else 0
        shape = mask.shape + (1,) * len(channel.shape)
        values = np.where(mask.reshape(shape), values, np.asarray(hidden, dtype=channel.dtype))
    return channel.cast(values)


def _flags(episode: Episode, channel: Channel) -> np.ndarray:
    present = channel.measured(np.asarray(episode.values[channel.name]))
    given = episode.masks.get(channel.name)
    return present if given is None else present & given


def _write(group: zarr.Group, name: str, values: np.ndarray, kind: Kind) -> None:
    row_bytes = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    framed = kind in (Kind.video, Kind.depth)
    rows = _FRAMES_PER_CHUNK if framed else max(1, _CHUNK_BYTES // row_bytes)
    rows = min(rows, len(values))
    per_shard = max(1, min(_SHARD_BYTES // (rows * row_bytes), -(-len(values) // rows)))
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(rows, *values.shape[1:]),
        shards=(rows * per_shard, *values.shape[1:]),
        # The checksum finds flipped bits, the shard's own index finds a cut file.
        compressors=ZstdCodec(level=1, checksum=True),
        # Every chunk is written, so that a chunk that is not there is damage and never "all zero".
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _sizes(path: Path) -> dict[str, int]:
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            if file != path / "zarr.json":
                found[file.relative_to(path).as_posix()] = file.stat().st_size
    return found


class Segment:
    """A committed segment: its table of episodes, and its arrays opened when they are first read.

    Attributes:
        path: Its folder.
        subjects: [n] subject of each episode.
        lengths: [n] actions of each episode, int64.
        info: [n] facts of each episode.
    """

    def __init__(self, path: Path, context: Any) -> None:
        """Read the table and compare the size of every file with it.

        Args:
            path: Its folder.
            context: From `reading_context`, shared by the segments of a store.

        Raises:
            FormatError: A file is missing or truncated, or the segment has a newer format.
        """
        self.path = path
        self._context = context
        try:
            table = read_json(path / "zarr.json")["attributes"]["foreworld"]
            version = int(table["format_version"])
            if version > SEGMENT_VERSION:
                raise FormatError(
                    f"{path} has format {version}; this foreworld reads up to {SEGMENT_VERSION}: "
                    "install a newer version"
                )
            self.subjects: list[str] = list(table["subjects"])
            self.lengths = np.asarray(table["lengths"], dtype=np.int64)
            self.info: list[dict[str, Any]] = list(table["info"])
            self._masked = frozenset(table["masked"])
            files: dict[str, int] = dict(table["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._damage(path / "zarr.json", f"lacks {error}") from error
        self._check_files(files)
        before = np.concatenate([[0], np.cumsum(self.lengths)])
        self._action_rows = before
        self._observation_rows = before + np.arange(len(before))
        self._arrays: dict[str, Any] = {}

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    def _check_files(self, files: dict[str, int]) -> None:
        for name, size in files.items():
            try:
                found = (self.path / name).stat().st_size
            except FileNotFoundError as error:
                raise self._damage(self.path / name, "is missing") from error
            if found != size:
                raise self._damage(self.path / name, f"has {found} bytes instead of {size}")

    @staticmethod
    def _damage(file: Path, what: str) -> FormatError:
        return FormatError(
            f"{file} {what}; restore it from a copy, or read the other segments with "
            "EpisodeStore.open(path, skip_damaged=True)"
        )

    def has_mask(self, channel: str) -> bool:
        """Whether a mask of this channel is stored."""
        return channel in self._masked

    def first_rows(self, role: Role) -> np.ndarray:
        """[n+1] row at which each episode begins in an array of a channel of this role; the last is the end."""
        if role is Role.static:
            return np.arange(len(self) + 1)
        return self._action_rows if role is Role.action else self._observation_rows

    def array(self, name: str) -> Any:
        """The TensorStore array `times`, `values/<channel>` or `masks/<channel>`.

        Raises:
            FormatError: It cannot be opened.
        """
        if name not in self._arrays:
            spec = {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{self.path / name}/"},
                # A segment never changes, so nothing cached has to be checked again.
                "recheck_cached_data": False,
                "recheck_cached_metadata": False,
                "fill_missing_data_reads": False,
            }
            opened = ts.open(spec, open=True, read=True, context=self._context)
            self._arrays[name] = self.result(opened, name)
        return self._arrays[name]

    def result(self, future: Any, name: str) -> Any:
        """Wait for a read of array `name`.

        Raises:
            FormatError: The data are missing or damaged.
        """
        try:
            return future.result()
        except Exception as error:  # TensorStore gives each of its status codes another class
            raise FormatError(
                f"{self.path / name} is damaged ({str(error).splitlines()[0]}); restore it from a copy, "
                "the other episodes can still be read"
            ) from error

    def episode(self, i: int, channels: Iterable[Channel]) -> Episode:
        """Read these channels of episode `i` of this segment; all reads are issued before the first is awaited."""
        futures = {"times": self.array("times")[slice(*self._observation_rows[i : i + 2])].read()}
        for channel in channels:
            first = self.first_rows(channel.role)
            at = i if channel.role is Role.static else slice(first[i], first[i + 1])
            futures[f"values/{channel.name}"] = self.array(f"values/{channel.name}")[at].read()
            if self.has_mask(channel.name):
                futures[f"masks/{channel.name}"] = self.array(f"masks/{channel.name}")[at].read()
        read = {name: np.asarray(self.result(future, name)) for name, future in futures.items()}
        values = {name.removeprefix("values/"): array for name, array in read.items() if name.startswith("values/")}
        masks = {name.removeprefix("masks/"): array for name, array in read.items() if name.startswith("masks/")}
        return Episode(self.subjects[i], read["times"], values, masks, dict(self.info[i]))
