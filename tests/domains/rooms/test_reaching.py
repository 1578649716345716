"""From recorded frames to goals reached: preparation, pairs, floors, the loop and the protocols."""

import numpy as np
import pytest
import torch

from foreworld.domains.rooms import protocols
from foreworld.domains.rooms.floors import Nothing, Random, StraightLine
from foreworld.domains.rooms.loop import Planned, joined, run_scenes
from foreworld.domains.rooms.pairs import ahead, drawn
from foreworld.domains.rooms.prepare import RoomsRecipe, prepare, scene_seeds
from foreworld.domains.rooms.protocols import PROTOCOLS, Job, ReachConfig, run_job
from foreworld.domains.rooms.running import add_outcome
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.errors import InputError
from foreworld.evidence.domain import load_domain
from foreworld.evidence.kept import Kept
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import NAMES, Names
from foreworld.evidence.samples import Samples

QUICK = RoomsRecipe(name="test").quick()
TINY = QUICK.model_copy(
    update={
        "name": "tiny",
        "episodes": 12,
        "steps": 40,
        "waypoints": 40,
        "temporal": QUICK.temporal.model_copy(
            update={"batch": 32, "fit": QUICK.temporal.fit.model_copy(update={"steps": 5, "warmup": 1})}
        ),
        "train": QUICK.train.model_copy(
            update={"clips": 16, "labels": 40, "fit": QUICK.train.fit.model_copy(update={"steps": 6, "warmup": 2})}
        ),
    }
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    return folder, prepare(folder, TINY, seed=3, progress="none")


# --- preparation -----------------------------------------------------------------------------------------------------


def test_what_is_finished_is_read_again_and_tells_what_it_cost(tiny):
    told = []
    again = prepare(tiny[0], TINY, seed=3, progress="none", report=told.append)
    assert not told and again.cpu_seconds == tiny[1].cpu_seconds > 0.1
    assert torch.equal(again.graph.nodes, tiny[1].graph.nodes)
    with pytest.raises(InputError, match="another recipe"):
        prepare(tiny[0], TINY, seed=4, progress="none")


def test_recordings_are_the_seeds_and_differ_between_scenes(tiny, tmp_path):
    other = prepare(tmp_path, TINY, seed=3, progress="none")
    names = [name for name, _ in tiny[1].model.named_parameters()]
    first, second = (dict(one.model.named_parameters()) for one in (tiny[1], other))
    assert all(torch.equal(first[name], second[name]) for name in names)


def test_scenes_that_are_evaluated_on_are_none_that_were_learned_from():
    learned = {one for seed in range(5) for one in scene_seeds(seed, range(300))}
    held = {one for seed in range(5) for one in scene_seeds(seed, range(300), held_out=True)}
    assert len(learned) == len(held) == 1500 and not learned & held


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_a_goal_ahead_is_no_farther_than_the_agent_goes_in_so_many_steps():
    pairs = ahead(RoomsConfig(), 0, 30, 25)
    assert len(pairs) == 30 and len(set(pairs.seeds)) == 30
    away = np.linalg.norm(pairs.goal - pairs.start, axis=1)
    assert (away <= 25 * 5.0 * 2**0.5).all() and away.max() > 25.0
    again = ahead(RoomsConfig(), 0, 30, 25)
    np.testing.assert_array_equal(again.start, pairs.start)


def test_start_and_goal_lie_in_different_rooms():
    pairs = drawn(RoomsConfig(), 0, 20)
    assert ((pairs.start[:, 0] < 112) != (pairs.goal[:, 0] < 112)).all()


# --- floors and the loop ---------------------------------------------------------------------------------------------


def placed(count=6, seed=0, config=None):
    config = config or RoomsConfig(goal="same")
    scenes = Scenes(config, range(seed, seed + count))
    scenes.reset()
    return scenes


def test_floors_do_what_they_are_called_for():
    assert not run_scenes(Nothing(), placed(), 20).reached.any()
    straight = run_scenes(StraightLine(), placed(), 60)
    assert straight.reached.all()
    first = [run_scenes(Random(seed), placed(), 10).path for seed in (1, 1, 2)]
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])


def test_what_is_solved_at_its_start_is_no_success_and_who_has_arrived_stays():
    scenes = placed(3)
    scenes.place(
        np.array([[40, 40], [40, 40], [40, 100]], np.float32), np.array([[40, 45], [40, 70], [40, 190]], np.float32)
    )
    found = run_scenes(StraightLine(), scenes, 12)
    assert found.solved.tolist() == [True, False, False]
    assert found.reached.tolist() == [False, True, False]
    assert found.steps.tolist() == [0, 3, 12]
    assert (found.path[3:, 1] == found.path[3, 1]).all() and (found.path[:, 0] == found.path[0, 0]).all()
    assert found.decisions == 3 + 12


def test_steps_within_a_zone_are_counted():
    scenes = placed(1)
    scenes.place(np.array([[40, 100]], np.float32), np.array([[40, 190]], np.float32))
    found = run_scenes(StraightLine(), scenes, 20, zone=lambda before, place: (place[:, 1] > 119) & (place[:, 1] < 131))
    assert found.entered.tolist() == [3]


def test_episodes_of_the_agent_do_not_depend_on_which_others_run_beside_them(tiny):
    whole = run_scenes(Planned(tiny[1], seed=1), placed(4), 6)
    again = run_scenes(Planned(tiny[1], seed=1), placed(4), 6)
    np.testing.assert_array_equal(whole.path, again.path)
    assert whole.decisions == 24 and whole.cpu_seconds > 0 and not whole.refused.any()


# --- protocols -------------------------------------------------------------------------------------------------------


def outcome(arm, tiny, count=5, **more):
    config = ReachConfig(recipe=TINY, budget=4, horizon=2, flat_horizon=3, **more)
    return run_job(Job(arm, 3, config, tiny[0], count))


@pytest.mark.parametrize("arm", protocols.ARMS)
def test_every_arm_runs(arm, tiny):
    found = outcome(arm, tiny)
    assert len(found.reached) == 5 and (found.steps[~found.reached & ~found.solved] == 4).all()
    samples = Samples((3,), NAMES | Names(frozenset(protocols.ARMS), frozenset(), frozenset(protocols.METRICS)))
    add_outcome(samples, Job(arm, 3, ReachConfig(recipe=TINY), tiny[0], 5), found)
    metrics = {row.metric: row for row in samples.rows()}
    assert metrics["success"].n + int(found.solved.sum()) == 5 == metrics["solved_at_start"].n
    assert 0.0 <= metrics["success"].low <= metrics["success"].value <= metrics["success"].high <= 1.0


def test_parts_are_joined_in_order(tiny):
    one = outcome("straight_line", tiny)
    both = joined([one, one])
    np.testing.assert_array_equal(both.steps, np.concatenate([one.steps, one.steps]))
    assert both.decisions == 2 * one.decisions


def test_floors_alone_need_no_model_and_are_told_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    config, told = ReachConfig(recipe=TINY, budget=4), []
    task = protocols.experiment("test", "A test.", config)
    rows = task.rows(config, Request(seeds=(3, 4), arms=("nothing", "straight_line"), subjects=5, report=told.append))
    assert {row.arm for row in rows} == {"nothing", "straight_line"} and all(row.n <= 10 for row in rows)
    assert not any(row.metric == "train_cpu_seconds" for row in rows) and not (tmp_path / "models").exists()
    assert "nothing, seed 3: 0.0%" in told and len(told) == 5


def test_a_domain_of_rooms_is_installed():
    domain = load_domain("rooms")
    assert {"two-room", "two-room-far", "cross-room"} <= set(domain.protocols)


def test_quick_evidence_of_cross_room_has_floors_and_reaches_more_than_they(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(quick[0]))
    kept = Kept(tmp_path / "kept")
    request = Request(seeds=(0,), quick=True, kept=kept, arms=("foreworld", "nothing", "straight_line"))
    evidence = PROTOCOLS["rooms/cross-room"].evaluate(request)
    value = {row.arm: row.value for row in evidence.rows if row.metric == "success"}
    assert value["nothing"] == 0.0 and value["foreworld"] > max(0.5, value["straight_line"])
    again = PROTOCOLS["rooms/cross-room"].evaluate(request)
    assert again.rows == evidence.rows
