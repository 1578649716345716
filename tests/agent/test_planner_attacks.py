"""Whole agents under attack: whatever is broken, nothing is done that the reference refuses."""

import dataclasses
from collections import Counter

import numpy as np
import planner_attacks
import pytest
from planner_attacks import ATTACKS, PLANNERS, Mutinous, agent_of, attempt, ward

from foreworld.agent.check import Checker
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.rules import insulin_rules

BREACHES = ("breaches", "plan_breaches", "outside_action_guardrails")


@pytest.mark.parametrize("name", PLANNERS)
def test_nothing_is_done_that_the_reference_refuses_whatever_is_attacked(forecaster, name):
    total = Counter()
    for number, attack in enumerate(ATTACKS):
        found = attempt(forecaster, PLANNERS[name], attack, np.random.default_rng([5, number]), size=8)
        assert {key: found[key] for key in BREACHES} == dict.fromkeys(BREACHES, 0), attack
        total += found
    assert total["decisions"] == 8 * len(ATTACKS)
    assert min(total[who] for who in ("planner", "recovery", "fallback", "last resort")) > 0
    assert total["refused_by_checker"] > 0  # or the attacks were too tame to need it


def test_the_judge_sees_an_agent_whose_checker_was_loosened(forecaster, monkeypatch):
    usual = InsulinLimits()
    loose = dataclasses.replace(usual, **{name: getattr(usual, name) * 4 for name in planner_attacks.LOOSE})

    def gullible(*options):
        agent = agent_of(*options)
        agent.checker = Checker(insulin_rules(loose))
        return agent

    monkeypatch.setattr(planner_attacks, "agent_of", gullible)
    found = Counter()
    for seed in range(24):
        found += attempt(forecaster, PLANNERS["icem"], "standard of care", np.random.default_rng(seed))
    assert found["breaches"] > 0
    assert found["outside_action_guardrails"] > 0


def test_the_judge_sees_a_planner_that_calls_a_plan_feasible_which_is_not(forecaster):
    mutinous, found = Mutinous(PLANNERS["icem"], 2.0), Counter()
    for seed in range(6):
        found += attempt(forecaster, mutinous, "none", np.random.default_rng(seed))
    assert found["plan_breaches"] > 0
    assert found["breaches"] == found["outside_action_guardrails"] == 0


@pytest.mark.parametrize("extreme", [False, True])
def test_a_ward_is_what_a_memory_would_take(extreme):
    told = ward(np.random.default_rng(0), 12, extreme)
    for name in ("insulin", "carbs", "weight", "basal", "cr", "cf"):
        assert np.isfinite(told.values[name].numpy()).all()
    assert (np.diff(told.times.numpy(), axis=1) > 0).all()
