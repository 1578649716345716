"""The vocabulary of a domain: its channels, their units and bounds, its step length and its statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from foreworld.errors import FormatError, InputError, SchemaError

FORMAT_VERSION = 1


class Role(StrEnum):
    """What a channel is to a decision."""

    observation = "observation"
    action = "action"
    exogenous = "exogenous"
    static = "static"


class Kind(StrEnum):
    """How a channel's values are laid out in time and space."""

    series = "series"
    event = "event"
    video = "video"
    depth = "depth"
    points = "points"


class Statistics(BaseModel):
    """Mean and standard deviation of one channel, fitted on training subjects only.

    For a channel with `per`, they are those of the quotient (see `Channel.per`).

    Attributes:
        mean: In the channel's unit.
        std: In the channel's unit.
        count: Values that were fitted on.
        changes: Of a scalar observation: (lag in steps, root mean square change over it) at growing lags.
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    std: float = Field(gt=0)
    count: int = Field(ge=0)
    changes: tuple[tuple[int, float], ...] = ()

    def change_after(self, steps: int) -> float:
        """Typical size of the change after so many steps, in standard deviations; 1 where it was not fitted."""
        if not self.changes:
            return 1.0
        lags, sizes = zip(*self.changes, strict=True)
        return float(np.exp(np.interp(np.log(steps), np.log(lags), np.log(sizes)))) / self.std


class Channel(BaseModel):
    """One named stream of a domain.

    Attributes:
        name: Identifier, unique in the schema.
        role: observation, action, exogenous (known at `t`, not chosen) or static.
        kind: series, event (mostly zero; a value where something happened), video, depth or points.
        shape: Shape of one value; `()` is a scalar.
        dtype: NumPy dtype on disk.
        unit: Unit of the value as a person reads it.
        low: Least possible value in `unit`, or None.
        high: Greatest possible value in `unit`, or None.
        categories: Names of the categories of a discrete channel (values are their indices).
        per: Name of a scalar static channel that the model divides by (a dose per body weight), or None.
        log: Whether the model sees the logarithm (of a weight, or of a volume that grows in proportion to itself); of
            what lies below `floor`, that of `floor`.
        lowers: For an action: observation channels that more of this action can only lower.
        raises: For an action or exogenous channel: observation channels that more of it can only raise.
        description: One line for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    role: Role
    kind: Kind = Kind.series
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    per: str | None = None
    log: bool = False
    lowers: tuple[str, ...] = ()
    raises: tuple[str, ...] = ()
    description: str = ""

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, value: str) -> str:
        if value not in {"float32", "float64", "uint8", "uint16", "int32", "int64", "bool"}:
            raise ValueError(f"dtype {value!r} is not one of float32, float64, uint8, uint16, int32, int64, bool")
        return value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"channel {self.name}: low {self.low} must be below high {self.high} {self.unit}")
        if self.categories and (self.low is not None or self.high is not None):
            raise ValueError(f"channel {self.name}: a channel has categories or bounds, not both")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"channel {self.name}: every size in shape {self.shape} must be at least 1")
        return self

    @property
    def discrete(self) -> bool:
        """Whether the values are indices of categories."""
        return bool(self.categories)

    @property
    def framed(self) -> bool:
        """Whether a value is a frame: a picture, a depth map or a cloud of points."""
        return self.kind in (Kind.video, Kind.depth, Kind.points)

    @property
    def size(self) -> int:
        """Number of scalars in one value."""
        return math.prod(self.shape)

    @property
    def floor(self) -> float:
        """The least value whose logarithm is taken, in `unit`: `low` if that is above zero."""
        return self.low if self.low is not None and self.low > 0 else 1e-6

    def measured(self, values: np.ndarray) -> np.ndarray:
        """True where a value is there, False where it is NaN.

        Args:
            values: [..., *shape] with any number of leading axes (none, time, or batch and time).

        Returns:
            Flags over the leading axes; a value of which any part is NaN counts as missing, of depth one of which
            every part is: a depth map has holes.
        """
        lead = values.shape[: values.ndim - len(self.shape)]
        if values.dtype.kind != "f":
            return np.ones(lead, dtype=bool)
        gone = np.isnan(values).reshape(*lead, self.size)
        present: np.ndarray = ~(gone.all(axis=-1) if self.kind is Kind.depth else gone.any(axis=-1))
        return present

    def cast(self, values: np.ndarray, *, where: str = "") -> np.ndarray:
        """These values in this channel's dtype; no copy if they have it already.

        Raises:
            InputError: A value has no equal in the dtype (a fraction, NaN or overflow in an integer channel,
                overflow to infinity in a float channel); rounding of floats is no error.
        """
        array = np.asarray(values)
        target = np.dtype(self.dtype)
        if array.dtype == target:
            return array
        with np.errstate(invalid="ignore", over="ignore"):
            result = array.astype(target)
            lost = (np.isinf(result) & ~np.isinf(array)) if target.kind == "f" else result != array
        if lost.any():
            place = f" {where}" if where else ""
            raise InputError(
                f"channel {self.name}{place}: value {array[lost].reshape(-1)[0]} does not fit dtype {self.dtype}; "
                "mark it missing in a mask, or give the channel another dtype"
            )
        return result

    def check(self, values: np.ndarray, *, where: str = "") -> None:
        """Raise InputError naming channel, value, bound and unit where a finite value is outside the bounds.

        NaN means missing and passes here; whether a value may be missing is for the caller to say.

        Args:
            values: Array of any shape in this channel's unit.
            where: Words that locate the values, for the message.
        """
        array = np.asarray(values)
        place = f" {where}" if where else ""
        if array.dtype.kind not in "fiub":
            raise InputError(f"channel {self.name}{place}: values of type {array.dtype} are not numbers")
        if array.dtype.kind == "f" and np.isinf(array).any():
            raise InputError(f"channel {self.name}{place}: a value is infinite; give NaN where it is missing")
        low, high = (0, len(self.categories) - 1) if self.discrete else (self.low, self.high)
        finite = array[~np.isnan(array)] if array.dtype.kind == "f" else array.reshape(-1)
        if finite.size == 0:
            return
        smallest, largest = finite.min(), finite.max()
        if low is not None and smallest < low:
            raise InputError(
                f"channel {self.name}{place}: value {smallest:g} is below its least {low:g} {self.unit}; "
                f"check the unit ({self.unit or 'none'})"
            )
        if high is not None and largest > high:
            raise InputError(
                f"channel {self.name}{place}: value {largest:g} is above its greatest {high:g} {self.unit}; "
                f"check the unit ({self.unit or 'none'})"
            )


class Schema(BaseModel):
    """The channels of a domain, its step length and the statistics that normalise it.

    Attributes:
        name: Name of the domain or data set.
        channels: All channels; names are unique.
        step: Length of one decision step, in `time_unit`.
        time_unit: Unit of time stamps and of `step`.
        periods: Lengths of the cycles (a day) whose phase the model may see, in `time_unit`.
        statistics: By channel, fitted on training subjects (`with_statistics`); empty until then.
        format_version: Version of this layout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    channels: tuple[Channel, ...]
    step: float = Field(gt=0)
    time_unit: str = "min"
    periods: tuple[float, ...] = ()
    statistics: dict[str, Statistics] = Field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [channel.name for channel in self.channels]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"channel names must be unique; doubled: {', '.join(doubled)}")
        statics = {c.name for c in self.channels if c.role is Role.static and c.shape == ()}
        observations = {c.name for c in self.channels if c.role is Role.observation}
        for channel in self.channels:
            if channel.per is not None and channel.per not in statics:
                raise ValueError(f"channel {channel.name}: per={channel.per!r} is not a scalar static channel")
            for target in (*channel.lowers, *channel.raises):
                if target not in observations:
                    raise ValueError(f"channel {channel.name}: {target!r} is not an observation channel")
        unknown = sorted(set(self.statistics) - set(names))
        if unknown:
            raise ValueError(f"statistics of unknown channels: {', '.join(unknown)}")
        return self

    def __getitem__(self, name: str) -> Channel:
        for channel in self.channels:
            if channel.name == name:
                return channel
        raise SchemaError(f"schema {self.name} has no channel {name!r}; it has {', '.join(self.names())}")

    def __contains__(self, name: object) -> bool:
        return any(channel.name == name for channel in self.channels)

    def by_role(self, role: Role | str) -> tuple[Channel, ...]:
        """Channels of one role, in schema order."""
        return tuple(channel for channel in self.channels if channel.role == role)

    def names(self, role: Role | str | None = None) -> tuple[str, ...]:
        """Names of all channels, or of those of one role."""
        return tuple(c.name for c in self.channels if role is None or c.role == role)

    @property
    def units(self) -> dict[str, str]:
        """By channel."""
        return {channel.name: channel.unit for channel in self.channels}

    def with_statistics(self, statistics: Mapping[str, Statistics]) -> Schema:
        """A copy that carries these statistics."""
        return self.model_copy(update={"statistics": dict(statistics)})

    def same_channels(self, other: Schema) -> bool:
        """Whether data of `other` can be read as data of this schema (statistics may differ)."""
        return self.channels == other.channels and self.step == other.step and self.time_unit == other.time_unit

    def differences(self, other: Schema) -> str:
        """A readable list of what differs from `other`, for error messages; empty if nothing does."""
        notes: list[str] = []
        mine, theirs = set(self.names()), set(other.names())
        notes += [f"missing channel {name}" for name in sorted(mine - theirs)]
        notes += [f"unexpected channel {name}" for name in sorted(theirs - mine)]
        for name in sorted(mine & theirs):
            a, b = self[name].model_dump(), other[name].model_dump()
            notes += [f"channel {name}: {key} is {b[key]!r}, expected {a[key]!r}" for key in a if a[key] != b[key]]
        if (self.step, self.time_unit) != (other.step, other.time_unit):
            notes.append(f"step is {other.step} {other.time_unit}, expected {self.step} {self.time_unit}")
        return "; ".join(notes)

    def to_json(self) -> str:
        """This schema as JSON text."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str, *, source: str = "schema") -> Schema:
        """Read a schema from JSON text.

        Raises:
            FormatError: The text is no JSON object, or a newer format.
            SchemaError: A field is missing or wrong; the message names it.
        """
        try:
            raw: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"{source} is not valid JSON (line {error.lineno}): {error.msg}") from error
        if not isinstance(raw, dict):
            raise FormatError(f"{source} must hold a JSON object")
        version = raw.get("format_version", FORMAT_VERSION)
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise FormatError(
                f"{source} has format {version}; this foreworld reads up to {FORMAT_VERSION}: install a newer version"
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "schema"
            raise SchemaError(f"{source}: {place}: {first['msg']}") from error

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a schema from a JSON file."""
        file = Path(path)
        if not file.is_file():
            raise InputError(f"no schema file at {file}")
        return cls.from_json(file.read_text(encoding="utf-8"), source=str(file))


def fit_statistics(schema: Schema, episodes: Iterable[Any]) -> dict[str, Statistics]:
    """Mean and standard deviation of every numeric, scalar or vector channel over these episodes.

    Args:
        schema: The schema of the episodes.
        episodes: Episodes of *training* subjects only.

    Returns:
        Statistics by channel; of value/`per` and of its logarithm where the channel says so. Discrete
        channels and video have none.
    """
    total: dict[str, np.ndarray] = {}
    moved: dict[str, np.ndarray] = {}
    for episode in episodes:
        for channel in schema.channels:
            if channel.discrete or channel.framed:
                continue
            values = np.asarray(episode.values[channel.name], dtype=np.float64)
            if channel.per is not None:
                values = values / float(episode.values[channel.per])
            if channel.log:
                values = np.log(np.maximum(values, channel.floor))
            if channel.role is Role.observation and channel.shape == ():
                moved[channel.name] = moved.get(channel.name, np.zeros((len(LAGS), 2))) + _changes(values)
            values = values[np.isfinite(values)]
            sums = np.array([values.size, values.sum(), (values**2).sum()])
            total[channel.name] = total.get(channel.name, np.zeros(3)) + sums
    fitted = {}
    for name, (count, first, second) in total.items():
        mean = first / count if count else 0.0
        variance = max(second / count - mean**2, 0.0) if count else 0.0
        fitted[name] = Statistics(
            mean=mean,
            std=math.sqrt(variance) if variance > 1e-12 else 1.0,
            count=int(count),
            changes=tuple(
                (lag, math.sqrt(square / n))
                for lag, (n, square) in zip(LAGS, moved.get(name, np.zeros((0, 2))), strict=False)
                if n > 0 and square > 0
            ),
        )
    return fitted


# Lags, in steps, at which the typical change of an observation is measured.
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def _changes(values: np.ndarray) -> np.ndarray:
    """[lags, 2]: number and sum of squares of the changes over each lag."""
    out = np.zeros((len(LAGS), 2))
    for i, lag in enumerate(LAGS):
        change = values[lag:] - values[:-lag]
        change = change[np.isfinite(change)]
        out[i] = change.size, (change**2).sum()
    return out
