"""ICU-Sepsis: what is seen of it, what is learned from, and the protocol from end to end."""

import importlib.util

import numpy as np
import pytest

from foreworld.domains.treatment.sepsis import protocol as sepsis
from foreworld.domains.treatment.sepsis.learn import QUICK, collect, learn, sepsis_agent
from foreworld.domains.treatment.sepsis.ward import ACTIONS, INSTALL, SCHEMA, STATES, bedsides, drawn, environment
from foreworld.episodes.copies import Copies
from foreworld.evidence.protocol import Request

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("icu_sepsis") is None, reason=f"ICU-Sepsis is optional; to test it: {INSTALL}"
)
TINY = QUICK.model_copy(update={"episodes": 300, "steps": 2})


@pytest.fixture(scope="module")
def one():
    return environment()


def test_a_patient_shows_state_score_and_admissible_treatments(one):
    seen = Copies(bedsides(one), 5, 0, SCHEMA).reset()
    assert set(seen) == {"state", "sofa", "admissible", "reward"}
    for state, bits in zip(seen["state"], seen["admissible"], strict=True):
        told = one._admissible_actions[state]
        assert [a for a in range(ACTIONS) if int(bits) >> a & 1] == sorted(told)


def test_doses_reach_the_environment_as_fluid_and_vasopressor(one):
    bedside, taken = bedsides(one)(), []
    bedside.env._take_action = lambda state, action: taken.append(int(action))
    bedside.reset(seed=0)
    for action in (0, 7, 24):
        bedside.step(action)
    assert taken == [0, 7, 24]


def test_nothing_is_learned_from_the_tables(one, tmp_path, monkeypatch):
    def forbidden(self):
        raise AssertionError("the tables were read")

    monkeypatch.setattr(type(one), "dynamics", property(forbidden))
    store = collect(tmp_path / "data", TINY, 0)
    agent = sepsis_agent(learn(store.path, tmp_path / "model", TINY, 0), store, TINY, 0)
    ward = Copies(bedsides(one), 4, 9, SCHEMA)
    seen = ward.reset()
    agent.start(ward.subjects, {})
    step = agent.decide(0.0, seen)
    for action, bits in zip(step.actions[:, 0], seen["admissible"], strict=True):
        assert int(bits) >> int(action) & 1


def test_the_optimum_treats_better_than_the_clinicians(one):
    lived = {}
    for arm in ("optimum", "clinician"):
        shares = sepsis.optimum(one) if arm == "optimum" else None
        table = one.expert_policy if shares is None else np.eye(ACTIONS)[shares]
        assert table.shape == (STATES, ACTIONS)
        ward, policy = Copies(bedsides(one), 400, 0, SCHEMA), drawn(table, 0)
        seen = ward.reset()
        total = np.zeros(400)
        while ward.running.any():
            going = ward.running.copy()
            seen = ward.step(policy(seen))
            total += np.where(going, seen["reward"], 0.0)
        lived[arm] = total.mean()
    assert lived["optimum"] > lived["clinician"] + 0.03


def test_the_protocol_gives_one_row_for_each_arm(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    monkeypatch.setattr(sepsis, "QUICK", TINY)
    request = Request(seeds=(0,), quick=True, subjects=40, arms=("foreworld", "random"))
    evidence = sepsis.protocol().evaluate(request)
    assert evidence.row("random", "survival").n == 40
    assert 0.0 <= evidence.row("foreworld", "survival").value <= 1.0
    assert evidence.row("foreworld", "train_cpu_seconds").value > 0
