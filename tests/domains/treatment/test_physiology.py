"""The equations against simglucose 0.2.11 itself, which is loaded here by path (it cannot be imported without gym)."""

import importlib
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from foreworld.domains.treatment.physiology import (
    ALIVE,
    ODE_STATES,
    advance,
    derivatives,
    initial_state,
    subcutaneous_glucose,
)
from foreworld.domains.treatment.tables import COLUMN, PARAMS, load_patients, table_folder
from foreworld.errors import InputError

MINUTES = 1440


@pytest.fixture(scope="module")
def stock_patient():
    """simglucose's T1DPatient class, under a package name of its own and with a stand-in for pkg_resources."""
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: str(table_folder().parent / name)
    package = types.ModuleType("stock_simglucose")
    package.__path__ = [str(table_folder().parent)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkg_resources", resources)
        patch.setitem(sys.modules, "stock_simglucose", package)
        yield importlib.import_module("stock_simglucose.patient.t1dpatient")
        for name in [name for name in sys.modules if name.startswith("stock_simglucose.")]:
            del sys.modules[name]


def stock_glucose(stock, patients, row, meals, insulin, food_scale=1.0):
    """Run the package's own patient; its ODE sees plain floats instead of a pandas row, which only makes it faster."""
    names = dict(zip(PARAMS, patients.params[row].tolist(), strict=True))
    params = SimpleNamespace(Name=patients.names[row], **names)
    patient = stock.T1DPatient(params, init_state=patients.x0[row].copy())
    model = stock.T1DPatient.model
    patient._odesolver.f = lambda t, x, action, p, qsto, food: model(t, x.tolist(), action, p, qsto, food * food_scale)
    result = np.empty(len(meals))
    for minute, (grams, rate) in enumerate(zip(meals.tolist(), insulin.tolist(), strict=True)):
        patient.step(stock.Action(CHO=grams, insulin=rate))
        result[minute] = patient.observation.Gsub
    return result


def random_day(patients, seed):
    """Overlapping meals of 3-90 g, insulin that changes every 5 minutes, and boluses of up to 10 h of basal."""
    rng = np.random.default_rng(seed)
    shape = (len(patients), MINUTES)
    meals = np.where(rng.uniform(size=shape) < 6 / MINUTES, rng.uniform(3.0, 90.0, shape), 0.0)
    factor = np.repeat(rng.uniform(0.0, 2.0, (len(patients), MINUTES // 5)), 5, axis=1)
    bolus = np.where(rng.uniform(size=shape) < 4 / MINUTES, rng.uniform(0.0, 600.0, shape), 0.0)
    return meals, (factor + bolus) * patients.basal[:, None] / 60.0


@pytest.fixture(scope="module")
def stock_day(stock_patient):
    patients = load_patients()
    meals, insulin = random_day(patients, seed=7)
    glucose = np.stack(
        [stock_glucose(stock_patient, patients, row, meals[row], insulin[row]) for row in range(len(patients))]
    )
    return patients, meals, insulin, glucose


@pytest.mark.parametrize(("substeps", "bound"), [(1, 0.1), (2, 0.005)])
def test_agrees_with_simglucose_over_all_patients_and_a_day(stock_day, substeps, bound):
    patients, meals, insulin, expected = stock_day
    # Below 10 mg/dL simglucose ends the episode and foreworld freezes the patient: what follows is not a person.
    lives = np.minimum.accumulate(expected, axis=1) >= 10.0
    assert lives.mean() > 0.9 and lives[:, 0].all()
    assert expected[lives].min() < 40.0 and expected.max() > 300.0, "the day must reach lows and highs to be a test"
    glucose = advance(initial_state(patients), patients.params, meals, insulin, substeps=substeps, floor=-np.inf)
    error = np.abs(glucose - expected)[lives].max()
    sys.stdout.write(f"{substeps} substeps: max |dBG| {error:.5f} mg/dL in {lives.sum()} patient-minutes\n")
    assert error < bound


def test_legacy_meal_units_agree_with_simglucose_when_its_food_is_a_thousandth(stock_day, stock_patient):
    patients, meals, insulin, fixed = stock_day
    rows = [0, 12, 25]
    expected = np.stack(
        [stock_glucose(stock_patient, patients, row, meals[row], insulin[row], food_scale=1e-3) for row in rows]
    )
    some = patients.select(rows)
    glucose = advance(
        initial_state(some),
        some.params,
        meals[rows],
        insulin[rows],
        meal_units="legacy",
        substeps=2,
        floor=-np.inf,
    )
    assert np.abs(expected - fixed[rows]).max() > 10.0, "the two units must differ for this to be a test"
    assert np.abs(glucose - expected).max() < 0.005


def test_rates_agree_with_simglucose_in_any_state_also_where_pools_are_held_still(stock_patient):
    patients = load_patients()
    rng = np.random.default_rng(2)
    state = initial_state(patients)
    state[:, :ODE_STATES] = rng.uniform(-0.5, 2.0, (len(patients), ODE_STATES)) * patients.x0
    state[:, 6] = rng.uniform(-100.0, 100.0, len(patients))
    state[:, :3] = rng.uniform(0.0, 50_000.0, (len(patients), 3))
    state[:, 14] = rng.uniform(0.0, 90_000.0, len(patients))
    state[::3, 14] = 0.0
    assert (state[:, 3:13] < 0.0).any(axis=0).all(), "every pool must be negative somewhere for this to be a test"
    insulin = rng.uniform(0.0, 0.1, len(patients))
    actual = derivatives(patients, state, insulin)
    for row in range(len(patients)):
        params = SimpleNamespace(**dict(zip(PARAMS, patients.params[row].tolist(), strict=True)))
        action = stock_patient.Action(CHO=0.0, insulin=insulin[row])
        expected = stock_patient.T1DPatient.model(0.0, state[row, :ODE_STATES], action, params, state[row, 14], 0.0)
        np.testing.assert_allclose(actual[row], expected, rtol=1e-9, atol=1e-9)


def test_basal_holds_the_steady_state_of_every_patient():
    patients = load_patients()
    state = initial_state(patients)
    assert np.abs(derivatives(patients, state, patients.basal / 60.0)).max() < 1e-9
    insulin = np.repeat(patients.basal[:, None] / 60.0, MINUTES, axis=1)
    glucose = advance(state, patients.params, np.zeros_like(insulin), insulin)
    np.testing.assert_allclose(glucose, patients.params[:, [COLUMN["Gb"]]] * np.ones(MINUTES), atol=1e-6)


def test_a_patient_does_not_depend_on_its_batch():
    patients = load_patients()
    meals, insulin = random_day(patients, seed=3)
    together = initial_state(patients)
    glucose = advance(together, patients.params, meals, insulin)
    for row in (0, 17, 29):
        alone = initial_state(patients.select([row]))
        single = advance(alone, patients.params[[row]], meals[[row]], insulin[[row]])
        np.testing.assert_array_equal(single[0], glucose[row])
        np.testing.assert_array_equal(alone[0], together[row])


def test_advancing_in_pieces_equals_advancing_at_once():
    patients = load_patients(["child#004", "adult#009"])
    meals, insulin = random_day(patients, seed=5)
    whole, pieces = initial_state(patients), initial_state(patients)
    expected = advance(whole, patients.params, meals, insulin)
    parts = [
        advance(pieces, patients.params, meals[:, start : start + 5], insulin[:, start : start + 5])
        for start in range(0, MINUTES, 5)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
    np.testing.assert_array_equal(whole, pieces)


def test_a_copied_state_continues_exactly():
    patients = load_patients()
    meals, insulin = random_day(patients, seed=11)
    state = initial_state(patients)
    advance(state, patients.params, meals[:, :700], insulin[:, :700])
    twin = state.copy()
    first = advance(state, patients.params, meals[:, 700:], insulin[:, 700:])
    second = advance(twin, patients.params, meals[:, 700:], insulin[:, 700:])
    np.testing.assert_array_equal(first, second)


def test_a_failed_patient_stays_frozen_and_the_others_go_on():
    patients = load_patients(["adult#001", "adult#002"])
    insulin = np.repeat(patients.basal[:, None] / 60.0, MINUTES, axis=1)
    insulin[0, 0] = 100.0
    state = initial_state(patients)
    glucose = advance(state, patients.params, np.zeros_like(insulin), insulin)
    assert state[0, ALIVE] == 0.0 and state[1, ALIVE] == 1.0
    end = int(np.argmax(glucose[0] < 10.0))
    assert glucose[0, end - 1] >= 10.0
    assert np.all(glucose[0, end:] == glucose[0, end])
    assert glucose[1, -1] == pytest.approx(patients.params[1, COLUMN["Gb"]])


def test_insulin_lowers_glucose_and_more_so_in_a_sensitive_body():
    patients = load_patients()
    insulin = np.repeat(patients.basal[:, None] / 60.0, 300, axis=1)
    none = np.zeros_like(insulin)
    more = insulin.copy()
    more[:, 0] += patients.basal

    def end(dose, factor):
        state = initial_state(patients)
        advance(state, patients.params, none, dose, np.full_like(dose, factor))
        return subcutaneous_glucose(state, patients.params)

    assert np.all(end(more, 1.0) < end(insulin, 1.0))
    assert np.all(end(insulin, 1.3) < end(insulin, 1.0))
    assert np.all(end(insulin, 0.7) > end(insulin, 1.0))
    assert np.all(end(more, 1.3) < end(more, 1.0))


def test_a_meal_is_eaten_at_five_grams_a_minute():
    patients = load_patients(["adult#001"])
    state = initial_state(patients)
    meals = np.zeros((1, 10))
    meals[0, 2] = 23.0
    insulin = np.full_like(meals, patients.basal[0] / 60.0)
    bites = []
    for minute in range(10):
        advance(state, patients.params, meals[:, [minute]], insulin[:, [minute]])
        bites.append(float(state[0, 17]))
    assert bites == [0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 3.0, 0.0, 0.0, 0.0]
    assert state.shape[1] > ODE_STATES


def test_names_what_does_not_fit():
    patients = load_patients(["adult#001"])
    with pytest.raises(InputError, match="shapes do not fit"):
        advance(initial_state(patients), patients.params, np.zeros((2, 5)), np.zeros((2, 5)))
    with pytest.raises(InputError, match="meal_units"):
        advance(initial_state(patients), patients.params, np.zeros((1, 5)), np.zeros((1, 5)), meal_units="grams")
    with pytest.raises(InputError, match="substeps"):
        advance(initial_state(patients), patients.params, np.zeros((1, 5)), np.zeros((1, 5)), substeps=0)
