"""The forecast protocol: what an arm may know, what it may not, and how it is scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.arx import LinearConfig, fit_linear
from foreworld.domains.treatment.direct_network import NetworkConfig, train_network
from foreworld.domains.treatment.forecast_arms import (
    AutoRegression,
    ForecasterArm,
    PatientARX,
    Persistence,
    RecentArm,
    forecast_at,
    rows,
    share_within,
)
from foreworld.domains.treatment.forecasting import (
    DAY,
    ForecastConfig,
    Prediction,
    record_therapy,
    score,
    scored_moments,
)
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.windows import WindowConfig
from foreworld.episodes.schema import Role, Statistics
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.world_model import WorldModel, WorldModelConfig

GRID = HorizonGrid(points=(1, 2, 3, 6, 12, 18, 24))
CONFIG = ForecastConfig(days=4, fit_days=2, stride=12)
LINEAR = LinearConfig(grid=GRID, window=WindowConfig(readings=6, bins=6), folds=2)
NAMES = ("adult#001", "adolescent#002", "child#002")


@pytest.fixture(scope="module")
def record():
    return record_therapy(load_patients(NAMES), CONFIG, seed=0)


@pytest.fixture(scope="module")
def arms(record):
    statistics = {
        c.name: Statistics(mean=1.0, std=1.0, count=10) for c in SCHEMA.channels if c.role is not Role.observation
    }
    statistics["cgm"] = Statistics(mean=140.0, std=50.0, count=10, changes=((1, 5.0), (24, 40.0)))
    statistics = {k: v for k, v in statistics.items() if not SCHEMA[k].discrete}
    torch.manual_seed(0)
    model = WorldModel(SCHEMA.with_statistics(statistics), WorldModelConfig(grid=GRID, width=16, hidden=8, members=2))
    linear = fit_linear(SCHEMA, [record.history], LINEAR)
    network = NetworkConfig(grid=GRID, window=WindowConfig(readings=6, bins=6), hidden=16, steps=30, stride=24)
    return {
        "persistence": Persistence(),
        "ar": AutoRegression(),
        "patient_arx": PatientARX(LINEAR),
        "arx": ForecasterArm(Forecaster(linear)),
        "network": train_network([record.history], network),
        "foreworld": ForecasterArm(Forecaster(model)),
    }


ARMS = ("persistence", "ar", "patient_arx", "arx", "network", "foreworld")


def altered(record, **changes):
    """The record with some channels changed by a function of a copy."""
    values = {name: value.clone() for name, value in record.history.values.items()}
    for name, change in changes.items():
        change(values[name])
    return replace(record, history=History(record.history.times, values, record.history.lengths))


@pytest.mark.parametrize("name", ARMS)
def test_what_the_sensor_shows_later_does_not_reach_a_forecast(record, arms, name):
    moment = 2 * DAY + 30
    at = torch.full((len(record.patients), 1), moment)

    def later(cgm):
        cgm[:, moment + 1 :] += 60.0

    def now(cgm):
        cgm[:, moment] += 60.0

    arm = arms[name]
    before = arm.predict(record, at, GRID, 2 * DAY)
    after = arm.predict(altered(record, cgm=later), at, GRID, 2 * DAY)
    for part in ("mean", "lower", "upper"):
        # A least-squares fit repeats to rounding only.
        torch.testing.assert_close(getattr(before, part), getattr(after, part), atol=1e-6, rtol=0)
    # The same change one moment earlier is seen: the test can fail.
    changed = arm.predict(altered(record, cgm=now), at, GRID, 2 * DAY).mean
    assert float((changed - before.mean).abs().amax()) > 0.1


@pytest.mark.parametrize("name", ["patient_arx", "arx", "network", "foreworld"])
def test_insulin_and_entries_after_a_horizon_point_do_not_reach_its_forecast(record, arms, name):
    moment, point = 2 * DAY + 30, 3
    at = torch.full((len(record.patients), 1), moment)

    def later(insulin):
        insulin[:, moment + GRID.points[point] :] += 1.0

    def entered(carbs):
        carbs[:, moment + GRID.points[point] + 1 :] += 20.0

    before = arms[name].predict(record, at, GRID, 2 * DAY).mean
    after = arms[name].predict(altered(record, insulin=later, carbs=entered), at, GRID, 2 * DAY).mean
    torch.testing.assert_close(before[..., : point + 1], after[..., : point + 1], atol=1e-4, rtol=0)
    assert not torch.allclose(before[..., point + 1 :], after[..., point + 1 :], atol=1e-2)


@pytest.mark.parametrize("name", ["persistence", "ar", "patient_arx"])
def test_a_patients_own_model_is_fitted_on_the_first_days_alone(record, arms, name):
    at = torch.full((len(record.patients), 1), 2 * DAY + 40)

    def scored_days(cgm):
        cgm[:, 2 * DAY : 2 * DAY + 20] = 300.0

    def first_days(cgm):
        cgm[:, DAY : DAY + 20] = 300.0

    # The window before the forecast is untouched, so only a fit could have read the altered readings.
    before = arms[name].predict(record, at, GRID, 2 * DAY)
    after = arms[name].predict(altered(record, cgm=scored_days), at, GRID, 2 * DAY)
    refitted = arms[name].predict(altered(record, cgm=first_days), at, GRID, 2 * DAY)
    torch.testing.assert_close(before.upper, after.upper, atol=1e-6, rtol=0)
    assert float((before.upper - refitted.upper).abs().amax()) > 0.1


def test_an_arm_of_recent_history_forecasts_as_the_model_does_from_it_and_knows_nothing_before(record, arms):
    whole, steps = arms["foreworld"], 30
    arm, at = RecentArm(whole.forecaster, steps), torch.tensor([[2 * DAY, 2 * DAY + 41]]).expand(3, -1)

    def before(cgm):
        cgm[:, : 2 * DAY - steps] += 50.0

    def within(cgm):
        cgm[:, 2 * DAY - steps] += 50.0

    found = arm.predict(record, at, GRID, 0)
    earlier = altered(record, cgm=before)
    torch.testing.assert_close(arm.predict(earlier, at, GRID, 0).mean, found.mean, atol=0, rtol=0)
    assert not torch.allclose(whole.predict(earlier, at, GRID, 0).mean, whole.predict(record, at, GRID, 0).mean)
    assert not torch.allclose(arm.predict(altered(record, cgm=within), at, GRID, 0).mean[:, 0], found.mean[:, 0])
    # A record that begins there says the same.
    for column in range(2):
        first = int(at[0, column]) - steps
        short = {
            name: value if SCHEMA[name].role is Role.static else value[:, first:]
            for name, value in record.history.values.items()
        }
        history = History(record.history.times[:, first:], short, record.history.lengths - first)
        alone = forecast_at(whole.forecaster, history, torch.full((3, 1), steps), GRID)
        for part in ("mean", "lower", "upper"):
            torch.testing.assert_close(
                getattr(alone, part), getattr(found, part)[:, column : column + 1], atol=1e-4, rtol=0
            )


def test_an_arm_of_recent_history_refuses_other_models_and_moments_that_differ(record, arms):
    with pytest.raises(InputError, match="give a WorldModel"):
        RecentArm(arms["arx"].forecaster, 30)
    with pytest.raises(InputError, match="same moments"):
        arm = RecentArm(arms["foreworld"].forecaster, 30)
        arm.predict(record, torch.tensor([[600], [601], [602]]), GRID, 0)
    with pytest.raises(InputError, match="grid"):
        arm.predict(record, torch.full((3, 1), 600), HorizonGrid(points=(1, 2)), 0)


def test_scenarios_that_stay_in_range_are_counted_only_where_asked(record, arms, monkeypatch):
    at, plain = torch.tensor([[600, 650]]).expand(3, -1), arms["foreworld"]
    assert plain.predict(record, at, GRID, 0).stays is None
    asked = ForecasterArm(plain.forecaster, (70.0, 180.0)).predict(record, at, GRID, 0)
    brief = RecentArm(plain.forecaster, 600, (70.0, 180.0)).predict(record, at[:, :1], GRID, 0)
    torch.testing.assert_close(asked.mean, plain.predict(record, at, GRID, 0).mean, atol=0, rtol=0)
    torch.testing.assert_close(brief.stays, asked.stays[:, :1])
    assert asked.stays.shape == asked.mean.shape
    seen = []
    monkeypatch.setattr(
        Forecaster, "forecast", lambda *given, _was=Forecaster.forecast: seen.append(_was(*given)) or seen[-1]
    )
    alone = replace(record, history=rows(record.history, [1]))
    ForecasterArm(plain.forecaster).predict(alone, at[1:2, :1], GRID, 0)
    futures = seen[0].samples["cgm"][:, 0, 0]
    inside = [
        [all(70.0 <= float(value) <= 180.0 for value in one[: h + 1]) for h in range(len(GRID))] for one in futures
    ]
    torch.testing.assert_close(asked.stays[1, 0], torch.tensor(inside).double().mean(0))


def test_a_future_that_came_back_has_not_stayed():
    futures = torch.tensor([[100.0, 190.0, 100.0], [100.0, 100.0, 60.0], [70.0, 180.0, 100.0], [float("nan")] * 3])
    assert share_within(futures, (70.0, 180.0)).tolist() == [0.75, 0.5, 0.25]


def test_a_perfect_arm_has_no_error_and_persistence_more_than_a_fitted_model(record, arms):
    class Perfect:
        def predict(self, record, at, grid, fit_moments):
            rows = torch.arange(len(at))[:, None, None]
            truth = record.history.values["cgm"].double()[rows, at[:, :, None] + torch.tensor(grid.points)]
            return Prediction(truth, truth - 1.0, truth + 1.0)

    scores = score(record, {"perfect": Perfect(), **arms}, GRID, CONFIG)
    assert scores["perfect"].rmse(60) == 0.0
    assert (scores["perfect"].covered == 1.0).all()
    assert scores["arx"].rmse(60) < scores["persistence"].rmse(60)
    assert scores["ar"].subjects == NAMES
    assert scores["ar"].squared.shape == (3, len(GRID))
    # Every arm is scored on the same readings.
    for result in scores.values():
        np.testing.assert_array_equal(result.count, scores["perfect"].count)


def test_missing_readings_are_not_scored(record):
    def drop(cgm):
        cgm[:, 2 * DAY + 13] = float("nan")

    scores = score(altered(record, cgm=drop), {"p": Persistence()}, GRID, CONFIG)["p"]
    assert np.isfinite(scores.squared).all()
    assert scores.count.min() == scores.count.max() - 1


def test_who_fails_is_left_out_and_named():
    harsh = CONFIG.model_copy(update={"days": 2, "fit_days": 1, "basal_low": 1.5, "basal_high": 2.0})
    patients = load_patients(("adult#001", "child#008", "adult#004"))
    record = record_therapy(patients, harsh, seed=0)
    assert set(record.failed) | set(record.patients.names) == set(patients.names)
    assert record.failed == ("child#008",)
    assert len(record.bg) == len(record.patients) == len(record.scenario)


def test_a_record_does_not_depend_on_who_else_is_recorded(record):
    alone = record_therapy(load_patients(NAMES[1:2]), CONFIG, seed=0)
    torch.testing.assert_close(alone.history.values["cgm"][0], record.history.values["cgm"][1])
    torch.testing.assert_close(alone.history.values["insulin"][0], record.history.values["insulin"][1])


def test_says_when_nothing_can_be_scored(record):
    with pytest.raises(InputError, match="no moment to score"):
        scored_moments(record, GRID, CONFIG.model_copy(update={"fit_days": 4}))
