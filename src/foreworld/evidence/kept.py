"""Finished runs of an evaluation, kept in a folder: an interrupted evaluation goes on where it was.

    kept = Kept("runs/kept", trusted=("oref0",))
    if not kept.load("oref0", identity, samples):
        ...  # run it, put what it gave into `part`
        kept.save("oref0", identity, part)

A run is taken from the folder only if everything that shapes it is the same: its identity and foreworld's own source.
Where the source has changed, a run of an arm that is trusted not to depend on the change is taken all the same, and the
evidence says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from foreworld.agent import canonical
from foreworld.episodes.files import read_json, write_json
from foreworld.errors import FormatError, InputError
from foreworld.evidence.samples import Samples
from foreworld.evidence.source import source_digest

FORMAT = 1


def folder_digest(folder: Path | None) -> str | None:
    """SHA-256 of the files of a model's, a policy's or a store's folder; of a store its index stands for its arrays.

    Raises:
        InputError: There is no such folder.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    index, digest = folder / "zarr.json", hashlib.sha256()
    for path in [index] if index.is_file() else sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Kept:
    """A folder of finished runs.

    Args:
        folder: Made if it is not there.
        trusted: Arms whose runs are taken although foreworld's source has changed since.

    Raises:
        InputError: The folder cannot be made.

    Attributes:
        notes: What a reader of the evidence must know: which arms came from other source.
    """

    def __init__(self, folder: Path | str, trusted: Collection[str] = ()) -> None:
        self.folder, self.trusted = Path(folder), tuple(trusted)
        try:  # before hours of work and not after them
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep runs in {self.folder}: {error}; give a folder") from error
        self._older: dict[str, set[str]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each arm and source."""
        return tuple(
            f"{arm}: runs kept from foreworld source {source[:12]}, not {source_digest()[:12]}"
            for arm, sources in sorted(self._older.items())
            for source in sorted(sources)
        )

    def load(self, arm: str, identity: dict[str, Any], samples: Samples) -> bool:
        """Put a kept run into the samples.

        Args:
            arm: Whose run.
            identity: Everything but the source that shapes it, as JSON values.
            samples: Takes what it gave.

        Returns:
            Whether there was such a run.

        Raises:
            FormatError: The run's file is damaged, or newer than this foreworld.
        """
        path = self._path(arm, identity)
        if not path.is_file():
            return False
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise FormatError(f"{path} has format {content.get('format')}, not {FORMAT}; delete it to run it again")
        if content["source"] != source_digest():
            if arm not in self.trusted:
                return False
            self._older.setdefault(arm, set()).add(content["source"])
        samples.extend(content["samples"])
        return True

    def save(self, arm: str, identity: dict[str, Any], samples: Samples) -> None:
        """Keep what one run gave; raises `InputError` where the folder cannot be written."""
        path = self._path(arm, identity)
        try:
            content = {"format": FORMAT, "source": source_digest(), "identity": identity, "samples": samples.parts()}
            write_json(path, content)
        except OSError as error:
            raise InputError(f"cannot keep a run in {self.folder}: {error}") from error

    def _path(self, arm: str, identity: dict[str, Any]) -> Path:
        key = hashlib.sha256(canonical.encode({"arm": arm, **identity}).encode()).hexdigest()
        return self.folder / f"{arm}-{key[:20]}.json"
