"""The one way to ask for evidence: experiments that can be repeated, and the one shape in which their figures come.

A `Protocol` is an experiment whose settings are hashed; `evaluate` gives `Evidence`, exactly one row per arm, group and
metric. `Samples` makes the rows from what every subject gave in every seed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.agent import canonical
from foreworld.errors import InputError
from foreworld.evidence.kept import Kept
from foreworld.evidence.parallel import cpu_seconds
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import FORMAT, NAMES, Evidence, Names, Row, align
from foreworld.evidence.samples import Samples
from foreworld.evidence.source import source_digest

__all__ = [
    "FORMAT",
    "NAMES",
    "Evidence",
    "Names",
    "Protocol",
    "Request",
    "Row",
    "Samples",
    "align",
    "cpu_seconds",
    "machine",
]


def machine() -> str:
    """Processor, cores and versions; no host name, nothing that tells whose machine it is."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        model = found.group(1).strip() if found else model
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    )


@dataclass(frozen=True)
class Request:
    """What is asked of a protocol; as the options of `foreworld evaluate`.

    Attributes:
        arms: which arms; None for all.
        seeds: a seed is data, initialisation and environment at once.
        subjects: at most so many subjects; None for all.
        quick: a smoke run under a minute, whose figures mean nothing.
        model: a trained model's folder; None trains what is needed.
        data: a store of episodes; None collects what is needed.
        kept: finished runs; None keeps none.
        report: takes a line at each stage; None says nothing. Module-level, as a request goes to other processes.
    """

    arms: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    subjects: int | None = None
    quick: bool = False
    model: Path | None = None
    data: Path | None = None
    kept: Kept | None = None
    report: Callable[[str], None] | None = field(default=None, compare=False, repr=False)

    def tell(self, line: str) -> None:
        """Report a stage."""
        if self.report is not None:
            self.report(line)


@dataclass(frozen=True)
class Protocol:
    """An experiment that can be repeated.

    Attributes:
        name: `domain/name`.
        version: rises whenever a figure may no longer be compared with an earlier one.
        description: one or two sentences.
        settings: everything that shapes the figures, as JSON values; hashed.
        arms: every arm it knows.
        metrics: what it measures.
        run: runs the arms of a request and gives the rows; called by `evaluate`.
        groups: the groups that it reports.
        pictures: draws figures from its evidence for a page, or None.
        keeps: whether it takes finished runs from `Request.kept` and puts them there.
        film: films an episode of the request into a folder and gives the file, or None where there is nothing to see.
    """

    name: str
    version: int
    description: str
    settings: Mapping[str, Any]
    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    run: Callable[[Request], Sequence[Row]] = field(repr=False)
    groups: tuple[str, ...] = ("all",)
    pictures: Callable[[Evidence], Sequence[Picture]] | None = field(default=None, repr=False)
    keeps: bool = False
    film: Callable[[Request, Path], Path] | None = field(default=None, repr=False)

    @property
    def hash(self) -> str:
        """SHA-256 of name, version, settings and metrics as canonical JSON."""
        content = {
            "name": self.name,
            "version": self.version,
            "settings": dict(self.settings),
            "metrics": sorted(self.metrics),
        }
        return hashlib.sha256(canonical.encode(content).encode()).hexdigest()

    @property
    def names(self) -> Names:
        """The names of the architecture page and the protocol's own."""
        return NAMES | Names(frozenset(self.arms), frozenset(self.groups), frozenset(self.metrics))

    def evaluate(self, request: Request) -> Evidence:
        """Run and wrap the rows.

        Raises:
            InputError: an arm that the protocol does not know, no arm or seed, one given twice, a negative seed, fewer
                than one subject, or runs to be kept of a protocol that keeps none.
            ForeworldError: foreworld's own files changed while it ran.
        """
        for arm in request.arms or ():
            if arm not in self.arms:
                raise InputError(f"arm {arm!r} is not among those of {self.name}: {', '.join(self.arms)}")
        if request.arms is not None and (not request.arms or len(set(request.arms)) != len(request.arms)):
            raise InputError(f"arms {request.arms}: give at least one, each once; leave them out for all")
        if not request.seeds or len(set(request.seeds)) != len(request.seeds) or min(request.seeds) < 0:
            raise InputError(f"seeds {request.seeds}: give at least one, each once, none below 0")
        if request.subjects is not None and request.subjects < 1:
            raise InputError(f"subjects={request.subjects} must be at least 1")
        if request.kept is not None:
            if not self.keeps:
                raise InputError(f"{self.name} keeps no finished runs; leave the option out")
            for arm in request.kept.trusted:
                if arm not in self.arms:
                    raise InputError(f"trusted arm {arm!r} is not among those of {self.name}: {', '.join(self.arms)}")
        source, before = source_digest(), cpu_seconds()  # of what is about to run, not of what is there hours later
        rows = tuple(self.run(request))
        return Evidence(
            protocol=self.name,
            version=self.version,
            hash=self.hash,
            seeds=request.seeds,
            machine=machine(),
            cpu_seconds=cpu_seconds() - before,
            rows=rows,
            source=source[:12],
            notes=() if request.kept is None else request.kept.notes,
            names=self.names,
        )
