"""Sensor noise against simglucose's own generator, and faults that do what they are called."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from foreworld.domains.treatment.sensor import (
    DELTA,
    GAMMA,
    LAMBDA,
    PERSISTENCE,
    SAMPLE_MINUTES,
    XI,
    FaultRates,
    SensorFaults,
    cgm_noise,
    draw_faults,
    read_sensor,
    spline_map,
)
from foreworld.domains.treatment.tables import table_folder
from foreworld.errors import InputError

ALL_FAULTS = FaultRates(dropout_per_day=2, stuck_per_day=2, bias_per_day=1, compression_per_night=0.5)


@pytest.fixture(scope="module")
def stock_noise():
    """simglucose's CGMNoise; it imports matplotlib without using it."""
    path = table_folder().parent / "sensor" / "noise_gen.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", types.ModuleType("matplotlib"))
        patch.setitem(sys.modules, "matplotlib.pyplot", types.ModuleType("matplotlib.pyplot"))
        spec = importlib.util.spec_from_file_location("stock_noise_gen", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.CGMNoise


@pytest.mark.parametrize("sensor", ["GuardianRT", "Dexcom"])
def test_noise_is_simglucose_noise_for_the_same_seed(stock_noise, sensor):
    params = {"PACF": PERSISTENCE, "xi": XI, "lambda": LAMBDA, "gamma": GAMMA, "delta": DELTA}
    params["sample_time"] = float(SAMPLE_MINUTES[sensor])
    seeds = [0, 1, 17, 2**32 - 1]
    expected = np.array([[next(noise) for _ in range(700)] for noise in (stock_noise(params, seed=s) for s in seeds)])
    np.testing.assert_allclose(cgm_noise(seeds, 700, sensor), expected, rtol=0, atol=1e-9)


def test_constants_are_those_of_the_installed_table():
    lines = (table_folder() / "sensor_params.csv").read_text().split()
    header = lines[0].split(",")
    rows = {line.split(",")[0]: dict(zip(header, line.split(","), strict=True)) for line in lines[1:]}
    for sensor, minutes in SAMPLE_MINUTES.items():
        row = {key: float(value) for key, value in rows[sensor].items() if key != "Name"}
        assert row == {
            "PACF": PERSISTENCE, "gamma": GAMMA, "lambda": LAMBDA, "delta": DELTA, "xi": XI,
            "sample_time": minutes, "min": 39.0, "max": 600.0,
        }  # fmt: skip


def test_spline_map_is_the_not_a_knot_spline():
    knots = np.random.default_rng(0).normal(size=11)
    spline = CubicSpline(np.arange(11) * 15.0, knots, bc_type="not-a-knot")
    np.testing.assert_allclose(spline_map(5) @ knots, spline(np.arange(1, 31) * 5.0), atol=1e-12)


@given(samples=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_noise_of_a_subject_depends_on_its_seed_alone(samples, seed):
    alone = cgm_noise([seed], samples)
    np.testing.assert_array_equal(alone[0], cgm_noise([3, seed], samples)[1])
    np.testing.assert_allclose(alone, cgm_noise([seed], samples + 40)[:, :samples], atol=1e-9)


def test_unknown_sensor_is_named():
    with pytest.raises(InputError, match="Libre"):
        cgm_noise([0], 10, "Libre")


def seeds(*values):
    return [np.random.SeedSequence(value) for value in values]


def test_no_fault_without_a_rate():
    faults = draw_faults(seeds(1, 2), FaultRates(), 288, 5)
    assert not faults.dropout.any() and not faults.stuck.any()
    assert np.all(faults.gain == 1.0) and np.all(faults.dip == 0.0)


def test_each_fault_appears_about_as_often_as_asked():
    days = 400
    faults = draw_faults(seeds(5), ALL_FAULTS, days * 288, 5)
    # Mean share of time: rate x mean minutes / 1440, less what overlaps.
    assert faults.dropout.mean() == pytest.approx(2 * 67.5 / 1440, rel=0.15)
    assert faults.stuck.mean() == pytest.approx(2 * 75 / 1440, rel=0.15)
    assert (faults.gain != 1.0).mean() == pytest.approx(1 * 300 / 1440, rel=0.2)
    assert set(np.unique(faults.gain)) == {0.8, 1.0, 1.2}
    nights = faults.dip[0, :-1].reshape(days, 288)
    assert (nights.max(axis=1) > 0).mean() == pytest.approx(0.5, abs=0.08)
    assert nights.max() <= 80.0 and nights[:, 80:].max() == 0.0, "compression lows stay in the night"
    assert np.all((nights > 0).sum(axis=1) <= 18), "a dip lasts 90 minutes at most"


def test_faults_depend_on_the_seed_alone_and_begin_alike_in_a_longer_span():
    short = draw_faults(seeds(1, 9), ALL_FAULTS, 3 * 288, 5)
    longer = draw_faults(seeds(9), ALL_FAULTS, 6 * 288, 5)
    for name in ("dropout", "stuck", "gain", "dip"):
        np.testing.assert_array_equal(getattr(longer, name)[0, : 3 * 288], getattr(short, name)[1, : 3 * 288])


def test_one_fault_leaves_the_others_where_they_were():
    only = draw_faults(seeds(4), FaultRates(bias_per_day=1), 2880, 5)
    every = draw_faults(seeds(4), ALL_FAULTS, 2880, 5)
    np.testing.assert_array_equal(only.gain, every.gain)


def test_drawing_twice_from_one_seed_object_gives_the_same():
    source = seeds(3)
    first, second = draw_faults(source, ALL_FAULTS, 1440, 5), draw_faults(source, ALL_FAULTS, 1440, 5)
    np.testing.assert_array_equal(first.dropout, second.dropout)


def test_a_reading_is_clipped_dropped_stuck_biased_and_dipped():
    def at(name, value):
        array = np.full((7, 1), {"dropout": False, "stuck": False, "gain": 1.0, "dip": 0.0}[name])
        for row, entry in value.items():
            array[row, 0] = entry
        return array

    faults = SensorFaults(
        at("dropout", {2: True}), at("stuck", {3: True, 4: True}), at("gain", {5: 0.8}), at("dip", {6: 40.0})
    )
    last = np.array([90.0, 90.0, 90.0, 90.0, np.nan, 90.0, 90.0])
    glucose = np.array([20.0, 700.0, 100.0, 100.0, 100.0, 100.0, 100.0])
    reading, held = read_sensor(glucose, np.full(7, 2.0), faults, np.arange(7), 0, last)
    np.testing.assert_allclose(reading, [39.0, 600.0, np.nan, 90.0, 102.0, 82.0, 62.0])
    np.testing.assert_allclose(held, [39.0, 600.0, 90.0, 90.0, 102.0, 82.0, 62.0])


def test_regular_faults_keep_their_rates_exactly():
    from foreworld.domains.treatment.tracks import FAULTS

    rates = FaultRates(
        dropout_per_day=FAULTS.dropout_per_day,
        dropout_minutes=FAULTS.dropout_minutes,
        stuck_per_day=FAULTS.stuck_per_day,
        stuck_minutes=FAULTS.stuck_minutes,
        bias_per_day=FAULTS.bias_per_day,
        bias_minutes=FAULTS.bias_minutes,
        compression_per_night=FAULTS.compression_per_night,
        regular=True,
    )
    days = 28
    faults = draw_faults([np.random.SeedSequence(seed) for seed in range(6)], rates, days * 288, 5)

    def begun(active):
        return int(active[0]) + int((np.diff(active.astype(int)) == 1).sum())

    for row in range(6):
        # A fault that begins near the end, or runs into the next, may hide one.
        assert begun(faults.dropout[row]) in range(days - 4, days + 2)
        assert begun(faults.stuck[row]) in range(days // 2 - 1, days // 2 + 2)
        assert begun(faults.dip[row] > 0) in range(days // 2 - 1, days // 2 + 2)
        assert begun(faults.gain[row] != 1.0) in (3, 4, 5)
        assert set(np.abs(faults.gain[row] - 1.0).round(6)) == {0.0, 0.2}
        assert 3 * 288 <= (faults.gain[row] != 1.0).sum() <= 5 * 288
