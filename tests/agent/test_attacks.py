"""Searches for proposals that get past the checker: none is found, and a checker with a hole is found out."""

import dataclasses

import numpy as np
import pytest
from attacks import ATTACKS, accepts, from_model, greatest_accepted, measured_from
from proposals import history
from reference_checker import allows, greatest_doses

from foreworld.agent.check import Checker
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.rules import insulin_rules

CHECKER = Checker(insulin_rules())
SEARCHES = {"random": 60, "boundary": 60, "gradient": 6, "secant": 8, "decision": 6, "greedy": 1}
EDGE = 1e-9


def breaches(checker, proposals):
    """What was accepted against the reference, or refused against it; and how many were refused and accepted."""
    wrong, right = [], [0, 0]
    for state, action in proposals:
        accepted = checker.check(measured_from(state), action).accepted
        if accepted and not allows(state, action, 1e-6 + EDGE, EDGE)[0]:
            wrong.append(("breach", action))
        if not accepted and allows(state, action, 1e-6 - EDGE, -EDGE)[0]:
            wrong.append(("false refusal", action))
        right[accepted] += 1
    return wrong, right


def searched(checker, kind, searches, seed=3):
    for i in range(searches):
        yield from ATTACKS[kind](checker, np.random.default_rng([seed, i]))


@pytest.mark.parametrize("kind", SEARCHES)
def test_no_search_finds_a_proposal_that_the_checker_accepts_and_the_reference_refuses(kind):
    wrong, (refused, accepted) = breaches(CHECKER, searched(CHECKER, kind, SEARCHES[kind]))
    assert wrong == []
    assert refused > 0 and accepted > 0  # a search that stays on one side of the boundary shows nothing


def test_the_gradient_of_a_world_model_leads_to_nothing_that_is_accepted_beyond_the_limits(forecaster, past):
    proposals = list(from_model(forecaster, CHECKER, past, np.random.default_rng(0)))
    wrong, (refused, _) = breaches(CHECKER, proposals)
    assert wrong == []
    assert refused > len(proposals) / 4


HOLES = {
    "max_iob": {"iob_basal_hours": 12.1, "iob_carbs": 151.0, "iob_per_kg": 0.505},
    "justified_bolus": {"carb_factor": 1.701, "free_basal_hours": 4.01},
    "step_dose": {"step_basal_multiplier": 4.001, "step_bolus_carbs": 100.01, "step_bolus": 10.001},
    "bolus_size": {"bolus_per_kg": 0.4004},
    "max_age": {"max_age": 12.5},
    "threshold": {"min_bg": 99.5},
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_search_finds_a_limit_that_is_a_little_too_loose(hole):
    loose = Checker(insulin_rules(dataclasses.replace(InsulinLimits(), **HOLES[hole])))
    for i in range(60):
        for kind in ("secant", "decision"):
            wrong, _ = breaches(loose, ATTACKS[kind](loose, np.random.default_rng([8, i])))
            if any(what == "breach" for what, _ in wrong):
                return
    raise AssertionError(f"no breach of {hole} found")


def test_the_greatest_accepted_dose_is_the_reference_s_greatest():
    compared = 0
    for seed in range(30):
        state = history(np.random.default_rng(seed))
        found, most = greatest_accepted(CHECKER, state), min(greatest_doses(state, 1e-6, 0.0).values())
        assert found == pytest.approx(most, rel=1e-6, abs=1e-12)
        if found > 0:
            assert accepts(CHECKER, state, found) and not accepts(CHECKER, state, found * 1.001)
            compared += 1
    assert compared > 8
