"""Fanning jobs out over the machines of a ray cluster (extra `scale`).

with on_ray("10.0.0.1:6379"):
    evidence = protocol.evaluate(request)       # every job of every arm and seed, wherever there is a core

A job is what it is in a local process: the same function, arguments, seeds and one thread, so the same result. Jobs
name folders, so all machines must see this working folder at the same path, and have the same files of foreworld.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreworld import __version__
from foreworld.errors import InputError, MissingExtraError
from foreworld.evidence.heap import keep_heap
from foreworld.evidence.parallel import cores, cpu_seconds, elsewhere
from foreworld.evidence.source import require_source, source_digest

AHEAD = 2  # jobs handed over per core of the cluster, so that none waits for the next one
KEPT = ("FOREWORLD_RUNS",)  # environment variables that say where a job finds its files
START = "start one with: RAY_USAGE_STATS_ENABLED=0 ray start --head --include-dashboard=false"


class RayCluster:
    """A cluster that this process is connected to; see `parallel.Elsewhere`.

    Args:
        ray: The imported package.
    """

    def __init__(self, ray: Any) -> None:
        self._ray, self.cpu_seconds = ray, 0.0

    def run(self, work: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of the jobs, each on one core; an error of a job is raised as it was there.

        Jobs that run when one fails run to their end, unheeded; most others are never handed over. Ray could cancel
        both, but ends this process without a word where a job completes while it is cancelled
        (https://github.com/ray-project/ray/issues/54846).
        """
        ray, place = self._ray, str(Path.cwd())
        task = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": _environment()})(_one)
        left, order, unfinished = deque(jobs), deque[Any](), list[Any]()
        while left or order:
            while left and len(unfinished) < AHEAD * ray.cluster_resources().get("CPU", 1):
                order.append(task.remote(work, left.popleft(), place, __version__, source_digest()))
                unfinished.append(order[-1])
            if order[0] in unfinished:
                _, unfinished = ray.wait(unfinished, num_returns=1)
                continue
            try:
                result, spent = ray.get(order.popleft())
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            self.cpu_seconds += spent
            yield result


@contextmanager
def on_ray(address: str | None = None, *, cpus: int | None = None) -> Iterator[None]:
    """Within it `run_all` hands its jobs to a ray cluster.

    Telemetry and dashboard are off; nothing but the address given is contacted. A connection that this process has
    already is used and left open.

    Args:
        address: host:port of the cluster's head, or `auto` for the one that runs on this machine; None starts one of
            this machine's cores, for as long as this lasts.
        cpus: Cores of the cluster that is started; all that this process may use if None.

    Raises:
        MissingExtraError: ray is not installed.
        InputError: No cluster answers at the address.
    """
    # Read by ray when it is imported, and by the processes that it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "scale") from error
    if address not in (None, "auto"):
        _require_answer(str(address))
    own = not ray.is_initialized()
    if own and address is None:
        ray.init(
            address="local",
            num_cpus=cpus or cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    elif own:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no ray cluster answers at {address}: {error}; {START}") from error
    try:
        with elsewhere(RayCluster(ray)):
            yield
    finally:
        if own:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise InputError where nobody listens; ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{address!r} is no address of a ray cluster; write host:port, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no ray cluster answers at {address}: {error}; {START}") from error


def _environment() -> dict[str, str]:
    """What a process of the cluster needs to find code and files as one that this process starts."""
    own = (sys.prefix, sys.base_prefix)  # what is installed there is found anyway
    path = [str(Path(entry).resolve()) for entry in sys.path if entry and not entry.startswith(own)]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {"PYTHONPATH": os.pathsep.join(path), **kept}


def _one(work: Callable[[Any], Any], job: Any, place: str, version: str, source: str) -> tuple[Any, float]:
    """One job, as in a local process, and the CPU seconds that it took.

    Raises:
        InputError: This machine has another version, or does not see the folder that the jobs' files are named from.
        ForeworldError: foreworld's files are not those of the process that asked.
    """
    if version != __version__:
        raise InputError(f"a machine of the cluster has foreworld {__version__}, not {version}; use one on all")
    require_source(source)
    if not Path(place).is_dir():
        raise InputError(f"a machine of the cluster does not see {place}; share it at the same path")
    os.chdir(place)
    keep_heap()
    before = cpu_seconds()
    result = work(job)
    return result, cpu_seconds() - before
