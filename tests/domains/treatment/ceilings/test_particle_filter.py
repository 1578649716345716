"""The filter: what it infers of glucose and food from the sensor, its insulin, and counts that are off."""

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.ceilings.habits import habits_of
from foreworld.domains.treatment.ceilings.noise import noise_model, transformed
from foreworld.domains.treatment.ceilings.particle_filter import FilterConfig, ParticleFilter
from foreworld.domains.treatment.ceilings.scenarios import make_filter, normal_calibration
from foreworld.domains.treatment.collect import statics_of
from foreworld.domains.treatment.fallback import Fallback
from foreworld.domains.treatment.loop import insulin_agent, run_agent
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.sensor import cgm_noise
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner

NAMES = ("adult#001", "adolescent#003", "child#002")
SMALL = FilterConfig(particles=256)


def lived(names=NAMES, seed=5, steps=288, **options):
    """A simulator's day under standard care: patients, scenario configuration, history, true glucose, true food."""
    patients = load_patients(names)
    config = ScenarioConfig(days=1, **options)
    simulator = Simulator(patients, Scenario.draw(patients, config, seed=seed))
    controller = Fallback()
    controller.reset(patients)
    bg, food = [], []

    def act(seen):
        bg.append(simulator.bg.copy())
        food.append(simulator.state[:, 13] + simulator.state[:, :3].sum(1) / 1000.0)
        return controller.act(seen)

    simulator.reset()
    trajectory = simulator.run(act, steps)
    values = {"cgm": trajectory.cgm, "carbs": trajectory.announced, "insulin": trajectory.insulin}
    times = np.tile(5.0 * np.arange(steps + 1), (len(patients), 1))
    history = History.from_arrays(SCHEMA, times, values | statics_of(patients))
    return patients, config, history, np.array(bg).T, np.array(food).T


def part(history, rows=slice(None), length=None):
    length = length or history.times.shape[1]
    values = {
        name: value[rows] if value.dim() == 1 else value[rows, : length - (name == "insulin")]
        for name, value in history.values.items()
    }
    times = history.times[rows, :length]
    return History(times, values, torch.full((len(times),), length, dtype=torch.int64))


def clouds(model, history):
    """The belief at every moment."""
    belief = model.encode(part(history, length=1))
    yield belief
    for t in range(1, history.times.shape[1]):
        seen = {name: history.values[name][:, t] for name in ("cgm", "carbs")}
        belief = model.update(belief, history.times[:, t], seen, {"insulin": history.values["insulin"][:, t - 1]})
        yield belief


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("x", "done", "noise", "logs", "insulin")
    )


def food_of(model, belief):
    """[B] posterior mean of food on board, g."""
    grams = belief.x[:, :, 13] + belief.x[:, :, :3].sum(-1) / 1000.0
    return (belief.weights() * grams).sum(1)


@pytest.mark.parametrize(("announced", "share"), [(True, 0.5), (False, 0.8)])
def test_the_posterior_is_nearer_to_the_truth_than_the_sensor(announced, share):
    patients, config, history, bg, food = lived(announced=announced)
    model = ParticleFilter(patients, config, SMALL)
    found, eaten = [], []
    for belief in clouds(model, history):
        assert np.isfinite(belief.weights()).all()
        np.testing.assert_allclose(belief.weights().sum(1), 1.0)
        found.append(model.estimate(belief))
        eaten.append(food_of(model, belief))
    error = np.array(found).T[:, : bg.shape[1]] - bg
    raw = history.values["cgm"].numpy()[:, : bg.shape[1]] - bg
    assert np.sqrt((error**2).mean()) < share * np.sqrt((raw**2).mean())
    away = np.array(eaten).T[:, : bg.shape[1]] - food
    assert np.sqrt((away**2).mean()) < 0.7 * np.sqrt((food**2).mean())


def test_update_equals_encode_and_the_same_seed_gives_the_same():
    patients, config, history, *_ = lived(steps=120)
    model = ParticleFilter(patients, config, SMALL)
    *_, stepped = clouds(model, history)
    assert same(stepped, model.encode(history))
    assert same(stepped, ParticleFilter(patients, config, SMALL).encode(history))
    other = ParticleFilter(patients, config, SMALL.model_copy(update={"seed": 1})).encode(history)
    assert not same(stepped, other)


def test_a_subject_does_not_depend_on_its_batch():
    patients, config, history, *_ = lived(steps=120, announced=False)
    full = ParticleFilter(patients, config, SMALL).encode(history)
    alone = ParticleFilter(patients.select([1]), config, SMALL).encode(part(history, slice(1, 2)))
    chosen = full.select(torch.tensor([1]))
    assert np.array_equal(chosen.rows, [1])
    assert same(chosen, alone)


def test_readings_that_no_particle_explains_leave_weights_that_are_finite():
    patients, config, history, *_ = lived(steps=60)
    cgm = history.values["cgm"].clone()
    cgm[:, 10:20], cgm[:, 20:30], cgm[:, 30:40], cgm[:, 45:] = 590.0, torch.nan, 41.0, 600.0
    broken = History(history.times, history.values | {"cgm": cgm}, history.lengths)
    model = make_filter(patients, config, SMALL).model
    for belief in clouds(model, broken):
        assert np.isfinite(belief.weights()).all()
        assert np.isfinite(belief.x).all()
    latents = model.respond(model.prepare(belief), torch.zeros(3, 2, len(model.config.grid), 1))
    assert torch.isfinite(latents).all()


def test_belief_is_not_changed_by_an_update():
    patients, config, history, *_ = lived(steps=110)
    model = ParticleFilter(patients, config, SMALL)
    belief = model.encode(part(history, length=100))
    before = belief.copy()
    seen = {name: history.values[name][:, 100] for name in ("cgm", "carbs")}
    model.update(belief, history.times[:, 100], seen, {"insulin": history.values["insulin"][:, 99]})
    assert same(belief, before)


def test_a_count_is_weighed_against_what_is_usual():
    """Twice the usual breakfast is believed in part: more than usual, less than counted."""
    patients = load_patients(["adult#001"])
    config = ScenarioConfig(days=1)
    usual = habits_of(config, patients.weight).grams[0, 0]
    steps = 12 * 7
    values = {
        "cgm": np.full((1, steps + 1), np.nan),
        "carbs": np.zeros((1, steps + 1)),
        "insulin": np.full((1, steps), patients.basal[0] / 12),
    }
    values["carbs"][0, -1] = 2.0 * usual
    history = History.from_arrays(SCHEMA, 5.0 * np.arange(steps + 1)[None], values | statics_of(patients))
    model = ParticleFilter(patients, config, SMALL)
    assert usual * 1.05 < food_of(model, model.encode(history))[0] < usual * 1.6


def test_habits_are_those_of_the_scenarios():
    config = ScenarioConfig(days=40, meals="g2p2c")
    patients = load_patients(["adult#001"])
    habits, scenario = habits_of(config, patients.weight), Scenario.draw(patients, config, seed=3)
    by_day = scenario.meals[0].reshape(40, 288, 5).sum(-1)
    np.testing.assert_allclose(habits.share.sum(0), 0.95)
    meals = by_day[by_day > 0.0]
    # Times are rounded to the minute, which may move one across the end of its window.
    assert (by_day[:, habits.share.sum(1) == 0.0] > 0.0).sum() < 0.03 * len(meals)
    assert abs(meals.mean() - habits.grams.mean()) < 6.0
    alive = np.cumprod(1.0 - habits.start, axis=0)[-1]
    np.testing.assert_allclose(alive, 0.05, atol=1e-9)


def test_the_noise_model_leaves_no_more_than_it_says():
    model = noise_model()
    series = transformed(cgm_noise([901, 902, 903, 904], 4000))
    left = series[:, 2:] - model.weights[2, 0] * series[:, 1:-1] - model.weights[2, 1] * series[:, :-2]
    assert abs(left.std() / model.spread[2] - 1.0) < 0.05
    assert model.spread[2] < model.spread[1] < model.spread[0]


def test_refuses_other_subjects_and_other_steps():
    patients, config, history, *_ = lived(steps=12)
    model = ParticleFilter(patients, config, SMALL)
    with pytest.raises(InputError, match="3 patients"):
        model.encode(part(history, slice(0, 2)))
    belief = model.encode(history)
    seen = {name: history.values[name][:, -1] for name in ("cgm", "carbs")}
    with pytest.raises(InputError, match="every 5 min"):
        model.update(belief, belief.time + 10.0, seen, {"insulin": history.values["insulin"][:, -1]})


def test_scenarios_carry_the_spread_and_the_guardrails_their_risk():
    patients, config, history, *_ = lived(steps=100, announced=False)
    forecaster = make_filter(patients, config, SMALL)
    imagined = forecaster.begin(forecaster.model.encode(history))
    usual = torch.from_numpy(patients.basal / 12)[:, None, None, None].expand(3, 1, len(forecaster.points), 1)
    forecast = forecaster.forecast(imagined, usual)
    samples = forecast.samples["cgm"]
    assert samples.shape[0] == SMALL.sizes.members
    spread = samples.std(0, correction=0).clamp(min=0.5)
    torch.testing.assert_close(forecast.scale["cgm"], spread, atol=0.01, rtol=0.001)
    bounds = normal_calibration().trajectory
    assert bounds["predicted_low"]["0.2"] == pytest.approx(0.8416, abs=1e-3)
    assert bounds["predicted_very_low"]["0.05"] == pytest.approx(1.6449, abs=1e-3)


def test_the_planner_works_on_the_filter():
    patients = load_patients(NAMES[:2])
    scenario = Scenario.draw(patients, ScenarioConfig(days=1), seed=5)
    forecaster = make_filter(patients, scenario.config, SMALL)
    planner = CEMPlanner(CEMConfig.icem(samples=12, iterations=2))
    loop = run_agent(insulin_agent(forecaster, planner=planner), Simulator(patients, scenario), steps=130)
    assert loop.bg.min() > 70.0
    assert ((loop.bg >= 70.0) & (loop.bg <= 180.0)).mean() > 0.9
