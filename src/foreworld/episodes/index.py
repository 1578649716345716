"""The commit point of a store: the attributes of its Zarr group, replaced as one file.

It holds the format version, the schema with its statistics, the splits, and the names of the committed segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreworld.episodes.files import read_json, write_json
from foreworld.episodes.schema import Schema
from foreworld.errors import FormatError

STORE_VERSION = 1


def new_index(schema: Schema) -> dict[str, Any]:
    """The content of an empty store."""
    return {
        "format_version": STORE_VERSION,
        "schema": schema.model_dump(mode="json"),
        "splits": {},
        "segments": [],
    }


def commit_index(path: Path, index: dict[str, Any]) -> None:
    """Make this the content of the store at `path`, atomically."""
    write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {"foreworld": index}})


def read_index(path: Path) -> dict[str, Any]:
    """The content of the store at `path`.

    Raises:
        FormatError: The file is missing, damaged, no store's, or of a newer format.
    """
    file = path / "zarr.json"
    attributes = read_json(file).get("attributes")
    index = attributes.get("foreworld") if isinstance(attributes, dict) else None
    if not isinstance(index, dict) or not isinstance(index.get("format_version"), int):
        raise FormatError(f"{file} is no index of an episode store; give the folder that EpisodeStore.create made")
    if index["format_version"] > STORE_VERSION:
        raise FormatError(
            f"{file} has format {index['format_version']}; this foreworld reads up to {STORE_VERSION}: "
            "install a newer version"
        )
    lacking = [key for key in ("schema", "splits", "segments") if key not in index]
    if lacking:
        raise FormatError(f"{file} lacks {lacking[0]!r}; restore it from a copy")
    return index


def next_number(names: Sequence[str]) -> int:
    """Number of the next segment after those listed."""
    return max((int(name) for name in names), default=-1) + 1
