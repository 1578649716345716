"""Which foreworld it is that runs: a digest of its own files, the same in every process of an evaluation."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import foreworld
from foreworld.errors import ForeworldError


@cache
def source_digest() -> str:
    """SHA-256 of foreworld's own files: another digest, other code.

    Computed once a process, so ask for it before anything runs: what is imported later may have changed since.
    """
    root, digest = Path(foreworld.__file__).parent, hashlib.sha256()
    # Hidden files are an editor's, which comes and goes while an evaluation runs.
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    for path in sorted(path for path in files if "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def require_source(expected: str) -> None:
    """Raise `ForeworldError` where this process has other files than those that an evaluation began with."""
    found = source_digest()
    if found != expected:
        raise ForeworldError(
            f"foreworld's source changed while it ran: it began with {expected[:12]}, and a process that it started "
            f"has {found[:12]}; what finished is kept with --kept; leave the files alone, on every machine, and start "
            "again"
        )
