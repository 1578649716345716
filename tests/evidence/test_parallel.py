"""Jobs that run elsewhere give what they give here, in order; on a local ray cluster of two workers."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foreworld import __version__
from foreworld.domains.treatment.track_protocol import protocol_of
from foreworld.domains.treatment.tracks import LoopConfig, Track
from foreworld.errors import ForeworldError, InputError, MissingExtraError
from foreworld.evidence import on_ray as ray_module
from foreworld.evidence import parallel
from foreworld.evidence.heap import keep_heap
from foreworld.evidence.on_ray import _one, on_ray
from foreworld.evidence.parallel import cpu_seconds, elsewhere, run_all
from foreworld.evidence.protocol import Request
from foreworld.evidence.source import source_digest

# What a run costs is not what it gives.
COSTS = {"cpu_ms_per_decision", "train_cpu_seconds"}


def square(number):
    return number * number, os.getpid(), os.getcwd(), os.environ.get("OMP_NUM_THREADS")


def refuse(number):
    raise InputError(f"number {number} mg/dL is too large")


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_come_back_in_order_from_processes_of_this_machine(workers):
    assert [found[0] for found in run_all(square, [3, 1, 2], workers)] == [9, 1, 4]


def test_a_process_with_other_source_than_the_evaluation_began_with_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "source_digest", lambda: "f" * 64)
    with pytest.raises(ForeworldError, match=r"source changed while it ran.*ffffffffffff.*kept with --kept; .*again"):
        list(run_all(square, [1, 2], 2))


def linger(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120.0)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_end_when_the_one_that_they_work_for_is_killed(tmp_path):
    code = f"from tests.evidence.test_parallel import *\nlist(run_all(linger, [{str(tmp_path)!r}] * 2, 2))"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        assert eventually(lambda: len(list(tmp_path.iterdir())) == 2, 60.0)
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: not any(Path("/proc", pid.name).exists() for pid in tmp_path.iterdir()), 20.0)


def eventually(what, seconds):
    end = time.monotonic() + seconds
    while not (true := what()) and time.monotonic() < end:
        time.sleep(0.2)
    return true


class Elsewhere:
    def __init__(self):
        self.cpu_seconds = 0.0

    def run(self, work, jobs):
        self.cpu_seconds += 1000.0
        yield from map(work, jobs)


def test_jobs_go_elsewhere_within_the_block_and_what_they_took_there_counts():
    place = Elsewhere()
    with elsewhere(place):
        before = cpu_seconds()
        assert [found[0] for found in run_all(square, [5], 1)] == [25]
        assert cpu_seconds() - before > 999.0
    list(run_all(square, [5], 1))
    assert place.cpu_seconds == 1000.0 and cpu_seconds() < before + 900.0


def test_the_heap_is_kept_where_glibc_allocates_and_nothing_is_done_elsewhere(monkeypatch):
    assert keep_heap() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_heap()


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"foreworld\[scale\]"), on_ray():
        pass


def test_a_machine_with_another_version_or_without_the_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not 0\.0\.0; use one on all"):
        _one(square, 1, str(tmp_path), "0.0.0", source_digest())
    with pytest.raises(InputError, match="share it at the same path"):
        _one(square, 1, str(tmp_path / "absent"), __version__, source_digest())
    with pytest.raises(ForeworldError, match="source changed while it ran"):
        _one(square, 1, str(tmp_path), __version__, "f" * 64)


@pytest.mark.parametrize(("address", "words"), [("127.0.0.1:1", "ray start"), ("somewhere", "host:port")])
def test_an_address_where_no_cluster_answers_is_refused_at_once(address, words):
    with pytest.raises(InputError, match=words), on_ray(address):
        pass


# --- a real cluster ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Two workers on this machine."""
    with on_ray(cpus=2):
        yield


@pytest.fixture
def ray(cluster):
    with on_ray():
        yield


def test_a_cluster_gives_results_in_order_from_one_thread_in_this_folder(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(run_all(square, [3, 1, 2], 1))
    assert [square for square, *_ in found] == [9, 1, 4]
    assert all(process != os.getpid() for _, process, *_ in found)
    assert {(folder, threads) for *_, folder, threads in found} == {(str(tmp_path), "1")}


def test_an_error_of_a_job_is_raised_as_it_was_there(ray):
    with pytest.raises(InputError, match="number 7 mg/dL is too large"):
        list(run_all(refuse, [7, 8]))


def note(job):
    folder, number = job
    (Path(folder) / str(number)).touch()
    if number == 0:
        raise InputError("the first")


def test_errors_end_no_process_and_the_jobs_that_wait_do_not_begin(ray, tmp_path):
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        with pytest.raises(InputError, match="the first"):
            list(run_all(note, [(str(folder), number) for number in range(40)]))
    assert all(len(list(folder.iterdir())) < 40 for folder in tmp_path.iterdir())


def test_results_are_in_order_where_there_are_more_jobs_than_cores(ray):
    assert [found[0] for found in run_all(square, range(25))] == [number**2 for number in range(25)]


def test_a_machine_of_the_cluster_with_other_source_is_refused(ray, monkeypatch):
    monkeypatch.setattr(ray_module, "source_digest", lambda: "f" * 64)
    with pytest.raises(ForeworldError, match="source changed while it ran"):
        list(run_all(square, [1]))


def told(name):
    return os.environ.get(name)


def test_telemetry_is_off_here_and_in_the_processes_of_the_cluster(ray):
    assert list(run_all(told, ["RAY_USAGE_STATS_ENABLED"])) == ["0"] == [os.environ["RAY_USAGE_STATS_ENABLED"]]


def test_a_connection_that_was_there_before_stays(ray):
    import ray as package

    with on_ray():
        pass
    assert package.is_initialized()


def test_every_arm_and_seed_gives_on_a_cluster_what_it_gives_in_this_process(cluster, model):
    track = Track("small", "A day.", LoopConfig(days=1, burn_in=0), ("foreworld", "bb_error"))
    request = Request(seeds=(0, 1), subjects=1, quick=True, model=model)
    here = protocol_of(track).evaluate(request)
    with on_ray():
        there = protocol_of(track).evaluate(request)
    given = [[row for row in one.rows if row.metric not in COSTS] for one in (here, there)]
    assert given[0] == given[1] and len(given[0]) > 50
    assert there.cpu_seconds > 1.0
