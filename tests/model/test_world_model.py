"""What every world model must hold, on an irregular schema with missing values and random weights."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.toy import CONFIG, SCHEMA, episode, make_model

from foreworld.episodes import Channel, Episode, Schema, fit_statistics
from foreworld.errors import InputError
from foreworld.model.belief import Belief, History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.loss import LossConfig, prediction_loss
from foreworld.model.world_model import WorldModel, WorldModelConfig

FIELDS = [field.name for field in dataclasses.fields(Belief)]


def history(*episodes: Episode) -> History:
    return History.from_episodes(SCHEMA, episodes)


def assert_close(a: Belief, b: Belief, atol: float = 1e-5) -> None:
    parts = [{name: getattr(belief, name) for name in FIELDS} for belief in (a, b)]
    torch.testing.assert_close(*parts, atol=atol, rtol=1e-5)


def plans(seed: int, batch: int, samples: int = 3) -> torch.Tensor:
    """[B, S, H, 2] raw insulin in U a step, and mode."""
    generator = torch.Generator().manual_seed(seed)
    insulin = 9 * torch.rand(batch, samples, len(CONFIG.grid), 1, generator=generator)
    mode = torch.randint(3, insulin.shape, generator=generator)
    return torch.cat([insulin, mode], dim=-1)


def meals(seed: int, batch: int) -> torch.Tensor:
    return 60 * torch.rand(batch, len(CONFIG.grid), 1, generator=torch.Generator().manual_seed(seed))


def predict(model: WorldModel, belief: Belief, actions: torch.Tensor, announced: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        normalised = model.normalise_actions(belief, actions), model.normalise_exogenous(belief, announced)
        return model.predict(belief, *normalised)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_update_equals_encode_of_the_longer_history_for_every_prefix(scale):
    model = make_model(scale=scale)
    episodes = [episode(0, 29), episode(1, 29)]
    whole = history(*episodes)
    belief = model.encode(history(*(e.window(SCHEMA, 0, 1) for e in episodes)))
    for t in range(2, 30):
        seen = {name: whole.values[name][:, t] for name in ("glucose", "pulse", "meal")}
        done = {name: whole.values[name][:, t - 1] for name in ("insulin", "mode")}
        belief = model.update(belief, whole.times[:, t], seen, done)
        assert_close(belief, model.encode(history(*(e.window(SCHEMA, 0, t) for e in episodes))))


def test_update_refuses_time_that_goes_backwards():
    model, whole = make_model(), history(episode(0, 5))
    belief = model.encode(whole)
    with pytest.raises(InputError, match="backwards"):
        model.update(belief, belief.time, {}, {})


def test_right_padding_does_not_matter():
    model = make_model()
    episodes = [episode(2, 3), episode(3, 40), episode(4, 17)]
    together = model.encode(history(*episodes))
    for i, alone in enumerate(episodes):
        assert_close(together.select([i]), model.encode(history(alone)))


@pytest.mark.parametrize("t", [1, 2, 3, 8, 19])
def test_nothing_after_t_changes_the_belief_at_t(t):
    model = make_model()
    first, other = episode(5, 25), episode(6, 25)
    values = {}
    for channel in SCHEMA.channels:
        array = first.values[channel.name]
        if channel.role != "static":
            keep = t if channel.role == "action" else t + 1
            array = np.concatenate([array[:keep], other.values[channel.name][keep:]])
        values[channel.name] = array
    masks = {"pulse": np.concatenate([first.masks["pulse"][: t + 1], other.masks["pulse"][t + 1 :]])}
    times = np.concatenate([first.times[: t + 1], first.times[t] + np.cumsum(np.full(25 - t, 77.0))])
    altered = Episode("altered", times, values, masks)
    before, after = model.encode_all(history(first)), model.encode_all(history(altered))
    for name in FIELDS:
        if name != "statics":
            torch.testing.assert_close(before[name][:, : t + 1], after[name][:, : t + 1], atol=0, rtol=0)
    assert not torch.equal(before["memory"][:, t + 1], after["memory"][:, t + 1]), "the future was not altered"


def test_a_horizon_does_not_depend_on_later_actions():
    model = make_model(scale=2.0)
    belief = model.encode(history(episode(7, 20), episode(8, 12)))
    first, other, announced = plans(0, 2), plans(1, 2), meals(0, 2)
    base = predict(model, belief, first, announced)
    for h in range(len(CONFIG.grid)):
        mixed = torch.cat([first[:, :, : h + 1], other[:, :, h + 1 :]], dim=2)
        found = predict(model, belief, mixed, announced)
        torch.testing.assert_close(found[..., : h + 1, :], base[..., : h + 1, :], atol=1e-6, rtol=1e-5)
        if h + 1 < len(CONFIG.grid):
            assert (found[..., h + 1, 0] - base[..., h + 1, 0]).abs().max() > 1e-4, "actions have no effect at all"


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 8.0), dose=st.floats(0.0, 25.0), interval=st.integers(0, 99))
def test_more_of_an_action_that_lowers_never_raises_the_prediction(seed, scale, dose, interval):
    model = make_model(seed, scale=scale)
    belief = model.encode(history(episode(seed, 9)))
    actions, announced = plans(seed, 1), meals(seed, 1)
    more = actions.clone()
    more[:, :, interval % len(CONFIG.grid), 0] += dose
    less, lowered = predict(model, belief, actions, announced), predict(model, belief, more, announced)
    glucose = model.quantities.index("glucose")
    room = 1e-5 * (1 + less[..., glucose].abs())
    assert (lowered[..., glucose] <= less[..., glucose] + room).all()


@pytest.mark.parametrize("name", ["glucose", "pulse"])
def test_what_a_mask_hides_is_as_missing_as_nan(name):
    model = make_model()
    source = episode(9, 30)
    hidden = np.zeros(31, bool)
    hidden[[0, 4, 5, 17, 30]] = True
    masks = {"pulse": source.mask("pulse"), "glucose": source.mask("glucose")}
    masks[name] = masks[name] & ~hidden
    beliefs = []
    for number in (np.nan, 123.0, 599.0):
        values = dict(source.values)
        values[name] = np.where(hidden, np.float32(number), values[name])
        beliefs.append(model.encode(history(Episode("x", source.times, values, masks))))
    for belief in beliefs[1:]:
        assert_close(beliefs[0], belief, atol=0)


def test_a_mask_hides_categories_too():
    schema = Schema(
        name="alarms",
        step=1.0,
        channels=(
            Channel(name="level", role="observation"),
            Channel(name="alarm", role="observation", dtype="int32", categories=("none", "low", "high")),
            Channel(name="dose", role="action"),
        ),
    )
    values = {
        "level": np.arange(5, dtype=np.float32),
        "alarm": np.array([0, 1, 2, 1, 0], np.int32),
        "dose": np.arange(4, dtype=np.float32),
    }
    masks = {"alarm": np.array([True, True, False, True, False])}
    first = Episode("a", np.arange(5.0), values, masks)
    second = Episode("b", np.arange(5.0), {**values, "alarm": np.array([0, 1, 0, 1, 2], np.int32)}, masks)
    schema = schema.with_statistics(fit_statistics(schema, [first]))
    model = WorldModel(schema, CONFIG)
    a, b = (model.encode(History.from_episodes(schema, [e])) for e in (first, second))
    assert_close(a, b, atol=0)
    assert a.age[0, 1] == 1.0, "a hidden category must count as not measured"
    assert torch.isfinite(a.state).all()


def test_a_missing_static_leaves_the_belief_finite():
    source = episode(10, 6)
    values = {**source.values, "age": np.float32(np.nan)}
    belief = make_model().encode(history(dataclasses.replace(source, values=values)))
    assert torch.isfinite(belief.state).all()


def test_predictions_do_not_depend_on_the_batch():
    model = make_model(scale=2.0)
    episodes = [episode(20 + i, 5 + 3 * i) for i in range(7)]
    actions, announced = plans(3, 7, 5), meals(3, 7)
    together = predict(model, model.encode(history(*episodes)), actions, announced)
    for i, alone in enumerate(episodes):
        found = predict(model, model.encode(history(alone)), actions[i : i + 1, 2:3], announced[i : i + 1])
        torch.testing.assert_close(found, together[:, i : i + 1, 2:3], atol=1e-5, rtol=1e-5)


def test_some_horizon_points_equal_the_same_points_of_all():
    model = make_model()
    belief = model.encode(history(episode(11, 9)))
    actions = model.normalise_actions(belief, plans(0, 1))
    points = torch.tensor([0, 3, len(CONFIG.grid) - 1])
    announced = model.normalise_exogenous(belief, meals(0, 1))
    some, every = model.predict(belief, actions, announced, points), model.predict(belief, actions, announced)
    torch.testing.assert_close(some, every[:, :, :, points], atol=1e-6, rtol=1e-5)


def test_read_stays_within_the_channel_bounds():
    model = make_model()
    latents = 100 * torch.randn(3, 4, 5, 2 * 2 + CONFIG.latent, generator=torch.Generator().manual_seed(0))
    read = model.read(latents)
    assert set(read) == {"glucose", "pulse"}
    assert read["glucose"].shape == (3, 4, 5)
    assert read["glucose"].min() == 20
    assert read["glucose"].max() == 600
    assert read["pulse"].min() < 0, "a channel without bounds must not be clamped"


@settings(max_examples=50)
@given(value=st.floats(20, 600), dose=st.floats(0, 25), kilograms=st.floats(1, 300))
def test_units_round_trip(value, dose, kilograms):
    model = make_model()
    f = model.features
    per = {"weight": torch.tensor([kilograms], dtype=torch.float64)}
    normal = f.normalise(SCHEMA["glucose"], torch.tensor([value], dtype=torch.float64), per)
    assert f.to_units("glucose", normal)[0, 0].item() == pytest.approx(value, rel=1e-5)
    normal = f.normalise(SCHEMA["insulin"], torch.tensor([dose], dtype=torch.float64), per)
    assert normal[0, 0].item() * SCHEMA.statistics["insulin"].std * kilograms == pytest.approx(dose, rel=1e-5, abs=1e-9)


def test_a_dose_means_the_same_to_encode_update_and_predict():
    model = make_model()
    belief = model.encode(history(episode(12, 8), episode(13, 8)))
    raw = torch.tensor([[2.0, 1.0], [5.0, 2.0]])[:, None, None, :]
    in_plan = model.normalise_actions(belief, raw)[:, 0, 0]
    f, weight = model.features, torch.tensor([episode(12, 8).values["weight"], episode(13, 8).values["weight"]])
    for i in range(2):
        dose = f.normalise(SCHEMA["insulin"], raw[i, 0, :, 0], {"weight": weight[i : i + 1]})
        torch.testing.assert_close(in_plan[i, :1], dose[0], atol=1e-6, rtol=1e-5)
        assert in_plan[i, 1:].tolist() == [float(k == raw[i, 0, 0, 1]) for k in range(3)]


def linear_windows(count: int, seed: int) -> tuple[Schema, History]:
    """x(t+1) = 0.9 x(t) - 0.5 a(t) + noise."""
    schema = Schema(
        name="linear",
        step=1.0,
        channels=(Channel(name="x", role="observation"), Channel(name="a", role="action", low=0, lowers=("x",))),
    )
    r = np.random.default_rng(seed)
    a = r.exponential(1.0, (count, 30)).astype(np.float32)
    x = np.zeros((count, 31), np.float32)
    x[:, 0] = r.normal(-5, 1, count)
    for t in range(30):
        x[:, t + 1] = 0.9 * x[:, t] - 0.5 * a[:, t] + 0.05 * r.normal(size=count)
    times = np.tile(np.arange(31.0), (count, 1))
    episodes = [Episode(str(i), times[i], {"x": x[i], "a": a[i]}) for i in range(count)]
    schema = schema.with_statistics(fit_statistics(schema, episodes))
    return schema, History.from_arrays(schema, times, {"x": x, "a": a})


def test_the_loss_falls_on_a_linear_system():
    schema, windows = linear_windows(64, 0)
    _, fresh = linear_windows(64, 1)
    config = WorldModelConfig(**{**CONFIG.model_dump(), "grid": HorizonGrid(points=(1, 2, 4)), "members": 2})
    torch.manual_seed(0)
    model = WorldModel(schema, config)
    weights = LossConfig(anchors=4, points=3, warmup=4, futures=2, slices=16)

    def rmse() -> float:
        with torch.no_grad():
            return float(prediction_loss(model, fresh, weights, torch.Generator().manual_seed(9))["rmse"])

    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = rmse()
    for _ in range(120):
        optimizer.zero_grad()
        parts = prediction_loss(model, windows, weights, generator)
        assert all(torch.isfinite(part) for part in parts.values())
        parts["loss"].backward()
        optimizer.step()
    assert rmse() < 0.5 * before
    assert all(p.grad is not None for p in model.parameters()), "a parameter takes no part in the loss"
