"""Answers: plans and refusals, their reasons and their words."""

import math

import pytest
import torch

from foreworld.conformance.toy import GUARDRAILS, ToyObjective, toy_problem
from foreworld.planning.guardrail import StateGuardrail
from foreworld.planning.plan import Plan, Reason, Refusal
from foreworld.planning.planners.cem import CEMPlanner
from foreworld.planning.planners.judged import Judged, judge


def answer(fields, **settings):
    return CEMPlanner().plan(toy_problem(fields, **settings))[0]


def test_a_plan_explains_itself_with_its_own_figures():
    plan = answer({"start": (5.0,)}, objective=ToyObjective(target=-100.0))
    assert isinstance(plan, Plan)
    text = plan.explain()
    assert f"push {float(plan.actions[0, 0]):.3g}" in text
    assert all(f"{name} with {value:.3g}" in text for name, value in plan.margins.items())
    assert f"{float(plan.forecast.mean['level'][0, 0, -1]):.3g}" in text
    assert "90% band" in text
    best = plan.rejected[0]
    assert f"starting with push {float(best.actions[0, 0]):.3g} was rejected by {best.guardrail}" in text
    assert best.cost < plan.cost and not best.margin >= 0
    assert plan.provenance["planner"] == "CEMPlanner"


def test_small_quantities_keep_their_digits():
    plan = answer({"start": (2.75,), "gain": (0.0,)})
    assert "2.75" in plan.explain()


def test_no_alternative_is_named_when_nothing_cheaper_was_rejected():
    plan = answer({"start": (50.0,)}, objective=ToyObjective(target=50.0))
    assert isinstance(plan, Plan) and plan.rejected == ()
    assert "rejected" not in plan.explain()


def test_a_refusal_says_which_guardrail_is_missed_and_by_how_much():
    refusal = answer({"start": (-50.0,)})
    assert isinstance(refusal, Refusal) and refusal.reason is Reason.no_safe_plan
    assert f"Guardrail floor misses its bound by {-refusal.margins['floor']:.3g}" in refusal.explain()
    assert refusal.margins["floor"] < 0 <= refusal.margins["cap"]


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"strange": (1.5,)}, Reason.novel_state, "novelty 1.50"),
        ({"vague": (1.0,)}, Reason.novel_state, "for 2 steps only; guardrail floor looks 8 steps ahead"),
        ({"broken": (1.0,)}, Reason.model_invalid, "not finite"),
        ({"strange": (math.nan,)}, Reason.model_invalid, "not finite"),
        ({"start": (math.inf,)}, Reason.model_invalid, "not finite"),
        ({"cap": (math.nan,)}, Reason.stale_data, "cap cannot be judged"),
    ],
)
def test_a_refusal_names_its_cause(fields, reason, words):
    refusal = answer(fields)
    assert isinstance(refusal, Refusal) and refusal.reason is reason
    assert words in refusal.explain()


def test_a_usable_horizon_that_reaches_the_guardrail_is_no_cause_for_refusal():
    near = StateGuardrail(name="floor", quantity="level", bound=2.0, unit="", source="t", risk=0.1, horizon=2)
    assert isinstance(answer({"vague": (1.0,)}, guardrails=(near,)), Plan)


def test_a_nan_cost_refuses():
    refusal = answer({"start": (5.0,)}, objective=ToyObjective(broken=True))
    assert isinstance(refusal, Refusal) and refusal.reason is Reason.model_invalid


def test_indices_run_as_in_a_list():
    decisions = CEMPlanner().plan(toy_problem({"start": (5.0, -50.0)}))
    assert isinstance(decisions[-1], Refusal) and isinstance(decisions[-2], Plan)
    assert [isinstance(answer, Plan) for answer in decisions] == [True, False]
    with pytest.raises(IndexError):
        decisions[2]


def ranked(fields, values, **settings) -> Judged:
    problem = toy_problem(fields, **settings)
    blocks = torch.tensor(values).reshape(1, -1, 1, 1).expand(len(problem), -1, 2, 1)
    return judge(problem, blocks)


def test_a_lesser_violation_ranks_before_a_greater_one_however_small_the_difference():
    judged = ranked({"start": (-50.0,), "gain": (0.1,)}, [0.5, 0.5001, 0.501, 0.6])
    assert not judged.feasible.any()
    assert (torch.diff(judged.key[0]) < 0).all()


@pytest.mark.parametrize("bribe", [1e9, 1e15, 1e30, 1e36])
def test_no_reward_buys_a_violation(bribe):
    # 0.95 is above the cap of 0.9, and paid for.
    judged = ranked({"start": (5.0,)}, [0.5, 0.95], objective=ToyObjective(bribe=bribe))
    assert judged.feasible[0].tolist() == [True, False]
    assert judged.key[0, 0] < judged.key[0, 1]


@pytest.mark.parametrize("target", [1e10, 1e16])
def test_no_cost_however_high_ranks_a_feasible_candidate_below_an_infeasible_one(target):
    judged = ranked({"start": (5.0,)}, [0.5, 0.95], objective=ToyObjective(target=target))
    assert judged.cost[0, 0] > 1e18
    assert judged.key[0, 0] < judged.key[0, 1]


def test_the_nearest_candidate_breaks_no_action_guardrail_to_mend_a_state_guardrail():
    # Pushing above the cap would lessen the violation of the floor by much more than it breaks the cap.
    judged = ranked({"start": (-50.0,), "gain": (10.0,)}, [0.5, 0.95])
    assert judged.margins["floor"][0, 1] > judged.margins["floor"][0, 0] + 1
    assert judged.key[0, 0] < judged.key[0, 1]


def test_a_known_violation_ranks_before_one_that_cannot_be_told():
    rails = (GUARDRAILS[0],)
    bad = ranked({"start": (-50.0, 5.0), "vague": (0.0, 1.0)}, [0.5], guardrails=rails)
    assert bad.key[0, 0] < bad.key[1, 0]
    assert torch.isnan(bad.margins["floor"][1, 0])
