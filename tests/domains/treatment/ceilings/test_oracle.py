"""The oracle knows what is true now, and nothing of meals that have not begun."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.ceilings.oracle import Oracle, make_oracle
from foreworld.domains.treatment.ceilings.task import ceiling_agent
from foreworld.domains.treatment.collect import statics_of
from foreworld.domains.treatment.loop import insulin_agent, planner_share, run_agent
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner

NAMES = ("adult#001", "child#002")
FEW = CEMConfig.icem(samples=16, iterations=2)


def world(minute, announced=True, grams=60.0):
    """A simulator with one meal of `grams` at `minute`, counted a third too low."""
    patients = load_patients(NAMES)
    scenario = Scenario.draw(patients, ScenarioConfig(days=1), seed=7)
    meals, counts = np.zeros_like(scenario.meals), np.zeros_like(scenario.announced)
    meals[:, minute] = grams
    if announced:
        counts[:, -(-minute // 5)] = 40.0
    return Simulator(patients, replace(scenario, meals=meals, announced=counts))


def advance_to(simulator, minute):
    while simulator.minute < minute:
        simulator.step(simulator.patients.basal / 12)


def believed(simulator):
    times = np.full((len(NAMES), 1), float(simulator.minute))
    values = {"cgm": np.full((2, 1), np.nan), "carbs": np.zeros((2, 1)), "insulin": np.zeros((2, 0))}
    return History.from_arrays(SCHEMA, times, values | statics_of(simulator.patients))


def appearing(simulator):
    """[B] g/kg that appear within twelve hours, as the oracle sees it now."""
    oracle = Oracle(simulator)
    return oracle.prepare(oracle.encode(believed(simulator))).scenarios.appearance[0].sum(-1)


def test_a_meal_is_unknown_until_its_first_bite_and_then_known_in_true_grams():
    simulator, twice = world(62), world(62, grams=120.0)
    for each in (simulator, twice):
        advance_to(each, 60)
        assert (appearing(each) == 0.0).all()
        advance_to(each, 65)
    np.testing.assert_allclose(appearing(twice), 2.0 * appearing(simulator), rtol=0.05)


def test_a_meal_of_this_very_minute_is_known_only_if_it_is_announced():
    told, untold = world(60), world(60, announced=False)
    for each in (told, untold):
        advance_to(each, 60)
    assert (appearing(told) > 0.0).all()
    assert (appearing(untold) == 0.0).all()


def test_refuses_another_time_than_the_simulators():
    simulator = world(60)
    early = believed(simulator)
    advance_to(simulator, 30)
    with pytest.raises(InputError, match="minute 30"):
        Oracle(simulator).encode(early)


def test_a_forecast_of_the_oracle_comes_true():
    simulator = world(62)
    advance_to(simulator, 90)
    forecaster = make_oracle(simulator)
    usual = torch.from_numpy(simulator.patients.basal / 12)[:, None, None, None]
    imagined = forecaster.begin(forecaster.model.encode(believed(simulator)))
    forecast = forecaster.forecast(imagined, usual.expand(2, 1, len(forecaster.points), 1))
    # Scenarios of one truth differ by the milligram that the oracle leaves to rounding.
    assert float(forecast.samples["cgm"].std(0).max()) < 1.0
    branch = simulator.clone()
    truth = []
    for _ in range(144):
        branch.step(simulator.patients.basal / 12)
        truth.append(branch.bg)
    np.testing.assert_allclose(
        forecast.mean["cgm"][:, 0].numpy(), np.array(truth).T[:, forecaster.points.numpy() - 1], atol=0.5
    )


@pytest.mark.parametrize("make", [insulin_agent, ceiling_agent])
def test_the_planner_on_the_truth_keeps_a_meal_within_range(make):
    simulator = world(62, grams=30.0)
    loop = run_agent(make(make_oracle(simulator), planner=CEMPlanner(FEW)), simulator, steps=72)
    assert loop.bg.min() > 75.0
    assert loop.bg.max() < 200.0
    assert (planner_share(loop) == 1.0).all()
