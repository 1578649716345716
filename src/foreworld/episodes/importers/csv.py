"""Import of a wide CSV table: one row a subject and time, one column a channel.

    subject,time,cgm [mg/dL],insulin [U],weight [kg]
    a,0,112,0.5,71
    a,5,,0.4,
    a,10,118,,

A column may state its unit in brackets; it must be the schema's. An empty cell is a missing value. A static is given
in every row of a subject or in the first alone. The actions of a subject's last row have no outcome and are not
kept, so they may be empty. A channel of shape [k] has the columns `name.0` to `name.<k-1>`.
"""

from __future__ import annotations

import csv
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from foreworld.episodes.episode import Episode
from foreworld.episodes.schema import Channel, Kind, Role, Schema
from foreworld.episodes.store import EpisodeStore
from foreworld.errors import InputError, SchemaError

_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_HEADER = re.compile(r"^\s*([^\[\]]+?)\s*(?:\[([^\[\]]*)\])?\s*$")
_TRUTH = {"true": 1.0, "false": 0.0}


def import_csv(csv_path: str | Path, schema: Schema, out: str | Path) -> EpisodeStore:
    """Import a CSV table as one episode a subject; all of it, or nothing.

    Args:
        csv_path: UTF-8 table with the columns `subject`, `time` and one for each channel, comma-separated. The rows of
            a subject are together and in order of time. Time is a number in the schema's unit, or ISO 8601:
            then it counts from the subject's first row, whose stamp is kept in the episode's `info`.
            Stamps need not be regular.
        schema: Channels of the table.
        out: Path of a store; made if it is not there, appended to otherwise.

    Returns:
        The store.

    Raises:
        InputError: A cell, unit or time is wrong; the message names file, line, channel, value, bound and unit.
        SchemaError: A column is missing or unknown, a value does not fit its channel, or the store at `out` has
            another schema.
    """
    file = Path(csv_path)
    if not file.is_file():
        raise InputError(f"no CSV file at {file}")
    fresh = not (Path(out) / "zarr.json").is_file()
    store = EpisodeStore.create(out, schema) if fresh else EpisodeStore.open(out, schema=schema)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            if store.append(_Table(file, schema).episodes(stream)) == 0:
                raise InputError(f"{file} has a header but no rows")
    except BaseException as error:
        if fresh:
            shutil.rmtree(store.path)
        if isinstance(error, UnicodeDecodeError):
            raise InputError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
        if isinstance(error, csv.Error):
            raise InputError(f"{file} is not a CSV table ({error})") from error
        raise
    return store


@dataclass(frozen=True)
class _Cell:
    """Where the cells of one scalar of a channel are."""

    column: int
    channel: Channel


@dataclass(frozen=True)
class _Row:
    line: int
    time: str
    cells: list[float]


class _Table:
    """A CSV table being read; it knows its file and its columns, for the messages."""

    def __init__(self, file: Path, schema: Schema) -> None:
        for channel in schema.channels:
            if channel.kind in (Kind.video, Kind.depth, Kind.points) or len(channel.shape) > 1:
                raise SchemaError(f"channel {channel.name} ({channel.kind}, shape {channel.shape}) cannot be in a CSV")
        self._file = file
        self._schema = schema

    def episodes(self, stream: Iterator[str]) -> Iterator[Episode]:
        """One episode a subject, in the order of the file."""
        reader = csv.reader(stream, strict=True)
        header = next(reader, None)
        if header is None:
            raise InputError(f"{self._file} is empty; it needs a header: subject,time,...")
        subject_at, time_at, cells = self._columns(header)
        seen: set[str] = set()
        subject = ""
        rows: list[_Row] = []
        for row in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise InputError(f"{self._file}, line {line}: {len(row)} cells, but the header has {len(header)}")
            name = row[subject_at].strip()
            if name != subject or not rows:
                if rows:
                    yield self._episode(subject, rows, cells)
                if not name or name in seen:
                    why = "comes again after other subjects; sort the rows by subject and time"
                    raise InputError(f"{self._file}, line {line}: subject {name!r} {why if name else 'is empty'}")
                seen.add(name)
                subject, rows = name, []
            values = [self._parse(row[cell.column].strip(), cell.channel, line) for cell in cells]
            rows.append(_Row(line, row[time_at].strip(), values))
        if rows:
            yield self._episode(subject, rows, cells)

    def _columns(self, header: list[str]) -> tuple[int, int, list[_Cell]]:
        found: dict[str, int] = {}
        for at, text in enumerate(header):
            match = _HEADER.match(text)
            if match is None:
                raise InputError(
                    f"{self._file}, line 1: column {at + 1} has the name {text!r}; write name or name [unit]"
                )
            name, unit = match.group(1), match.group(2)
            if name in found:
                raise InputError(f"{self._file}, line 1: column {name!r} is there twice")
            found[name] = at
            self._check_unit(name, unit)
        cells = []
        for channel in self._schema.channels:
            names = [f"{channel.name}.{i}" for i in range(channel.size)] if channel.shape else [channel.name]
            for name in names:
                if name not in found:
                    raise SchemaError(f"{self._file}, line 1: channel {channel.name} has no column {name!r}")
                cells.append(_Cell(found.pop(name), channel))
        for name in ("subject", "time"):
            if name not in found:
                raise SchemaError(f"{self._file}, line 1: there is no column {name!r}")
        subject_at, time_at = found.pop("subject"), found.pop("time")
        if found:
            raise SchemaError(
                f"{self._file}, line 1: column {next(iter(found))!r} is no channel of schema {self._schema.name} "
                f"({', '.join(self._schema.names())}); remove it or add the channel"
            )
        return subject_at, time_at, cells

    def _check_unit(self, name: str, unit: str | None) -> None:
        base = name.split(".")[0]
        if unit is None or not (name == "time" or base in self._schema):
            return
        expected = self._schema.time_unit if name == "time" else self._schema[base].unit
        if unit.strip() != expected:
            raise InputError(
                f"{self._file}, line 1: channel {name} is in [{unit.strip()}], expected [{expected}]; "
                f"convert the column to {expected or 'no unit'}"
            )

    def _parse(self, text: str, channel: Channel, line: int) -> float:
        """The value of one cell, NaN if it is empty."""
        if not text:
            return math.nan
        where = f"{self._file}, line {line}, channel {channel.name}"
        if text in channel.categories:
            return float(channel.categories.index(text))
        try:
            value = _TRUTH[text.lower()] if text.lower() in _TRUTH else float(text)
        except ValueError as error:
            known = f"one of {', '.join(channel.categories)}" if channel.discrete else f"a number in {channel.unit!r}"
            raise InputError(f"{where}: {text!r} is not {known}; leave the cell empty if it is missing") from error
        if math.isnan(value):
            return value
        if math.isinf(value):
            raise InputError(f"{where}: {text} is infinite; leave the cell empty if it is missing")
        low, high = (0, len(channel.categories) - 1) if channel.discrete else (channel.low, channel.high)
        for bound, wrong, word in (
            (low, low is not None and value < low, "below its least"),
            (high, high is not None and value > high, "above its greatest"),
        ):
            if wrong:
                raise InputError(
                    f"{where}: value {value:g} {channel.unit} is {word} {bound:g} {channel.unit}; check the unit"
                )
        if np.dtype(channel.dtype).kind != "f":
            channel.cast(np.asarray(value), where=f"in {self._file}, line {line}")
        return value

    def _episode(self, subject: str, rows: list[_Row], cells: list[_Cell]) -> Episode:
        if len(rows) < 2:
            raise InputError(
                f"{self._file}, line {rows[0].line}: subject {subject} has one row; an episode needs at least two"
            )
        times, info = self._times(subject, rows)
        table = np.array([row.cells for row in rows])
        values: dict[str, np.ndarray] = {}
        masks: dict[str, np.ndarray] = {}
        for channel in self._schema.channels:
            columns = [i for i, cell in enumerate(cells) if cell.channel is channel]
            part = table[:, columns].reshape(len(rows), *channel.shape)
            if channel.role is Role.static:
                part = self._static(part, channel, subject, rows)
            elif channel.role is Role.action:
                part = part[:-1]
            present = channel.measured(part)
            if channel.role in (Role.action, Role.exogenous) and not present.all():
                row = rows[int(np.flatnonzero(~present)[0])]
                raise InputError(
                    f"{self._file}, line {row.line}, channel {channel.name}: the value is empty, but {channel.role} "
                    f"values are always known; write 0 {channel.unit} if there was none"
                )
            if np.dtype(channel.dtype).kind != "f":
                if not present.all():
                    masks[channel.name] = np.asarray(present)
                part = np.where(np.isnan(part), 0, part).astype(channel.dtype)
            values[channel.name] = part
        return Episode(subject, times, values, masks, info)

    def _static(self, part: np.ndarray, channel: Channel, subject: str, rows: list[_Row]) -> np.ndarray:
        first = part[0]
        changed = ~np.isnan(part) & (part != first)
        if changed.any():
            at = int(np.flatnonzero(changed.reshape(len(rows), -1).any(axis=1))[0])
            raise InputError(
                f"{self._file}, line {rows[at].line}, channel {channel.name}: static value {part[at]} {channel.unit} "
                f"of subject {subject} differs from {first} {channel.unit} in its first row (line {rows[0].line})"
            )
        return np.asarray(first)

    def _times(self, subject: str, rows: list[_Row]) -> tuple[np.ndarray, dict[str, str]]:
        """[N+1] times in the schema's unit, and the first stamp if they are ISO."""
        info = {"source": self._file.name}
        try:
            times = np.array([float(row.time) for row in rows])
        except ValueError:
            stamps = [self._stamp(row) for row in rows]
            try:
                seconds = np.array([(stamp - stamps[0]).total_seconds() for stamp in stamps])
            except TypeError as error:
                raise InputError(
                    f"{self._file}, line {rows[0].line}: subject {subject} has times with and without a time zone"
                ) from error
            if self._schema.time_unit not in _SECONDS:
                raise InputError(
                    f"{self._file}, line {rows[0].line}: ISO times cannot be counted in {self._schema.time_unit!r}; "
                    f"give the schema one of {', '.join(_SECONDS)}"
                ) from None
            times = seconds / _SECONDS[self._schema.time_unit]
            info["start"] = stamps[0].isoformat()
        for before, after, row in zip(times[:-1], times[1:], rows[1:], strict=True):
            if not after > before:
                raise InputError(
                    f"{self._file}, line {row.line}: time of subject {subject} goes from {before:g} to {after:g} "
                    f"{self._schema.time_unit}; sort the rows by time and remove doubles"
                )
        return times, info

    def _stamp(self, row: _Row) -> datetime:
        try:
            return datetime.fromisoformat(row.time)
        except ValueError as error:
            raise InputError(
                f"{self._file}, line {row.line}: time {row.time!r} is neither a number nor ISO 8601"
            ) from error
