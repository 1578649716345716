"""What time and training take: parts add up, a second core is asked in processes of its own, the protocol runs."""

import os

import pytest
from tests.domains.rooms.test_reaching import TINY
from tests.domains.rooms.test_sighted import TINY as TINY_SIGHTED

from foreworld.domains.rooms import speed, training_speed
from foreworld.domains.rooms.prepare import prepare
from foreworld.domains.rooms.protocols import PROTOCOLS, RANDOM
from foreworld.domains.rooms.scene import RoomsConfig
from foreworld.domains.rooms.speed import SpeedConfig, Task
from foreworld.errors import ForeworldError
from foreworld.evidence.protocol import Request

PLAIN = TINY.model_copy(update={"name": "tiny-speed", "gate": None})
FEW = SpeedConfig(
    tasks={
        "two_rooms": Task(rooms=RoomsConfig(), recipe=PLAIN, by="temporal"),
        "random_layout": Task(rooms=RANDOM, recipe=TINY_SIGHTED.model_copy(update={"gate": None}), by="imagined"),
    },
    decisions=2, together=3, alone=2, steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("speed"), PLAIN, seed=3, progress="none").store


def test_parts_of_a_step_add_up_to_it(store):
    found = training_speed.train_some(store, PLAIN.train, 3)
    assert set(found.parts) == {"read", "encode", "predict", "regular", "rest"}
    assert all(spent > 0 for spent in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.cpu_seconds) and found.wall_seconds > 0


def test_a_step_of_twice_the_clips_is_twice_the_work(store):
    work = training_speed.step_flops(store, PLAIN.train)
    twice = training_speed.step_flops(store, PLAIN.train.model_copy(update={"clips": 32}))
    assert work > 1e8 and twice == pytest.approx(2.0 * work, rel=0.1)
    assert training_speed.matmul_flops(128, 2) > 1e8


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
@pytest.mark.parametrize(("mode", "sharing"), [("processes", True), ("apart", False)])
def test_two_processes_train_together_or_apart_and_answer(store, monkeypatch, mode, sharing):
    started = []
    process = training_speed.get_context("spawn").Process

    def noting(**options):
        started.append(options["args"])
        return process(**options)

    context = training_speed.get_context("spawn")
    monkeypatch.setattr(context, "Process", noting, raising=False)
    monkeypatch.setattr(training_speed, "get_context", lambda how: context)
    assert training_speed._in_processes(store, PLAIN.train, 1, mode) > 0.0
    assert [(args[4], args[5]) for args in started] == [(0, 1 + sharing), (1, 1 + sharing)]


def test_where_there_is_one_core_no_second_is_asked(store, monkeypatch):
    monkeypatch.setattr(training_speed, "cores", lambda: 1)
    assert training_speed.two_cores(store, PLAIN.train, 2) is None


def test_a_process_that_fails_is_told(tmp_path):
    with pytest.raises(ForeworldError, match="ended without an answer"):
        training_speed._in_processes(tmp_path, PLAIN.train, 2, "one")


def test_every_recipe_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    monkeypatch.setattr(speed, "two_cores", lambda *args: {"one": 3.0, "threads": 2.0, "processes": 1.5, "apart": 4.0})
    rows = speed.rows_of(FEW, Request(seeds=(3,)))
    found = {(row.arm, row.metric): row.value for row in rows}
    assert len(found) == 2 * len(speed.UNITS)
    for arm in FEW.tasks:
        assert found[arm, "cpu_ms_one_scene"] > found[arm, "planning_ms_one_scene"] > 0.0
        assert found[arm, "speedup_threads"] == 1.5 and found[arm, "speedup_processes"] == 2.0
        assert found[arm, "speedup_apart"] == 1.5  # two whole batches in the time of four thirds of one
        assert 0.0 < found[arm, "planning_of_peak"] < 1.0
        # At least the first iteration's 48 candidates over three blocks.
        assert found[arm, "evaluations_a_plan"] > 48 * 3
    assert found["random_layout", "start_ms_a_scene"] > found["two_rooms", "start_ms_a_scene"]
    assert set(PROTOCOLS["rooms/speed"].arms) == set(FEW.tasks)
