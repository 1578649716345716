"""Files that survive a crash: atomic replacement, flushing to disk, and one writer at a time."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreworld.errors import FormatError, InputError


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file atomically: readers see the old content or the new, never a part of it.

    Raises:
        InputError: The content has something that JSON has not (NaN, an array, an object).
    """
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot write {path.name}: {error}; give plain numbers, strings, lists and dicts") from error
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; the data beside it follow the umask, and so must this.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FormatError: The file is missing, truncated, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing; restore it from a copy") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} is truncated or damaged ({error}); restore it from a copy") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} must hold a JSON object; restore it from a copy")
    return content


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to disk, so that a rename or a new file outlives a power cut."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush every file and folder below `path` to disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            with open(Path(folder) / name, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`; the system frees it when the process ends, however it ends.

    Raises:
        InputError: Another writer holds it.
    """
    with open(path, "a+b") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another writer is using {path.parent}; wait for it to end, or write to a store of your own"
                ) from error
        yield
