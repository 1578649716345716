"""Canonical JSON: one text for one value, so that it can be hashed, and every float back bit for bit.

Keys are sorted, there is no white space, and text is ASCII. A float that JSON cannot hold is written as an object
`{"$float": "nan"}` (`inf`, `-inf`, or `bits:` and 16 hex digits for a NaN with a payload); a key of the user's that
begins with `$` gets a second one.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from foreworld.errors import InputError

_NAN = struct.pack(">d", math.nan)


def encode(value: object) -> str:
    """The canonical text of a JSON-able value; NumPy scalars and tuples are allowed.

    Raises:
        InputError: The value holds something else, or a key that is no text.
    """
    try:
        return json.dumps(_plain(value, ""), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError as error:
        raise InputError("the record is nested too deeply, or contains itself") from error
    except InputError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"the record cannot be written as JSON: {error}") from error


def decode(text: str) -> Any:
    """The value of a canonical text.

    Raises:
        ValueError: The text is no JSON, or holds an unknown `$` object.
    """
    return json.loads(text, object_hook=_restore)


def first_difference(logged: object, computed: object, path: str = "") -> str | None:
    """Where two decoded values differ in any bit, in words; None if they do not."""
    if isinstance(logged, dict) and isinstance(computed, dict):
        for key in sorted({*logged, *computed}):
            if key not in logged or key not in computed:
                return f"{path}.{key}: only {'the log' if key in logged else 'the replay'} has it"
            if (found := first_difference(logged[key], computed[key], f"{path}.{key}")) is not None:
                return found
        return None
    if isinstance(logged, list) and isinstance(computed, list):
        if len(logged) != len(computed):
            return f"{path}: {len(logged)} values in the log, {len(computed)} in the replay"
        pairs = enumerate(zip(logged, computed, strict=True))
        found_all = (first_difference(a, b, f"{path}[{at}]") for at, (a, b) in pairs)
        return next((found for found in found_all if found is not None), None)
    if encode(logged) != encode(computed):
        return f"{path}: {logged!r} in the log, {computed!r} in the replay"
    return None


def _plain(value: object, path: str) -> object:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return _float(float(value))
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise InputError(f"record{path}: key {bad[0]!r} is no text; JSON keys are text")
        return {("$" + key if key[0:1] == "$" else key): _plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{at}]") for at, item in enumerate(value)]
    hint = "give arrays in `arrays`" if isinstance(value, np.ndarray) else "give numbers, text, lists or mappings"
    raise InputError(f"record{path}: {type(value).__name__} cannot be written as JSON; {hint}")


def _float(value: float) -> object:
    if math.isfinite(value):
        return value
    bits = struct.pack(">d", value)
    return {"$float": f"bits:{bits.hex()}" if math.isnan(value) and bits != _NAN else repr(value)}


def _restore(found: dict[str, Any]) -> Any:
    if set(found) == {"$float"}:
        text = found["$float"]
        if text in ("nan", "inf", "-inf"):
            return float(text)
        bits = bytes.fromhex(text[5:]) if isinstance(text, str) and text.startswith("bits:") else b""
        if len(bits) == 8:
            return struct.unpack(">d", bits)[0]
        raise ValueError(f"unknown float {text!r}")
    for key in found:
        if key[0:1] == "$" and key[1:2] != "$":
            raise ValueError(f"unknown key {key!r}")
    return {(key[1:] if key[0:1] == "$" else key): value for key, value in found.items()}
