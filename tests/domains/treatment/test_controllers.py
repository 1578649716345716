"""The classical arms: their arithmetic, what they do without a sensor, and that the fallback is safe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreworld.agent.check import Checker, Measured
from foreworld.domains.treatment.controllers import (
    PID,
    BasalBolus,
    BasalBolusCap,
    BasalOnly,
    Fallback,
    FallbackConfig,
    History,
    PIDGains,
    basal_step,
    carbs_on_board,
    dose_cap,
    held_glucose,
    iob_above_basal,
    line,
    tune_pid,
)
from foreworld.domains.treatment.limits import insulin_on_board
from foreworld.domains.treatment.metrics import summarise
from foreworld.domains.treatment.pid import GENTLE
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Observation, Simulator, SimulatorConfig
from foreworld.domains.treatment.tables import TRAINING, concatenate, load_patients
from foreworld.errors import InputError

NAMES = ("adult#001", "adolescent#002", "child#003")


@pytest.fixture(scope="module")
def patients():
    return load_patients(NAMES)


def gains(patients, integral=0.0, **changes):
    size = len(patients)
    fields = {"proportional": 0.02, "integral": integral, "derivative": 1.0, "target": 120.0} | changes
    return PIDGains(patients.names, **{name: np.full(size, value) for name, value in fields.items()})


def controllers(patients):
    return [BasalOnly(), BasalBolus(), BasalBolusCap(), Fallback(), PID(gains(patients, integral=1e-3))]


def ask(controller, patients, readings, announced=None):
    """The last dose after these readings, the same for every subject."""
    controller.reset(patients)
    entries = [0.0] * len(readings) if announced is None else announced
    for t, (reading, entry) in enumerate(zip(readings, entries, strict=True)):
        dose = controller.act(
            Observation(t, 5 * t, np.full(len(patients), float(reading)), np.full(len(patients), float(entry)))
        )
    return dose


def history(cgm, insulin=None, announced=None, patients=None):
    size, length = (1 if patients is None else len(patients)), len(cgm)
    rest = np.zeros((size, length - 1)) if patients is None else np.repeat(basal_step(patients)[:, None], length - 1, 1)
    return History(
        5.0 * np.arange(length),
        np.tile(np.asarray(cgm, dtype=float), (size, 1)),
        rest if insulin is None else rest + np.asarray(insulin, dtype=float),
        np.zeros((size, length)) if announced is None else np.tile(np.asarray(announced, dtype=float), (size, 1)),
    )


@given(
    readings=st.lists(st.one_of(st.floats(39.0, 600.0), st.just(float("nan"))), min_size=1, max_size=12),
    entries=st.lists(st.sampled_from([0.0, 0.0, 40.0, 500.0]), min_size=12, max_size=12),
)
@settings(max_examples=60)
def test_every_dose_is_finite_and_within_the_cap(patients, readings, entries):
    for controller in controllers(patients):
        dose = ask(controller, patients, readings, entries[: len(readings)])
        assert dose.shape == (3,)
        assert np.all(np.isfinite(dose) & (dose >= 0.0) & (dose <= dose_cap(patients)))


def test_the_cap_is_the_checkers_step_dose(patients):
    rule = next(rule for rule in insulin_rules() if rule.name == "step_dose")
    for row, cap in enumerate(dose_cap(patients)):
        statics = {"basal": patients.basal[row], "cr": patients.cr[row]}
        measured = Measured(np.zeros(1), {}, {}, {}, statics)
        assert rule.check(measured, {"insulin": cap}) is None
        assert rule.check(measured, {"insulin": cap * 1.001}) is not None


def test_basal_bolus_counts_carbs_and_corrects_above_150_at_meals_only(patients):
    basal, meal = patients.basal / 12.0, 30.0 / patients.cr
    np.testing.assert_allclose(ask(BasalBolus(), patients, [160.0], [30.0]), basal + meal + 20.0 / patients.cf)
    np.testing.assert_allclose(ask(BasalBolus(), patients, [149.0], [30.0]), basal + meal)
    np.testing.assert_allclose(ask(BasalBolus(), patients, [300.0], [0.0]), basal)


def test_the_capped_arm_subtracts_insulin_on_board_and_suspends_basal(patients):
    basal = patients.basal / 12.0
    first, second = 40.0 / patients.cr, 5.0 / patients.cr
    left = first * insulin_on_board(np.array([57.5]), dia=300.0, peak=75.0)[0]
    found = ask(BasalBolusCap(), patients, [120.0] * 12 + [200.0], [40.0] + [0.0] * 11 + [5.0])
    np.testing.assert_allclose(found, basal + second + np.maximum(60.0 / patients.cf - left, 0.0))
    np.testing.assert_allclose(ask(BasalBolusCap(), patients, [79.0]), 0.0)
    np.testing.assert_allclose(ask(BasalBolusCap(), patients, [79.0], [20.0]), 20.0 / patients.cr)


@pytest.mark.parametrize("silent, corrected", [(0, True), (3, True), (4, False)])
def test_a_reading_is_held_for_fifteen_minutes(patients, silent, corrected):
    nan = float("nan")
    dose = ask(BasalBolus(), patients, [170.0] + [nan] * silent, [0.0] * silent + [30.0])
    expected = patients.basal / 12.0 + 30.0 / patients.cr + (30.0 / patients.cf if corrected else 0.0)
    np.testing.assert_allclose(dose, expected)
    pid = ask(PID(gains(patients)), patients, [240.0] + [nan] * silent)
    assert np.all((pid > 1.01 * basal_step(patients)) == corrected)
    if not corrected:
        np.testing.assert_allclose(pid, basal_step(patients))


def test_what_is_on_board_by_hand():
    patients = load_patients(["adult#001"])
    doses = np.zeros((1, 24))
    doses[0, 12] = 2.0  # from minute 60 to 65; now is minute 120
    found = iob_above_basal(patients, history([100.0] * 25, doses, patients=patients), dia=300.0, peak=75.0)
    np.testing.assert_allclose(found, 2.0 * insulin_on_board(np.array([57.5]), dia=300.0, peak=75.0))
    less = history([100.0] * 25, patients=None)  # basal withheld is no credit
    np.testing.assert_allclose(iob_above_basal(patients, less, dia=300.0, peak=75.0), 0.0)
    eaten = history([100.0] * 25, announced=[60.0] + [0.0] * 24)
    np.testing.assert_allclose(carbs_on_board(eaten, 240.0), 30.0)
    np.testing.assert_allclose(carbs_on_board(eaten, 120.0), 0.0)


def test_glucose_is_held_and_its_slope_is_that_of_the_line():
    nan = float("nan")
    rising = [100.0 + 2.0 * 5.0 * t for t in range(10)]
    np.testing.assert_allclose(line(history(rising), 30.0), [[190.0], [2.0]])
    rising[-2] = nan
    np.testing.assert_allclose(line(history(rising), 30.0), [[190.0], [2.0]])
    assert np.isnan(line(history([nan] * 8 + [100.0, 110.0]), 30.0)).all()
    np.testing.assert_allclose(held_glucose(history([100.0, 90.0, nan, nan, nan])), 90.0)
    assert np.isnan(held_glucose(history([90.0, nan, nan, nan, nan])))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"insulin": np.zeros((1, 3))}, "insulin has shape"),
        ({"announced": np.full((1, 3), np.nan)}, "announced must be finite"),
        ({"insulin": np.full((1, 2), -1.0)}, "insulin must be finite"),
        ({"minute": np.array([0.0, 5.0, 5.0])}, "must rise"),
    ],
)
def test_a_bad_history_is_named(changes, words):
    fields = {
        "minute": 5.0 * np.arange(3), "cgm": np.full((1, 3), 100.0), "insulin": np.zeros((1, 2)),
        "announced": np.zeros((1, 3)),
    }  # fmt: skip
    with pytest.raises(InputError, match=words):
        History(**(fields | changes))


def test_pid_rests_at_basal_acts_on_error_and_slope_and_suspends(patients):
    basal = basal_step(patients)
    np.testing.assert_allclose(ask(PID(gains(patients)), patients, [120.0] * 6), basal)
    np.testing.assert_allclose(ask(PID(gains(patients)), patients, [170.0] * 6), 2.0 * basal)
    rising = [120.0 + 5.0 * t for t in range(6)]
    np.testing.assert_allclose(ask(PID(gains(patients)), patients, rising), basal * (1.0 + 0.02 * 25.0 + 1.0))
    np.testing.assert_allclose(ask(PID(gains(patients)), patients, [79.0] * 6), 0.0)


def test_pid_does_not_wind_up(patients):
    controller = PID(gains(patients, integral=1e-3, proportional=0.02))
    low_for_long = ask(controller, patients, [60.0] * 288 + [120.0] * 6)
    at_once = ask(controller, patients, [60.0] + [120.0] * 6)
    np.testing.assert_allclose(low_for_long, at_once)
    high_for_long = ask(controller, patients, [400.0] * 288 + [120.0] * 6)
    assert np.all(high_for_long <= basal_step(patients) * (1.0 + controller.config.most + 1e-9))


def test_pid_gains_follow_the_patient_not_the_row(patients):
    mine = PIDGains(patients.names, *(np.arange(3.0) + shift for shift in (0.0, 1.0, 2.0, 100.0)))
    assert mine.rows(patients.select([2, 0, 2])) == [2, 0, 2]
    with pytest.raises(InputError, match="adult#005"):
        mine.rows(load_patients(["adult#005"]))


def test_tuning_is_repeatable_depends_on_the_patient_alone_and_beats_basal():
    patients = load_patients(["adult#003", "adolescent#003"])
    found = tune_pid(patients, candidates=40, days=1)
    alone = tune_pid(patients.select([1]), candidates=40, days=1)
    for name in ("proportional", "integral", "derivative", "target"):
        assert getattr(found, name)[1] == getattr(alone, name)[0]
    # Episodes of one patient are rows of a batch; the patient is tuned once.
    several = tune_pid(patients.select([1, 0, 1]), candidates=40, days=1)
    assert several.names == ("adolescent#003", "adult#003")
    assert several.proportional.tolist() == found.proportional[::-1].tolist()
    scores = {}
    for name, controller in (("pid", PID(found)), ("basal", BasalOnly())):
        scenario = Scenario.draw(patients, ScenarioConfig(days=2, announced=False), 0)
        controller.reset(patients)
        scores[name] = summarise(Simulator(patients, scenario).run(controller.act).bg)["time_in_range"].mean()
    assert scores["pid"] > scores["basal"] + 0.2
    with pytest.raises(InputError, match="evaluation seed"):
        tune_pid(patients, seed=0)
    with pytest.raises(InputError, match="two candidates"):
        tune_pid(patients, candidates=1)


def test_tuning_finds_gains_for_a_child_who_eats_like_an_adult_and_knows_the_simulator():
    child = load_patients(["child#002"])
    look = ScenarioConfig(announced=False, meals="g2p2c")
    found = tune_pid(child, candidates=60, days=3, scenario=look)
    low, high = (np.array(GENTLE)[:, end] for end in (0, 1))
    chosen = np.array([found.proportional[0], found.integral[0], found.derivative[0], found.target[0]])
    # An optimum on the edge of where it was looked for would say that the box is too small.
    assert np.all(chosen[:3] > 1.01 * low[:3]) and np.all(chosen[:3] < 0.99 * high[:3])
    other = tune_pid(child, candidates=20, days=1, scenario=look, simulator=SimulatorConfig(meal_units="legacy"))
    assert other != tune_pid(child, candidates=20, days=1, scenario=look)


def test_the_fallback_stops_when_low_falling_loaded_or_silent_after_a_low(patients):
    nan = float("nan")
    basal = basal_step(patients)
    steady = history([130.0] * 120, patients=patients)
    assert np.all(Fallback().dose(patients, steady) >= basal)
    assert np.all(Fallback().dose(patients, history([130.0, 69.0] * 3, patients=patients)) == 0.0)
    falling = [200.0 - 12.0 * t for t in range(8)]
    assert np.all(Fallback().dose(patients, history(falling, patients=patients)) == 0.0)
    # One high reading after a fall: the checker's line is still below 70 in half an hour.
    assert np.all(
        Fallback().dose(patients, history([77.0, 72.0, 66.0, 61.0, 56.0, 50.0, 95.0], patients=patients)) == 0.0
    )
    loaded = np.zeros(30)
    loaded[-6] = 12.0
    noisy = 110.0 + np.arange(31) % 2
    assert np.all(Fallback().dose(patients, history(noisy, loaded, patients=patients)) == 0.0)
    np.testing.assert_allclose(Fallback().dose(patients, history([130.0] + [nan] * 6, patients=patients)), basal)
    assert np.all(Fallback().dose(patients, history([90.0] + [nan] * 6, patients=patients)) == 0.0)


def test_the_fallback_trusts_no_stuck_sensor(patients):
    moving = history(250.0 + np.arange(40) % 3, patients=patients)
    stuck = history([250.0] * 40, patients=patients)
    basal = basal_step(patients)
    assert np.all(Fallback().dose(patients, moving) > basal)
    np.testing.assert_allclose(Fallback().dose(patients, stuck), basal)


def test_the_fallback_gives_a_late_bolus_once_the_sensor_is_back(patients):
    nan = float("nan")
    entry = [0.0] * 10 + [60.0] + [0.0] * 3
    basal = basal_step(patients)
    blind = history([140.0, 141.0] * 3 + [nan] * 8, announced=entry, patients=patients)
    np.testing.assert_allclose(Fallback().dose(patients, blind), basal)
    back = history([140.0, 141.0] * 3 + [nan] * 5 + [150.0, 155.0, 160.0], announced=entry, patients=patients)
    assert np.all(Fallback().dose(patients, back) > 1.5 * basal)


def test_the_fallback_stops_in_a_silence_that_follows_a_fall_or_much_insulin(patients):
    nan, basal = float("nan"), basal_step(patients)
    falling = [180.0, 170.0, 160.0, 150.0, 140.0, 130.0]
    assert np.all(Fallback().dose(patients, history([*falling, *[nan] * 6], patients=patients)) == 0.0)
    rising = history([*falling[::-1], *[nan] * 6], patients=patients)
    np.testing.assert_allclose(Fallback().dose(patients, rising), basal)
    loaded = [*[0.0] * 4, *[25.0] * 7]
    assert np.all(Fallback().dose(patients, history([*falling[::-1], *[nan] * 6], loaded, patients=patients)) == 0.0)


def test_the_fallback_gives_less_for_a_day_after_lows_and_never_more(patients):
    calm = [140.0, 141.0] * 100
    usual = Fallback().dose(patients, history(calm, patients=patients))
    lows = [55.0] * 24 + calm[24:]
    np.testing.assert_allclose(Fallback().dose(patients, history(lows, patients=patients)), usual * (1 - 0.24))
    codes = [38.0] * 24 + calm[24:]
    np.testing.assert_allclose(Fallback().dose(patients, history(codes, patients=patients)), usual)
    long = [55.0] * 150 + calm[150:]
    np.testing.assert_allclose(Fallback().dose(patients, history(long, patients=patients)), usual * 0.6)
    forgotten = [55.0] * 24 + [140.0, 141.0] * 145
    np.testing.assert_allclose(Fallback().dose(patients, history(forgotten, patients=patients)), usual)


FAULTS = {
    "sensitivity_drift": 0.3, "circadian": 0.2, "dropout_per_day": 1.8, "compression_per_night": 0.5,
    "bias_per_day": 0.7, "stuck_per_day": 0.7, "missed_bolus": 0.1,
}  # fmt: skip


def closed_loop(names, days, seed=1000, **options):
    patients = load_patients(names)
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=days, **options), seed))
    controller = Fallback()
    controller.reset(patients)
    return patients, simulator.run(controller.act)


def until(trajectory, t):
    return History(
        5.0 * np.arange(t + 1), trajectory.cgm[:, : t + 1], trajectory.insulin[:, :t], trajectory.announced[:, : t + 1]
    )


def test_the_fallback_is_a_function_of_history_alone_and_can_be_resumed():
    patients, trajectory = closed_loop(NAMES, 2, **FAULTS)
    for t in (0, 1, 40, 160, 333, 575):
        np.testing.assert_allclose(Fallback().dose(patients, until(trajectory, t)), trajectory.insulin[:, t], atol=1e-9)
    resumed = Fallback()
    resumed.resume(patients, until(trajectory, 300))
    for t in range(300, 330):
        seen = Observation(t, 5 * t, trajectory.cgm[:, t], trajectory.announced[:, t])
        np.testing.assert_allclose(resumed.act(seen), trajectory.insulin[:, t], atol=1e-9)
    alone = Fallback().dose(patients.select([1]), History(*(
        part if part.ndim == 1 else part[1:2] for part in vars(until(trajectory, 300)).values()
    )))  # fmt: skip
    np.testing.assert_allclose(alone, trajectory.insulin[1:2, 300], rtol=1e-12, atol=1e-12)


def test_the_checker_lets_the_fallback_act():
    patients, trajectory = closed_loop(NAMES, 2, **FAULTS)
    checker = Checker(insulin_rules())
    refused = []
    for t in range(0, trajectory.insulin.shape[1], 4):
        past = until(trajectory, t).last(1440.0)
        for row in range(len(patients)):
            statics = {name: getattr(patients, name)[row] for name in ("weight", "basal", "cr", "cf")}
            cgm, insulin, carbs = past.cgm[row], past.insulin[row], past.announced[row]
            measured = Measured(past.minute, {"cgm": cgm}, {"insulin": insulin}, {"carbs": carbs}, statics)
            verdict = checker.check(measured, {"insulin": trajectory.insulin[row, t]})
            refused += [reason.rule for reason in verdict.reasons]
    assert refused == []


@given(
    start=st.floats(60.0, 300.0),
    slope=st.floats(-6.0, 6.0),
    jumps=st.lists(st.sampled_from([0.0, 3.0, -3.0, 30.0, -30.0, float("nan")]), min_size=24, max_size=24),
    entry=st.sampled_from([0.0, 60.0, 300.0]),
)
@settings(max_examples=150)
def test_no_trace_makes_the_fallback_ask_for_what_the_checker_refuses(patients, start, slope, jumps, entry):
    cgm = np.clip(start + slope * np.arange(24) + np.array(jumps), 39.0, 600.0)
    past = history(cgm, announced=[0.0] * 23 + [entry], patients=patients)
    doses, checker = Fallback().dose(patients, past), Checker(insulin_rules())
    for row, dose in enumerate(doses):
        statics = {name: getattr(patients, name)[row] for name in ("weight", "basal", "cr", "cf")}
        seen, done, eaten = {"cgm": past.cgm[row]}, {"insulin": past.insulin[row]}, {"carbs": past.announced[row]}
        verdict = checker.check(Measured(past.minute, seen, done, eaten, statics), {"insulin": dose})
        assert verdict.accepted, verdict.explain()


@pytest.mark.parametrize("options", [{}, {"announced": False}, FAULTS], ids=["announced", "unannounced", "faults"])
def test_the_fallback_is_safe_on_training_patients(options):
    _, trajectory = closed_loop(TRAINING, 15, seed=2000, **options)
    found = summarise(trajectory.bg[:, 288:])
    assert found["time_below_54"].mean() <= 0.005
    assert found["failures"].sum() == 0.0
    if not options:
        assert found["time_in_range"].mean() >= 0.85


def test_a_subject_does_not_depend_on_its_batch(patients):
    options = ScenarioConfig(days=1)
    for make in (BasalBolusCap, Fallback, lambda: PID(gains(patients, integral=1e-4))):
        runs = []
        for batch in (patients, concatenate([patients.select([2]), patients.select([0])])):
            controller = make()
            controller.reset(batch)
            runs.append(Simulator(batch, Scenario.draw(batch, options, 3)).run(controller.act).insulin)
        np.testing.assert_allclose(runs[1], runs[0][[2, 0]], rtol=1e-9, atol=1e-9)


def test_the_configuration_refuses_nonsense():
    with pytest.raises(ValueError):
        FallbackConfig(meal_share=1.2)
    with pytest.raises(ValueError):
        FallbackConfig(surprise=1.0)
