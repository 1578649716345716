"""Running independent jobs, in order: in this process, in as many as there are cores, or elsewhere (`evidence.on_ray`).

Whoever has many jobs calls `run_all`, and does not know where they run. Each runs on one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from multiprocessing import get_context
from threading import Thread
from typing import Any, Protocol, TypeVar

from foreworld.evidence.heap import keep_heap
from foreworld.evidence.source import require_source, source_digest

Job = TypeVar("Job")
Result = TypeVar("Result")


class Elsewhere(Protocol):
    """A place for jobs other than this machine's own processes.

    Attributes:
        cpu_seconds: What the jobs took there so far.
    """

    cpu_seconds: float

    def run(self, work: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of the jobs."""


_PLACE: ContextVar[Elsewhere | None] = ContextVar("where run_all sends its jobs", default=None)


@contextmanager
def elsewhere(place: Elsewhere) -> Iterator[None]:
    """Within it `run_all` sends its jobs to this place."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


def cores() -> int:
    """Cores that this process may use; a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_seconds() -> float:
    """CPU time of this process, of its children that ended, and of jobs that ran elsewhere."""
    spent, place = os.times(), _PLACE.get()
    own = spent.user + spent.system + spent.children_user + spent.children_system
    return own + (0.0 if place is None else place.cpu_seconds)


def run_all(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None = None) -> Iterator[Result]:
    """Results in the order of the jobs, each as soon as it and those before it are done.

    Args:
        work: A module-level function; called in other processes, so that nothing leaks from one job to the next.
        jobs: Its arguments; picklable.
        workers: Processes; the cores that this process may use if None. With one, everything runs in this process.
            Not asked where jobs run elsewhere.

    Raises:
        ForeworldError: foreworld's own files changed, so that a process that was started since has other code.
    """
    place = _PLACE.get()
    if place is not None:
        yield from place.run(work, jobs)
        return
    count = min(len(jobs), workers or cores())
    if count <= 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    ) as pool:
        yield from pool.map(partial(_same, work, source_digest()), jobs)


def _same(work: Callable[[Job], Result], source: str, job: Job) -> Result:
    """One job in another process. `work` and with it the code has been imported when its files are looked at."""
    require_source(source)
    return work(job)


def _begin(parent: int) -> None:
    """Set up a process that works for another one."""
    keep_heap()
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: nobody waits for its job, which may take minutes more."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
