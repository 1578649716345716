"""Running independent jobs in as many processes as there are cores, in order, each on one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use; a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None = None) -> Iterator[Result]:
    """Results in the order of the jobs, each as soon as it and those before it are done.

    Args:
        work: A module-level function; called in fresh processes, so that nothing leaks from one job to the next.
        jobs: Its arguments; picklable.
        workers: Processes; the cores that this process may use if None. With one, everything runs in this process.
    """
    count = min(len(jobs), workers or cores())
    if count <= 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs)
