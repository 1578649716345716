"""The independent checker and the insulin pack, against a reference written a second time."""

import ast
import dataclasses
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proposals import proposal
from reference_checker import allows, greatest_doses, left_of

import foreworld.agent.check
import foreworld.agent.check_rules
from foreworld.agent.check import Checker, Level, Measured, Rule
from foreworld.agent.check_rules import (
    Bounds,
    FiniteAction,
    FlatSignal,
    Interval,
    RangeGate,
    RateLimit,
    StaleData,
    SuspendBelow,
    WindowLimit,
)
from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.errors import InputError

CHECKER = Checker(insulin_rules())
PROFILE = {"weight": 70.0, "basal": 1.2, "cr": 10.0, "cf": 36.0}


def measured_from(state):
    return Measured(
        times=np.array(state["times"]),
        observations={"cgm": np.array(state["cgm"])},
        actions={"insulin": np.array(state["insulin"])},
        exogenous={"carbs": np.array(state["carbs"])},
        statics={name: state[name] for name in PROFILE},
    )


def calm(steps=40, *, cgm=None, insulin=None, carbs=None, times=None, **statics):
    """A quiet history with noise on the CGM; arguments replace its last values or a whole channel."""
    series = {
        "times": 5.0 * np.arange(steps + 1),
        "cgm": 120.0 + np.sin(np.arange(steps + 1)),
        "insulin": np.full(steps, 0.1),
        "carbs": np.zeros(steps + 1),
    }
    for name, values in {"cgm": cgm, "insulin": insulin, "carbs": carbs, "times": times}.items():
        if values is not None:
            series[name][len(series[name]) - len(values) :] = values
    return measured_from({**series, **PROFILE, **statics})


def broken_by(measured, insulin):
    return {reason.rule for reason in CHECKER.check(measured, {"insulin": insulin}).reasons}


# --- Against the reference ---------------------------------------------------------------------------------------


def test_agrees_with_the_reference_on_5000_adversarial_proposals():
    accepted = 0
    for seed in range(5000):
        state, action = proposal(seed)
        verdict = CHECKER.check(measured_from(state), action)
        lenient, broken_at_least = allows(state, action, 1e-6 + 1e-9, 1e-9)
        strict, broken_at_most = allows(state, action, 1e-6 - 1e-9, -1e-9)
        assert not (verdict.accepted and not lenient), f"breach accepted at seed {seed}: {action}, {broken_at_least}"
        assert verdict.accepted or not strict, f"valid proposal refused at seed {seed}: {action}, {verdict.explain()}"
        if not any(n.startswith(("finite", "sound", "profile")) for n in broken_at_most):  # then the names agree, too
            names = {reason.rule for reason in verdict.reasons}
            assert broken_at_least <= names <= broken_at_most, f"seed {seed}: {action}"
        accepted += verdict.accepted
    assert 800 < accepted < 4200  # both verdicts are common, or the comparison says little


def test_adversary_reaches_every_rule():
    reached = set()
    for seed in range(3000):
        state, action = proposal(seed)
        reached |= {reason.rule for reason in CHECKER.check(measured_from(state), action).reasons}
    assert reached == {rule.name for rule in CHECKER.rules}


def test_each_bound_holds_on_both_sides_while_no_other_rule_binds():
    carbs = [60.0]
    state = {**{k: v.tolist() for k, v in (("times", calm().times), ("cgm", calm().observations["cgm"]))}, **PROFILE}
    state |= {"insulin": [0.1] * 40, "carbs": [0.0] * 40 + carbs}
    most = min(greatest_doses(state, 0.0, 0.0).values())
    measured = measured_from(state)
    assert CHECKER.check(measured, {"insulin": most}).accepted
    assert CHECKER.check(measured, {"insulin": math.nextafter(most, 0.0)}).accepted
    assert not CHECKER.check(measured, {"insulin": most * (1 + 1e-5)}).accepted


# --- The last resort ----------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)


@st.composite
def any_measured(draw):
    length = draw(st.integers(0, 30))
    series = {name: draw(st.lists(numbers, min_size=length, max_size=length)) for name in ("times", "cgm", "carbs")}
    if draw(st.booleans()):
        series["times"] = [5.0 * i for i in range(length)]
    done = draw(st.lists(numbers, min_size=max(length - 1, 0), max_size=max(length - 1, 0)))
    statics = draw(st.dictionaries(st.sampled_from(sorted(PROFILE)), numbers))
    has = draw(st.sets(st.sampled_from(["cgm", "carbs", "insulin"])))
    return Measured(
        np.array(series["times"], dtype=float),
        {"cgm": np.array(series["cgm"], dtype=float)} if "cgm" in has else {},
        {"insulin": np.array(done, dtype=float)} if "insulin" in has else {},
        {"carbs": np.array(series["carbs"], dtype=float)} if "carbs" in has else {},
        statics,
    )


@settings(max_examples=400)
@given(any_measured())
def test_no_insulin_passes_in_every_state(measured):
    assert CHECKER.check(measured, {"insulin": 0.0}).accepted


@settings(max_examples=300)
@given(any_measured(), numbers)
def test_never_accepts_what_is_not_a_finite_dose_between_zero_and_the_channel_bound(measured, dose):
    verdict = CHECKER.check(measured, {"insulin": dose})
    if not 0.0 <= dose <= 25.0 * (1 + 1e-6):
        assert not verdict.accepted
    assert verdict == CHECKER.check(measured, {"insulin": dose}) or not verdict.accepted  # NaN in reasons is unequal


def test_no_insulin_passes_with_an_empty_history_and_without_profile():
    empty = Measured(np.zeros(0), {}, {}, {}, {})
    assert CHECKER.check(empty, {"insulin": 0.0}).accepted
    assert not CHECKER.check(empty, {"insulin": 0.01}).accepted


# --- Rules of the pack, one by one --------------------------------------------------------------------------------


def test_standard_meal_bolus_passes():
    assert broken_by(calm(carbs=[80.0]), 0.1 + 8.0) == set()


def test_profile_basal_passes_without_a_valid_cgm_and_nothing_more():
    for cgm in ([math.nan] * 41, [math.nan] * 3, [38.0], [700.0], [120.0] * 12):
        measured = calm(cgm=cgm)
        assert broken_by(measured, 0.1) == set()
        assert broken_by(measured, np.float32(0.1)) == set()
        assert broken_by(measured, 0.11) != set()


def test_stale_cgm_counts_from_the_newest_reading():
    assert "cgm_stale" not in broken_by(calm(cgm=[math.nan] * 2), 0.5)
    assert "cgm_stale" in broken_by(calm(cgm=[math.nan] * 3), 0.5)


def test_low_glucose_suspends_even_the_profile_basal():
    assert "low_suspend" in broken_by(calm(cgm=[69.9]), 0.1)
    assert "low_suspend" not in broken_by(calm(cgm=[70.0]), 0.1)
    assert "low_suspend" in broken_by(calm(cgm=[60.0, math.nan, math.nan, math.nan]), 0.1)


def test_error_code_is_no_low_but_a_true_low_below_it_is():
    assert broken_by(calm(cgm=[38.0]), 0.1) == set()
    assert broken_by(calm(cgm=[5.0]), 0.1) == set()
    assert "low_suspend" in broken_by(calm(cgm=[30.0]), 0.1)


def test_predicted_low_suspends_before_the_reading_is_low():
    falling = [130.0, 124.0, 118.0, 112.0, 106.0, 100.0, 94.0]  # 1.2 mg/dL/min: 58 in 30 min
    assert broken_by(calm(cgm=falling), 0.1) == {"predicted_low_suspend"}
    assert broken_by(calm(cgm=[x + 20.0 for x in falling]), 0.1) == set()


def test_threshold_is_that_of_oref0():
    assert [InsulinLimits(min_bg=x).threshold for x in (90.0, 100.0, 110.0)] == [65.0, 70.0, 75.0]


def test_insulin_on_board_counts_excess_and_gives_no_credit_for_withholding():
    boluses = [6.0, 6.0, 6.0]  # 17.7 U above basal within 15 min, against max(14.4, 15) = 15 U
    assert "max_iob" in broken_by(calm(insulin=boluses, carbs=[120.0]), 0.2)
    assert "max_iob" in broken_by(calm(insulin=[*boluses, 0.0, 0.0], carbs=[120.0]), 0.2)
    assert broken_by(calm(insulin=boluses, carbs=[120.0]), 0.1) == set()
    withheld = calm(insulin=[0.0] * 30 + boluses, carbs=[120.0])
    assert "max_iob" in broken_by(withheld, 0.2)


def test_insulin_on_board_curve_matches_the_reference_and_falls_from_one_to_zero():
    ages = np.arange(0.0, 400.0, 0.5)
    curve = insulin_on_board(ages, dia=300.0, peak=75.0)
    np.testing.assert_allclose(curve, [left_of(age) for age in ages], atol=1e-14)
    assert curve[0] == 1.0
    assert curve[-1] == 0.0
    assert (np.diff(curve) <= 1e-12).all()
    activity = -np.diff(curve)
    assert abs(ages[activity.argmax()] - 75.0) <= 1.0


def test_bolus_without_announced_carbs_is_refused_beyond_correction_and_allowance():
    most = 0.3 + 1.5 * 20.0 / 36.0 + 4.8  # greatest safe basal, correction from 120, four basal-hours
    measured = calm(cgm=[120.0])
    assert broken_by(measured, most) == set()
    assert broken_by(measured, most * 1.001) == {"justified_bolus"}
    assert broken_by(calm(cgm=[120.0], carbs=[30.0]), most * 1.001) == set()
    assert "justified_bolus" in broken_by(calm(cgm=[120.0], insulin=[most]), 0.5)
    old_meal = calm(cgm=[120.0], carbs=[30.0] + [0.0] * 25)
    assert broken_by(old_meal, most * 1.001) == {"justified_bolus"}


def test_threefold_carb_entry_justifies_no_more_than_max_cob():
    assert broken_by(calm(carbs=[400.0], cr=40.0, cf=144.0, weight=100.0), 10.0) & {"justified_bolus", "step_dose"}
    light = calm(carbs=[300.0], insulin=[9.9, 9.9])
    assert "justified_bolus" in broken_by(light, 9.9)


def test_wrong_carb_ratio_is_caught_by_body_weight():
    assert "bolus_size" in broken_by(calm(carbs=[60.0], cr=2.5, weight=20.0, basal=0.3), 9.0)


@pytest.mark.parametrize(
    ("static", "value"),
    [
        ("weight", 70_000.0),
        ("basal", 28.8),
        ("basal", 4.0),
        ("cr", 1.0),
        ("cf", 2.0),
        ("cf", 1.0),
        ("cf", math.nan),
        ("cr", None),
    ],
)
def test_implausible_or_missing_profile_lets_only_no_insulin_pass(static, value):
    measured = calm(**{static: value})
    assert any(name.startswith(f"profile_{static}") for name in broken_by(measured, 0.01))
    assert broken_by(measured, 0.0) == set()


def test_second_bolus_within_three_minutes_is_refused():
    close = measured_from(
        {
            "times": [*(5.0 * np.arange(20)), 97.0],
            "cgm": 150 + np.sin(np.arange(21)),
            "insulin": [0.1] * 19 + [1.0],
            "carbs": [0.0] * 21,
            **PROFILE,
        }
    )
    assert broken_by(close, 1.0) == {"bolus_interval"}
    assert broken_by(close, 0.3) == set()
    assert broken_by(calm(insulin=[1.0]), 1.0) == set()


@given(doses=st.lists(st.floats(0.0, 25.0), min_size=1, max_size=40), dose=st.floats(0.0, 25.0))
@settings(max_examples=100)
def test_in_steps_of_five_minutes_the_bolus_interval_refuses_nothing(doses, dose):
    """It guards callers that ask more often; the pages do not count it among what binds a loop."""
    assert "bolus_interval" not in broken_by(calm(insulin=doses), dose)


def test_daily_total_is_limited_to_the_profile_basal_when_spent():
    spent = calm(300, insulin=[0.9] * 280)
    assert "daily_total" in broken_by(spent, 0.2)
    assert broken_by(spent, 0.1) == set()
    assert "daily_total" in broken_by(calm(300, insulin=[-500.0, *[0.9] * 280]), 0.2)  # a negative dose is no credit


def test_noise_flag_gates_when_the_channel_exists():
    checker = Checker(insulin_rules(noise="noise"))
    base = calm()
    for noise, accepted in ((1.0, True), (3.0, False), (math.nan, False)):
        observations = {**base.observations, "noise": np.full(41, noise)}
        measured = dataclasses.replace(base, observations=observations)
        assert checker.check(measured, {"insulin": 0.5}).accepted is accepted
        assert checker.check(measured, {"insulin": 0.1}).accepted


def test_time_that_does_not_increase_lets_only_no_insulin_pass():
    assert broken_by(calm(times=[195.0, 195.0]), 0.01) >= {"sound_history"}
    assert broken_by(calm(times=[math.nan]), 0.0) == set()


# --- Generic rules ------------------------------------------------------------------------------------------------


def other(values, done=(), **statics):
    steps = len(values) - 1
    done = np.zeros(steps) if len(done) == 0 else np.array(done)
    return Measured(10.0 * np.arange(steps + 1), {"x": np.array(values)}, {"u": done}, {}, statics)


def passes(rule, measured, u):
    return Checker([rule]).check(measured, {"u": u}).accepted


def test_rate_limit_bounds_rise_and_fall_and_counts_from_start():
    rule = RateLimit(name="rate", channel="u", floor=-math.inf, rise=Level(2.0), fall=Level(1.0), start=Level(5.0))
    assert [passes(rule, other([0.0]), u) for u in (4.0, 3.9, 7.0, 7.1)] == [True, False, True, False]
    assert [passes(rule, other([0.0, 0.0], [10.0]), u) for u in (9.0, 8.9, 12.0, 12.1)] == [True, False, True, False]
    assert not passes(rule, other([0.0, 0.0], [math.nan]), 1.0)


def test_window_limit_scales_with_a_static_and_forgets():
    rule = WindowLimit(name="window", channel="u", minutes=20.0, bound=Level(0.5, "kg"))
    assert passes(rule, other([0.0] * 5, [9.0, 9.0, 1.0, 1.0], kg=6.0), 1.0)  # ages 40, 30, 20 and 10 min
    assert not passes(rule, other([0.0] * 5, [9.0, 9.0, 1.0, 1.0], kg=6.0), 1.1)
    assert not passes(rule, other([0.0] * 5), 0.1)  # the static is missing
    assert not passes(rule, other([0.0] * 3, [-9.0, 3.0], kg=6.0), 0.1)  # a negative amount is no credit


def test_level_divides_by_a_static_with_a_negative_power():
    rule = Bounds(name="bounds", channel="u", low=0.0, high=Level(100.0, "cr", -1))
    assert passes(rule, other([0.0], cr=20.0), 5.0)
    assert not passes(rule, other([0.0], cr=20.0), 5.1)
    assert passes(rule, other([0.0]), 0.0)


@pytest.mark.parametrize("rule", [
    Bounds(name="rule", channel="u", low=-1.0, high=Level(1.0)),
    RateLimit(name="rule", channel="u", rise=Level(1.0)),
    WindowLimit(name="rule", channel="u", minutes=20.0, bound=Level(1.0)),
    Interval(name="rule", channel="u", minutes=20.0, size=Level(1.0)),
    StaleData(name="rule", channel="u", observation="x", minutes=20.0, safe=Level(1.0)),
    RangeGate(name="rule", channel="u", observation="x", low=-1.0, high=1.0, safe=Level(1.0)),
    FlatSignal(name="rule", channel="u", observation="x", minutes=20.0, safe=Level(1.0)),
    SuspendBelow(name="rule", channel="u", observation="x", threshold=-1.0, max_age=20.0, safe=Level(1.0)),
])  # fmt: skip
def test_every_rule_alone_refuses_what_is_no_number(rule):
    measured = other([0.0, 0.1])
    assert passes(rule, measured, 0.5)
    for u in (math.nan, math.inf, None, "0.5", True):
        assert not passes(rule, measured, u)


def test_interval_stale_range_flat_and_suspend_on_another_channel():
    interval = Interval(name="interval", channel="u", minutes=20.0, size=Level(1.0))
    assert not passes(interval, other([0.0] * 3, [0.0, 2.0]), 2.0)
    assert passes(interval, other([0.0] * 3, [2.0, 0.0]), 2.0)
    stale = StaleData(name="stale", channel="u", observation="x", minutes=10.0, safe=Level(1.0))
    assert passes(stale, other([1.0, math.nan]), 5.0)
    assert not passes(stale, other([1.0, math.nan, math.nan]), 5.0)
    assert passes(stale, other([1.0, math.nan, math.nan]), 1.0)
    gate = RangeGate(name="gate", channel="u", observation="x", low=0.0, high=9.0)
    assert [passes(gate, other([x]), 1.0) for x in (0.0, 0.1, 9.0, 9.1)] == [False, True, True, False]
    flat = FlatSignal(name="flat", channel="u", observation="x", minutes=20.0, band=0.5)
    assert not passes(flat, other([1.0, 1.2, 1.4]), 1.0)
    assert passes(flat, other([1.0, 1.2, 1.6]), 1.0)
    assert passes(flat, other([1.2, 1.4]), 1.0)
    suspend = SuspendBelow(
        name="suspend", channel="u", observation="x", threshold=5.0, max_age=10.0, horizon=20.0, fit=20.0, readings=2
    )
    assert passes(suspend, other([9.0, 8.0, 7.0]), 1.0)
    assert not passes(suspend, other([9.1, 8.0, 6.9]), 1.0)


# --- The checker itself -------------------------------------------------------------------------------------------


def test_reason_names_rule_value_bound_and_unit():
    verdict = CHECKER.check(calm(), {"insulin": 13.0})
    reason = next(reason for reason in verdict.reasons if reason.rule == "step_dose")
    assert (reason.value, reason.unit, reason.severity) == (13.0, "U", 5)
    assert reason.bound == pytest.approx(0.4 + 10.0)
    assert "step_dose" in verdict.explain()
    assert "13 U" in verdict.explain()


def test_never_changes_what_it_judges():
    measured, action = calm(carbs=[60.0]), {"insulin": 99.0}
    before = {name: values.copy() for name, values in measured.actions.items()}
    CHECKER.check(measured, action)
    assert action == {"insulin": 99.0}
    np.testing.assert_array_equal(before["insulin"], measured.actions["insulin"])


def test_digest_changes_with_any_number_and_is_stable():
    assert Checker(insulin_rules()).digest == CHECKER.digest
    digests = {CHECKER.digest}
    for field in dataclasses.fields(InsulinLimits):
        limits = InsulinLimits(**{field.name: getattr(InsulinLimits(), field.name) * 1.01})
        digests.add(Checker(insulin_rules(limits)).digest)
    assert len(digests) == 1 + len(dataclasses.fields(InsulinLimits))


def test_rule_that_fails_to_compute_refuses():
    class Careless(Rule):
        def judge(self, measured, value):
            raise ZeroDivisionError("oops")

    verdict = Checker([Careless(name="careless", channel="u")]).check(other([0.0]), {"u": 1.0})
    assert not verdict.accepted
    assert "ZeroDivisionError" in verdict.explain()


def test_unknown_missing_or_non_numeric_actions_are_refused():
    for action in ({}, {"insulin": 0.0, "x": 1.0}, {"insulin": True}, {"insulin": "0"}, {"insulin": None}, None, [0.0]):
        assert not CHECKER.check(calm(), action).accepted


def test_checker_wants_rules_with_distinct_names():
    rule = FiniteAction(name="one", channel="u")
    with pytest.raises(InputError, match="at least one"):
        Checker([])
    with pytest.raises(InputError, match="two rules are named one"):
        Checker([rule, rule])
    assert hash(rule) == hash(FiniteAction(name="one", channel="u"))


def test_history_of_the_wrong_shape_is_an_input_error_that_names_the_channel():
    with pytest.raises(InputError, match=r"insulin.*shape \(3,\).*\(2,\)"):
        Measured(np.arange(3.0), {}, {"insulin": np.zeros(3)}, {}, {})
    with pytest.raises(InputError, match="cgm"):
        Measured(np.arange(3.0), {"cgm": np.zeros((3, 1))}, {}, {}, {})


@pytest.mark.parametrize("limits", [{"max_basal": -1.0}, {"dia": math.nan}, {"peak": 150.0}])
def test_limits_that_make_no_sense_are_input_errors(limits):
    with pytest.raises(InputError, match=next(iter(limits))):
        InsulinLimits(**limits)


@pytest.mark.parametrize("module", [foreworld.agent.check, foreworld.agent.check_rules])
def test_shares_no_code_with_the_model(module):
    allowed = {"foreworld.errors", "foreworld.agent.check", "foreworld.episodes.episode", "foreworld.episodes.schema"}
    allowed |= {"numpy", "__future__", "abc", "collections.abc", "dataclasses", "functools", "hashlib", "json"}
    allowed |= {"math", "typing"}
    found = set()
    for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    assert found <= allowed
