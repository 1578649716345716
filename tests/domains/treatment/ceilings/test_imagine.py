"""Coarse roll-outs of many candidates: they are the simulator's, for every patient."""

import numpy as np
import pytest

from foreworld.domains.treatment.ceilings.equations_model import GRID
from foreworld.domains.treatment.ceilings.imagine import FOOD_SCALE, Equations, insulin_of
from foreworld.domains.treatment.ceilings.kinetics import after, transition
from foreworld.domains.treatment.physiology import advance, initial_state
from foreworld.domains.treatment.tables import COLUMN, load_patients

POINTS = np.array(GRID.points)


def hungry(patients, meal_units="fixed"):
    """Every patient in the middle of things: one meal half digested, another on the table, boluses on board."""
    state = initial_state(patients)
    size = patients.weight / 78.0
    insulin = np.repeat((patients.basal / 60.0)[:, None], 300, axis=1)
    meals = np.zeros((len(patients), 300))
    meals[:, 200], meals[:, 291] = 40.0 * size, 80.0 * size
    insulin[:, 200] += 2.0 * size
    advance(state, patients.params, meals, insulin, meal_units=meal_units, floor=0.0)
    return state


def doses(patients, candidates, seed=0):
    draw = np.random.default_rng(seed)
    plan = draw.uniform(0.0, 2.0, (len(patients), candidates, len(POINTS))) * (patients.basal / 12.0)[:, None, None]
    plan[:, :, 0] += draw.uniform(0.0, 4.0, (len(patients), candidates)) * patients.weight[:, None] / 78.0
    return plan


def simulated(patients, state, plan, meals=None, meal_units="fixed", sensitivity=None):
    """[S, B, H] glucose at the points by the simulator's own integration."""
    interval = np.searchsorted(POINTS, np.arange(1, POINTS[-1] + 1))
    food = np.zeros((len(patients), 5 * POINTS[-1])) if meals is None else meals
    result = []
    for s in range(plan.shape[1]):
        rate = np.repeat(plan[:, s][:, interval] / 5.0, 5, axis=1)
        glucose = advance(state.copy(), patients.params, food, rate, sensitivity, meal_units=meal_units, floor=0.0)
        result.append(glucose[:, 5 * POINTS - 1])
    return np.stack(result)


def errors(found, truth):
    """Errors of those roll-outs that stay above 40 mg/dL; lower, the simulator holds pools still."""
    kept = truth.min(-1) > 40.0
    assert kept.mean() > 0.5
    return np.abs(found - truth)[kept]


@pytest.mark.parametrize("meal_units", ["fixed", "legacy"])
def test_a_roll_out_is_the_simulators_within_a_milligram_per_decilitre(meal_units):
    patients = load_patients()
    state, plan = hungry(patients, meal_units), doses(patients, 5)
    equations = Equations(patients.params, GRID.points, FOOD_SCALE[meal_units])
    scenarios = equations.scenarios(state[None], np.arange(len(patients)), insulin_of(state))
    found = equations.roll_out(scenarios, plan)[0].transpose(1, 0, 2)
    apart = errors(found, simulated(patients, state, plan, meal_units=meal_units))
    assert apart.max() < 1.0
    assert np.sqrt((apart**2).mean()) < 0.2


def test_meals_to_come_and_insulin_sensitivity_count():
    patients = load_patients(["adult#001", "adolescent#004", "child#007"])
    state, plan = hungry(patients), doses(patients, 3)
    meals = np.zeros((3, 720))
    meals[:, 62] = 50.0 * patients.weight / 78.0
    sensitivity = np.where(np.arange(144) < 60, 0.7, 1.2) * np.ones((3, 1))
    coming = np.stack([np.full(3, 62.0), meals[:, 62]], axis=-1)[None, :, None]
    equations = Equations(patients.params, GRID.points)
    scenarios = equations.scenarios(state[None], np.arange(3), insulin_of(state), sensitivity, coming)
    found = equations.roll_out(scenarios, plan)[0].transpose(1, 0, 2)
    truth = simulated(patients, state, plan, meals, sensitivity=np.repeat(sensitivity, 5, axis=1))
    # The steep switch of the stomach costs more when a whole meal passes it in coarse steps.
    assert errors(found, truth).max() < 2.0
    assert np.sqrt((errors(found, truth) ** 2).mean()) < 0.5


def test_scenarios_candidates_and_subjects_do_not_touch_one_another():
    patients = load_patients(["adult#001", "adolescent#004", "child#007"])
    state, plan = hungry(patients), doses(patients, 4)
    other = state.copy()
    other[:, 0] += 20_000.0
    equations = Equations(patients.params, GRID.points)
    both = equations.scenarios(np.stack([state, other]), np.arange(3), insulin_of(state))
    everything = equations.roll_out(both, plan)
    assert everything.shape == (2, 3, 4, len(POINTS))
    assert (everything[1, :, :, -1] != everything[0, :, :, -1]).all()
    one = np.array([2])
    alone = equations.scenarios(other[None, one], one, insulin_of(state[one]))
    np.testing.assert_array_equal(equations.roll_out(alone, plan[one, 3:])[0, 0, 0], everything[1, 2, 3])
    np.testing.assert_array_equal(equations.roll_out(both.select(one), plan[one]), everything[:, one])


def test_insulin_moves_as_in_the_simulator():
    patients = load_patients()
    state, rate = initial_state(patients), patients.basal / 60.0 * 3.0
    insulin = insulin_of(state)
    for _ in range(60):
        insulin = after(transition(patients.params, 1.0), insulin, rate)
    zero = np.zeros((len(patients), 60))
    advance(state, patients.params, zero, np.repeat(rate[:, None], 60, axis=1), floor=0.0)
    scale = patients.params[:, [COLUMN["Ipb"]]]
    assert (np.abs(insulin - insulin_of(state)) / scale).max() < 1e-3
