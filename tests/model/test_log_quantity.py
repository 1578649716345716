"""A quantity that grows in proportion to itself: seen and predicted as a logarithm, judged by its mean."""

import numpy as np
import pytest
import torch

from foreworld.episodes import Channel, Episode, Schema, fit_statistics
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.loss import LossConfig, _error, prediction_loss
from foreworld.model.world_model import WorldModel, WorldModelConfig

BARE = Schema(
    name="growth",
    step=1.0,
    channels=(
        Channel(name="volume", role="observation", unit="cm3", low=0.1, high=5000.0, log=True),
        Channel(name="other", role="observation", unit="1"),
        Channel(name="dose", role="action", unit="Gy", low=0.0, high=2.0),
    ),
)


def course(seed: int, length: int = 12) -> Episode:
    r = np.random.default_rng(seed)
    volume = np.exp(r.uniform(0, 6) + np.cumsum(r.normal(-0.1, 0.1, length + 1)))
    values = {"volume": np.maximum(volume, 0.1), "other": r.normal(5, 2, length + 1), "dose": r.uniform(0, 2, length)}
    return Episode(f"s{seed}", np.arange(length + 1.0), {k: v.astype(np.float32) for k, v in values.items()})


SCHEMA = BARE.with_statistics(fit_statistics(BARE, [course(seed) for seed in range(20)]))


def make() -> WorldModel:
    config = WorldModelConfig(
        grid=HorizonGrid(points=(1, 2, 3)), width=8, hidden=8, latent=0, members=2, stride=1, recent=2, memory=(2.0,)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WorldModel(SCHEMA, config)


def test_the_floor_is_the_lower_bound_where_that_is_above_zero():
    assert SCHEMA["volume"].floor == 0.1
    assert Channel(name="a", role="observation", low=-3.0, log=True).floor == 1e-6
    assert Channel(name="a", role="observation", low=0.0, log=True).floor == 1e-6


def test_statistics_and_features_are_those_of_the_logarithm():
    values = np.log(np.concatenate([course(seed).values["volume"] for seed in range(20)]).astype(np.float64))
    assert SCHEMA.statistics["volume"].mean == pytest.approx(values.mean(), rel=1e-6)
    features, stats = make().features, SCHEMA.statistics["volume"]
    seen = features.normalise(SCHEMA["volume"], torch.tensor([1.0, 0.1, 0.0001]), {})
    wanted = (np.log([1.0, 0.1, 0.1]) - stats.mean) / stats.std
    np.testing.assert_allclose(seen[..., 0] if seen.dim() > 1 else seen, wanted, rtol=1e-5)


def test_reading_gives_back_the_unit_within_its_bounds():
    model = make()
    there = torch.tensor([0.1, 3.0, 800.0, 5000.0])
    normalised = model.features.normalise(SCHEMA["volume"], there, {}).reshape(4)
    torch.testing.assert_close(model.features.to_units("volume", normalised), there, rtol=1e-4, atol=1e-5)
    assert float(model.features.to_units("volume", torch.tensor(50.0))) == 5000.0
    assert float(model.features.to_units("volume", torch.tensor(-50.0))) == pytest.approx(0.1)


def test_the_scale_of_a_log_quantity_grows_with_it_and_that_of_another_does_not():
    model = make()
    latents = torch.zeros(2, 4)
    latents[1, 0] = 1.0
    read, scale = model.read(latents), model.read_scale(latents)
    share = scale["volume"] / read["volume"]
    torch.testing.assert_close(share, torch.full((2,), SCHEMA.statistics["volume"].std), rtol=1e-5, atol=0)
    assert read["volume"][1] > 1.5 * read["volume"][0]
    assert float(scale["other"][0]) == float(scale["other"][1])


def best_constant(log: bool) -> float:
    """The prediction, in units, that a search finds best for volumes that a treatment halves or spares."""
    model = make()
    name = "volume" if log else "other"
    at = model.quantities.index(name)
    truth = torch.tensor([100.0, 10.0])
    target = torch.zeros(2, 1, 2)
    target[:, 0, at] = model.features.normalise(SCHEMA[name], truth, {}).reshape(2)
    last = target[:1, 0].expand(2, -1)
    grid = torch.linspace(float(target[..., at].min()) - 0.2, float(target[..., at].max()) + 0.2, 4001)
    guess = torch.zeros(len(grid), 2, 1, 2)
    guess[..., at] = grid[:, None, None]
    error, size = _error(model, guess, target, last)
    # beta = 1: the error counts by the squared size of what it is a share of.
    cost = ((error * size.exp()) ** 2)[..., at].sum((1, 2)) if log else (error**2)[..., at].sum((1, 2))
    return float(model.features.to_units(name, grid[cost.argmin()]))


def test_the_mean_is_learned_and_not_the_mean_of_the_logarithm():
    assert best_constant(log=True) == pytest.approx(55.0, rel=0.01)  # the geometric mean is 31.6
    assert best_constant(log=False) == pytest.approx(55.0, rel=0.01)


def test_small_errors_are_those_of_the_logarithm():
    model = make()
    target = torch.randn(3, 2, 2)
    error, _ = _error(model, (target + 1e-4)[None], target, torch.zeros(3, 2))
    torch.testing.assert_close(error[0], torch.full((3, 2, 2), 1e-4), rtol=1e-2, atol=1e-6)


def test_a_quantity_that_vanishes_is_no_infinite_error():
    model = make()
    target = torch.full((1, 1, 2), -1e3)
    error, _ = _error(model, torch.zeros(1, 1, 1, 2), target, torch.zeros(1, 2))
    assert float(error[..., 0].abs()) == pytest.approx(1.0 / SCHEMA.statistics["volume"].std, rel=1e-5)
    far, _ = _error(model, torch.full((1, 1, 1, 2), -1e3), torch.zeros(1, 1, 2), torch.zeros(1, 2))
    assert torch.isfinite(far).all()


def test_a_model_of_a_log_quantity_trains():
    model, batch = make(), History.from_episodes(SCHEMA, [course(seed) for seed in range(30, 46)])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    config = LossConfig(anchors=4, points=3, warmup=0, latent=0.0, beta=1.0)
    found = []
    for _ in range(60):
        parts = prediction_loss(model, batch, config, generator)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        found.append(float(parts["rmse"]))
    assert np.mean(found[-10:]) < 0.9 * np.mean(found[:10])
