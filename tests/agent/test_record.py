import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from foreworld.agent import audit
from foreworld.agent.audit import AuditLog
from foreworld.agent.record import Recorder, replay
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.loop import insulin_agent, run_agent
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import UNSEEN, load_patients
from foreworld.domains.treatment.task import PROFILES
from foreworld.errors import AuditError
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner

MODEL, STEPS, SEED = "a" * 64, 20, 2
PLANNER = CEMPlanner(CEMConfig.icem(samples=24, iterations=2))


def agent(forecaster, **options):
    return insulin_agent(forecaster, **{"seed": SEED, "planner": PLANNER, **options})


@pytest.fixture(scope="module")
def recorded(forecaster, tmp_path_factory):
    """The log of a short closed loop of 3 patients, its head, and what was done."""
    folder = tmp_path_factory.mktemp("log")
    patients = load_patients((UNSEEN[0], UNSEEN[7], UNSEEN[14]))
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1, dropout_per_day=20.0), seed=1))
    recorder = Recorder(folder / "audit", MODEL)
    steps = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_agent(
        insulin_agent(forecaster, planner=PLANNER, recorder=recorder, seed=SEED),
        simulator,
        steps=STEPS,
        watch=lambda t, s, step: steps.append(step),
    )
    torch.set_num_threads(threads)
    recorder.close()
    return folder / "audit", steps


@pytest.fixture
def log(recorded, tmp_path):
    """A copy to break."""
    shutil.copytree(recorded[0], tmp_path / "audit")
    return tmp_path / "audit"


def test_the_log_verifies_and_holds_what_was_done(recorded):
    folder, steps = recorded
    report = audit.verify(folder, steps[-1].head)
    assert (report.records, report.inputs, report.head) == (STEPS, STEPS, steps[-1].head)
    assert len({step.head for step in steps}) == STEPS
    for entry, step in zip(audit.read(folder), steps, strict=True):
        record = entry.record
        assert record["decision"]["actions"] == step.actions.tolist()
        assert record["decision"]["reasons"] == [None if r is None else str(r) for r in step.reasons]
        assert record["subjects"] == [UNSEEN[0], UNSEEN[7], UNSEEN[14]]
        assert (record["model"], record["seed"], record["threads"]) == (MODEL, SEED, 1)
        assert record["profile"]["name"] == "standard"
        assert record["planner"] == {"name": "CEMPlanner", "config": PLANNER.config.model_dump(mode="json")}
    assert {"None", "stale or missing data"} <= {
        str(reason) for entry in audit.read(folder) for reason in entry.record["decision"]["reasons"]
    }


def test_the_replay_is_exact(recorded, forecaster):
    folder, steps = recorded
    report = replay(folder, agent(forecaster), MODEL, head=steps[-1].head)
    assert report.replayed == STEPS


def test_the_replay_uses_the_recorded_number_of_threads(recorded, forecaster, monkeypatch):
    used, plan = [], CEMPlanner.plan

    def watched(self, problem):
        used.append(torch.get_num_threads())
        return plan(self, problem)

    monkeypatch.setattr(CEMPlanner, "plan", watched)
    torch.set_num_threads(2)
    assert replay(recorded[0], agent(forecaster), MODEL).replayed == STEPS
    assert used == [1] * STEPS
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("number", [0, 7, STEPS - 1])
def test_one_altered_byte_of_an_input_is_found(log, forecaster, number):
    entry = list(audit.read(log))[number]
    path = log / "inputs" / f"{entry.inputs}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(AuditError, match=f"record {number}"):
        replay(log, agent(forecaster), MODEL)


def rebuilt(log, tmp_path, change):
    """A log whose chain is whole, of changed content: what a forger would write."""
    with AuditLog.open(tmp_path / "forged") as forged:
        for entry in audit.read(log):
            record, arrays = json.loads(json.dumps(entry.record)), dict(entry.arrays())
            change(record, arrays)
            forged.append(record, arrays)
    return tmp_path / "forged"


def test_a_forged_input_under_a_whole_chain_is_found_by_its_decision(log, forecaster, tmp_path):
    def change(record, arrays):
        arrays["history.cgm"] = arrays["history.cgm"] + 40.0
        arrays["belief.last"] = arrays["belief.last"] + np.float32(0.5)

    forged = rebuilt(log, tmp_path, change)
    audit.verify(forged)
    with pytest.raises(AuditError, match="replay differs"):
        replay(forged, agent(forecaster), MODEL)


def test_a_forged_dose_is_found(log, forecaster, tmp_path):
    def change(record, arrays):
        record["decision"]["actions"][1][0] += 2.0**-40

    with pytest.raises(AuditError, match=r"actions\[1\]"):
        replay(rebuilt(log, tmp_path, change), agent(forecaster), MODEL)


def test_keys_of_another_seed_than_the_one_recorded_are_found(log, forecaster, tmp_path):
    def change(record, arrays):
        arrays["keys"] = arrays["keys"] + 1

    with pytest.raises(AuditError, match="random keys"):
        replay(rebuilt(log, tmp_path, change), agent(forecaster), MODEL)


@pytest.mark.parametrize("gone", ["history.cgm", "belief.state", "keys", "barred", "history_times"])
def test_a_decision_without_an_input_is_no_key_error(log, forecaster, tmp_path, gone):
    def change(record, arrays):
        del arrays[gone]

    with pytest.raises(AuditError, match=gone if gone != "keys" else "random keys"):
        replay(rebuilt(log, tmp_path, change), agent(forecaster), MODEL)


def test_a_decision_of_another_program_is_no_key_error(tmp_path, forecaster):
    with AuditLog.open(tmp_path / "other") as other:
        other.append({"decision": {"dose": 1.0}}, {"x": np.zeros(3)})
    with pytest.raises(AuditError, match="Recorder"):
        replay(tmp_path / "other", agent(forecaster), MODEL)


def test_another_model_is_refused(recorded, forecaster):
    with pytest.raises(AuditError, match="made by model aaaaaaaaaaaa, not bbbbbbbbbbbb"):
        replay(recorded[0], agent(forecaster), "b" * 64)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"seed": SEED + 1}, "seed 2, not 3"),
        ({"profile": PROFILES["tight"]}, "profile"),
        ({"planner": CEMPlanner(CEMConfig.icem(samples=25, iterations=2))}, "planner"),
        ({"limits": InsulinLimits(dia=360.0)}, "checker"),
    ],
)
def test_an_agent_of_other_settings_is_refused_before_anything_is_compared(recorded, forecaster, options, what):
    with pytest.raises(AuditError, match=f"made with {what}"):
        replay(recorded[0], agent(forecaster, **options), MODEL)


def test_no_temporary_file_is_left(recorded):
    names = sorted(path.name for path in recorded[0].rglob("*") if path.is_file())
    inputs = {f"{entry.inputs}.safetensors" for entry in audit.read(recorded[0])}
    assert set(names) == {"log.jsonl", *inputs}


def test_inputs_are_plain_arrays(recorded, tmp_path):
    entry = next(iter(audit.read(recorded[0])))
    arrays = load_file(recorded[0] / "inputs" / f"{entry.inputs}.safetensors")
    assert arrays["history.cgm"].shape == (3, 1) and arrays["barred"].tolist() == [0, 0, 0]
    save_file(arrays, tmp_path / "copy.safetensors")


def test_recording_changes_no_decision(recorded, forecaster):
    patients = load_patients((UNSEEN[0], UNSEEN[7], UNSEEN[14]))
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1, dropout_per_day=20.0), seed=1))
    loop = run_agent(agent(forecaster), simulator, steps=STEPS)
    np.testing.assert_array_equal(loop.insulin, np.stack([step.actions[:, 0] for step in recorded[1]], axis=1))
