import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests.agent.tiny import RAILS, trajectory

from foreworld.agent.agent import ACTORS, Actor, Agent
from foreworld.agent.check import Checker, Measured, Rule
from foreworld.agent.configurator import Configurator
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.loop import insulin_agent, run_agent
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import UNSEEN, load_patients
from foreworld.domains.treatment.task import PROFILES, InsulinTask
from foreworld.errors import AuditError, InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.belief import History
from foreworld.planning.plan import Plan, Reason, Refusal
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.planners.judged import judge

EVERYONE = list(range(7))
NOW = 90  # breakfast


@dataclass(frozen=True, kw_only=True)
class NothingAbove(Rule):
    """Refuses whatever is above a level."""

    level: float

    def judge(self, measured, value):
        if value <= self.level:
            return None
        return self.refuse(value, self.level, f"{value:g} U is above {self.level:g} U")


def strict(forecaster, level, **options):
    """An agent whose checker lets only doses up to a level pass."""
    rules = [NothingAbove(name="nothing_above", channel="insulin", unit="U", level=level)]
    return Agent(
        forecaster,
        InsulinTask(),
        CEMPlanner(CEMConfig.icem(samples=16, iterations=2)),
        configurator=Configurator(PROFILES["standard"]),
        checker=Checker(rules),
        **options,
    )


def tuned(forecaster, **update):
    """The forecaster with another calibration."""
    return Forecaster(forecaster.model, forecaster.calibration.model_copy(update=update))


def open_minded(forecaster):
    """Nothing is novel and every margin is as predicted: plans are found."""
    return tuned(forecaster, novelty=None, trajectory=trajectory(-1000.0))


def broken(forecaster):
    model = copy.deepcopy(forecaster.model)
    with torch.no_grad():
        model.dynamics.baseline.bias.fill_(torch.nan)
    return Forecaster(model, forecaster.calibration)


def decide(forecaster, past, rows=EVERYONE, steps=1, now=NOW, agent=None, **options):
    agent = past.begin(agent or insulin_agent(forecaster, **options), rows, now)
    return agent, [agent.decide(5.0 * t, past.values(t, rows)) for t in range(now, now + steps)]


def fallback_of(step, task=None):
    return (task or InsulinTask()).fallback(step.decisions.problem.history).numpy()


def names(step):
    return [ACTORS[int(actor)] for actor in step.actors]


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_", [True, False])
def test_a_decision_does_not_depend_on_its_batch_nor_on_the_order_of_it(forecaster, past, open_):
    chosen = open_minded(forecaster) if open_ else forecaster
    steps = 16  # longer than the encoder's clock
    _, together = decide(chosen, past, steps=steps)
    mixed = [4, 2, 6, 0, 5, 1, 3]
    _, shuffled = decide(chosen, past, mixed, steps=steps)
    alone = [decide(chosen, past, [row], steps=steps)[1] for row in EVERYONE]
    assert len({round(float(dose), 4) for step in together for dose in step.actions[:, 0]}) > 10
    for t, step in enumerate(together):
        ours = np.concatenate([alone[row][t].actions for row in EVERYONE])
        np.testing.assert_allclose(ours, step.actions, atol=1e-5, rtol=0)
        np.testing.assert_allclose(shuffled[t].actions, step.actions[mixed], atol=1e-5, rtol=0)
        assert [alone[row][t].reasons[0] for row in EVERYONE] == list(step.reasons)
        assert [step.actors[row] for row in mixed] == shuffled[t].actors.tolist()


def test_who_is_kept_goes_on_as_if_alone(forecaster, past):
    left = [5, 2]
    agent, _ = decide(open_minded(forecaster), past, steps=9)
    other, _ = decide(open_minded(forecaster), past, left, steps=9)
    agent.keep([agent.memory.subjects[row] for row in left])
    assert agent.memory.subjects == other.memory.subjects
    for t in (9, 10):
        ours, theirs = (one.decide(5.0 * (NOW + t), past.values(NOW + t, left)) for one in (agent, other))
        np.testing.assert_allclose(ours.actions, theirs.actions, atol=1e-5, rtol=0)
        assert ours.reasons == theirs.reasons
    np.testing.assert_allclose(agent.monitor.surprise, other.monitor.surprise, atol=1e-5)
    for names in ([], ["nobody"], [agent.memory.subjects[0]] * 2):
        with pytest.raises(InputError, match="served"):
            agent.keep(names)
    assert len(agent.memory.subjects) == 2


def test_the_same_seed_decides_the_same_and_another_seed_searches_elsewhere(forecaster, past):
    one, two, other = (decide(open_minded(forecaster), past, seed=seed)[1][0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.actions, two.actions)
    assert not np.array_equal(one.actions, other.actions)


def test_streaming_comes_to_the_same_belief_as_telling_the_whole_past_at_once(forecaster, past):
    agent, steps = decide(forecaster, past, steps=14)
    whole = forecaster.model.encode(steps[-1].decisions.problem.history)
    torch.testing.assert_close(agent.belief.state, whole.state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(agent.belief.memory, whole.memory, atol=1e-4, rtol=1e-4)


# --- the chain -------------------------------------------------------------------------------------------------------


def test_a_plan_is_done_as_planned_and_explained_with_its_figures(forecaster, past):
    _, (step,) = decide(open_minded(forecaster), past)
    planned = [i for i, reason in enumerate(step.reasons) if reason is None]
    assert planned
    for i in planned:
        answer = step.answer(i)
        assert isinstance(answer, Plan)
        assert names(step)[i] is Actor.planner and step.verdicts[i].accepted
        assert step.actions[i, 0] == float(answer.actions[0, 0])
        text = answer.explain()
        assert f"insulin {step.actions[i, 0]:.3g}" in text
        assert all(f"{name} with {value:.3g}" in text for name, value in answer.margins.items())
        assert " in 5 min" in text
        np.testing.assert_allclose(step.margins[i], [answer.margins[name] for name in step.guardrails], rtol=1e-6)


def test_stale_data_are_refused_and_the_fallback_acts(forecaster, past):
    silent = past.without(2, NOW - 4, NOW + 1)
    _, (step,) = decide(open_minded(forecaster), silent)
    assert step.reasons[2] is Reason.stale_data and names(step)[2] is Actor.fallback
    assert step.reasons.count(Reason.stale_data) == 1
    assert step.actions[2, 0] == fallback_of(step)[2, 0]
    answer = step.answer(2)
    assert isinstance(answer, Refusal) and answer.reason is Reason.stale_data
    assert "the last cgm is 25 min old" in answer.explain()
    assert f"the fallback does insulin {step.actions[2, 0]:.3g} U" in answer.explain()


@pytest.mark.parametrize(("gap", "stale"), [(2, False), (3, False), (4, True)])
def test_data_are_stale_from_beyond_fifteen_minutes(forecaster, past, gap, stale):
    _, (step,) = decide(open_minded(forecaster), past.without(0, NOW + 1 - gap, NOW + 1))
    assert (step.reasons[0] is Reason.stale_data) == stale


def test_a_subject_that_was_never_measured_is_refused(forecaster, past):
    _, (step,) = decide(forecaster, past.without(1, 0, NOW + 1))
    assert step.reasons[1] is Reason.stale_data
    assert "cgm was never measured" in step.answer(1).explain()


def test_too_few_moments_are_no_ground_for_a_plan(forecaster, past):
    agent = insulin_agent(open_minded(forecaster))
    agent.configurator = Configurator(PROFILES["standard"], least=3)
    _, steps = decide(None, past, steps=4, now=0, agent=agent)
    assert all(reason is Reason.stale_data for step in steps[:2] for reason in step.reasons)
    assert Reason.stale_data not in steps[3].reasons


def test_in_a_novel_state_the_fallback_acts(forecaster, past):
    novelty = forecaster.calibration.novelty.model_copy(update={"distance": 1e-6})
    _, (step,) = decide(tuned(forecaster, novelty=novelty), past)
    assert set(step.reasons) == {Reason.novel_state} and set(names(step)) == {Actor.fallback}
    np.testing.assert_array_equal(step.actions, fallback_of(step))
    told = float(step.decisions.chosen.forecast.novelty[0, 0])
    assert told > 1 and f"novelty {told:.2f}, limit 1" in step.answer(0).explain()


@pytest.mark.parametrize("bound", [2.0, 4.0, 200.0])
def test_without_a_feasible_plan_recovery_acts_within_the_checker_and_no_worse_than_the_fallback(
    forecaster, past, bound
):
    agent, steps = decide(tuned(forecaster, novelty=None, trajectory=trajectory(bound)), past, steps=20)
    checker, recovered, better = Checker(insulin_rules(InsulinLimits())), 0, 0
    for step in steps:
        problem, chosen = step.decisions.problem, step.decisions.chosen
        helped = np.array([reason is Reason.no_safe_plan for reason in step.reasons])
        assert [actor is Actor.recovery for actor in names(step)] == helped.tolist()
        recovered += int(helped.sum())
        np.testing.assert_array_equal(step.actions, step.decisions.first.double().numpy())
        for i in np.flatnonzero(helped):
            assert checker.check(step.measured[i], {"insulin": step.actions[i, 0]}).accepted
        # The fallback's dose now, then basal: the third of what the task suggests.
        usual = judge(problem, problem.suggestions[:, 2:3])
        assert usual.blocks[:, 0, 0].allclose(agent.task.fallback(problem.history).float())
        weight = {rail.name: 10.0 ** (rail.severity - 5) for rail in problem.guardrails}
        ours, theirs = (
            torch.stack([margins[name] * weight[name] for name in weight]).amin(0)[:, 0].numpy()[helped]
            for margins in (chosen.margins, usual.margins)
        )
        assert (ours < 0).all()
        assert (ours >= theirs - 1e-5).all()
        better += int((theirs < ours - 1e-3).sum())
    # Otherwise nothing was compared.
    assert recovered > 20 and better > 10


def test_recovery_is_explained_with_what_is_broken_and_what_acts(forecaster, past):
    _, (step,) = decide(tuned(forecaster, novelty=None, trajectory=trajectory(200.0)), past)
    answer = step.answer(3)
    assert isinstance(answer, Refusal) and answer.reason is Reason.no_safe_plan
    margin = answer.margins["predicted_very_low"]
    assert margin < 0 and f"predicted_very_low misses its bound by {-margin:.3g} mg/dL" in answer.explain()
    assert f"the recovery does insulin {step.actions[3, 0]:.3g}" in answer.explain()


def test_a_model_that_gives_nan_is_refused_and_the_fallback_acts(forecaster, past):
    _, steps = decide(broken(forecaster), past, steps=3)
    for step in steps:
        assert set(step.reasons) == {Reason.model_invalid} and set(names(step)) == {Actor.fallback}
        np.testing.assert_array_equal(step.actions, fallback_of(step))
        assert "not finite" in step.answer(0).explain()


def test_a_checker_that_refuses_every_insulin_leaves_the_last_resort(forecaster, past):
    _, (step,) = decide(None, past, agent=strict(open_minded(forecaster), 0.0))
    assert (step.actions == 0).all()
    refused = [i for i, verdict in enumerate(step.verdicts) if not verdict.accepted]
    assert refused
    for i in refused:
        assert names(step)[i] is Actor.last_resort and step.reasons[i] is Reason.no_safe_plan
        answer = step.answer(i)
        assert isinstance(answer, Refusal)
        assert "The checker: nothing_above:" in answer.explain()
        assert "the last resort does insulin 0" in answer.explain()
    # Whoever gets nothing passes it.
    assert all(step.verdicts[i].accepted for i in EVERYONE if i not in refused)


def test_what_the_checker_refuses_is_replaced_by_the_fallback_and_its_words_are_kept(forecaster, past):
    chosen = open_minded(forecaster)
    _, (free,) = decide(chosen, past)
    usual = fallback_of(free)[:, 0]
    i = int(np.argmax(free.actions[:, 0] - usual))
    level = float(usual[i]) + 1e-9
    assert free.actions[i, 0] > level
    _, (step,) = decide(None, past, [i], agent=strict(chosen, level))
    assert names(step)[0] is Actor.fallback and step.actions[0, 0] == usual[i]
    assert step.reasons[0] is Reason.no_safe_plan
    proposed = float(step.decisions.first[0, 0])
    assert f"{proposed:g} U is above {level:g} U" in step.answer(0).explain()


@pytest.fixture
def blind(monkeypatch):
    """Whatever history is made for model, planner and fallback has lost the insulin that was given."""
    whole = History.from_arrays.__func__

    def lossy(cls, schema, times, values, masks=None):
        return whole(cls, schema, times, {**values, "insulin": np.zeros_like(values["insulin"])}, masks)

    monkeypatch.setattr(History, "from_arrays", classmethod(lossy))


def full_of_insulin(past):
    """The same people, high, ten minutes after as much insulin on board as the checker allows."""
    limits, s = InsulinLimits(), past.statics
    most = np.maximum(limits.iob_basal_hours * s["basal"], limits.iob_carbs / s["cr"])
    insulin, cgm = past.insulin.copy(), past.cgm.copy()
    insulin[:, NOW - 2] = np.minimum(most, limits.iob_per_kg * s["weight"])
    cgm[:, NOW - 6 :] += 150.0
    return dataclasses.replace(past, insulin=insulin, cgm=cgm)


@pytest.mark.parametrize("model", ["broken", "sound"])
def test_a_fault_in_making_histories_does_not_blind_the_checker(forecaster, past, blind, model):
    chosen, people = broken(forecaster) if model == "broken" else open_minded(forecaster), full_of_insulin(past)
    agent, (step,) = decide(chosen, people)
    assert not step.decisions.problem.history.values["insulin"].any()
    proposed = fallback_of(step) if model == "broken" else step.decisions.first.double().numpy()
    over = np.flatnonzero(proposed[:, 0] > people.statics["basal"] / 12.0 + 1e-3)
    assert len(over)
    for i in over:
        assert "max_iob" in {reason.rule for reason in step.verdicts[i].reasons}
    assert (step.actions[over] <= people.statics["basal"][over, None] / 12.0 + 1e-6).all()
    for i in EVERYONE:
        known = Measured(
            5.0 * np.arange(NOW + 1),
            {"cgm": people.cgm[i, : NOW + 1]},
            {"insulin": people.insulin[i, :NOW]},
            {"carbs": people.carbs[i, : NOW + 1]},
            {name: float(value[i]) for name, value in people.statics.items()},
        )
        assert agent.checker.check(known, {"insulin": step.actions[i, 0]}).accepted


def test_what_the_checker_looks_at_shares_no_memory_with_what_others_are_given(forecaster, past):
    agent, (step,) = decide(forecaster, past)
    for value in step.decisions.problem.history.values.values():
        value.fill_(0)
    assert step.measured[0].actions["insulin"].any() and step.measured[0].static("basal") > 0
    assert agent.memory.statics["basal"].all()


def test_the_checkers_verdict_on_the_fallback_is_told_beside_the_reason(forecaster, past):
    _, (step,) = decide(None, past, agent=strict(broken(forecaster), 0.0))
    i = int(np.argmax(fallback_of(step)[:, 0]))
    text = step.answer(i).explain()
    assert step.reasons[i] is Reason.model_invalid and names(step)[i] is Actor.last_resort
    assert "not finite" in text and "The checker: nothing_above" in text


# --- memory and order ------------------------------------------------------------------------------------------------


def test_time_must_increase(forecaster, past):
    agent, (step,) = decide(forecaster, past)
    with pytest.raises(InputError, match="backwards"):
        agent.decide(5.0 * NOW, past.values(NOW, EVERYONE))
    assert step.actions.shape == (7, 1)
    agent.decide(5.0 * (NOW + 1), past.values(NOW + 1, EVERYONE))


def test_nobody_is_served_before_the_start(forecaster, past):
    with pytest.raises(InputError, match="start"):
        insulin_agent(forecaster).decide(0.0, past.values(0, EVERYONE))


def test_memory_holds_what_was_believed_done_and_expected(forecaster, past):
    agent, steps = decide(forecaster, past, steps=3)
    kept = agent.memory.decisions
    assert [entry.time for entry in kept] == [5.0 * t for t in range(NOW, NOW + 3)]
    for entry, step in zip(kept, steps, strict=True):
        chosen = step.decisions.chosen
        np.testing.assert_array_equal(entry.action, step.actions)
        np.testing.assert_array_equal(entry.predicted["cgm"], chosen.forecast.mean["cgm"][:, 0])
        np.testing.assert_array_equal(entry.margins["dose_limit"], step.margins[:, 2])
        np.testing.assert_array_equal(entry.cost, chosen.cost[:, 0])
        assert torch.equal(entry.belief.time, torch.full((7,), entry.time, dtype=torch.float64))
    assert set(kept[0].margins) == {"predicted_low", "predicted_very_low", "dose_limit", "covered_dose"}
    assert kept[-1].belief is agent.belief


def test_what_was_done_is_part_of_the_next_history(forecaster, past):
    agent, steps = decide(forecaster, past, steps=3)
    history = steps[2].decisions.problem.history
    np.testing.assert_array_equal(history.values["insulin"][:, -2:], np.stack([s.actions[:, 0] for s in steps[:2]], 1))
    np.testing.assert_array_equal(history.values["insulin"][:, :NOW], past.insulin[:, :NOW])
    assert agent.memory.arrays()[1]["insulin"].shape[1] == NOW + 2


class Full:
    """A recorder without room."""

    def __init__(self):
        self.full = True

    def append(self, *inputs):
        if self.full:
            raise AuditError("could not append; free disk space")
        return "head"


def test_a_decision_that_fails_leaves_the_agent_as_it_was(forecaster, past):
    recorder = Full()
    agent = past.begin(insulin_agent(forecaster, recorder=recorder), EVERYONE, NOW)
    with pytest.raises(AuditError):
        agent.decide(5.0 * NOW, past.values(NOW, EVERYONE))
    assert agent.belief is None and len(agent.memory) == NOW and not agent.memory.decisions
    with pytest.raises(InputError):
        agent.decide(5.0 * NOW, {**past.values(NOW, EVERYONE), "carbs": np.full(7, np.nan)})
    recorder.full = False
    again = [agent.decide(5.0 * t, past.values(t, EVERYONE)) for t in (NOW, NOW + 1)]
    recorder.full = True
    with pytest.raises(AuditError):
        agent.decide(5.0 * (NOW + 2), past.values(NOW + 2, EVERYONE))
    recorder.full = False
    again.append(agent.decide(5.0 * (NOW + 2), past.values(NOW + 2, EVERYONE)))
    _, plain = decide(forecaster, past, steps=3)
    for one, other in zip(again, plain, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
    assert again[0].head == "head"


def test_refusals_are_counted_by_reason_in_a_loop(forecaster):
    patients = load_patients(UNSEEN[:3])
    config = ScenarioConfig(days=1, dropout_per_day=30.0)
    simulator = Simulator(patients, Scenario.draw(patients, config, seed=2))
    steps = []
    loop = run_agent(insulin_agent(forecaster), simulator, steps=50, watch=lambda t, s, step: steps.append(step))
    counted = [reason for step in steps for reason in step.reasons if reason is not None]
    assert loop.refusals == {str(reason): counted.count(reason) for reason in set(counted)}
    assert str(Reason.stale_data) in loop.refusals
    assert sum(loop.refusals.values()) == int((loop.actors != ACTORS.index(Actor.planner)).sum())
    np.testing.assert_array_equal(loop.insulin, np.stack([step.actions[:, 0] for step in steps], axis=1))


def test_the_profile_ranks_and_leaves_every_guardrail_alone(forecaster, past):
    chosen = open_minded(forecaster)
    one, two = (decide(chosen, past, profile=PROFILES[name])[1][0] for name in ("standard", "tight"))
    assert one.decisions.provenance["guardrails"] == two.decisions.provenance["guardrails"]
    assert one.guardrails == two.guardrails and set(one.guardrails) >= {rail.name for rail in RAILS}
    assert not np.array_equal(one.decisions.chosen.cost, two.decisions.chosen.cost)
