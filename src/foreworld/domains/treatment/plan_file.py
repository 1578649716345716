"""The input file of `foreworld plan`: what was measured and done of one person, and who it is.

    {"format": 1, "subject": "example",
     "statics": {"weight": {"value": 71, "unit": "kg"}, ..., "age_group": {"value": "adult"}},
     "times": {"unit": "min", "values": [480, 485, ...]},
     "cgm": {"unit": "mg/dL", "values": [121, null, ...]},
     "insulin": {"unit": "U", "values": [0.08, ...]},
     "carbs": {"unit": "g", "values": [0, ...]}}

Times are minutes since a midnight, or ISO 8601 local times; the last is now. Insulin has one value less: what was
delivered between a time and the next.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from foreworld.agent.agent import Agent, Step
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.episodes.schema import Channel, Role
from foreworld.errors import FormatError, InputError, SchemaError

FORMAT = 1
SERIES = tuple(channel for channel in SCHEMA.channels if channel.role is not Role.static)
STATICS = SCHEMA.by_role(Role.static)
MOLAR = 18.016  # mg/dL in one mmol/L of glucose


@dataclass(frozen=True)
class PlanFile:
    """One person's record up to now.

    Attributes:
        subject: Name.
        now: The last time as the file gives it.
        times: [T] minutes since the midnight before the first one.
        values: By channel: cgm and carbs [T], insulin [T - 1]; NaN where the sensor was silent.
        statics: By channel [1].
    """

    subject: str
    now: float | str
    times: np.ndarray
    values: dict[str, np.ndarray]
    statics: dict[str, np.ndarray]


def read_plan_file(path: str | Path, *, minutes: float | None = None) -> PlanFile:
    """Read and check an input file.

    Args:
        path: JSON file.
        minutes: What the record must cover at least; the duration of insulin action of the built-in limits if None.

    Raises:
        InputError: There is no such file, or a value, unit or time is wrong; the message names file, channel, value,
            bound and unit.
        SchemaError: A channel is missing or unknown.
        FormatError: The file is not JSON, or of a newer format.
    """
    file = Path(path)
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no input file {file}; docs/examples/person.json is an example") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{file} is no JSON ({error}); compare it with docs/examples/person.json") from error
    if not isinstance(raw, dict):
        raise FormatError(f"{file} must hold a JSON object; compare it with docs/examples/person.json")
    return _Reader(file, raw, InsulinLimits().dia if minutes is None else minutes).read()


def decide(agent: Agent, person: PlanFile) -> Step:
    """Tell an agent this person's past and let it decide about now."""
    agent.start([person.subject], person.statics)
    memory, now = agent.memory, len(person.times) - 1
    assert memory is not None

    def seen(t: int) -> dict[str, np.ndarray]:
        return {name: person.values[name][t : t + 1] for name in ("cgm", "carbs")}

    for t in range(now):
        memory.see(float(person.times[t]), seen(t))
        memory.act(person.values["insulin"][None, t : t + 1])
    return agent.decide(float(person.times[now]), seen(now))


class _Reader:
    """A parsed file; it knows its name, for the messages."""

    def __init__(self, file: Path, raw: dict[str, Any], least: float) -> None:
        self._file, self._raw, self._least = file, raw, least

    def read(self) -> PlanFile:
        """Everything, checked."""
        raw = self._raw
        version = raw.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise FormatError(f'{self._file} has no format number; write "format": {FORMAT}')
        if version > FORMAT:
            raise FormatError(f"{self._file} has format {version}; this foreworld reads up to {FORMAT}: update it")
        self._keys(raw, ("format", "subject", "statics", "times", *(c.name for c in SERIES)), "")
        subject = raw["subject"]
        if not isinstance(subject, str) or not subject.strip():
            raise InputError(f"{self._file}: subject is {subject!r}; give a name, such as a study number")
        times, now = self._times()
        values = {channel.name: self._series(channel, times) for channel in SERIES}
        return PlanFile(subject, now, times, values, self._statics())

    def _keys(self, given: dict[str, Any], wanted: tuple[str, ...], what: str) -> None:
        missing = [name for name in wanted if name not in given]
        if missing:
            raise SchemaError(f"{self._file}: {what}{missing[0]} is missing; it needs {', '.join(wanted)}")
        other = [name for name in given if name not in wanted]
        if other:
            raise SchemaError(f"{self._file}: {what}{other[0]} is not known; remove it (known: {', '.join(wanted)})")

    def _unit(self, name: str, given: object, expected: str) -> None:
        if given == expected:
            return
        advice = f"convert the values and write the unit {expected}"
        if expected == "mg/dL" and given == "mmol/L":
            advice = f"multiply the values by {MOLAR:g} and write mg/dL"
        if expected == "mg/dL/U" and given == "mmol/L/U":
            advice = f"multiply the value by {MOLAR:g} and write mg/dL/U"
        raise InputError(f"{self._file}: channel {name} is in {given!r}, expected {expected!r}; {advice}")

    def _list(self, name: str, unit: str | None) -> list[Any]:
        block = self._raw[name]
        if not isinstance(block, dict):
            raise InputError(f'{self._file}: {name} must be an object with "unit" and "values", not {_shown(block)}')
        self._keys(block, ("values",) if unit is None else ("unit", "values"), f"{name}.")
        if unit is not None:
            self._unit(name, block["unit"], unit)
        if not isinstance(block["values"], list):
            raise InputError(f"{self._file}: {name}.values must be a list, not {_shown(block['values'])}")
        return block["values"]

    def _number(self, name: str, value: object, unit: str, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{self._file}: channel {name} {where}: {_shown(value)} is no number in {unit}")
        if not math.isfinite(value):
            raise InputError(
                f"{self._file}: channel {name} {where}: the value is {value}; write null where nothing was measured"
            )
        return float(value)

    def _bounds(self, channel: Channel, value: float, where: str) -> None:
        for bound, wrong, words in (
            (channel.low, channel.low is not None and value < channel.low, "below its least"),
            (channel.high, channel.high is not None and value > channel.high, "above its greatest"),
        ):
            if wrong:
                raise InputError(
                    f"{self._file}: channel {channel.name} {where}: value {value:g} {channel.unit} is {words} "
                    f"{bound:g} {channel.unit}; check the unit, or write null if it is no reading"
                    if channel.role is Role.observation
                    else f"{self._file}: channel {channel.name} {where}: value {value:g} {channel.unit} is {words} "
                    f"{bound:g} {channel.unit}; check the unit"
                )

    def _times(self) -> tuple[np.ndarray, float | str]:
        block = self._raw["times"]
        given = block.get("values") if isinstance(block, dict) else None
        written = isinstance(given, list) and bool(given) and all(isinstance(value, str) for value in given)
        stamps = self._list("times", None if written and "unit" not in block else SCHEMA.time_unit)
        if written:
            times = self._clock(stamps)
        else:
            times = np.array(
                [self._number("times", value, SCHEMA.time_unit, f"at index {i}") for i, value in enumerate(stamps)]
            )
        for i, gap in enumerate(np.diff(times)):
            where = f"{self._file}: times at index {i + 1}"
            if not gap > 0:
                raise InputError(
                    f"{where}: time goes from {stamps[i]} to {stamps[i + 1]}; sort the record by time and drop doubles"
                )
            if abs(gap - SCHEMA.step) > 1e-6:
                raise InputError(
                    f"{where}: the step from {stamps[i]} to {stamps[i + 1]} is {gap:g} min, expected {SCHEMA.step:g} "
                    f"min; put the record on a grid of {SCHEMA.step:g} min, with null where there was no reading"
                )
        least = self._least
        covered = float(times[-1] - times[0]) if len(times) else 0.0
        if covered < least:
            raise InputError(
                f"{self._file}: the record covers {covered:g} min, and at least {least:g} min are needed: insulin "
                "given earlier still acts; give a longer record"
            )
        return times, stamps[-1]

    def _clock(self, stamps: list[str]) -> np.ndarray:
        parsed = []
        for i, text in enumerate(stamps):
            try:
                parsed.append(datetime.fromisoformat(text))
            except ValueError:
                raise InputError(
                    f"{self._file}: times at index {i}: {text!r} is no ISO 8601 time, such as 2026-03-01T08:05"
                ) from None
        zones = {stamp.utcoffset() for stamp in parsed}
        if len(zones) > 1:
            raise InputError(f"{self._file}: times are in {len(zones)} time zones; give all in the person's local time")
        midnight = parsed[0].replace(hour=0, minute=0, second=0, microsecond=0)
        return np.array([(stamp - midnight).total_seconds() / 60.0 for stamp in parsed])

    def _series(self, channel: Channel, times: np.ndarray) -> np.ndarray:
        name = channel.name
        given = self._list(name, channel.unit)
        count = len(times) - (channel.role is Role.action)
        if len(given) != count:
            why = f"one less than the {len(times)} times" if channel.role is Role.action else "one for each time"
            raise InputError(f"{self._file}: channel {name} has {len(given)} values, expected {count}, {why}")
        values = np.full(count, np.nan)
        for i, value in enumerate(given):
            where = f"at index {i} (time {times[i]:g} min)"
            if value is None and channel.role is Role.observation:
                continue
            if value is None:
                raise InputError(
                    f"{self._file}: channel {name} {where}: the value is null, but what was done or announced is "
                    f"always known; write 0 {channel.unit} if it was nothing"
                )
            values[i] = self._number(name, value, channel.unit, where)
            self._bounds(channel, float(values[i]), where)
        return values

    def _statics(self) -> dict[str, np.ndarray]:
        given = self._raw["statics"]
        if not isinstance(given, dict):
            raise InputError(f"{self._file}: statics must be an object, not {_shown(given)}")
        self._keys(given, tuple(channel.name for channel in STATICS), "statics.")
        return {channel.name: self._static(channel, given[channel.name]) for channel in STATICS}

    def _static(self, channel: Channel, block: object) -> np.ndarray:
        name = channel.name
        if not isinstance(block, dict):
            raise InputError(f'{self._file}: statics.{name} must be an object with "value", not {_shown(block)}')
        self._keys(block, ("value",) if channel.discrete else ("value", "unit"), f"statics.{name}.")
        value = block["value"]
        if channel.discrete:
            if value not in channel.categories:
                raise InputError(
                    f"{self._file}: statics.{name} is {_shown(value)}; it is one of {', '.join(channel.categories)}"
                )
            return np.array([channel.categories.index(str(value))], dtype=np.int32)
        self._unit(name, block["unit"], channel.unit)
        figure = self._number(name, value, channel.unit, "of the statics")
        self._bounds(channel, figure, "of the statics")
        return np.array([figure], dtype=np.float32)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
