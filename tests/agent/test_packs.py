"""Guardrail packs in decisions: what is planned with, told, recorded and replayed."""

from pathlib import Path

import pytest
import torch
from tests.agent.tiny import RAILS

from foreworld.agent import audit
from foreworld.agent.record import Recorder, replay
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.pack import BUILT_IN, floor, insulin_limits, load_pack
from foreworld.errors import AuditError, InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner

STRICT = Path(__file__).parents[2] / "docs" / "examples" / "strict.toml"
PLANNER = CEMPlanner(CEMConfig.icem(samples=16, iterations=1))
MODEL, NOW = "a" * 64, 150
WHY = "trial 7, approved by the board"


@pytest.fixture(scope="module")
def ready(forecaster):
    """Calibrated at the levels that packs may ask for, so that plans are found."""
    levels = {f"{risk:g}": -1000.0 for risk in (0.05, 0.1, 0.2)}
    trajectory = {rail.name: levels for rail in RAILS}
    update = {"trajectory": trajectory, "novelty": None}
    return Forecaster(forecaster.model, forecaster.calibration.model_copy(update=update))


@pytest.fixture
def weak(tmp_path):
    path = tmp_path / "weak.toml"
    text = BUILT_IN.read_text(encoding="utf-8").replace("bound = 70.0", "bound = 60.0")
    path.write_text(text.replace("step_bolus = 10.0", "step_bolus = 12.0"), encoding="utf-8")
    return load_pack(path, override=WHY)


def decide(forecaster, past, **options):
    agent = past.begin(insulin_agent(forecaster, planner=PLANNER, **options), [0, 1], NOW)
    return agent, agent.decide(5.0 * NOW, past.values(NOW, [0, 1]))


def test_the_default_agent_plans_with_the_built_in_pack(ready, past):
    agent, step = decide(ready, past)
    same, again = decide(ready, past, pack=floor())
    assert agent.pack is floor() and agent.checker.digest == same.checker.digest
    assert step.decisions.provenance == again.decisions.provenance
    torch.testing.assert_close(torch.from_numpy(step.actions), torch.from_numpy(again.actions), atol=0, rtol=0)


def test_every_decision_carries_the_hash_of_its_pack(ready, past, tmp_path):
    for name, pack in (("floor", floor()), ("strict", load_pack(STRICT))):
        recorder = Recorder(tmp_path / name, MODEL)
        _, step = decide(ready, past, pack=pack, recorder=recorder)
        recorder.close()
        assert step.answer(0).provenance["pack"]["hash"] == pack.hash
        assert [entry.record["pack"] for entry in audit.read(tmp_path / name)] == [pack.note()]


def test_a_pack_gives_planner_and_checker_their_numbers(ready, past):
    strict = load_pack(STRICT)
    agent, step = decide(ready, past, pack=strict)
    assert [g.bound for g in agent.task.guardrails[:2]] == [80.0, 54.0] and agent.task.guardrails[0].risk == 0.1
    assert agent.task.guardrails[2].limits == agent.task.limits == insulin_limits(strict)
    assert agent.checker.digest == insulin_agent(ready, limits=insulin_limits(strict)).checker.digest
    _, usual = decide(ready, past)
    low = step.decisions.problem.guardrails[0]
    assert step.decisions.provenance["guardrails"] != usual.decisions.provenance["guardrails"]
    assert low.bound == 80.0


def test_a_weakened_pack_is_told_and_recorded_with_its_reason(ready, past, weak, tmp_path):
    recorder = Recorder(tmp_path / "log", MODEL)
    _, step = decide(ready, past, pack=weak, recorder=recorder)
    silent = past.without(1, NOW - 6, NOW + 1)
    _, refused = decide(ready, silent, pack=weak)
    recorder.close()
    for answer in (step.answer(0), refused.answer(1)):
        text = answer.explain()
        assert WHY in text and weak.hash[:12] in text
        assert "guardrail predicted_low bound: 60 mg/dL, floor 70 mg/dL" in text
    [entry] = audit.read(tmp_path / "log")
    assert entry.record["pack"]["override"] == WHY
    assert entry.record["pack"]["weaker"][1] == "limit step_bolus: 12 U, floor 10 U"


def test_a_replay_with_another_pack_is_refused(ready, past, weak, tmp_path):
    recorder = Recorder(tmp_path / "log", MODEL)
    decide(ready, past, pack=weak, recorder=recorder)
    recorder.close()
    same = insulin_agent(ready, planner=PLANNER, pack=weak)
    assert replay(tmp_path / "log", same, MODEL).replayed == 1
    for pack in (floor(), load_pack(STRICT)):
        with pytest.raises(AuditError, match=r"checker|pack"):
            replay(tmp_path / "log", insulin_agent(ready, planner=PLANNER, pack=pack), MODEL)


def test_what_does_not_fit_together_is_refused(ready, forecaster, tmp_path):
    with pytest.raises(InputError, match="not both"):
        insulin_agent(ready, limits=InsulinLimits(), pack=floor())
    with pytest.raises(InputError, match=r"predicted_low was not calibrated at risk 0\.1: .*predicted_low at 0\.2"):
        insulin_agent(forecaster, pack=load_pack(STRICT))
    longer = tmp_path / "longer.toml"
    longer.write_text(BUILT_IN.read_text(encoding="utf-8").replace("horizon = 24", "horizon = 30"), encoding="utf-8")
    with pytest.raises(InputError, match="steps 12 to 30"):
        insulin_agent(ready, pack=load_pack(longer))


def test_without_guardrails_no_pack_is_claimed(ready):
    assert insulin_agent(ready, guarded=False).pack is None
    assert insulin_agent(ready, limits=InsulinLimits()).pack is None
