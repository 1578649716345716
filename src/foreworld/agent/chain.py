"""The files of the audit log: lines that form a hash chain, and arrays stored by their content."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from foreworld.agent.canonical import decode, encode
from foreworld.errors import AuditError, FormatError, InputError

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 1
GENESIS = hashlib.sha256(f"foreworld audit log, format {FORMAT_VERSION}".encode()).hexdigest()
"""The head hash of an empty log."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One record as read back.

    Attributes:
        index: Its place, from 0.
        hash: Its SHA-256, the head hash after it was appended.
        previous: The hash of the record before.
        record: What was given to `append`.
        inputs: SHA-256 of the file of its arrays, or None.
        folder: The audit directory.
    """

    index: int
    hash: str
    previous: str
    record: dict[str, Any]
    inputs: str | None
    folder: Path

    def arrays(self) -> Arrays:
        """Load the arrays of this record.

        Raises:
            AuditError: The file is missing or was altered.
        """
        if self.inputs is None:
            return {}
        path = _inputs_path(self.folder, self.inputs)
        if not path.is_file():
            raise AuditError(f"record {self.index}: its inputs {path.name} are missing; restore the file from a copy")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.inputs:
            raise AuditError(f"record {self.index}: its inputs {path.name} were altered; restore the file from a copy")
        arrays: Arrays = load(content)
        return arrays


class TornError(Exception):
    """The last line has no line end: a crash cut it short.

    Attributes:
        index: Of the record.
        offset: Where its line begins, bytes.
        fragment: What there is of it.
        whole: Its hash if only the line end is missing, "" otherwise.
    """

    def __init__(self, index: int, offset: int, fragment: bytes, whole: str) -> None:
        super().__init__(
            f"record {index} is torn: its line breaks off after {len(fragment)} bytes, as after a crash; "
            f"opening the log for appending keeps the fragment aside"
        )
        self.index, self.offset, self.fragment, self.whole = index, offset, fragment, whole


def build_line(index: int, previous: str, record: str, inputs: str | None) -> tuple[bytes, str]:
    """One line and its hash; `record` is canonical already. The keys are in sorted order."""
    body = f'"index":{index},"inputs":{encode(inputs)},"previous":"{previous}","record":{record}}}'
    digest = hashlib.sha256(f'{{"format":{FORMAT_VERSION},{body}'.encode()).hexdigest()
    return f'{{"format":{FORMAT_VERSION},"hash":"{digest}",{body}\n'.encode(), digest


def scan(folder: Path) -> Iterator[Entry]:
    """The records in order, the chain verified.

    Raises:
        AuditError: Names the first record that is altered, removed or reordered.
        FormatError: The log was written by a newer format.
        TornError: The last line has no line end.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        raise AuditError(f"there is no audit log at {path}")
    previous, index, offset = GENESIS, 0, 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                entry = _entry(folder, line, index, previous)
                yield entry
                previous, index, offset = entry.hash, index + 1, offset + len(line)
                continue
            whole = ""
            try:
                whole = _entry(folder, line + b"\n", index, previous).hash
            except AuditError:
                if not _cut_short(line):  # then a complete line was changed
                    raise
            raise TornError(index, offset, line, whole)


def _cut_short(fragment: bytes) -> bool:
    """Whether these bytes begin a JSON object without ending it; a file system may have padded them with zeros."""
    depth, quoted, escaped = 0, False, False
    for char in fragment.rstrip(b"\0").decode("latin-1"):
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
            continue
        quoted = char == '"'
        depth += (char == "{") - (char == "}")
        if depth <= 0:
            return False
    return True


def _entry(folder: Path, line: bytes, index: int, previous: str) -> Entry:
    """Parse and check one line; only the very bytes that `build_line` writes pass."""
    altered = f"record {index} was altered: its line does not match its hash"
    try:
        raw = decode(line.decode("ascii"))
        version, at, inputs, before, record = (raw[key] for key in ("format", "index", "inputs", "previous", "record"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditError(altered) from error
    claimed = raw.pop("hash", None)
    whole = hashlib.sha256(encode(raw).encode()).hexdigest() == claimed  # holds in every format
    if whole and type(version) is int and version > FORMAT_VERSION:
        raise FormatError(
            f"record {index} in {folder} has format {version}; this foreworld reads up to {FORMAT_VERSION}: "
            f"install a newer version"
        )
    hashes = (before,) if inputs is None else (before, inputs)
    if type(at) is not int or not isinstance(record, dict) or not all(_is_hash(value) for value in hashes):
        raise AuditError(altered)
    expected, digest = build_line(at, before, encode(record), inputs)
    if expected != line:
        raise AuditError(altered)
    if at != index:
        what = f"records {index} to {at - 1} were removed" if at > index else "records were reordered or doubled"
        raise AuditError(f"record {index} is not where it should be: record {at} stands there; {what}")
    if before != previous:
        raise AuditError(f"record {index} does not follow the record before it: one of the two was replaced")
    return Entry(index, digest, before, record, inputs, folder)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def mend(folder: Path, descriptor: int, tear: TornError) -> Path | None:
    """End a whole last line, or move a torn one aside; returns where it was moved."""
    if tear.whole:
        write_all(descriptor, b"\n")
        os.fsync(descriptor)
        return None
    aside = folder / f"torn-{tear.index}-{hashlib.sha256(tear.fragment).hexdigest()[:12]}.part"
    _write_file(aside, tear.fragment)
    os.ftruncate(descriptor, tear.offset)
    os.fsync(descriptor)
    return aside


def _inputs_path(folder: Path, digest: str) -> Path:
    return folder / "inputs" / f"{digest}.safetensors"


def store_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Store arrays by the hash of their file; returns the hash.

    Raises:
        InputError: An array holds no numbers.
        AuditError: The disk refused.
    """
    plain: Arrays = {}
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise InputError(f"array {name} of type {array.dtype} cannot be stored; give bools, integers or floats")
        plain[name] = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    content: bytes = save(plain)
    digest = hashlib.sha256(content).hexdigest()
    path = _inputs_path(folder, digest)
    if not (path.is_file() and path.read_bytes() == content):
        try:
            _write_file(path, content)
        except OSError as error:
            raise AuditError(f"could not store inputs in {path.parent}: {error.strerror}") from error
    return digest


def _write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for the owner's eyes only."""
    draft = path.with_name(f"{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, however many calls it takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(descriptor: int, path: Path) -> None:
    """Let nobody else append until the descriptor is closed, also by a crash.

    Raises:
        AuditError: Another process has the log open.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AuditError(f"{path} is open for appending elsewhere; close it there or use another folder") from error
