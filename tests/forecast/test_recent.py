"""Beliefs of the last steps alone, and beliefs that are renewed: what each may know, and who is trusted when."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from foreworld.episodes import Channel, Schema
from foreworld.episodes.schema import Statistics
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import Forgetful, last_of
from foreworld.forecast.renewing import RenewConfig, Renewing
from foreworld.model.belief import Belief, History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.world_model import WorldModel, WorldModelConfig

GRID = HorizonGrid(points=(1, 2, 4, 6))
FIELDS = [field.name for field in dataclasses.fields(Belief)]
SCHEMA = Schema(
    name="toy",
    step=1.0,
    channels=(
        Channel(name="level", role="observation", unit="u", low=-100, high=100),
        Channel(name="dose", role="action", unit="u", low=0, high=10, lowers=("level",)),
        Channel(name="meal", role="exogenous", kind="event", unit="g", low=0, high=100),
        Channel(name="weight", role="static", unit="kg", low=1, high=300),
    ),
).with_statistics(
    {
        "level": Statistics(mean=0.0, std=1.0, count=9, changes=((1, 1.0), (6, 2.0))),
        **{name: Statistics(mean=1.0, std=1.0, count=9) for name in ("dose", "meal", "weight")},
    }
)
QUICKLY = RenewConfig(every=10, young=3, steps=6, ahead=4, compare=1, window=20.0, wait=4, better=0.7)


def history(levels, seed=0):
    """Levels [B, T] with random doses and meals."""
    generator = torch.Generator().manual_seed(seed)
    size, moments = levels.shape
    values = {
        "level": levels,
        "dose": torch.rand(size, moments - 1, generator=generator),
        "meal": torch.rand(size, moments, generator=generator),
        "weight": torch.full((size,), 70.0),
    }
    times = torch.arange(moments, dtype=torch.float64).expand(size, -1)
    return History(times, values, torch.full((size,), moments))


def noisy(size, moments, seed=0):
    return torch.randn(size, moments, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = WorldModelConfig(grid=GRID, width=8, hidden=6, latent=2, members=2, stride=3, recent=3, memory=(2.0, 9.0))
    return WorldModel(SCHEMA, config).eval()


def assert_same(a, b, atol=1e-5):
    parts = [{name: getattr(belief, name) for name in FIELDS} for belief in (a, b)]
    torch.testing.assert_close(*parts, atol=atol, rtol=1e-5)


def told(h, t):
    seen = {name: h.values[name][:, t] for name in ("level", "meal")}
    return h.times[:, t], seen, {"dose": h.values["dose"][:, t - 1]}


class Averages:
    """Foresees the mean of all that its history holds: a model that is slow to believe in a change."""

    schema, quantities = SCHEMA, ("level",)
    config = SimpleNamespace(grid=GRID, members=1)

    def encode(self, h):
        level = h.values["level"]
        blank = torch.zeros(len(h), 1)
        state = torch.stack([level.sum(1), torch.full((len(h),), float(level.shape[1]))], dim=1)
        return Belief(state, blank, blank[..., None], blank, blank, h.lengths, blank, blank, h.times[:, -1])

    def update(self, belief, time, observation, action):
        state = belief.state + torch.stack([observation["level"], torch.ones(len(belief))], dim=1)
        return dataclasses.replace(belief, state=state, count=belief.count + 1, time=time)

    def normalise_actions(self, belief, actions):
        return actions

    def normalise_exogenous(self, belief, exogenous):
        return exogenous

    def prepare(self, belief, exogenous=None):
        return belief.state

    def respond(self, prepared, actions):
        mean = prepared[:, 0] / prepared[:, 1]
        return mean[None, :, None, None, None].expand(1, -1, 1, len(GRID), 1)

    def read(self, latents):
        return {"level": latents[..., 0]}


class Sums(Averages):
    """Foresees exactly a level to which every dose and every meal is added."""

    def encode(self, h):
        return dataclasses.replace(super().encode(h), state=h.values["level"][:, -1:])

    def update(self, belief, time, observation, action):
        state = observation["level"][:, None]
        return dataclasses.replace(belief, state=state, count=belief.count + 1, time=time)

    def prepare(self, belief, exogenous=None):
        return belief.state, exogenous

    def respond(self, prepared, actions):
        last, exogenous = prepared
        steps = torch.diff(torch.tensor((0, *GRID.points)))[:, None]
        added = (actions + exogenous[:, None]) * steps
        return (last[:, None, None] + added.cumsum(2))[None]


def changed(size=1, before=100, after=60):
    levels = 0.1 * noisy(size, before + after)
    levels[:, before:] += 5.0
    return history(levels)


def test_a_subject_who_does_not_change_is_known_by_all_of_the_history(model):
    h = history(0.1 * noisy(3, 120))
    beliefs = Renewing(Averages(), QUICKLY).along(h, range(120))
    assert [b.count.tolist() for b in beliefs] == [[t + 1] * 3 for t in range(120)]
    # Of a real model, too, the old picture is the model's own.
    kept = Renewing(model, QUICKLY.model_copy(update={"better": 1e-6})).along(h, [50, 119])
    assert_same(kept[1], model.encode(h))


def test_after_a_change_a_younger_picture_is_in_force_and_then_replaces_the_old_one():
    h = changed()
    renewing = Renewing(Averages(), QUICKLY)
    counts = [int(b.count) for b in renewing.along(h, range(160))]
    assert counts[:104] == list(range(1, 105))
    soon = 100 + QUICKLY.every + QUICKLY.ahead + QUICKLY.wait
    assert all(count <= t - 100 + QUICKLY.steps + 1 + QUICKLY.every for t, count in enumerate(counts) if t > soon)
    # Long after, what is kept goes back to about the change and not to yesterday.
    last = renewing.encode(h)
    assert int(last.all.count[0]) > 30
    state = last.belief.state[0]
    assert float(state[0] / state[1]) > 4.5
    slow = Averages().encode(h).state[0]
    assert float(slow[0] / slow[1]) < 2.5


def test_it_is_told_when_another_picture_is_in_force():
    renewing, pictures, seen = Renewing(Averages(), QUICKLY), None, []
    h = changed()
    for t in range(160):
        pictures = renewing.encode(h.until(SCHEMA, 1)) if pictures is None else renewing.update(pictures, *told(h, t))
        seen.append((int(pictures.since), int(pictures.all.count[0]), int(pictures.chosen)))
        assert int(pictures.since) + int(pictures.count) == t + 1
    assert {since for since, _, _ in seen[:104]} == {0}
    assert seen[-1][0] >= 100 - QUICKLY.steps
    # Where a young picture replaces the old one it was in force before: nothing is new.
    replaced = [t for t in range(1, 160) if seen[t][1] != seen[t - 1][1] + 1]
    assert replaced
    assert all(seen[t][0] == seen[t - 1][0] and seen[t][2] == 0 for t in replaced)


def test_what_was_foreseen_is_compared_with_what_was_done_and_measured_since():
    h = history(torch.zeros(2, 50))
    h.values["level"][:, 1:] = (h.values["dose"] + h.values["meal"][:, 1:]).cumsum(1)
    errors = Renewing(Sums(), QUICKLY).encode(h).errors
    torch.testing.assert_close(errors, torch.zeros_like(errors), atol=1e-4, rtol=0)
    h.values["level"][:, 30:] += 5.0
    assert (Renewing(Sums(), QUICKLY).encode(h.until(SCHEMA, 33)).errors[1] > 1).any(1).all()


def test_only_who_has_changed_is_renewed():
    h = changed(2)
    h.values["level"][1, 100:] -= 5.0
    counts = Renewing(Averages(), QUICKLY).along(h, [159])[0].count.tolist()
    assert counts[0] < 80
    assert counts[1] == 160


def test_what_comes_later_does_not_reach_a_belief(model):
    h = history(noisy(2, 80))
    later = history(torch.cat([h.values["level"][:, :60], 9 + noisy(2, 20, seed=1)], dim=1))
    for one in (Renewing(model, QUICKLY), Renewing(Averages(), QUICKLY)):
        for a, b in zip(one.along(h, range(60)), one.along(later, range(60)), strict=True):
            assert_same(a, b, atol=0)


@pytest.mark.parametrize("make", [lambda m: Renewing(m, QUICKLY), lambda m: Forgetful(m, 6)])
def test_an_update_equals_encoding_the_longer_history(model, make):
    one, h = make(model), history(noisy(3, 70))
    belief = one.encode(h.until(SCHEMA, 1))
    for t in range(1, 70):
        belief = one.update(belief, *told(h, t))
    assert_same(belief.belief, one.encode(h).belief)


@pytest.mark.parametrize("make", [lambda m: Renewing(m, QUICKLY), lambda m: Forgetful(m, 6)])
def test_a_belief_does_not_depend_on_its_batch(model, make):
    one, h = make(model), history(noisy(3, 70))
    h.values["level"][1, 30:] += 4.0
    rows = torch.tensor([1])
    whole, alone = one.encode(h), one.encode(h.select(rows))
    assert_same(whole.select(rows).belief, alone.belief)
    longer = history(noisy(3, 71))
    chosen = {name: value[rows] for name, value in told(longer, 70)[1].items()}
    ahead = one.update(whole.select(rows), longer.times[rows, 70], chosen, {"dose": longer.values["dose"][rows, 69]})
    assert_same(ahead.belief, one.update(whole, *told(longer, 70)).select(rows).belief)


def test_a_forgetful_belief_knows_the_last_steps_and_nothing_before_them(model):
    h = history(noisy(2, 60))
    before = history(torch.cat([50 + noisy(2, 53, seed=3), h.values["level"][:, 53:]], dim=1))
    forgetful = Forgetful(model, 6)
    assert_same(forgetful.encode(h).belief, forgetful.encode(before).belief, atol=0)
    assert_same(forgetful.encode(h).belief, model.encode(last_of(SCHEMA, h, 6)))
    assert forgetful.encode(h).count.tolist() == [7, 7]
    for t, belief in zip((3, 40), forgetful.along(h, (3, 40)), strict=True):
        assert_same(belief, forgetful.encode(h.until(SCHEMA, t + 1)).belief, atol=0)
    with pytest.raises(InputError, match="is none"):
        Forgetful(model, 0)


@pytest.mark.parametrize("make", [lambda m: Renewing(m, QUICKLY), lambda m: Forgetful(m, 30)])
def test_a_forecaster_takes_it_in_place_of_the_model(model, make):
    h = history(noisy(2, 20))
    actions, meals = torch.rand(2, 3, len(GRID), 1), torch.zeros(2, len(GRID), 1)
    found = []
    for one in (make(model), model):
        forecaster = Forecaster(one)
        found.append(forecaster.forecast(forecaster.begin(one.encode(h), meals), actions).mean["level"])
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-5)


def test_pictures_that_cannot_be_compared_are_refused(model):
    with pytest.raises(InputError, match="no point of the grid"):
        Renewing(model, RenewConfig(ahead=5))
    ragged = dataclasses.replace(history(noisy(2, 20)), lengths=torch.tensor([20, 10]))
    with pytest.raises(InputError, match="one length"):
        Renewing(model, QUICKLY).encode(ragged)
    with pytest.raises(InputError, match="one length"):
        Forgetful(model).encode(ragged)
