"""The clone and offline RL: what they read, what they are taught, what they deliver, and what crosses to the peer.

What needs d3rlpy runs where it is installed (`FOREWORLD_OFFLINE_RL`, or runs/peers/offline_rl), else it is skipped; the
files in `offline_rl_golden` were written by it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from foreworld.domains.treatment import track_protocol
from foreworld.domains.treatment.closed_loop import Job, run_job
from foreworld.domains.treatment.collect import CollectConfig, Habit, cohort, record_therapy, statics_of
from foreworld.domains.treatment.dosing import basal_step, dose_cap
from foreworld.domains.treatment.metrics import high_risk, low_risk
from foreworld.domains.treatment.policies.clone import Clone, CloneConfig, imitated, train_clone
from foreworld.domains.treatment.policies.made import POLICY_ARMS, make_policy, policy_config, policy_name
from foreworld.domains.treatment.policies.network import DESCRIPTION, WEIGHTS, Network, Policy, load_policy, save_policy
from foreworld.domains.treatment.policies.offline_rl import (
    OfflineRL,
    OfflineRLConfig,
    require_offline_rl,
    train_offline_rl,
    transitions,
)
from foreworld.domains.treatment.policies.state import (
    StateConfig,
    States,
    basal_steps,
    decisions,
    relative_dose,
    states,
)
from foreworld.domains.treatment.prepare import FULL, QUICK, _spent, collected, learned
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.tracks import LoopConfig
from foreworld.domains.treatment.windows import windows_at
from foreworld.errors import FormatError, MissingDataError
from foreworld.evidence.stages import Stages
from foreworld.model.belief import History

GOLDEN = Path(__file__).with_name("offline_rl_golden")
STATE = StateConfig(lags=(1, 2), edges=(1, 3, 12, 36))


def absent() -> str:
    try:
        require_offline_rl()
    except MissingDataError as error:
        return str(error)
    return ""


needs_peer = pytest.mark.skipif(bool(absent()), reason=absent() or "d3rlpy is installed")


@pytest.fixture(scope="module")
def patients():
    return load_patients(("adult#001", "adolescent#002", "child#003"))


@pytest.fixture(scope="module")
def histories():
    config = CollectConfig(subjects=6, days=2, habits=(Habit(share=1.0), Habit(share=1.0, announced=False)))
    episodes = record_therapy(cohort("fit", 6, 0), config, 0, 2)
    return [History.from_episodes(SCHEMA, [episode]) for episode in episodes]


@pytest.fixture(scope="module")
def clone(histories):
    return train_clone(histories, CloneConfig(hidden=(32,), steps=400, batch=128, share=0.5))


def changed(history, name, moments, by):
    values = {key: value.clone() for key, value in history.values.items()}
    values[name][:, moments] = values[name][:, moments] + by
    return History(history.times, values, history.lengths)


def state_at(history, moment, config=STATE):
    return states(windows_at(history, torch.tensor([[moment]]), config.window), config)[0]


# What is read.


@pytest.mark.parametrize("insulin", ["all", "boluses", "none"])
def test_a_state_depends_on_nothing_after_its_moment(histories, insulin):
    config, moment = STATE.model_copy(update={"insulin": insulin}), 100
    expected = state_at(histories[0], moment, config)
    for name, first in (("cgm", moment + 1), ("carbs", moment + 1), ("insulin", moment)):
        later = changed(histories[0], name, slice(first, None), 50.0)
        assert torch.equal(state_at(later, moment, config), expected)
        now = changed(histories[0], name, slice(first - 1, first), 50.0)
        assert torch.equal(state_at(now, moment, config), expected) == (name == "insulin" and insulin == "none")


def test_the_states_of_a_closed_loop_are_those_of_its_record(patients):
    scenario = Scenario.draw(patients, ScenarioConfig(days=1, dropout_per_day=12.0), seed=3)
    simulator, watched, found = Simulator(patients, scenario), States(STATE), []
    watched.reset(patients)

    def act(seen):
        found.append(watched.see(seen))
        dose = basal_step(patients) * (1.0 + seen.t % 7)
        watched.done(dose)
        return dose

    run = simulator.run(act, steps=120)
    assert np.isnan(run.cgm[:, :120]).any()
    times = np.tile(5.0 * np.arange(121), (3, 1))
    values = {"cgm": run.cgm, "carbs": run.announced, "insulin": run.insulin} | statics_of(patients)
    record = History.from_arrays(SCHEMA, times, values)
    for moment in (0, 1, 5, 119):
        at = torch.full((3, 1), moment)
        torch.testing.assert_close(found[moment], states(windows_at(record, at, STATE.window), STATE))


def test_a_state_has_the_width_that_its_configuration_says(histories):
    for config in (STATE, StateConfig()):
        assert state_at(histories[0], 50, config).shape == (config.size,)


def test_which_decisions_are_learned_from_does_not_depend_on_the_dose(histories):
    def chosen(records):
        return [at.tolist() for _, at in decisions(records, 0.2, 3, np.random.default_rng(0))]

    assert chosen(histories) == chosen([changed(one, "insulin", slice(None), 5.0) for one in histories])
    entries = np.flatnonzero(histories[0].values["carbs"][0, :-3].numpy() > 0.0)
    assert len(entries) and set(entries) <= set(chosen(histories)[0][0])


def test_an_action_is_a_dose_and_back():
    dose, basal = torch.tensor([0.0, 0.1, 1.2, 9.0], dtype=torch.float64), torch.full((4,), 1.2, dtype=torch.float64)
    action = relative_dose(dose, basal, STATE)
    assert action[0] == -1.0 and bool((action.abs() <= 1.0).all())
    np.testing.assert_allclose(basal_steps(action.numpy(), STATE) * 0.1, dose.numpy(), atol=1e-12)
    assert float(relative_dose(torch.tensor(1e3), torch.tensor(1.0), STATE)) == 1.0


# The clone.


def test_a_likely_bolus_is_given_whole_and_a_rare_one_in_expectation():
    size = float(np.log1p(50.0))
    dose = imitated(torch.tensor([[4.0, size, 1.0], [-3.0, size, 1.0], [-30.0, size, 1.0], [-30.0, size, -5.0]]))
    rare = 1.0 + 49.0 / (1.0 + np.exp(3.0))
    np.testing.assert_allclose(dose.numpy(), [50.0, rare, 1.0, 0.0], rtol=1e-4, atol=1e-4)


def test_a_clone_doses_within_the_cap_and_boluses_for_what_is_entered(clone, patients):
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1), seed=1))
    controller = Clone(clone)
    controller.reset(patients)
    run = simulator.run(controller.act)
    assert (run.insulin >= 0.0).all() and (run.insulin <= dose_cap(patients)[:, None]).all()
    entered = run.announced[:, :-1] > 0.0
    steps = run.insulin / basal_step(patients)[:, None]
    assert np.median(steps[entered]) > 8.0 and steps[~entered].mean() < 3.0


def test_a_dose_above_the_cap_is_cut_to_it(patients):
    for make, outputs in ((Clone, 3), (OfflineRL, 1)):
        network = Network(STATE.size, (4,), outputs)
        with torch.no_grad():
            network.last.bias.fill_(9.0)
        controller = make(Policy("test", STATE.model_copy(update={"most": 1e4}), network, {}))
        controller.reset(patients)
        seen = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1), seed=1)).reset()
        np.testing.assert_allclose(controller.act(seen), dose_cap(patients))


def test_the_same_seed_trains_the_same_clone(histories, clone):
    again = train_clone(histories, clone_config := CloneConfig.model_validate(clone.settings))
    assert clone_config.seed == 0
    for one, other in zip(clone.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_policy_is_kept_and_read_without_a_change(clone, tmp_path):
    save_policy(tmp_path, clone)
    read, x = load_policy(tmp_path), torch.randn(5, clone.state.size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read.network(x), clone.network(x))
    assert (read.kind, read.state, read.settings) == (clone.kind, clone.state, clone.settings)


# Offline reinforcement learning.


def test_a_transition_leads_to_the_state_and_the_risk_that_followed(histories):
    # More steps ahead than a state has readings.
    config = OfflineRLConfig(state=STATE, share=0.3, ahead=5, gamma=0.5)
    data = transitions(histories[:1], config)
    ((one, at),) = decisions(histories[:1], 0.3, 5, np.random.default_rng([0, 43]))
    assert len(data["states"]) == at.shape[1]
    np.testing.assert_array_equal(data["states"][7], state_at(one, int(at[0, 7])))
    np.testing.assert_array_equal(data["next_states"][7], state_at(one, int(at[0, 7]) + 5))
    cgm = one.values["cgm"][0].double().numpy()
    risk = np.array([float(low_risk(cgm[t : t + 1]) + high_risk(cgm[t : t + 1])) for t in range(len(cgm))]) / 10.0
    reward = np.array([-sum(0.5**k * risk[t + 1 + k] for k in range(5)) for t in at[0].tolist()])
    np.testing.assert_allclose(data["rewards"], 0.5 * (reward - reward.mean()), rtol=1e-4, atol=1e-5)
    dose = one.values["insulin"][0, at[0]].double()
    expected = relative_dose(dose, one.values["basal"].double(), STATE)
    np.testing.assert_allclose(data["actions"][:, 0], expected.numpy(), rtol=1e-5)


def test_a_policy_of_d3rlpy_does_here_what_it_did_there():
    policy = load_policy(GOLDEN)
    examples = json.loads((GOLDEN / DESCRIPTION).read_text())["examples"]
    with torch.no_grad():
        found = torch.tanh(policy.network(torch.tensor(examples["states"])))[:, 0]
    np.testing.assert_allclose(found.numpy(), examples["actions"], atol=1e-5)
    assert np.ptp(examples["actions"]) > 0.05


@pytest.mark.parametrize("damage", ["actions", "centre", "format", "weights", "cut"])
def test_a_policy_that_was_read_wrong_is_refused(damage, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "policy")
    path = tmp_path / "policy" / DESCRIPTION
    content = json.loads(path.read_text())
    if damage == "actions":
        content["examples"]["actions"][0] += 0.01
    elif damage == "centre":
        content["centre"][0] += 1.0
    elif damage == "format":
        content["format"] = 2
    elif damage == "weights":
        (tmp_path / "policy" / WEIGHTS).write_bytes(b"\x80\x04")
    path.write_text(json.dumps(content) if damage != "cut" else path.read_text()[:100])
    with pytest.raises(FormatError):
        load_policy(tmp_path / "policy")


def test_a_peer_that_is_missing_is_asked_for_with_the_command(tmp_path, monkeypatch, histories):
    monkeypatch.setenv("FOREWORLD_OFFLINE_RL", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"python3 -m venv .* -r benchmarks/peers/offline_rl/requirements.txt"):
        train_offline_rl(histories, OfflineRLConfig(), tmp_path / "policy")
    with pytest.warns(UserWarning, match="offline_rl, which are left out.*python3 -m venv"):
        assert track_protocol.available(("clone", "offline_rl", "pid")) == ("clone", "pid")
    package = tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "d3rlpy-1.0.0.dist-info"
    package.mkdir(parents=True)
    (tmp_path / "venv" / "bin").mkdir()
    (tmp_path / "venv" / "bin" / "python").touch()
    with pytest.raises(MissingDataError, match=r"version 1\.0\.0"):
        require_offline_rl()


@needs_peer
def test_the_peer_trains_a_policy_that_doses_here(histories, patients, tmp_path):
    config = OfflineRLConfig(state=STATE, steps=30, hidden=(16, 16), batch=64, seed=3)
    policy = train_offline_rl(histories, config, tmp_path / "policy")
    assert policy.kind == "td3+bc" and policy.state == STATE and policy.settings["d3rlpy"]
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [DESCRIPTION, WEIGHTS]
    controller = OfflineRL(policy)
    controller.reset(patients)
    run = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1), seed=1)).run(controller.act, steps=20)
    assert (run.insulin >= 0.0).all() and (run.insulin <= dose_cap(patients)[:, None]).all()
    again = train_offline_rl(histories, config, tmp_path / "again")
    assert torch.equal(policy.network.layers[0].weight, again.network.layers[0].weight)


# In the protocols.


def test_a_policy_is_trained_once_for_a_seed_beside_its_model(tmp_path):
    recipe = QUICK.model_copy(update={"collect": CollectConfig(subjects=8, days=2)})
    name, calls = policy_name("clone", recipe), []

    def make(folder):
        calls.append(folder)
        make_policy(policy_config("clone", recipe), tmp_path / "0" / "data", folder)

    collected(tmp_path / "0", recipe)
    made, spent = learned(tmp_path / "0", recipe, name, make)
    again, as_before = learned(tmp_path / "0", recipe, name, make)
    assert made == again == tmp_path / "0" / name and len(calls) == 1 and spent == as_before > 0.0
    job = Job("clone", 0, ("adult#001",), LoopConfig(days=1, burn_in=0), policy=made)
    assert run_job(job).bg.shape == (1, 288)
    # What a forecaster cost does not grow by it.
    costs = json.loads((tmp_path / "0" / "recipe.json").read_text())["cpu_seconds"]
    assert _spent(Stages(tmp_path / "0", "any"), announced=True) == costs["collect"] != sum(costs.values())


def test_another_configuration_of_a_policy_has_another_folder():
    names = {policy_name(arm, recipe) for arm in POLICY_ARMS for recipe in (QUICK, FULL)}
    assert len(names) == 4
