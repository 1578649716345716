"""Insulin is covered by what was measured and announced, never by a meal that is only foreseen."""

from dataclasses import replace

import numpy as np
import torch
from tests.domains.treatment.test_task import as_history, random_history

from foreworld.domains.treatment.ceilings.oracle import make_oracle
from foreworld.domains.treatment.ceilings.task import ceiling_agent
from foreworld.domains.treatment.covered_dose import covered_dose
from foreworld.domains.treatment.dose_limit import dose_limit
from foreworld.domains.treatment.limits import InsulinLimits, insulin_on_board
from foreworld.domains.treatment.loop import insulin_agent, run_agent
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.task import CoveredDose, InsulinTask
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.guardrail import digest

LIMITS = InsulinLimits()


def covered(history, limits=LIMITS):
    return CoveredDose(name="covered_dose", unit="U", severity=5, source="", limits=limits).covered(history)


def plain_account(history, i):
    """The bound of one subject, a step at a time; None where nothing is bounded."""
    length = int(history.lengths[i])
    times = history.times[i].numpy()[:length]
    cgm, carbs, insulin = (history.values[n][i].numpy().astype(float) for n in ("cgm", "carbs", "insulin"))
    basal, ratio, factor = (float(history.values[n][i]) for n in ("basal", "cr", "cf"))
    now = times[-1]
    ages, readings = [], []
    for t in range(length):
        age = now - times[t]
        genuine = np.isfinite(cgm[t]) and cgm[t] > 10.0 and cgm[t] != 38.0
        if genuine and age <= 30.0 + 1e-3:
            ages.append(age)
            readings.append(cgm[t])
    if len(readings) < 3 or min(ages) > 12.0 + 1e-3:
        return None
    slope, level = np.polyfit([-age for age in ages], readings, 1)
    ahead = level + 30.0 * slope
    board = sum(
        (insulin[t] - basal / 12.0) * float(insulin_on_board(np.array(now - times[t]), dia=300.0, peak=75.0))
        for t in range(length - 1)
    )
    eaten = sum(max(carbs[t], 0.0) * max(0.0, 1.0 - (now - times[t]) / 180.0) for t in range(length))
    return max(0.0, (ahead - 70.0) / factor + 1.2 * eaten / ratio - board) + basal / 12.0


def test_the_bound_is_what_a_plain_account_of_it_says():
    bounded = 0
    for steps in (0, 2, 5, 14, 100):
        history = as_history(*random_history(np.random.default_rng(steps), steps, 60))
        found = covered(history)
        for i in range(len(history)):
            told = plain_account(history, i)
            if told is None:
                assert found[i] == np.inf
                continue
            bounded += 1
            np.testing.assert_allclose(found[i], told, rtol=1e-6, atol=1e-6)
    assert bounded > 100


def test_padding_and_neighbours_change_nothing():
    whole = as_history(*random_history(np.random.default_rng(3), 40, 50))
    lengths = torch.from_numpy(np.random.default_rng(4).integers(1, 42, 50))
    history = History(whole.times, whole.values, lengths)
    together = covered(history)
    for i in range(0, 50, 7):
        cut = {"insulin": int(lengths[i]) - 1}

        def part(name, tensor, i=i, cut=cut):
            return tensor[i : i + 1] if tensor.dim() == 1 else tensor[i : i + 1, : cut.get(name, int(lengths[i]))]

        alone = History(
            history.times[i : i + 1, : int(lengths[i])],
            {name: part(name, value) for name, value in history.values.items()},
            lengths[i : i + 1],
        )
        np.testing.assert_allclose(covered(alone)[0], together[i], rtol=1e-9)


def steady(glucose=110.0, slope=0.0, insulin=None, carbs=()):
    """An hour and a half of one subject: basal 1 U/h, 10 g/U, 40 mg/dL per U."""
    n = 19
    times = 5.0 * np.arange(n)[None]
    values = {
        "weight": np.array([70.0]), "basal": np.array([1.0]), "cr": np.array([10.0]), "cf": np.array([40.0]),
        "age_group": np.zeros(1, np.int32), "cgm": glucose + slope * (times - times[0, -1]),
        "insulin": np.full((1, n - 1), 1.0 / 12.0), "carbs": np.zeros((1, n)),
    }  # fmt: skip
    for back, units in insulin or ():
        values["insulin"][0, -back] += units
    for back, grams in carbs:
        values["carbs"][0, -1 - back] = grams
    return as_history(times, values)


def test_a_forecast_meal_covers_nothing_and_an_announced_one_does():
    basal = 1.0 / 12.0
    np.testing.assert_allclose(covered(steady(110.0)), 1.0 + basal, rtol=1e-5)
    np.testing.assert_allclose(covered(steady(70.0)), basal, rtol=1e-5)
    np.testing.assert_allclose(covered(steady(110.0, carbs=[(0, 50.0)])), 1.0 + 1.2 * 5.0 + basal, rtol=1e-5)
    # Eaten three hours ago it is gone; the insulin that was given for it is not.
    assert covered(steady(110.0, insulin=[(1, 1.0)])) < 0.05 + basal
    assert covered(steady(110.0, slope=-2.0)) == basal
    assert covered(steady(110.0, slope=2.0)) > 2.4


def test_no_plan_asks_for_more_than_is_covered():
    grid = HorizonGrid.geometric(fine=24, last=144)
    history = as_history(*random_history(np.random.default_rng(9), 60, 200))
    space = InsulinTask().space(grid, history)
    most = np.minimum(dose_limit(history, LIMITS), covered(history))
    np.testing.assert_allclose(space.upper[:, 0, 0].numpy(), most, rtol=1e-6)
    assert (covered(history) < dose_limit(history, LIMITS)).mean() > 0.1
    (rail,) = (g for g in InsulinTask().guardrails if isinstance(g, CoveredDose))
    ends = torch.cat([space.lower[:, None], space.upper[:, None], 1.01 * space.upper[:, None] + 0.01], dim=1)
    margin = rail.margin(None, space.expand(ends), history)
    assert (margin[:, :2] >= 0).all()
    over = covered(history) <= dose_limit(history, LIMITS)
    assert (margin[:, 2].numpy()[over] < 0).all()


def test_whoever_knows_what_will_be_eaten_may_dose_for_it():
    patients = load_patients(["adult#001"])
    simulator = Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1), seed=0))
    agent = ceiling_agent(make_oracle(simulator))
    assert not any(isinstance(g, CoveredDose) for g in agent.task.guardrails)
    assert any(isinstance(g, CoveredDose) for g in insulin_agent(make_oracle(simulator)).task.guardrails)
    assert np.isfinite(run_agent(agent, simulator, steps=4).insulin).all()


def test_a_bound_that_is_higher_covers_less():
    history = as_history(*random_history(np.random.default_rng(2), 30, 100))
    assert (covered_dose(history, LIMITS, 90.0, 180.0, 1.2) <= covered_dose(history, LIMITS, 70.0, 180.0, 1.2)).all()
    stricter = replace(LIMITS, predict_minutes=30.0)
    np.testing.assert_array_equal(covered(history, stricter), covered(history))


def test_its_numbers_are_in_the_digest_of_the_guardrails():
    rails = InsulinTask().guardrails
    for change in ({"count_error": 3.0}, {"carbs_minutes": 600.0}, {"bound": 60.0}):
        changed = [replace(g, **change) if isinstance(g, CoveredDose) else g for g in rails]
        assert digest(changed) != digest(rails)


def test_its_numbers_are_those_that_count():
    history = as_history(*random_history(np.random.default_rng(5), 40, 60))

    def bound(**numbers):
        return CoveredDose(name="covered_dose", unit="U", severity=5, source="", **numbers).covered(history)

    usual = bound()
    for more in ({"count_error": 3.0}, {"carbs_minutes": 600.0}, {"bound": 40.0}):
        assert (bound(**more) >= usual).all() and (bound(**more) > usual).any()
