"""Counterfactual branches: the truth is exact, and a model is judged by what it says about the other insulin."""

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.arx import Coefficients, LinearConfig, LinearModel
from foreworld.domains.treatment.counterfactual import (
    ConstantEffect,
    CounterfactualConfig,
    EffectSamples,
    ForecasterEffect,
    PatientEffect,
    branch_out,
    compare,
    shuffled,
)
from foreworld.domains.treatment.forecast_arms import PatientARX, rows
from foreworld.domains.treatment.forecasting import DAY, ForecastConfig, record_therapy
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.windows import WindowConfig, interval_steps
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.dynamics import HorizonGrid

GRID = HorizonGrid(points=(1, 2, 3, 6, 12, 18, 24, 36, 44, 52, 60))
WINDOW = WindowConfig(readings=6, bins=6)
CONFIG = CounterfactualConfig(
    therapy=ForecastConfig(days=3, fit_days=2, scenario=ScenarioConfig()), states=12, minutes=(60, 120, 240)
)
NAMES = ("adult#004", "adolescent#004", "child#007")


@pytest.fixture(scope="module")
def branches():
    record = record_therapy(load_patients(NAMES), CONFIG.therapy, seed=0)
    return branch_out(record, GRID, CONFIG, seed=0)


def lowering(strength=10.0):
    """A linear model in which every hour above basal lowers glucose, more so the longer ago it was given."""
    points = torch.tensor(GRID.points, dtype=torch.float64)
    response = torch.clamp(torch.clamp(points[:, None] - points + 1.0, min=0.0) / 36.0, max=1.0)
    usual = interval_steps(GRID) / 12.0
    size = WINDOW.size
    zero = torch.zeros(1, len(GRID), len(GRID), dtype=torch.float64)
    coefficients = Coefficients(
        intercept=(strength * response @ usual)[None],
        past=torch.zeros(1, len(GRID), size, dtype=torch.float64),
        insulin=-strength * response[None],
        carbs=zero,
        scale=torch.ones(len(GRID), dtype=torch.float64),
        ridge=torch.zeros(len(GRID), dtype=torch.float64),
        centre=torch.zeros(size, dtype=torch.float64),
        spread=torch.ones(size, dtype=torch.float64),
    )
    return Forecaster(LinearModel(SCHEMA, LinearConfig(grid=GRID, window=WINDOW), coefficients))


def test_the_truth_is_what_simulating_anew_from_midnight_gives(branches):
    given, subject, state = branches.record.history.values["insulin"].double().numpy(), 1, 5
    moment = int(branches.at[subject, state])
    for k, factor in enumerate(CONFIG.factors):
        simulator = Simulator(branches.record.patients, branches.record.scenario)
        for t in range(moment + 48):
            simulator.step(given[:, t] * (factor if t >= moment else 1.0))
            if t + 1 - moment in (12, 24, 48):
                column = (12, 24, 48).index(t + 1 - moment)
                assert branches.bg[subject, state, k, column] == pytest.approx(simulator.bg[subject], abs=1e-9)


def test_the_usual_branch_is_what_happened_and_changes_nothing(branches):
    rows_, at = np.arange(3)[:, None], branches.at.numpy()
    np.testing.assert_allclose(branches.bg[:, :, branches.usual, 0], branches.record.bg[rows_, at + 12])
    assert not branches.change[:, :, branches.usual].any()


def test_less_insulin_raises_and_more_lowers(branches):
    change = branches.change[..., -1]
    assert (change[:, :, 0] > change[:, :, 1]).all()
    assert (change[:, :, 1] > 0).all()
    assert (change[:, :, 3] < 0).all()


def test_models_are_given_the_same_sequences(branches):
    averaging = GRID.averaging().double()
    given = branches.record.history.values["insulin"].double()
    moment = int(branches.at[2, 3])
    future = given[2, moment : moment + GRID.last].clone()
    future[:52] *= 2.0
    torch.testing.assert_close(branches.insulin[2, 3, 3], averaging @ future)


def test_a_model_with_the_right_sign_is_found_right_and_shuffling_takes_that_away(branches):
    arm = ForecasterEffect(lowering())
    samples = compare(branches, arm.effect(branches, branches.insulin), 240)
    control = compare(branches, arm.effect(branches, shuffled(branches, seed=0)), 240)
    assert samples.sign().value > 0.99
    assert 0.3 < control.sign().value < 0.7
    assert samples.slope().value > 0.2 > abs(control.slope().value)
    assert samples.rmse().value < control.rmse().value


def test_a_model_with_the_wrong_sign_is_found_out(branches):
    arm = ForecasterEffect(lowering(-10.0))
    samples = compare(branches, arm.effect(branches, branches.insulin), 120)
    assert samples.sign().value < 0.01
    assert samples.slope().value < 0.0


def test_shuffling_hands_on_sequences_in_hours_of_basal(branches):
    basal = torch.from_numpy(branches.record.patients.basal)[:, None, None, None]
    before, after = branches.insulin / basal, shuffled(branches, 3) / basal
    torch.testing.assert_close(before.flatten(0, 2).sum(1).sort().values, after.flatten(0, 2).sum(1).sort().values)


def test_an_effect_is_predicted_from_the_past_alone(branches):
    arm = PatientEffect(PatientARX(LinearConfig(grid=GRID, window=WINDOW, folds=2)))
    first = arm.effect(branches, branches.insulin)
    cgm = branches.record.history.values["cgm"]
    kept = cgm.clone()
    try:
        cgm[:, int(branches.at.max()) + 1 :] = 100.0
        np.testing.assert_array_equal(arm.effect(branches, branches.insulin), first)
        cgm[:, : 2 * DAY] = cgm[:, : 2 * DAY].flip(1)
        assert not np.array_equal(arm.effect(branches, branches.insulin), first)
    finally:
        cgm.copy_(kept)


def test_one_patients_model_is_not_mixed_with_anothers(branches):
    arx = PatientARX(LinearConfig(grid=GRID, window=WINDOW, folds=2))
    together = arx.fit(branches.record.before(2 * DAY))
    alone = arx.fit(rows(branches.record.before(2 * DAY), [2]))
    torch.testing.assert_close(together[2].model.coefficients.insulin, alone[0].model.coefficients.insulin)


def test_the_constant_effect_is_the_mean_of_the_training_branches(branches):
    arm = ConstantEffect(branches)
    effect = arm.effect(branches, branches.insulin)
    assert effect.shape == branches.bg.shape
    np.testing.assert_allclose(effect[0, 0, 3, 1], np.nanmean(branches.change[:, :, 3, 1]))
    assert compare(branches, effect, 240).sign().value == 1.0


def test_samples_give_sign_slope_and_error():
    true = np.array([10.0, -20.0, 30.0, -40.0])
    samples = EffectSamples(("a", "a", "b", "b"), true, 0.5 * true)
    assert samples.sign().value == 1.0
    assert samples.slope().value == pytest.approx(0.5)
    assert samples.rmse().value == pytest.approx(np.sqrt(np.mean((0.5 * true) ** 2)))
    zero = EffectSamples(("a", "b"), np.array([10.0, -10.0]), np.zeros(2))
    assert zero.sign().value == 0.0
    assert len(samples + zero) == 6


def test_small_changes_and_failures_are_not_judged(branches):
    samples = compare(branches, branches.change, 60)
    assert (np.abs(samples.true) >= 5.0).all()
    assert np.isfinite(samples.true).all()
    assert len(samples) == int((np.abs(branches.change[..., 0]) >= 5.0).sum())
    assert samples.rmse().value == 0.0


def test_says_what_cannot_be_asked(branches):
    with pytest.raises(InputError, match="not compared"):
        compare(branches, branches.change, 90)
    with pytest.raises(InputError, match="lack 1"):
        branch_out(branches.record, GRID, CONFIG.model_copy(update={"factors": (0.0, 2.0)}), seed=0)
    with pytest.raises(InputError, match="beyond the grid"):
        branch_out(branches.record, GRID, CONFIG.model_copy(update={"minutes": (600,)}), seed=0)
