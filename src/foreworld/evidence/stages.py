"""A folder in which something is made once, stage by stage, for one purpose; what each stage cost is kept.

stages = Stages("runs/models/full-0", key="full-0-1a2b")
with stages.making():                     # one process at a time; another purpose is refused
    if not (stages.place / "model").exists():
        with stages.stage("train"):
            ...
stages.cost("train")                      # CPU seconds; NaN where the stage was interrupted once
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from foreworld.episodes.files import one_writer, read_json, write_json
from foreworld.errors import InputError
from foreworld.evidence.parallel import cpu_seconds

FILE = "recipe.json"  # in the folder: what it was made for, and what that took


class Stages:
    """The stages of one folder.

    Args:
        place: The folder; made if it is not there.
        key: Names everything that shapes what is made: recipe, seed, data.

    Attributes:
        place: The folder.
        key: As given.
    """

    def __init__(self, place: str | Path, key: str) -> None:
        self.place, self.key = Path(place), key
        self.place.mkdir(parents=True, exist_ok=True)

    @property
    def claimed(self) -> bool:
        """Whether the folder is there for this purpose already; then what is finished is read by as many as like to."""
        return self._found() == self.key

    @contextmanager
    def making(self) -> Iterator[None]:
        """Within it this process alone makes what is missing.

        Raises:
            InputError: The folder holds what another purpose gave, or another process is at it.
        """
        with one_writer(self.place / ".lock"):
            found = self._found()
            if found not in (None, self.key):
                raise InputError(
                    f"{self.place} holds what {found} gave, not {self.key}: another recipe, seed or store; "
                    "use a new folder"
                )
            if found is None:
                write_json(self.place / FILE, {"format": 1, "key": self.key, "cpu_seconds": {}})
            yield

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the CPU time of a stage; one that was begun before and not ended stays without a figure."""
        path = self.place / FILE
        content = read_json(path)
        costs, began = content["cpu_seconds"], cpu_seconds()
        again = costs.get(name, 0.0) is None
        write_json(path, {**content, "cpu_seconds": {**costs, name: None}})
        yield
        write_json(path, {**content, "cpu_seconds": {**costs, name: None if again else cpu_seconds() - began}})

    @property
    def names(self) -> tuple[str, ...]:
        """Stages that were begun."""
        return tuple(read_json(self.place / FILE)["cpu_seconds"])

    def cost(self, names: str | Iterable[str]) -> float:
        """CPU seconds of one or several stages; NaN where nobody knows, as one was interrupted or was not there."""
        return cost_of(self.place, names)

    def _found(self) -> str | None:
        """What the folder was made for; None if it says nothing."""
        path = self.place / FILE
        return read_json(path).get("key") if path.is_file() else None


def cost_of(place: Path, names: str | Iterable[str]) -> float:
    """As `Stages.cost`, of any folder; NaN where the folder says nothing."""
    path = place / FILE
    costs = read_json(path)["cpu_seconds"] if path.is_file() else {}
    wanted = [costs.get(name) for name in ((names,) if isinstance(names, str) else names)]
    known = [cost for cost in wanted if cost is not None]
    return float(sum(known)) if known and len(known) == len(wanted) else math.nan
