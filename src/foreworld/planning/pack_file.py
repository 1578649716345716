"""Reading a guardrail pack from TOML; see `planning.pack` for what it is.

    [pack]
    format = 1
    name = "clinic"
    version = "2"
    source = "Who made it, and from what"

    [[guardrail]]            # the fields of a StateGuardrail; start and horizon in steps
    name = "predicted_low"
    quantity = "cgm"
    ...

    [limits.basal]           # a group of numbers shares a source ...
    source = "Where they come from"
    max_basal = 10.0
    current_basal_safety_multiplier = { value = 3.0, source = "... or a number has its own" }

A pack is complete: every limit of the domain is in it, so that its hash covers all of them.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foreworld.episodes.schema import Schema
from foreworld.errors import FormatError, InputError
from foreworld.planning.guardrail import StateGuardrail
from foreworld.planning.pack import FORMAT, Limit, LimitKind, Pack

_TEXT = ("name", "quantity", "unit", "sense", "source")
_WHOLE = ("severity", "start", "horizon")
_REAL = ("bound", "risk")


def read_pack(path: str | Path, schema: Schema, kinds: Mapping[str, LimitKind]) -> Pack:
    """Read and check a pack; it is not compared with any floor here.

    Args:
        path: TOML file.
        schema: Of the domain; its channels say which quantities and units there are.
        kinds: The domain's limits.

    Raises:
        InputError: There is no such file, or something is missing, unknown or wrong; the message names file and entry.
        FormatError: The file is not TOML, or of a newer format.
    """
    file = Path(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"there is no guardrail pack {file}; check the path") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError(f"{file} is no TOML ({error}); compare it with docs/examples/strict.toml") from error
    head = _table(file, raw.get("pack"), "[pack]")
    version = head.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{file} has no format number; write format = {FORMAT} below [pack]")
    if version > FORMAT:
        raise FormatError(f"{file} has format {version}; this foreworld reads up to {FORMAT}: update it")
    _keys(file, raw, ("pack", "guardrail", "limits"), "", needed=("pack", "limits"))
    _keys(file, head, ("format", "name", "version", "source"), "[pack] ")
    entries = raw.get("guardrail", [])
    if not isinstance(entries, list):
        raise InputError(f"{file}: guardrails are tables of a list; write [[guardrail]] above each")
    guardrails = tuple(_guardrail(file, entry, i, schema) for i, entry in enumerate(entries, 1))
    names = [guardrail.name for guardrail in guardrails]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{file}: two guardrails are named {doubled[0]}; names must be unique")
    limits = _limits(file, _table(file, raw["limits"], "[limits]"), kinds)
    name, made, source = (_text(file, head[key], f"[pack] {key}") for key in ("name", "version", "source"))
    return Pack(name, made, source, guardrails, limits)


def _guardrail(file: Path, entry: object, number: int, schema: Schema) -> StateGuardrail:
    table = _table(file, entry, f"[[guardrail]] {number}")
    where = f"guardrail {table.get('name', number)} "
    _keys(file, table, (*_TEXT, *_WHOLE, *_REAL), where)
    values: dict[str, Any] = {name: _text(file, table[name], where + name) for name in _TEXT}
    for name in _WHOLE:
        if isinstance(table[name], bool) or not isinstance(table[name], int):
            raise InputError(f"{file}: {where}{name} is {table[name]!r}; write a whole number")
        values[name] = table[name]
    values |= {name: _number(file, table[name], where + name) for name in _REAL}
    quantity = values["quantity"]
    known = [channel.name for channel in schema.by_role("observation")]
    if quantity not in known:
        raise InputError(f"{file}: {where}quantity is {quantity!r}; what is predicted is {', '.join(known)}")
    unit = schema[quantity].unit
    if values["unit"] != unit:
        raise InputError(f"{file}: {where}unit is {values['unit']!r}, expected {unit!r}; convert the bound to {unit}")
    try:
        return StateGuardrail(**values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _limits(file: Path, table: Mapping[str, Any], kinds: Mapping[str, LimitKind]) -> dict[str, Limit]:
    found: dict[str, Limit] = {}
    for name, limit in _entries(file, table, None, "[limits] ", kinds):
        if name in found:
            raise InputError(f"{file}: limit {name} is given twice; keep one of them")
        found[name] = limit
    missing = [name for name in kinds if name not in found]
    if missing:
        raise InputError(f"{file}: limits are missing: {', '.join(missing)}; a pack states all of them")
    return {name: found[name] for name in kinds}


def _entries(
    file: Path, table: Mapping[str, Any], source: str | None, where: str, kinds: Mapping[str, LimitKind]
) -> Iterator[tuple[str, Limit]]:
    """The numbers of a table and of the groups in it, each with the nearest source."""
    if "source" in table:
        source = _text(file, table["source"], f"{where}source")
    for name, value in table.items():
        if name == "source":
            continue
        if isinstance(value, dict) and "value" not in value and name not in kinds:
            yield from _entries(file, value, source, f"[limits.{name}] ", kinds)
            continue
        if name not in kinds:
            raise InputError(f"{file}: {where}{name} is not known; the limits are {', '.join(kinds)}")
        own, number = source, value
        if isinstance(value, dict):
            _keys(file, value, ("value", "source"), f"limit {name} ")
            own, number = _text(file, value["source"], f"limit {name} source"), value["value"]
        if own is None:
            raise InputError(f"{file}: limit {name} has no source; say where the number comes from")
        yield name, Limit(_number(file, number, f"limit {name}"), own)


def _table(file: Path, value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{file}: {what} is missing or no table; compare it with docs/examples/strict.toml")
    return value


def _keys(
    file: Path, given: Mapping[str, Any], known: tuple[str, ...], where: str, needed: tuple[str, ...] | None = None
) -> None:
    missing = [name for name in (known if needed is None else needed) if name not in given]
    if missing:
        raise InputError(f"{file}: {where}{missing[0]} is missing; it needs {', '.join(known)}")
    other = [name for name in given if name not in known]
    if other:
        raise InputError(f"{file}: {where}{other[0]} is not known; remove it (known: {', '.join(known)})")


def _text(file: Path, value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{file}: {where} is {value!r}; write a text")
    return value


def _number(file: Path, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{file}: {where} is {value!r}; write a finite number")
    return float(value)
