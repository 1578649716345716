"""The linear model: it recovers linear systems, takes coefficients as they come, and goes where a world model goes."""

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.arx import LinearConfig, fit_linear
from foreworld.domains.treatment.calibrate import CalibrateConfig, calibrate_planning
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.task import PROFILES, DoseLimit, GlucoseObjective, action_space
from foreworld.domains.treatment.windows import WindowConfig
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.guardrail import StateGuardrail
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.planners.judged import Problem

GRID = HorizonGrid(points=(1, 2, 3, 6, 12))
LONG = HorizonGrid(points=(1, 2, 3, 6, 12, 18, 24, 36))
WINDOW = WindowConfig(readings=4, bins=4, bin_steps=3)
PROFILE = {"weight": 70.0, "basal": 1.2, "cr": 10.0, "cf": 40.0}


def history(cgm, insulin, carbs, start=0.0):
    size = len(cgm)
    statics = {name: np.full(size, value) for name, value in PROFILE.items()}
    times = np.tile(start + 5.0 * np.arange(cgm.shape[1]), (size, 1))
    values = {"cgm": cgm, "insulin": insulin, "carbs": carbs, **statics, "age_group": np.zeros(size, dtype=np.int32)}
    return History.from_arrays(SCHEMA, times, values)


def linear_system(effect, size=8, steps=400, seed=0, noise=0.2, hidden=False):
    """Glucose that forgets 2 % a step, falls `effect` mg/dL per hour of basal, and rises 15 mg/dL per g/kg.

    With `hidden`, meals are not entered and insulin comes with them, less than would be needed.
    """
    draw = np.random.default_rng(seed)
    hours = draw.exponential(1 / 12, (size, steps)) * (draw.random((size, steps)) < 0.5)
    meal = draw.uniform(0.2, 1.0, (size, steps)) * (draw.random((size, steps)) < 0.05)
    if hidden:
        hours = 0.3 * meal
    cgm = np.full((size, steps + 1), 140.0)
    for t in range(steps):
        change = -0.02 * (cgm[:, t] - 140.0) + effect * hours[:, t] + noise * draw.standard_normal(size)
        cgm[:, t + 1] = cgm[:, t] + change + (15.0 * meal[:, t - 1] if t else 0.0)
    carbs = np.zeros((size, steps + 1))
    if not hidden:
        carbs[:, :-1] = meal * PROFILE["weight"]
    return history(cgm, hours * PROFILE["basal"], carbs)


def fitted(effect=-60.0, grid=GRID, window=WINDOW, signed=False, **options):
    config = LinearConfig(grid=grid, window=window, stride=1, warmup=12, folds=2, signed=signed)
    return fit_linear(SCHEMA, [linear_system(effect, **options)], config)


def test_recovers_a_linear_system():
    # Bins of one step: in coarser ones it is lost when a meal was entered.
    model = fitted(window=WindowConfig(readings=4, bins=6, bin_steps=1), steps=2000)
    for h, point in enumerate(GRID.points):
        first = float(model.coefficients.insulin[0, h, 0])
        assert first == pytest.approx(-60.0 * 0.98 ** (point - 1), rel=0.05)
        entered = float(model.coefficients.carbs[0, h, 0])
        assert entered == pytest.approx(15.0 * 0.98 ** (point - 3) if point >= 3 else 0.0, abs=0.5)
    # The innovations alone are left.
    assert float(model.coefficients.scale[0]) == pytest.approx(0.2, rel=0.1)


def test_no_input_later_than_the_point_has_a_coefficient():
    model = fitted()
    later = torch.triu(torch.ones(len(GRID), len(GRID)), diagonal=1).bool()
    assert not model.coefficients.insulin[:, later].any()
    assert not model.coefficients.carbs[:, later].any()


def test_insulin_may_come_out_raising_glucose_where_therapy_hid_its_reason():
    model = fitted(effect=-20.0, hidden=True)
    forecaster = Forecaster(model)
    imagined = forecaster.begin(model.encode(linear_system(-20.0, hidden=True, seed=1)))
    dose = torch.zeros(8, 2, len(GRID), 1)
    dose[:, 1, 0] = 1.0
    mean = forecaster.forecast(imagined, dose).mean["cgm"]
    assert (mean[:, 1, -1] > mean[:, 0, -1]).all()


def test_signs_bind_where_therapy_hid_its_reason_and_change_nothing_where_they_hold():
    plain, signed = fitted(effect=-20.0, hidden=True), fitted(effect=-20.0, hidden=True, signed=True)
    assert (plain.coefficients.insulin > 1e-6).any()
    assert (signed.coefficients.insulin <= 0).all() and (signed.coefficients.carbs >= 0).all()
    plain, signed = fitted(window=WindowConfig(readings=4, bins=12, bin_steps=1)), None
    held = torch.tril(torch.ones(len(GRID), len(GRID))).bool()
    assert (plain.coefficients.insulin[:, held] <= 0).all() and (plain.coefficients.carbs >= 0).all()
    signed = fitted(window=WindowConfig(readings=4, bins=12, bin_steps=1), signed=True)
    torch.testing.assert_close(signed.coefficients.past, plain.coefficients.past, rtol=1e-6, atol=1e-6)


def test_update_equals_encoding_the_longer_history():
    rng = np.random.default_rng(0)
    cgm = rng.uniform(80, 200, (3, 31))
    cgm[0, 0], cgm[1, 12:15], cgm[2, -1] = np.nan, np.nan, np.nan
    insulin, carbs = rng.uniform(0, 1, (3, 30)), rng.uniform(0, 5, (3, 31))
    model = fitted()
    belief = model.encode(history(cgm[:, :1], insulin[:, :0], carbs[:, :1]))
    for t in range(1, 31):
        seen = {"cgm": torch.from_numpy(cgm[:, t]), "carbs": torch.from_numpy(carbs[:, t])}
        stamp = torch.full((3,), 5.0 * t, dtype=torch.float64)
        belief = model.update(belief, stamp, seen, {"insulin": torch.from_numpy(insulin[:, t - 1])})
        whole = model.encode(history(cgm[:, : t + 1], insulin[:, :t], carbs[:, : t + 1]))
        for name in ("cgm", "insulin", "carbs", "profile", "time"):
            torch.testing.assert_close(getattr(belief, name), getattr(whole, name))


def test_refuses_records_with_gaps_in_time():
    model = fitted()
    record = linear_system(-60.0, steps=20)
    record.times[:, 10:] += 5.0
    with pytest.raises(InputError, match="every 5 min"):
        model.encode(record)
    belief = model.encode(linear_system(-60.0, steps=20))
    with pytest.raises(InputError, match="every 5 min"):
        model.update(belief, belief.time + 10.0, {}, {})


def test_says_when_there_are_too_few_subjects_to_choose_the_penalty():
    with pytest.raises(InputError, match="fewer folds"):
        fit_linear(SCHEMA, [linear_system(-60.0, size=1)], LinearConfig(grid=GRID, window=WINDOW))


def test_members_are_a_bootstrap_over_subjects():
    records = [linear_system(-40.0, size=4), linear_system(-80.0, size=4, seed=1)]
    config = LinearConfig(grid=GRID, window=WINDOW, members=3, folds=2, warmup=12)
    model = fit_linear(SCHEMA, records, config)
    effects = model.coefficients.insulin[:, 0, 0]
    assert len(set(effects.tolist())) == 3
    assert ((effects < -40.0) & (effects > -80.0)).all()


def test_plans_in_the_same_planner_as_a_world_model_and_feasible_first():
    model = fitted(effect=-20.0, grid=LONG)
    forecaster, limits = Forecaster(model), InsulinLimits()
    # From the first step on, so that no dose can make a plan for someone who is low already.
    low = StateGuardrail(
        name="low", quantity="cgm", bound=70.0, unit="mg/dL", risk=0.2, start=1, horizon=24, severity=4, source="test"
    )
    cgm = np.linspace([230.0, 100.0, 60.0], [250.0, 104.0, 56.0], 40).T
    past = history(cgm, np.full((3, 39), 0.1), np.zeros((3, 40)))
    imagined = forecaster.begin(model.encode(past), torch.zeros(3, len(LONG), 1))
    problem = Problem(
        forecaster,
        imagined,
        GlucoseObjective(PROFILES["standard"]),
        (low, DoseLimit(name="dose", unit="U", severity=5, source="test", limits=limits)),
        action_space(LONG, past, limits),
        past,
        torch.arange(3),
    )
    decisions = CEMPlanner(CEMConfig.icem(32, 2)).plan(problem)
    assert decisions.planned.tolist() == [True, True, False]
    for margin in decisions.chosen.margins.values():
        assert (margin[:2] >= 0).all()
    assert float(decisions.first[0, 0]) > 0.1
    assert torch.equal(decisions.chosen.key[:, 0] < 1e11, decisions.planned)


def test_a_forecast_does_not_depend_on_its_batch():
    model = fitted()
    forecaster, record = Forecaster(model), linear_system(-60.0, steps=50)
    actions = torch.rand(8, 4, len(GRID), 1, generator=torch.Generator().manual_seed(0))
    imagined = forecaster.begin(model.encode(record), torch.ones(8, len(GRID), 1))
    together = forecaster.forecast(imagined, actions).mean["cgm"]
    index = torch.tensor([5])
    alone = forecaster.forecast(imagined.select(index), actions[index]).mean["cgm"]
    torch.testing.assert_close(together[5:6], alone, atol=1e-5, rtol=0)


def test_the_linear_model_is_watched_by_the_same_monitor():
    config = CalibrateConfig(subjects=8, loop_days=0.5, rounds=1, every=12, stages=())
    model = fitted(-30.0, grid=HorizonGrid.geometric(fine=6, last=48))
    calibration = calibrate_planning(model, Calibration(), config, seed=0)
    assert calibration.monitor is not None and calibration.novelty is None
    assert all(np.isfinite(calibration.monitor.surprise))
