"""Glucose metrics against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foreworld.domains.treatment import metrics
from foreworld.errors import InputError

# One sample on each side of every bound.
TRACE = np.array([53.9, 54.0, 69.9, 70.0, 140.0, 140.1, 180.0, 180.1, 250.0, 250.1])


def test_shares_of_time_take_the_bounds_of_the_consensus():
    found = metrics.summarise(TRACE)
    expected = {
        "time_in_range": 0.4,
        "time_in_tight_range": 0.2,
        "time_below_70": 0.3,
        "time_below_54": 0.1,
        "time_above_180": 0.3,
        "time_above_250": 0.1,
    }
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected)


def test_gri_weighs_the_four_bands():
    # 10 % very low, 20 % low, 10 % very high, 20 % high: 30 + 48 + 16 + 16.
    assert metrics.glycemia_risk_index(np.array([*TRACE, *[100.0] * 10])) == pytest.approx(15 + 24 + 8 + 8)
    assert metrics.glycemia_risk_index(TRACE) == 100.0


def test_risk_indices_by_hand_and_over_all_samples():
    # f(40) = 1.509 (ln(40)^1.084 - 5.381) = 1.509 (4.11636 - 5.381) = -1.90834; 10 f^2 = 36.418
    # f(300) = 1.509 (ln(300)^1.084 - 5.381) = 1.509 (6.60208 - 5.381) = 1.84261; 10 f^2 = 33.952
    trace = np.array([40.0, 300.0, 112.5, 112.5])
    assert metrics.low_risk(trace) == pytest.approx(36.418 / 4.0, abs=0.01)
    assert metrics.high_risk(trace) == pytest.approx(33.952 / 4.0, abs=0.01)
    # Kovatchev's scale is symmetric: 10 f^2 is 100 at 20 and 600 mg/dL.
    assert metrics.low_risk(np.array([20.0])) == pytest.approx(100.0, abs=0.5)
    assert metrics.high_risk(np.array([600.0])) == pytest.approx(100.0, abs=0.5)


def test_mean_variation_and_insulin():
    found = metrics.summarise(np.array([[100.0, 200.0], [150.0, 150.0]]), np.full((2, 288), 0.1))
    np.testing.assert_allclose(found["mean_glucose"], [150.0, 150.0])
    np.testing.assert_allclose(found["cv"], [1.0 / 3.0, 0.0])
    np.testing.assert_allclose(found["insulin_per_day"], [28.8, 28.8])
    assert set(found) == set(metrics.UNITS)


def test_a_failure_is_any_sample_below_ten():
    np.testing.assert_array_equal(metrics.failures(np.array([[100.0, 9.99, 100.0], [100.0, 10.0, 100.0]])), [1.0, 0.0])


@given(arrays(np.float64, (3, 20), elements=st.floats(1.0, 700.0)))
def test_ranges_add_up_and_all_is_finite(bg):
    found = metrics.summarise(bg)
    total = found["time_in_range"] + found["time_below_70"] + found["time_above_180"]
    np.testing.assert_allclose(total, 1.0)
    assert np.all(found["time_below_54"] <= found["time_below_70"])
    assert np.all(found["time_above_250"] <= found["time_above_180"])
    assert all(np.all(np.isfinite(value)) for value in found.values())
    for name, unit in metrics.UNITS.items():
        if unit == "share" and name in found and name != "cv":
            assert np.all((found[name] >= 0.0) & (found[name] <= 1.0))


@pytest.mark.parametrize("bg", [np.array([]), np.array([100.0, np.nan])])
def test_an_empty_or_unknown_trace_is_refused(bg):
    with pytest.raises(InputError, match="mg/dL"):
        metrics.summarise(bg)
