import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration, Forecast, Stage
from foreworld.planning.guardrail import StateGuardrail, check_guardrails, digest, margin_of


def rail(**change):
    settings = {"name": "low", "quantity": "x", "bound": 70.0, "unit": "mg/dL", "source": "test", "risk": 0.1}
    return StateGuardrail(**{**settings, "start": 2, "horizon": 6, **change})


def forecast(mean, points=(1, 2, 4, 6, 9), scale=1.0, usable=None, calibration=None, known=1):
    mean = torch.as_tensor(mean, dtype=torch.float32).reshape(1, 1, -1)
    spread = torch.full_like(mean, scale)
    usable = torch.full((1, 1), points[-1] if usable is None else usable)
    return Forecast(
        torch.tensor(points), {"x": mean[None]}, {"x": mean}, {"x": spread}, {"x": mean}, {"x": mean},
        calibration or Calibration(), torch.zeros(1, 1), usable, torch.full((1,), known),
    )  # fmt: skip


def margin(guardrail, *args, **kwargs):
    return float(guardrail.margin(forecast(*args, **kwargs), None, None))


levels = st.lists(st.floats(-1e3, 1e3, width=32), min_size=5, max_size=5)


@given(levels, st.sampled_from(["at_least", "at_most"]), st.floats(-500, 500))
def test_the_margin_is_the_least_distance_over_the_steps_that_count(values, sense, bound):
    sign = 1 if sense == "at_least" else -1
    expected = min(sign * (value - bound) for value in values[1:4])
    assert margin(rail(sense=sense, bound=bound), values) == pytest.approx(expected, rel=1e-4, abs=1e-3)


@given(levels, st.integers(0, 4), st.floats(0, 100), st.sampled_from(["at_least", "at_most"]))
def test_moving_inwards_at_any_step_never_lowers_the_margin(values, at, by, sense):
    moved = list(values)
    moved[at] += by if sense == "at_least" else -by
    assert margin(rail(sense=sense), moved) >= margin(rail(sense=sense), values) - 1e-3


@given(levels, levels)
def test_an_adapted_model_never_loosens_a_guardrail(own, calibrated):
    both = dataclasses.replace(forecast(own), calibrated=forecast(calibrated))
    found = float(margin_of(rail(), both, None, None))
    assert found == min(margin(rail(), own), margin(rail(), calibrated))


def test_what_was_not_known_before_a_model_was_adapted_is_not_known_after():
    for was in (forecast([math.nan] * 5), forecast([200.0] * 5, usable=4)):
        both = dataclasses.replace(forecast([200.0] * 5), calibrated=was)
        assert math.isnan(float(margin_of(rail(), both, None, None)))


@given(st.floats(0, 50), st.floats(0, 50), st.floats(0.01, 20))
def test_a_larger_score_only_lowers_the_margin(a, b, scale):
    low, high = sorted((a, b))

    def tightened(score):
        calibration = Calibration(trajectory={"low": {"0.1": score}})
        return margin(rail(), [100.0] * 5, scale=scale, calibration=calibration)

    assert tightened(high) <= tightened(low) <= margin(rail(), [100.0] * 5, scale=scale)
    assert tightened(a) == pytest.approx(30 - a * scale, rel=1e-4, abs=1e-3)


def test_the_score_is_that_of_how_long_the_subject_is_known():
    later = (Stage(after=10, trajectory={"low": {"0.1": 2.0}}), Stage(after=20, trajectory={"low": {"0.1": 1.0}}))
    calibration = Calibration(trajectory={"low": {"0.1": 5.0}}, later=later)
    found = [margin(rail(), [100.0] * 5, calibration=calibration, known=known) for known in (1, 9, 10, 19, 20, 999)]
    assert found == [25.0, 25.0, 28.0, 28.0, 29.0, 29.0]
    with pytest.raises(ValueError, match="follow one another"):
        Calibration(later=later[::-1])


def test_an_infinite_score_lets_nothing_pass():
    calibration = Calibration(trajectory={"low": {"0.1": math.inf}})
    assert margin(rail(), [1e6] * 5, calibration=calibration) == -math.inf


def test_a_calibration_of_other_guardrails_is_refused_instead_of_counting_as_zero():
    calibration = Calibration(trajectory={"other": {"0.1": 1.0}, "low": {"0.05": 2.0}})
    with pytest.raises(InputError, match="low was not calibrated"):
        margin(rail(), [100.0] * 5, calibration=calibration)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_nan_at_a_step_that_counts_is_nan(at):
    values = [100.0] * 5
    values[at] = math.nan
    assert math.isnan(margin(rail(), values))


def test_a_horizon_between_two_points_is_read_off_the_line_between_them():
    # Steps 6 and 9 are predicted; the guardrail ends at 8, two thirds of the way.
    assert margin(rail(horizon=8), [100.0, 100.0, 100.0, 90.0, 60.0]) == pytest.approx(0.0, abs=1e-4)
    assert margin(rail(horizon=8), [100.0, 100.0, 100.0, 90.0, 57.0]) < 0
    # It then needs the point behind its end, so a usable horizon of 6 steps does not do.
    assert math.isnan(margin(rail(horizon=8), [100.0] * 5, usable=6))
    assert math.isnan(margin(rail(horizon=8), [100.0, 100.0, 100.0, 100.0, math.nan]))
    assert margin(rail(horizon=6), [100.0, 100.0, 100.0, 100.0, math.nan]) == pytest.approx(30)


def test_a_guardrail_whose_steps_all_lie_between_two_points_is_judged_there():
    assert margin(rail(start=7, horizon=8), [0.0, 0.0, 0.0, 90.0, 60.0]) == pytest.approx(0.0, abs=1e-4)


def test_a_usable_horizon_that_ends_early_is_nan():
    assert math.isnan(margin(rail(), [100.0] * 5, usable=4))
    assert margin(rail(), [100.0] * 5, usable=6) == pytest.approx(30)


def test_a_forecast_that_does_not_reach_the_guardrail_is_refused():
    with pytest.raises(InputError, match="not covered"):
        margin(rail(horizon=20), [100.0] * 5)
    with pytest.raises(InputError, match="not covered"):
        margin(rail(start=1, horizon=1), [100.0] * 4, points=(2, 4, 6, 9))


@pytest.mark.parametrize(
    "change",
    [
        {"bound": math.inf}, {"bound": math.nan}, {"risk": 0.0}, {"risk": 1.0}, {"start": 0}, {"start": 7},
        {"severity": 0}, {"severity": 6}, {"name": ""}, {"sense": "above"}, {"horizon": 0},
    ],
)  # fmt: skip
def test_settings_that_guard_nothing_are_refused(change):
    with pytest.raises(InputError):
        rail(**change)


def test_a_bound_of_zero_is_a_bound():
    assert margin(rail(bound=0.0), [-1.0] * 5) == -1.0


def test_a_guardrail_cannot_be_changed_and_its_digest_tells_every_field():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rail().bound = 0.0
    assert digest([rail()]) == digest([rail()])
    changes = ({"bound": 69.0}, {"risk": 0.2}, {"horizon": 5}, {"severity": 4}, {"start": 1}, {"sense": "at_most"})
    assert len({digest([rail(**change)]) for change in changes} | {digest([rail()])}) == len(changes) + 1


def test_sets_of_guardrails_that_cannot_work_are_refused():
    for guardrails, words in (([], "at least one"), ([rail(), rail()], "unique"), ([rail(horizon=13)], "shorten")):
        with pytest.raises(InputError, match=words):
            check_guardrails(guardrails, 12)
