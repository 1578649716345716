"""oref0 behind its bridge: the profile it is given, the protocol, its doses, and what is said where it is absent.

What needs the real package runs where it is installed (`FOREWORLD_OREF0`, or runs/peers/oref0), else it is skipped.
"""

import gc
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from foreworld.domains.treatment.dosing import basal_step, dose_cap
from foreworld.domains.treatment.metrics import time_below, time_in_range
from foreworld.domains.treatment.oref0 import Oref0, Oref0Config
from foreworld.domains.treatment.oref0_bridge import Bridge, install_command, require_oref0
from foreworld.domains.treatment.oref0_profile import measure_response, oref0_profiles
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Observation, Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.errors import ForeworldError, InputError, MissingDataError

NAMES = ("adult#001", "adolescent#002", "child#003")


def absent() -> str:
    try:
        require_oref0()
    except MissingDataError as error:
        return str(error)
    return ""


needs_oref0 = pytest.mark.skipif(bool(absent()), reason=absent() or "oref0 is installed")


@pytest.fixture(scope="module")
def patients():
    return load_patients(NAMES)


@pytest.fixture
def controller():
    with Oref0(smb=True) as made:
        yield made


def observation(t, cgm, announced=None):
    cgm = np.asarray(cgm, dtype=float)
    return Observation(t, 5 * t, cgm, np.zeros(len(cgm)) if announced is None else np.asarray(announced, dtype=float))


def feed(controller, patients, traces, entries=None):
    """Doses `[B, T]` for readings `[B, T]`, whatever is given."""
    controller.reset(patients)
    entries = np.zeros_like(traces) if entries is None else entries
    return np.stack([controller.act(observation(t, traces[:, t], entries[:, t])) for t in range(traces.shape[1])], 1)


def loop(controller, patients, steps):
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=2), seed=7))
    controller.reset(patients)
    return simulator.run(controller.act, steps)


# The profile: no Node needed.


def test_a_test_bolus_lowers_glucose_by_the_sensitivity_that_was_measured(patients):
    response = measure_response(patients)
    scenario = Scenario.draw(patients, ScenarioConfig(days=1, sensor_noise=False, announced=False), seed=3)
    simulator = Simulator(patients, replace(scenario, meals=np.zeros_like(scenario.meals)))
    start, small = simulator.bg.copy(), 0.5 * patients.basal
    found = simulator.run(lambda seen: basal_step(patients) + (small if seen.t == 0 else 0.0), steps=108)
    assert (start - found.bg.min(axis=1)) / small == pytest.approx(response.sensitivity, rel=0.15)


def test_a_small_meal_and_its_bolus_by_the_measured_ratio_cancel_out(patients):
    response = measure_response(patients)
    scenario = Scenario.draw(patients, ScenarioConfig(days=1, sensor_noise=False, announced=False), seed=3)
    meals, grams = np.zeros_like(scenario.meals), 0.1 * patients.weight
    meals[:, 0] = grams

    def mean_shift(ratio):
        simulator = Simulator(patients, replace(scenario, meals=meals))
        start = simulator.bg.copy()
        dose = grams / ratio
        trace = simulator.run(lambda seen: basal_step(patients) + (dose if seen.t == 0 else 0.0), steps=108)
        return (trace.bg - start[:, None]).mean(axis=1)

    assert np.abs(mean_shift(response.ratio)).max() < 2.0
    # Half the ratio is twice the insulin.
    assert np.all(mean_shift(0.5 * response.ratio) < -2.0)


def test_the_measured_response_owes_nothing_to_the_record_or_the_batch(patients):
    expected = measure_response(patients)
    liar = replace(patients, cr=10.0 * patients.cr, cf=0.1 * patients.cf)
    assert np.array_equal(measure_response(liar).ratio, expected.ratio)
    alone = measure_response(patients.select(["child#003"]))
    assert alone.sensitivity == pytest.approx(expected.sensitivity[2:], rel=1e-9)
    assert alone.ratio == pytest.approx(expected.ratio[2:], rel=1e-9)


def test_a_profile_has_the_names_and_units_of_oref0(patients):
    config, response = Oref0Config(), measure_response(patients)
    for row, profile in enumerate(oref0_profiles(patients, response, config, smb=True)):
        json.dumps(profile, allow_nan=False)
        assert (profile["dia"], profile["insulinPeakTime"], profile["useCustomPeakTime"]) == (9.0, 100.0, True)
        assert profile["min_bg"] == profile["max_bg"] == 110.0
        assert profile["sens"] == profile["isfProfile"]["sensitivities"][0]["sensitivity"]
        assert profile["sens"] == response.sensitivity[row] and profile["carb_ratio"] == response.ratio[row]
        assert 0.0 < profile["max_basal"] <= config.temp_multiplier * patients.basal[row]
        assert profile["enableSMB_always"] is True


# What is said where it is absent.


def test_a_missing_package_is_answered_with_the_command(patients, monkeypatch, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed, which is another message")
    monkeypatch.setenv("FOREWORLD_OREF0", str(tmp_path))
    command = f"npm install --ignore-scripts --no-audit --no-fund --prefix {tmp_path} oref0@0.7.1"
    assert install_command() == command
    with pytest.raises(MissingDataError, match=r"is not installed in .*; run: npm install") as caught:
        Oref0(smb=False).reset(patients)
    assert command in str(caught.value)


def test_a_missing_node_is_named(patients, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"install Node\.js 18 or newer, then: npm install"):
        Oref0(smb=False).reset(patients)


def test_another_version_is_not_run(monkeypatch, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed, which is another message")
    package = tmp_path / "node_modules" / "oref0"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"version": "0.6.0"}')
    monkeypatch.setenv("FOREWORLD_OREF0", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"version 0\.6\.0, not 0\.7\.1; run: npm install"):
        Bridge()


def test_acting_before_reset_is_an_input_error():
    with pytest.raises(InputError, match="call reset"):
        Oref0(smb=True).act(observation(0, [120.0]))


# With the real package.


@needs_oref0
def test_the_bridge_names_the_versions_and_ends_its_process():
    bridge = Bridge()
    assert bridge.versions["oref0"] == "0.7.1" and bridge.versions["node"].startswith("v")
    bridge.close()
    assert not bridge.running
    with pytest.raises(ForeworldError, match="was closed before 'hello'"):
        bridge.ask({"do": "hello"})


@needs_oref0
def test_the_process_ends_with_its_object(patients):
    controller = Oref0(smb=False)
    controller.reset(patients)
    process = controller._bridge._process
    del controller
    gc.collect()
    assert process.poll() == 0


@needs_oref0
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"do": "sing"}, "unknown message"),
        ({"do": "decide", "minute": 0, "cgm": [1.0], "carbs": [], "bolus": []}, "1 values for 0 patients"),
    ],
)
def test_a_wrong_message_is_answered_and_ends_the_process(message, said):
    bridge = Bridge()
    with pytest.raises(ForeworldError, match=said):
        bridge.ask(message)
    assert not bridge.running


@needs_oref0
def test_a_process_that_dies_is_reported_and_replaced_by_reset(controller, patients):
    controller.reset(patients)
    os.kill(controller._bridge.pid, signal.SIGKILL)
    with pytest.raises(ForeworldError, match=r"ended while it was asked 'decide' \(exit status -9.*Call reset"):
        controller.act(observation(0, [120.0] * 3))
    controller.reset(patients)
    assert controller.act(observation(0, [120.0] * 3)).shape == (3,)
    assert controller.cpu_seconds > 0.0


@needs_oref0
def test_a_process_that_hangs_is_killed():
    bridge = Bridge()
    bridge.timeout = 0.5
    os.kill(bridge.pid, signal.SIGSTOP)
    with pytest.raises(ForeworldError, match=r"a kill after 0\.5 s without an answer is -9"):
        bridge.ask({"do": "hello"})
    assert not bridge.running


@needs_oref0
def test_the_wrong_number_of_patients_is_an_input_error(controller, patients):
    controller.reset(patients)
    with pytest.raises(InputError, match="oref0 was reset for 3 patients"):
        controller.act(observation(0, [120.0]))


@needs_oref0
def test_basal_flows_until_the_first_reading(controller, patients):
    silent = feed(controller, patients, np.full((3, 4), np.nan))
    assert silent == pytest.approx(np.repeat(basal_step(patients)[:, None], 4, axis=1))


@needs_oref0
def test_insulin_stops_at_low_glucose_and_rises_at_high(controller, patients):
    falling, rising = np.linspace(110.0, 66.0, 12), np.linspace(150.0, 280.0, 12)
    low = feed(controller, patients, np.tile(falling, (3, 1)))
    high = feed(controller, patients, np.tile(rising, (3, 1)))
    assert np.all(low[:, -1] == 0.0)
    assert np.all(high[:, -6:].sum(axis=1) > 6.0 * basal_step(patients))


@needs_oref0
def test_temporary_basals_alone_stay_within_their_multiple_of_basal(patients):
    rising = np.tile(np.linspace(150.0, 350.0, 40), (3, 1))
    with Oref0(smb=False) as temps, Oref0(smb=True) as micro:
        calm, eager = feed(temps, patients, rising), feed(micro, patients, rising)
    most = temps.config.temp_multiplier * basal_step(patients)
    assert np.all(calm <= most[:, None] + 1e-12)
    assert np.all(eager.max(axis=1) > most)


@needs_oref0
def test_an_entry_is_bolused_by_the_measured_ratio_and_counted_as_carbs(controller, patients):
    flat = 120.0 + np.random.default_rng(0).normal(size=(3, 60))
    entries = np.zeros_like(flat)
    entries[:, 40] = 0.4 * patients.weight
    alone, fed = feed(controller, patients, flat), feed(controller, patients, flat, entries)
    assert np.array_equal(alone[:, :40], fed[:, :40])
    bolus = fed[:, 40] - basal_step(patients) * controller.config.temp_multiplier
    expected = entries[:, 40] / measure_response(patients).ratio
    assert np.all(bolus <= expected) and np.all(fed[:, 40] >= expected)


@needs_oref0
def test_every_dose_is_finite_and_within_the_cap_of_the_protocol(controller, patients):
    random = np.random.default_rng(1)
    readings = np.where(random.uniform(size=(3, 120)) < 0.15, np.nan, random.uniform(39.0, 400.0, size=(3, 120)))
    entries = np.where(random.uniform(size=(3, 120)) < 0.1, random.uniform(0.0, 800.0, size=(3, 120)), 0.0)
    doses = feed(controller, patients, readings, entries)
    assert np.all(np.isfinite(doses) & (doses >= 0.0))
    assert np.all(doses <= dose_cap(patients)[:, None])
    assert doses.max() > 1.0


@needs_oref0
def test_a_patient_is_treated_alike_alone_and_in_a_batch(controller, patients):
    together = loop(controller, patients, steps=150)
    alone = loop(controller, patients.select(["child#003"]), steps=150)
    assert together.insulin[2] == pytest.approx(alone.insulin[0], abs=1e-5)


@needs_oref0
def test_the_same_days_are_treated_alike_by_a_used_and_a_new_process(controller, patients):
    first, again = loop(controller, patients, steps=120), loop(controller, patients, steps=120)
    with Oref0(smb=True) as other:
        new = loop(other, patients, steps=120)
    assert np.array_equal(first.insulin, again.insulin) and np.array_equal(first.insulin, new.insulin)


@needs_oref0
def test_the_closed_loop_keeps_patients_in_range(patients):
    with Oref0(smb=False) as controller:
        bg = loop(controller, patients, steps=400).bg
    assert time_in_range(bg).mean() > 0.85
    assert time_below(bg, 54.0).mean() < 0.02
