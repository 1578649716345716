"""The fast mode: a glance is what the encoder sees, a reflex holds to the guardrails, and the protocol runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.domains.rooms.test_reaching import TINY
from tests.domains.rooms.test_sighted import TINY as TINY_SIGHTED

from foreworld.agent.policy import Policy
from foreworld.agent.reflex import Reflex
from foreworld.domains.rooms import fast as fast_module
from foreworld.domains.rooms.calibrate import CalibrateRoomsConfig, calibrate_familiar
from foreworld.domains.rooms.fast import DistilConfig, Fast, distil
from foreworld.domains.rooms.fast_mode import FAST_MODE, MODES, FastConfig
from foreworld.domains.rooms.loop import Planned, run_scenes
from foreworld.domains.rooms.pairs import drawn
from foreworld.domains.rooms.prepare import prepare, scene_seeds
from foreworld.domains.rooms.protocols import PROTOCOLS
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.task import Reach
from foreworld.domains.rooms.zones import Zones
from foreworld.errors import InputError
from foreworld.evidence.protocol import Request
from foreworld.forecast.forecaster import Forecaster
from foreworld.learning.fit import FitConfig
from foreworld.model.belief import History
from foreworld.model.glance import Glance

FEW = DistilConfig(scenes=4, budget=4, rounds=2, hidden=16, fit=FitConfig(steps=5, warmup=1, threads=1))
CONFIG = FastConfig(
    recipe=TINY.model_copy(update={"name": "tiny-fast", "gate": None}), distil=FEW, count=4, budget=4, timed=2
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("fast"), CONFIG.recipe, seed=3, progress="none")


@pytest.fixture(scope="module")
def policy(tiny, tmp_path_factory):
    return distil(tiny, CONFIG.recipe, FEW, tmp_path_factory.mktemp("policy"), seed=3)[0]


def placed(count, **changed):
    scenes = Scenes(RoomsConfig(**changed), range(count))
    return scenes, scenes.reset()


def test_a_glance_sees_what_the_encoder_sees(tiny):
    frames = torch.from_numpy(placed(5)[1])
    model = tiny.model
    kept, model.config = model.config, model.config.model_copy(update={"bf16": False})
    try:
        with torch.no_grad():
            seen = model.embed(frames)
    finally:
        model.config = kept
    torch.testing.assert_close(Glance(model)(frames), seen, atol=1e-4, rtol=1e-4)
    assert seen.std() > 0.01
    with pytest.raises(InputError, match="frames are 32 x 32 px"):
        Glance(model)(frames[:, :32, :32])


def test_a_latent_of_points_is_not_folded(tmp_path):
    model = prepare(tmp_path, TINY_SIGHTED.model_copy(update={"gate": None}), seed=3, progress="none").model
    with pytest.raises(InputError, match="convolutional"):
        Glance(model)


def cube(tiny):
    """What one scene's agent may do."""
    slow = Planned(tiny)
    slow.begin(*placed(1))
    history = History(torch.zeros(1, 1).double(), {}, torch.ones(1, dtype=torch.int64))
    return slow.agent.task.space(slow.agent.forecaster.model.config.grid, history)


def test_a_reflex_proposes_what_its_policy_proposes(tiny):
    policy = Policy(64, (3, 2), 16).eval()
    policy.mean.uniform_(-1, 1), policy.scale.uniform_(0.5, 2.0)
    read = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    reflex, space = Reflex(policy, Forecaster(tiny.model)), cube(tiny)
    for wanted in (32, 20):
        posed = reflex.pose(read[:, 64 - wanted :], space, [Reach()])
        torch.testing.assert_close(reflex.propose(posed, read[:, : 64 - wanted]), policy(read)[0].detach())
        with pytest.raises(InputError, match=f"reads {64 - wanted} numbers of a state, here are 16"):
            reflex.propose(posed, read[:, :16])
    torch.testing.assert_close(reflex.propose(reflex.pose(None, space, [Reach()]), read), policy(read)[0].detach())


def test_a_policy_of_another_task_is_told_when_the_task_is_posed(tiny):
    reflex, space = Reflex(Policy(64, (2, 2), 16).eval(), Forecaster(tiny.model)), cube(tiny)
    with pytest.raises(InputError, match=r"plans \(2, 2\) blocks and actions, not \(3, 2\)"):
        reflex.pose(None, space, [Reach()])
    reflex = Reflex(Policy(64, (3, 2), 16).eval(), Forecaster(tiny.model))
    with pytest.raises(InputError, match="reads 64 numbers, more are wanted"):
        reflex.pose(torch.zeros(1, 64), space, [Reach()])


def test_a_policy_is_distilled_once_and_of_scenes_that_were_recorded_alone(tiny, tmp_path):
    first, spent = distil(tiny, CONFIG.recipe, FEW, tmp_path, seed=3)
    again, same = distil(tiny, CONFIG.recipe, FEW, tmp_path, seed=3)
    assert spent == same > 0.0
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
    with pytest.raises(InputError, match="another recipe"):
        distil(tiny, CONFIG.recipe, FEW, tmp_path, seed=3, horizon=2)
    with pytest.raises(InputError, match="2 rounds of 7 scenes are more than the 12"):
        distil(tiny, CONFIG.recipe, FEW.model_copy(update={"scenes": 7}), tmp_path / "more", seed=3)


def test_scenes_that_a_policy_is_distilled_on_are_none_of_the_evaluation(tiny, tmp_path, monkeypatch):
    used = []

    def noting(rooms, seeds):
        used.extend(seeds)
        return Scenes(rooms, seeds)

    monkeypatch.setattr(fast_module, "Scenes", noting)
    distil(tiny, CONFIG.recipe, FEW, tmp_path, seed=3)
    assert used == scene_seeds(3, range(FEW.rounds * FEW.scenes))
    assert not set(used) & set(drawn(RoomsConfig(), 3, 400).seeds)


def test_who_may_act_by_the_policy_does_so_whoever_is_beside(tiny, policy):
    fast = Fast(Planned(tiny), policy)
    scenes, frames = placed(3, goal="same")
    whole = run_scenes(fast, scenes, 5, frames=frames)
    assert fast.searched == 0 and not whole.refused.any() and np.abs(np.diff(whole.path, axis=0)).max() > 0
    alone, frames = placed(1, goal="same")
    one = run_scenes(fast, alone, 5, frames=frames)
    np.testing.assert_allclose(one.path[:, 0], whole.path[: len(one.path), 0], atol=1e-2)


def test_a_plan_that_is_no_number_is_searched_for(tiny):
    wrong = Policy(64, (3, 2), 16).eval()
    with torch.no_grad():
        wrong.layers[-1].bias.fill_(torch.nan)
    scenes, frames = placed(2)
    fast = Fast(Planned(tiny, seed=1), wrong)
    found = run_scenes(fast, scenes, 3, frames=frames)
    assert fast.searched == found.decisions == 6
    scenes, frames = placed(2)
    slow = run_scenes(Planned(tiny, seed=1), scenes, 3, frames=frames)
    np.testing.assert_array_equal(found.path, slow.path)


def test_what_a_guardrail_of_actions_does_not_let_pass_may_not_be_done_and_no_forecast_is_made(tiny, policy):
    slow = Planned(tiny)
    slow.begin(*placed(3))
    task, reflex = slow.agent.task, Reflex(policy, slow.agent.forecaster)
    history = History(torch.zeros(3, 1).double(), {}, torch.ones(3, dtype=torch.int64))
    space, wanted = task.space(slow.agent.forecaster.model.config.grid, history), torch.randn(3, 32)

    def answer(bound):
        posed = reflex.pose(wanted, space, [Reach(bound=bound)])
        return reflex.answer(posed, torch.randn(3, 32), history, None)[1]

    assert answer(1.0).all() and not answer(0.0).any()
    assert not answer(float("nan")).any()  # what cannot be told is not let pass
    with pytest.raises(InputError, match="without guardrails"):
        reflex.pose(wanted, space, [])


def test_nobody_acts_at_once_within_a_zone_that_covers_all(tiny, policy):
    everywhere = Zones(np.full((2, 2), -50.0, np.float32), np.full((2, 2), 300.0, np.float32))
    fast = Fast(Planned(tiny, by="waypoints", zones=everywhere), policy)
    scenes, frames = placed(2)
    found = run_scenes(fast, scenes, 2, frames=frames)
    assert fast.searched == 4 and (found.refused == 2).all()


def test_what_is_unfamiliar_is_refused_as_by_the_deliberate_mode(tiny, policy):
    slow = Planned(tiny)
    calibration = calibrate_familiar(slow, RoomsConfig(), CalibrateRoomsConfig(scenes=40, budget=3), seed=3)
    fast = Fast(replace(slow, calibration=calibration), policy)
    scenes, frames = placed(3, agent_colour=(0, 0, 255))
    found = run_scenes(fast, scenes, 3, frames=frames)
    assert (found.refused == found.steps).all() and fast.searched == 9 and not np.diff(found.path, axis=0).any()


def test_every_arm_runs_and_both_modes_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    rows = FAST_MODE.rows(CONFIG.model_copy(update={"budget": 30}), Request(seeds=(3,)))
    found = {(row.arm, row.metric): row for row in rows}
    assert {arm for arm, _ in found} == set(FAST_MODE.arms)
    for arm in MODES:
        assert found[arm, "cpu_ms_one_scene"].value > found[arm, "planning_ms_one_scene"].value > 0.0
        assert found[arm, "train_cpu_seconds"].value > 0.0
    assert found["foreworld_fast", "distil_cpu_seconds"].value > 0.0
    share = found["foreworld_fast", "planning_share"]
    times = [found[arm, "planning_ms_one_scene"].value for arm in MODES]
    assert 0.0 < share.low <= share.value <= share.high < 100.0 and times[1] < times[0]
    assert PROTOCOLS["rooms/fast-mode"].keeps
