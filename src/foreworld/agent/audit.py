"""The append-only audit log: what was decided, on which inputs, as a hash chain that anyone can verify and replay.

    log = AuditLog.open("run/audit")
    head = log.append({"seed": 3, "decision": {"insulin": 0.4}}, {"cgm": cgm})
    verify("run/audit", head)

A directory holds `log.jsonl`, one canonical JSON object a line, and `inputs/<sha256>.safetensors`, the arrays of the
records by content. Each line carries its index, the hash of the line before and its own SHA-256, so that whoever
keeps the printed head hash can tell that nothing was altered, removed, reordered or cut off. Nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from foreworld.agent.canonical import decode, encode, first_difference
from foreworld.agent.chain import (
    GENESIS,
    Arrays,
    Entry,
    TornError,
    build_line,
    lock,
    mend,
    scan,
    store_arrays,
    sync_folder,
    write_all,
)
from foreworld.errors import AuditError

__all__ = ["GENESIS", "Arrays", "AuditLog", "Entry", "Report", "read", "replay", "verify"]


@dataclass(frozen=True)
class Report:
    """What `verify` or `replay` found: all is well, or they raise.

    Attributes:
        records: Number of records in the log.
        head: Hash of the last one.
        inputs: Number of records with arrays, each of which was read and hashed.
        replayed: Number of decisions that were recomputed and came out bit for bit the same.
    """

    records: int
    head: str
    inputs: int
    replayed: int = 0


class AuditLog:
    """An open log; one process at a time may append. Use `open`, and `close` or a `with` block.

    Attributes:
        folder: The audit directory.
        head: Hash of the last record, `GENESIS` before the first.
        records: Number of records.
        torn: Where a torn last line was kept aside on opening, or None.
    """

    def __init__(self, folder: Path, descriptor: int, head: str, records: int, torn: Path | None) -> None:
        self.folder = folder
        self.head = head
        self.records = records
        self.torn = torn
        self._descriptor = descriptor

    @classmethod
    def open(cls, folder: str | Path) -> AuditLog:
        """Open a log for appending, or begin one.

        The chain is verified. A last line that a crash cut short was never acknowledged: it is moved to
        `torn-<index>-<hash>.part` beside the log. A complete last line without its line end is kept and ended.

        Raises:
            AuditError: The log was altered, or another process has it open.
            FormatError: The log was written by a newer format.
        """
        place = Path(folder)
        (place / "inputs").mkdir(parents=True, exist_ok=True)
        path = place / "log.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            lock(descriptor, path)
            head, records, torn = GENESIS, 0, None
            try:
                for entry in scan(place):
                    head, records = entry.hash, entry.index + 1
            except TornError as tear:
                torn = mend(place, descriptor, tear)
                if torn is None:
                    head, records = tear.whole, records + 1
            sync_folder(place)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(place, descriptor, head, records, torn)

    def append(self, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> str:
        """Append one record; it is on disk when this returns.

        Args:
            record: JSON-able values; NaN, infinities and the bits of floats survive; tuples come back as lists.
            arrays: Inputs of the decision: numbers and bools of any shape, stored by content.

        Returns:
            The new head hash, to be printed or kept elsewhere.

        Raises:
            InputError: A value or array cannot be stored; nothing was written.
            AuditError: The log is closed, or the disk refused; the log is as before.
        """
        if self._descriptor < 0:
            raise AuditError(f"the audit log in {self.folder} is closed; open it again")
        text = encode(dict(record))
        inputs = store_arrays(self.folder, arrays) if arrays else None
        line, digest = build_line(self.records, self.head, text, inputs)
        before = os.fstat(self._descriptor).st_size
        try:
            write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except BaseException as error:  # also an interrupt: a line without its head would break the chain
            os.ftruncate(self._descriptor, before)
            if isinstance(error, OSError):
                words = f"could not append record {self.records} in {self.folder}: {error.strerror}; free disk space"
                raise AuditError(words) from error
            raise
        self.head, self.records = digest, self.records + 1
        return digest

    def close(self) -> None:
        """Close the log and let another process append."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(folder: str | Path) -> Iterator[Entry]:
    """Read the records in order, verifying the chain on the way; `Entry.arrays` loads the inputs.

    Raises:
        AuditError: Names the first record that is altered, removed, reordered or torn.
        FormatError: The log was written by a newer format.
    """
    try:
        yield from scan(Path(folder))
    except TornError as tear:
        raise AuditError(str(tear)) from None


def verify(folder: str | Path, head: str | None = None) -> Report:
    """Check every record and every input.

    Args:
        folder: The audit directory.
        head: The head hash that was printed last. Without it, records removed from the end go unnoticed.

    Raises:
        AuditError: Names the first record that is altered, removed, reordered, torn or lacks its inputs, or says
            that the log does not end at `head`.
        FormatError: The log was written by a newer format.
    """
    return _walk(Path(folder), head, None)


def replay(
    folder: str | Path,
    decide: Callable[[dict[str, Any], Arrays], Mapping[str, Any]],
    *,
    head: str | None = None,
    key: str = "decision",
) -> Report:
    """Verify the log and recompute every decision.

    Args:
        folder: The audit directory.
        decide: Gets the record without `key`, and its arrays; returns what should stand under `key`.
        head: As in `verify`.
        key: Where a record holds its decision; records without it are verified and skipped.

    Raises:
        AuditError: Names the first record and value that differ in any bit, or what `verify` would.
    """

    def compare(entry: Entry, arrays: Arrays) -> bool:
        if key not in entry.record:
            return False
        rest = {name: value for name, value in entry.record.items() if name != key}
        recorded, computed = entry.record[key], decide(rest, arrays)
        difference = first_difference(recorded, decode(encode(computed)))
        if difference is not None:
            raise AuditError(f"record {entry.index}: the replay differs at {key}{difference}")
        return True

    return _walk(Path(folder), head, compare)


def _walk(folder: Path, head: str | None, visit: Callable[[Entry, Arrays], bool] | None) -> Report:
    last, records, inputs, replayed, known_at = GENESIS, 0, 0, 0, -1
    for entry in read(folder):
        arrays = entry.arrays()
        inputs += entry.inputs is not None
        if visit is not None:
            replayed += visit(entry, arrays)
        last, records = entry.hash, entry.index + 1
        known_at = entry.index if last == head else known_at
    if head is not None and last != head:
        if known_at >= 0:
            raise AuditError(
                f"the head given is that of record {known_at}; {records - 1 - known_at} records were added since: "
                f"verify with the newest head"
            )
        raise AuditError(f"the log ends at record {records - 1} with head {last}, not {head}: records were removed")
    return Report(records, last, inputs, replayed)
