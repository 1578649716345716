"""Scenarios drawn before the first decision, and the simulator that steps patients through them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from foreworld.domains.treatment.physiology import advance, initial_state
from foreworld.domains.treatment.scenario import G2P2C, STOCK, Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator, SimulatorConfig
from foreworld.domains.treatment.tables import load_patients
from foreworld.errors import InputError

EVERYTHING = {
    "missed_bolus": 0.2, "triple_entry": 0.1, "sensitivity_drift": 0.3, "circadian": 0.2, "dropout_per_day": 1.0,
    "stuck_per_day": 1.0, "bias_per_day": 1.0, "compression_per_night": 0.5,
}  # fmt: skip


def draw(days=3, seed=0, names=("adult#001", "adolescent#004", "child#007"), **options):
    patients = load_patients(names)
    return patients, Scenario.draw(patients, ScenarioConfig(days=days, **options), seed)


def arrays(scenario):
    faults = scenario.faults
    return {
        "meals": scenario.meals, "announced": scenario.announced, "grams": scenario.grams, "missed": scenario.missed,
        "sensitivity": scenario.sensitivity, "noise": scenario.noise, "dropout": faults.dropout,
        "stuck": faults.stuck, "gain": faults.gain, "dip": faults.dip,
    }  # fmt: skip


@given(
    seed=st.integers(0, 10_000),
    meals=st.sampled_from(["stock", "weight_scaled", "g2p2c"]),
    step_minutes=st.sampled_from([1, 3, 5, 15]),
)
@settings(max_examples=30)
def test_a_meal_is_announced_at_the_first_decision_at_or_after_the_bite(seed, meals, step_minutes):
    _, scenario = draw(days=2, seed=seed, meals=meals, step_minutes=step_minutes, carb_error_sd=0.0)
    expected = np.zeros_like(scenario.announced)
    for row, minute in zip(*np.nonzero(scenario.meals), strict=True):
        expected[row, -(-minute // step_minutes)] += scenario.meals[row, minute]
    np.testing.assert_allclose(scenario.announced, expected)
    np.testing.assert_array_equal(scenario.grams, scenario.announced)
    served = np.cumsum(scenario.meals, axis=1)
    for decision in range(1, scenario.steps + 1):
        minute = min(decision * step_minutes, served.shape[1] - 1)
        assert np.all(scenario.announced[:, : decision + 1].sum(axis=1) <= served[:, minute] + 1e-9)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_a_subject_does_not_depend_on_its_batch(seed):
    _, together = draw(seed=seed, **EVERYTHING)
    _, alone = draw(seed=seed, names=("child#007",), **EVERYTHING)
    mixed_patients = load_patients(["child#007", "child#007"])
    mixed = Scenario.draw(mixed_patients, ScenarioConfig(days=3, **EVERYTHING), [seed, seed + 1])
    for name, array in arrays(alone).items():
        np.testing.assert_array_equal(array[0], arrays(together)[name][2], err_msg=name)
        np.testing.assert_array_equal(array[0], arrays(mixed)[name][0], err_msg=name)
    assert not np.array_equal(mixed.meals[0], mixed.meals[1])


def test_subjects_live_different_days():
    _, scenario = draw(names=("adult#001", "adult#002", "adult#003"))
    assert len({row.tobytes() for row in scenario.meals > 0}) == 3
    assert len({row.tobytes() for row in scenario.noise}) == 3


def test_a_longer_scenario_begins_with_the_shorter_one():
    _, short = draw(days=2, **EVERYTHING)
    _, longer = draw(days=4, **EVERYTHING)
    for name, array in arrays(short).items():
        if array.shape[1] == short.steps + 1:  # the last decision belongs to the next day
            array = array[:, :-1]
        np.testing.assert_allclose(arrays(longer)[name][:, : array.shape[1]], array, atol=1e-9, err_msg=name)


def test_one_option_leaves_every_other_draw_where_it_was():
    _, plain = draw()
    _, faulty = draw(**EVERYTHING)
    for name in ("meals", "grams", "noise"):
        np.testing.assert_array_equal(arrays(plain)[name], arrays(faulty)[name], err_msg=name)
    _, silent = draw(announced=False)
    assert not silent.announced.any()
    np.testing.assert_array_equal(silent.grams, plain.grams)
    assert np.all(plain.sensitivity == 1.0) and not plain.missed.any()


@pytest.mark.parametrize(("meals", "table"), [("stock", STOCK), ("g2p2c", G2P2C)])
def test_meals_follow_their_table(meals, table):
    _, scenario = draw(days=600, meals=meals, names=("adult#001",))
    days = scenario.meals[0].reshape(600, 1440)
    for meal in table:
        window = days[:, round(meal.earliest * 60) : round(meal.latest * 60)]
        grams = window[window > 0]
        assert len(grams) / 600 == pytest.approx(meal.probability, abs=0.06)
        assert grams.mean() == pytest.approx(meal.grams, abs=4.0 * meal.grams_sd / np.sqrt(len(grams)) + 0.4)
        spread = meal.grams_sd if meals == "stock" else meal.grams_sd * np.sqrt(3.0)
        assert grams.std() == pytest.approx(spread, rel=0.15)
        hours = np.nonzero(window > 0)[1] / 60 + meal.earliest
        assert hours.mean() == pytest.approx(meal.usual, abs=0.1)


def test_weight_scaled_meals_are_the_stock_meals_scaled():
    patients, scaled = draw(meals="weight_scaled")
    _, stock = draw(meals="stock")
    np.testing.assert_allclose(scaled.meals, stock.meals * patients.weight[:, None] / 78.0)


def test_carb_error_missed_and_triple_entries_have_their_rates():
    _, scenario = draw(days=500, names=("adult#001",), missed_bolus=0.2, triple_entry=0.1)
    eaten = scenario.grams > 0
    assert scenario.missed[eaten].mean() == pytest.approx(0.2, abs=0.03)
    assert np.all(scenario.announced[scenario.missed] == 0.0)
    ratio = (scenario.announced / np.where(eaten, scenario.grams, 1.0))[eaten & ~scenario.missed]
    assert ratio.min() >= 0.3 - 1e-9 and ratio.max() <= 5.1 + 1e-9
    assert (ratio > 1.75).mean() == pytest.approx(0.1 * 0.9, abs=0.03)
    _, plain = draw(days=500, names=("adult#001",))
    once = plain.announced[plain.grams > 0] / plain.grams[plain.grams > 0]
    assert once.std() == pytest.approx(0.29, abs=0.03) and once.max() <= 1.7 + 1e-9 and once.min() >= 0.3 - 1e-9


def test_sensitivity_drifts_by_day_and_by_the_clock():
    _, scenario = draw(days=100, sensitivity_drift=0.3)
    daily = scenario.sensitivity.reshape(3, 100, 24)
    assert np.all(daily == daily[:, :, :1])
    assert daily.min() > 0.7 and daily.min() < 0.75 and daily.max() < 1.3 and daily.max() > 1.25
    _, wave = draw(days=2, circadian=0.2)
    assert np.all(np.isin(np.argmin(wave.sensitivity[:, :24], axis=1), np.arange(4, 11)))
    assert wave.sensitivity.min() == pytest.approx(0.8, abs=0.01)


def test_rejects_what_it_does_not_know():
    patients = load_patients(["adult#001"])
    with pytest.raises(ValidationError):
        ScenarioConfig(days=0)
    with pytest.raises(ValidationError):
        ScenarioConfig(snacks=True)
    with pytest.raises(InputError, match="seeds"):
        Scenario.draw(patients, ScenarioConfig(days=1), [1, 2])
    with pytest.raises(InputError, match="negative"):
        Scenario.draw(patients, ScenarioConfig(days=1), -1)
    scenario = Scenario.draw(patients, ScenarioConfig(days=1), 0)
    with pytest.raises(ValueError, match="read-only"):
        scenario.meals[0, 0] = 1.0


def basal_bolus(patients):
    return lambda seen: patients.basal / 12.0 + seen.announced / patients.cr


def test_the_simulator_is_the_physiology_plus_the_sensor():
    patients, scenario = draw(days=1, sensitivity_drift=0.3, circadian=0.2)
    simulator = Simulator(patients, scenario)
    trajectory = simulator.run(basal_bolus(patients))
    insulin = np.repeat(trajectory.insulin / 5.0, 5, axis=1)
    sensitivity = np.repeat(scenario.sensitivity, 60, axis=1)
    glucose = advance(initial_state(patients), patients.params, scenario.meals, insulin, sensitivity)
    np.testing.assert_array_equal(trajectory.bg[:, 1:], glucose[:, 4::5])
    np.testing.assert_allclose(trajectory.cgm, np.clip(trajectory.bg + scenario.noise, 39.0, 600.0))
    np.testing.assert_array_equal(trajectory.announced, scenario.announced)
    assert trajectory.alive.all() and simulator.minute == 1440


def test_observation_zero_is_seen_before_any_insulin_and_reset_returns_to_it():
    patients, scenario = draw(days=1)
    simulator = Simulator(patients, scenario)
    first = simulator.observation()
    np.testing.assert_allclose(first.cgm, simulator.bg + scenario.noise[:, 0])
    before = simulator.run(basal_bolus(patients), steps=100)
    again = simulator.reset()
    np.testing.assert_array_equal(again.cgm, first.cgm)
    np.testing.assert_array_equal(simulator.run(basal_bolus(patients), steps=100).bg, before.bg)


def test_a_clone_continues_exactly_and_is_independent():
    patients, scenario = draw(days=2, **EVERYTHING)
    simulator = Simulator(patients, scenario)
    simulator.run(basal_bolus(patients), steps=150)
    clone, twin = simulator.clone(), simulator.clone()
    state = simulator.state.copy()
    expected = clone.run(basal_bolus(patients))
    np.testing.assert_array_equal(simulator.state, state)
    assert simulator.t == 150
    actual = twin.run(basal_bolus(patients))
    np.testing.assert_array_equal(actual.bg, expected.bg)
    np.testing.assert_array_equal(actual.cgm, expected.cgm)
    np.testing.assert_array_equal(simulator.run(basal_bolus(patients)).bg, expected.bg)


def test_branches_of_one_state_differ_by_their_dose_alone():
    patients, scenario = draw(days=2, **EVERYTHING)
    simulator = Simulator(patients, scenario)
    simulator.run(basal_bolus(patients), steps=150)
    branches = simulator.branch(4)
    assert branches.patients.names[3] == patients.names[0] and branches.patients.names[4] == patients.names[1]
    dose = np.tile([0.0, 1.0, 1.0, 3.0], len(patients)) * np.repeat(patients.basal, 4)
    branches.step(dose)
    future = branches.run(lambda seen: branches.patients.basal / 12.0, steps=36)
    bg = future.bg.reshape(len(patients), 4, -1)
    np.testing.assert_array_equal(bg[:, 1], bg[:, 2])
    assert np.all(bg[:, 0, -1] > bg[:, 1, -1]) and np.all(bg[:, 1, -1] > bg[:, 3, -1])
    simulator.step(patients.basal)
    own = simulator.run(lambda seen: patients.basal / 12.0, steps=36)
    np.testing.assert_array_equal(own.bg, bg[:, 1])
    again = branches.branch(2)
    np.testing.assert_array_equal(again.rows, np.repeat(np.arange(3), 8))


def test_dropped_readings_are_nan_and_stuck_ones_repeat():
    patients, scenario = draw(days=5, dropout_per_day=2.0, stuck_per_day=4.0)
    cgm = Simulator(patients, scenario).run(basal_bolus(patients)).cgm
    np.testing.assert_array_equal(np.isnan(cgm), scenario.faults.dropout)
    seen = 0
    for row, t in zip(*np.nonzero(scenario.faults.stuck[:, 1:] & ~scenario.faults.dropout[:, 1:]), strict=True):
        before = cgm[row, : t + 1][np.isfinite(cgm[row, : t + 1])]
        if before.size:
            assert cgm[row, t + 1] == before[-1]
            seen += 1
    assert seen > 100


def test_a_slower_sensor_holds_its_last_sample_between_decisions():
    patients, scenario = draw(days=1, sensor="Dexcom", step_minutes=1, sensor_noise=False)
    trajectory = Simulator(patients, scenario).run(basal_bolus(patients))
    held = np.arange(1441) // 3 * 3
    np.testing.assert_allclose(trajectory.cgm, np.clip(trajectory.bg[:, held], 39.0, 600.0))


def test_a_failed_patient_is_reported_and_frozen():
    patients, scenario = draw(days=1)
    simulator = Simulator(patients, scenario)
    simulator.step(np.array([150.0, 0.0, 0.0]))
    simulator.run(lambda seen: patients.basal / 12.0, steps=200)
    assert simulator.alive.tolist() == [False, True, True]
    frozen = simulator.bg[0]
    assert 0.0 < frozen < 10.0
    simulator.step(np.zeros(3))
    assert simulator.bg[0] == frozen


def test_the_pump_rounds_and_limits():
    patients, scenario = draw(days=1, names=("adult#001", "adult#001"))
    rounded = Simulator(patients, scenario, SimulatorConfig(round_pump=True))
    plain = Simulator(patients, scenario)
    for simulator in (rounded, plain):
        simulator.run(basal_bolus(patients))
    assert 0.0 < np.abs(rounded.bg - plain.bg).max() < 0.1
    huge, limit = Simulator(patients, scenario), Simulator(patients, scenario)
    huge.step(np.full(2, 1000.0))
    limit.step(np.full(2, 150.0))
    np.testing.assert_array_equal(huge.state, limit.state)


def test_the_simulator_names_a_wrong_dose():
    patients, scenario = draw(days=1)
    simulator = Simulator(patients, scenario)
    with pytest.raises(InputError, match="shape"):
        simulator.step(np.zeros(2))
    for wrong in (-0.1, np.nan, np.inf):
        with pytest.raises(InputError, match="subject 1"):
            simulator.step(np.array([0.0, wrong, 0.0]))
    assert simulator.t == 0
    simulator.run(basal_bolus(patients))
    with pytest.raises(InputError, match="ended"):
        simulator.step(np.zeros(3))
    with pytest.raises(InputError, match="k=0"):
        simulator.branch(0)
    with pytest.raises(InputError, match="other patients"):
        Simulator(load_patients(["adult#001"]), scenario)
