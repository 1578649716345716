"""Bands that follow a stream: what they promise, and that nothing moves before it was measured."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreworld.errors import InputError
from foreworld.forecast.adaptive import AdaptiveBands, AdaptiveConfig, BandState
from foreworld.forecast.forecaster import Calibration, Forecast

POINTS = (1, 3)


def stream(bands, errors, state=None):
    """Multipliers [N, B, H] after each reading of `errors` [N, B], of forecasts of 0 with half-widths of 1."""
    state, found = state or bands.start(errors.shape[1]), []
    zeros = torch.zeros(errors.shape[1], len(POINTS))
    for reading in errors:
        state = bands.observe(state, reading)
        found.append(state.multiplier)
        state = bands.remember(state, zeros, zeros + 1)
    return torch.stack(found), state


def noise(steps, subjects=1, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale / 1.6449 * torch.randn(steps, subjects, generator=generator, dtype=torch.float64)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.2, 5.0), st.floats(0.002, 0.05))
def test_misses_tend_to_the_stated_risk_for_any_stream(seed, scale, rate):
    bands = AdaptiveBands(POINTS, 0.9, AdaptiveConfig(rate=rate, least=1e-3, most=1e3))
    errors = noise(800, scale=scale, seed=seed) * torch.linspace(0.5, 2.0, 800, dtype=torch.float64)[:, None]
    found, _ = stream(bands, errors)
    before = torch.cat([torch.ones(1, 1, 2, dtype=torch.float64), found[:-1]])
    missed = (errors[1:].abs() > before[1:, :, 0]).double().mean()
    # What the multiplier moved is what was missed too much or too little: the sum telescopes.
    assert float(missed) == pytest.approx(0.1 + float(found[-1, 0, 0].log()) / (rate * 799), abs=1e-9)


def test_coverage_comes_back_after_the_errors_grow_and_is_lost_without():
    errors = torch.cat([noise(2000, 20), noise(2000, 20, scale=1.6, seed=1)])
    found, _ = stream(AdaptiveBands(POINTS, 0.9, AdaptiveConfig(rate=0.02)), errors)
    late = slice(-500, None)
    assert 0.88 < float((errors[late].abs() <= found[late][:, :, 0]).double().mean()) < 0.92
    assert float((errors[late].abs() <= 1.0).double().mean()) < 0.75
    assert 1.4 < float(found[late].mean()) < 1.8


def test_a_forecast_moves_nothing_before_its_reading_has_come():
    bands = AdaptiveBands(POINTS)
    errors = torch.zeros(6, 1, dtype=torch.float64)
    errors[4] = 100.0
    found, _ = stream(bands, errors)
    quiet, _ = stream(bands, torch.zeros(6, 1, dtype=torch.float64))
    torch.testing.assert_close(found[:4], quiet[:4], rtol=0, atol=0)
    assert (found[4] > quiet[4]).all()
    # Three steps ahead was first foreseen after the first reading, so the fourth is the first to be scored.
    assert (found[:3, 0, 1] == 1).all()
    assert found[3, 0, 1] < 1


def test_what_was_not_measured_or_not_foreseen_moves_nothing():
    bands = AdaptiveBands(POINTS)
    found, state = stream(bands, torch.full((8, 1), torch.nan, dtype=torch.float64))
    assert (found == 1).all()
    for _ in range(20):  # nothing is issued: old rows must not be scored again
        after = bands.observe(state, torch.tensor([50.0]))
        state = BandState(**after.tensors())
    assert (state.multiplier <= (1 + 0.1) ** 4).all()
    again = bands.observe(state, torch.tensor([50.0]))
    torch.testing.assert_close(again.multiplier, state.multiplier, rtol=0, atol=0)


def test_with_another_picture_goes_some_of_what_was_learned_and_all_that_was_foreseen():
    bands = AdaptiveBands(POINTS)
    _, state = stream(bands, noise(60, 2, scale=3.0))
    assert (state.multiplier > 1.05).all()
    first = torch.tensor([True, False])
    after = bands.renewed(state, first)
    torch.testing.assert_close(after.multiplier[0], state.multiplier[0] ** bands.config.keep)
    torch.testing.assert_close(after.multiplier[1], state.multiplier[1], rtol=0, atol=0)
    moved = bands.observe(after, torch.tensor([50.0, 50.0])).multiplier
    torch.testing.assert_close(moved[0], after.multiplier[0], rtol=0, atol=0)
    torch.testing.assert_close(moved[1], bands.observe(state, torch.tensor([50.0, 50.0])).multiplier[1])
    # What the new picture foresees is scored as ever.
    again = bands.remember(after, torch.zeros(2, len(POINTS)), torch.ones(2, len(POINTS)))
    assert (bands.observe(again, torch.tensor([50.0, 50.0])).multiplier[:, 0] > after.multiplier[:, 0]).all()
    for wrong in (torch.tensor([True]), torch.tensor([1, 0])):
        with pytest.raises(InputError, match="expected bool"):
            bands.renewed(state, wrong)


def test_bands_come_back_sooner_where_a_better_picture_takes_over():
    bands = AdaptiveBands(POINTS)
    _, state = stream(bands, noise(800, 40, scale=2.5))
    late = {}
    for told in (True, False):
        begun = bands.renewed(state, torch.ones(40, dtype=torch.bool)) if told else state
        errors = noise(60, 40, seed=2)
        found, _ = stream(bands, errors, begun)
        late[told] = abs(float((errors.abs() <= found[..., 0]).double().mean()) - 0.9)
    assert late[True] < late[False]


def test_subjects_do_not_touch_one_another_and_a_recorded_state_goes_on():
    bands = AdaptiveBands(POINTS)
    errors = noise(60, 3) * torch.tensor([0.5, 1.0, 3.0])
    whole, _ = stream(bands, errors)
    alone, _ = stream(bands, errors[:, 1:2])
    torch.testing.assert_close(whole[:, 1:2], alone, rtol=0, atol=0)
    _, half = stream(bands, errors[:30])
    kept = BandState(**{name: tensor.clone() for name, tensor in half.select(torch.tensor([2])).tensors().items()})
    rest, _ = stream(bands, errors[30:, 2:], kept)
    torch.testing.assert_close(rest, whole[30:, 2:], rtol=0, atol=0)


def test_multipliers_stay_within_their_bounds():
    bands = AdaptiveBands(POINTS, config=AdaptiveConfig(rate=0.5, least=0.8, most=1.5))
    assert float(stream(bands, noise(50) * 100)[0].max()) == pytest.approx(1.5)
    assert float(stream(bands, noise(50) * 0)[0].min()) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="start at 1"):
        AdaptiveConfig(least=1.2)


def forecast(mean, low, high):
    shape = torch.zeros(1, 1, len(POINTS))
    parts = [{"level": shape + value} for value in (mean, 1.0, low, high)]
    return Forecast(torch.tensor(POINTS), {}, *parts, Calibration(), shape[..., 0], shape[..., 0].long(), torch.ones(1))


def test_a_forecast_gives_its_band_even_where_an_end_was_cut_off():
    bands = AdaptiveBands(POINTS)
    state = bands.start(1)
    state = bands.observe(bands.issue(state, forecast(10.0, 5.0, 20.0), "level"), torch.tensor([19.0]))
    moved = math.exp(bands.config.rate * -0.1)
    torch.testing.assert_close(state.multiplier, torch.tensor([[moved, 1.0]], dtype=torch.float64))
    lower, upper = bands.apply(state, forecast(10.0, 5.0, 20.0), "level")
    assert (float(lower[0, 0]), float(upper[0, 0])) == pytest.approx((10 - 10 * moved, 10 + 10 * moved))


def test_wrong_shapes_are_refused():
    bands = AdaptiveBands(POINTS)
    with pytest.raises(InputError, match="one a subject"):
        bands.observe(bands.start(2), torch.zeros(3))
    with pytest.raises(InputError, match="one plan"):
        bands.issue(bands.start(2), forecast(1.0, 0.0, 2.0), "level")
    with pytest.raises(InputError, match="steps ahead"):
        AdaptiveBands((0, 1))
