"""The arms that feed themselves back: nothing of the future leaks, and writing is what was trained."""

from dataclasses import replace

import pytest
import torch
from tests.domains.treatment.error_growth.conftest import CONFIG, GPT_CONFIG, GRID, STEP

from foreworld.domains.treatment.error_growth.budget import descend, seeded
from foreworld.domains.treatment.error_growth.gpt import GPT, Autoregressive
from foreworld.domains.treatment.error_growth.learn import ArmsConfig, learn
from foreworld.domains.treatment.error_growth.stepwise import Course, StepConfig, StepNetwork
from foreworld.domains.treatment.forecasting import DAY, score
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

NAMES = ("token", "recursive", "two_rate")
MOMENT, POINT = 2 * DAY + 30, 3


def altered(record, **changes):
    values = {name: value.clone() for name, value in record.history.values.items()}
    for name, change in changes.items():
        change(values[name])
    return replace(record, history=History(record.history.times, values, record.history.lengths))


def after(first, amount):
    def change(value):
        value[:, first:] += amount

    return change


@pytest.mark.parametrize("name", NAMES)
def test_what_the_sensor_shows_later_does_not_reach_a_forecast(record, arms, name):
    at = torch.full((3, 1), MOMENT)
    before = arms[name].predict(record, at, GRID, 2 * DAY)
    later = arms[name].predict(altered(record, cgm=after(MOMENT + 1, 60.0)), at, GRID, 2 * DAY)
    for part in ("mean", "lower", "upper"):
        torch.testing.assert_close(getattr(before, part), getattr(later, part))
    now = arms[name].predict(altered(record, cgm=after(MOMENT, 60.0)), at, GRID, 2 * DAY)
    assert float((now.mean - before.mean).abs().amax()) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_insulin_and_entries_after_a_horizon_point_do_not_reach_its_forecast(record, arms, name):
    at, last = torch.full((3, 1), MOMENT), MOMENT + GRID.points[POINT]
    changed = altered(record, insulin=after(last, 3.0), carbs=after(last + 1, 40.0))
    before = arms[name].predict(record, at, GRID, 2 * DAY).mean
    later = arms[name].predict(changed, at, GRID, 2 * DAY).mean
    torch.testing.assert_close(before[..., : POINT + 1], later[..., : POINT + 1])
    assert not torch.allclose(before[..., POINT + 1 :], later[..., POINT + 1 :], atol=1e-2)


def test_no_later_token_reaches_a_position(gpt, log):
    when = torch.arange(100, 140)[None]
    tokens = gpt.config.bins.glucose(log.glucose[:1, 100:140])
    known = gpt.known(log, torch.tensor([0]), when)
    with torch.no_grad():
        before = gpt(tokens, known)
        for place in (0, 17, 39):
            other, changed = tokens.clone(), known.clone()
            other[:, place] = (other[:, place] + 20) % gpt.config.bins.readings
            changed[:, place] += 1.0
            now = gpt(other, changed)
            torch.testing.assert_close(now[:, :place], before[:, :place])
            assert not torch.allclose(now[:, place], before[:, place], atol=1e-3)


def test_writing_step_by_step_is_what_the_whole_sequence_would_give(gpt, log):
    past, steps, rows = gpt.config.context, 9, torch.tensor([0, 2])
    when = torch.arange(200, 200 + past + steps).expand(2, -1)
    tokens = gpt.config.bins.glucose(log.glucose[rows][:, 200 : 200 + past])
    known = gpt.known(log, rows, when)
    uniform = torch.rand(2, 3, steps, generator=torch.Generator().manual_seed(1))
    written = gpt.write(tokens, known, uniform, steps)
    assert written.shape == (2, 3, steps)
    with torch.no_grad():
        for draw in range(3):
            whole = torch.cat([tokens, written[:, draw]], dim=1)
            share = torch.softmax(gpt(whole, known), dim=-1).cumsum(-1)
            for k in range(steps):
                token, place = written[:, draw, k, None], share[:, past - 1 + k]
                assert bool((place.gather(1, token) >= uniform[:, draw, k, None] - 1e-5).all())
                below = place.gather(1, (token - 1).clamp(min=0)) * (token > 0)
                assert bool((below <= uniform[:, draw, k, None] + 1e-5).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_forecast_does_not_depend_on_what_else_is_forecast(record, arms, name):
    several = torch.stack([torch.tensor([MOMENT, MOMENT + 50, MOMENT + 7])] * 3)
    together = arms[name].predict(record, several, GRID, 2 * DAY).mean
    alone = arms[name].predict(record, several[:, 1:2], GRID, 2 * DAY).mean
    torch.testing.assert_close(together[:, 1:2], alone, atol=1e-3, rtol=0)


def test_every_moment_has_draws_of_its_own_whatever_is_in_its_chunk(record, gpt):
    arm = Autoregressive(gpt)
    names, moments = ("adult#001", "adult#001", "child#002"), (600, 601, 600)
    found = arm.places(names, moments)
    assert found.shape == (3, GPT_CONFIG.samples, GPT_CONFIG.horizon)
    torch.testing.assert_close(found[:, : GPT_CONFIG.samples // 2], 1.0 - found[:, GPT_CONFIG.samples // 2 :])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(found[one], found[other], atol=0.1)
    torch.testing.assert_close(arm.places(names[2:], moments[2:]), found[2:], atol=0, rtol=0)
    several = torch.stack([torch.arange(MOMENT, MOMENT + 5)] * 3)
    seeded_alike = GPT(gpt.config.model_copy(update={"chunk": 2})).eval()
    seeded_alike.load_state_dict(gpt.state_dict())
    parts = [one.predict(record, several, GRID, 2 * DAY) for one in (arm, Autoregressive(seeded_alike))]
    for name in ("mean", "stays"):
        torch.testing.assert_close(*(getattr(part, name) for part in parts), atol=1e-3, rtol=0)


def test_the_transformer_says_how_many_of_its_futures_stay_in_range(record, arms):
    stays = arms["token"].predict(record, torch.full((3, 1), MOMENT), GRID, 2 * DAY).stays
    assert stays.shape == (3, 1, len(GRID))
    assert bool((stays.diff(dim=-1) <= 0.0).all())
    torch.testing.assert_close(stays * GPT_CONFIG.samples, (stays * GPT_CONFIG.samples).round())


def test_every_arm_can_be_scored_by_the_forecast_protocol(record, arms):
    for scores in score(record, arms, GRID, CONFIG).values():
        assert scores.rmse(30) < 120.0
        assert scores.subjects == record.patients.names


def test_training_for_longer_foresees_better_than_not_at_all(log, record, arms):
    untrained = Autoregressive(seeded(lambda: GPT(GPT_CONFIG), 0))
    found = score(record, {"untrained": untrained, "token": arms["token"]}, GRID, CONFIG)
    assert found["token"].rmse(60) < 0.8 * found["untrained"].rmse(60)


def test_the_hour_ends_at_the_level_and_starts_from_it(record, arms):
    arm, at = arms["two_rate"], torch.full((3, 1), MOMENT)
    mean = arm.predict(record, at, HorizonGrid(points=tuple(range(1, 25))), 2 * DAY).mean[:, 0]
    course = Course.ahead_of(record, at, max(arm.coarse.config.past, arm.fine.config.past) + 1, GRID)
    with torch.no_grad():
        level = arm.coarse.foresee(course, 0)
    torch.testing.assert_close(mean[:, 11], level.double())
    assert float((mean[:, 12] - mean[:, 11]).abs().amax()) < 15.0


def test_inputs_stand_where_the_network_reads_them(log):
    # No two amounts alike, or a wrong place would not show.
    log = replace(log, insulin=torch.rand(log.insulin.shape), carbs=torch.rand(log.carbs.shape))
    network = StepNetwork(StepConfig(readings=4, steps=6, bin_steps=3, ahead=3))
    course = Course(log, torch.tensor([1]), torch.tensor([100]), network.config.past + 1, 3)
    read = network.inputs(course)[0]
    torch.testing.assert_close(read[0], log.held[1, 100] - 140.0)
    torch.testing.assert_close(read[3], log.held[1, 100] - log.held[1, 99])
    torch.testing.assert_close(read[5], log.insulin[1, 97:100].sum())
    torch.testing.assert_close(read[7], log.carbs[1, 98:101].sum())
    torch.testing.assert_close(read[8], log.insulin[1, 100:103].sum())
    torch.testing.assert_close(read[9], log.carbs[1, 101:104].sum())


def test_a_budget_is_spent_and_hardly_more(log):
    network = seeded(lambda: StepNetwork(STEP), 0)
    cost = descend(network, lambda: network(torch.randn(8, network.centre.numel())).square().mean(), 0.3, 1e-3)
    assert 0.3 <= cost.cpu_seconds < 0.6
    assert cost.steps > 10


def test_an_arm_is_trained_once_and_then_read(record, log, tmp_path):
    asked = []

    def once():
        asked.append(1)
        return log

    config = ArmsConfig(step=STEP, two_rate=0.5)
    made = [learn("two_rate", once, config, seconds=0.4, seed=3, folder=tmp_path) for _ in range(2)]
    assert asked == [1]
    assert made[0][1] == made[1][1]
    assert made[0][1].cpu_seconds == pytest.approx(0.2, abs=0.15)
    at = torch.full((3, 1), MOMENT)
    first, second = (arm.predict(record, at, GRID, 2 * DAY).mean for arm, _ in made)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_too_short_a_past_is_refused(record, arms):
    with pytest.raises(InputError, match="reads 30 moments"):
        arms["token"].predict(record, torch.full((3, 1), 5), GRID, 2 * DAY)
