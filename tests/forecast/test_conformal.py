import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreworld.errors import InputError
from foreworld.forecast.conformal import (
    AdaptiveConformal,
    conformal_quantile,
    masked_quantiles,
    subject_quantile,
)


def scores(n, seed=0):
    return np.abs(np.random.default_rng(seed).normal(size=n))


# Sizes at which (n + 1) * risk is no whole number: there the reference packages lose a rank to a rounding error.
@pytest.mark.parametrize("n", [25, 48, 137, 503])
@pytest.mark.parametrize("risk", [0.05, 0.1, 0.33])
def test_the_half_width_equals_that_of_crepes(n, risk):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from crepes import ConformalRegressor
    found = scores(n)
    interval = ConformalRegressor().fit(residuals=found).predict_int(np.zeros(1), confidence=1 - risk)
    assert float(conformal_quantile(torch.from_numpy(found), risk)) == pytest.approx(interval[0, 1], rel=1e-12)


@pytest.mark.parametrize("n", [25, 48, 137, 503])
@pytest.mark.parametrize("risk", [0.05, 0.1, 0.33])
def test_the_band_equals_that_of_mapie(n, risk):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mapie.regression import SplitConformalRegressor
        from sklearn.dummy import DummyRegressor

        y = np.random.default_rng(1).normal(size=n)
        flat = DummyRegressor(strategy="constant", constant=0.0).fit(np.zeros((n, 1)), y)
        mapie = SplitConformalRegressor(flat, confidence_level=1 - risk, prefit=True).conformalize(np.zeros((n, 1)), y)
        _, interval = mapie.predict_interval(np.zeros((1, 1)))
    half = float(conformal_quantile(torch.from_numpy(np.abs(y)), risk))
    np.testing.assert_allclose(interval[0, :, 0], [-half, half], rtol=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_the_bound_leaves_out_no_more_scores_than_the_risk_allows(values, risk):
    bound = float(conformal_quantile(torch.tensor(values, dtype=torch.float64), risk))
    n = len(values)
    inside = sum(value <= bound for value in values)
    if math.isinf(bound):
        assert math.ceil((n + 1) * (1 - risk) - 1e-9) > n
    else:
        assert inside >= (n + 1) * (1 - risk) - 1e-6
        assert sum(value < bound for value in values) < (n + 1) * (1 - risk)


def test_whole_ranks_do_not_suffer_from_rounding():
    # 0.1 of 100 is 10.000000000000002 in some orders of operations: the 90th of 99 scores is meant, not the 91st.
    assert float(conformal_quantile(torch.arange(1.0, 100.0), 0.1)) == 90.0
    assert float(conformal_quantile(torch.arange(1.0, 20.0), 0.05)) == 19.0


def test_coverage_of_fresh_scores_is_the_stated_one():
    r = np.random.default_rng(3)
    inside = [
        float(r.gamma(2.0)) <= float(conformal_quantile(torch.from_numpy(r.gamma(2.0, size=39)), 0.2))
        for _ in range(4000)
    ]
    # Exact coverage is 32/40; the standard error of the share is 0.0063.
    assert abs(np.mean(inside) - 0.8) < 0.02


def test_too_few_empty_and_nan_scores():
    assert math.isinf(float(conformal_quantile(torch.zeros(8), 0.1)))
    for bad in (torch.zeros(0), torch.tensor([1.0, math.nan])):
        with pytest.raises(InputError, match="empty or NaN"):
            conformal_quantile(bad, 0.1)
    for risk in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            conformal_quantile(torch.zeros(9), risk)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_with_one_score_a_subject_the_subjects_quantile_is_the_plain_one(values, risk):
    table = torch.tensor(values, dtype=torch.float64)
    assert float(subject_quantile(table, torch.arange(len(values)), risk)) == float(conformal_quantile(table, risk))


def test_a_subject_counts_once_however_often_it_was_seen():
    # Ten subjects with one score each, the last of which was seen a hundred times.
    values = torch.cat([torch.arange(9.0), torch.full((100,), 9.0)])
    subject = torch.cat([torch.arange(9), torch.full((100,), 9)])
    assert float(subject_quantile(values, subject, 0.5)) == 5.0
    assert float(subject_quantile(values, subject, 0.1)) == 9.0
    assert math.isinf(float(subject_quantile(values, subject, 0.05)))


def test_scores_of_a_fresh_subject_exceed_the_subjects_quantile_at_the_stated_risk():
    r = np.random.default_rng(5)

    def drawn():
        # Each subject has a level of its own, so that pooled scores are far from exchangeable; sizes differ.
        parts = [np.abs(r.normal(0.0, np.exp(r.normal()), r.integers(3, 30))) for _ in range(20)]
        return np.concatenate(parts[:-1]), np.repeat(np.arange(19), [len(p) for p in parts[:-1]]), parts[-1]

    missed, pooled = [], []
    for _ in range(2000):
        scores_, subject, fresh = drawn()
        table = torch.from_numpy(scores_)
        missed.append((fresh > float(subject_quantile(table, torch.from_numpy(subject), 0.1))).mean())
        pooled.append((fresh > float(conformal_quantile(table, 0.1))).mean())
    assert np.mean(missed) < 0.1 + 0.01
    # Counting scores instead of subjects promises too much: that is why it is not done.
    assert np.mean(pooled) > np.mean(missed) + 0.02


def test_the_subjects_quantile_rejects_what_the_plain_one_rejects():
    for bad in (torch.zeros(0), torch.tensor([1.0, math.nan])):
        with pytest.raises(InputError, match="empty or NaN"):
            subject_quantile(bad, torch.arange(len(bad)), 0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        subject_quantile(torch.zeros(9), torch.arange(9), 1.0)


def test_masked_columns_use_their_measured_rows_only():
    table = torch.arange(40.0).reshape(20, 2)
    mask = torch.ones(20, 2, dtype=torch.bool)
    mask[10:, 1] = False
    subject = torch.arange(20)
    expected = [conformal_quantile(table[:, 0], 0.2), conformal_quantile(table[:10, 1], 0.2)]
    assert masked_quantiles(table, mask, subject, 0.2).tolist() == [float(v) for v in expected]
    with pytest.raises(InputError, match="too few calibration subjects at horizon index 1"):
        masked_quantiles(table, mask, subject, 0.05)


def misses(update, count=6000):
    """Share of misses on a stream whose spread drifts and jumps."""
    r = np.random.default_rng(4)
    missed = [not update(float(abs(r.normal()) * (1 + t / 1500) * (3 if t > 4000 else 1))) for t in range(count)]
    return np.mean(missed[200:])


def test_adaptive_bounds_keep_their_coverage_on_a_drifting_stream_where_fixed_ones_do_not():
    adaptive = AdaptiveConformal(0.1, rate=0.02)
    assert abs(misses(adaptive.update) - 0.1) < 0.01
    fixed = float(conformal_quantile(torch.from_numpy(scores(200, 4)), 0.1))
    assert misses(lambda score: score <= fixed) > 0.3


def test_an_adaptive_bound_is_infinite_before_it_knows_anything_and_rejects_nan():
    adaptive = AdaptiveConformal(0.1)
    assert adaptive.bound() == math.inf
    with pytest.raises(InputError, match="NaN"):
        adaptive.update(math.nan)
    for risk, rate in ((0.0, 0.1), (1.0, 0.1), (0.1, 0.0)):
        with pytest.raises(InputError):
            AdaptiveConformal(risk, rate)


def test_an_adaptive_bound_recovers_from_endless_misses_and_hits():
    adaptive = AdaptiveConformal(0.5, rate=0.3)
    outcomes = [adaptive.update(float(t)) for t in range(60)]
    assert 0.4 < np.mean(outcomes) < 0.6
