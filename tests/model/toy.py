"""A small irregular schema with every kind of channel that a world model reads, and episodes of it from a seed."""

import numpy as np
import torch

from foreworld.episodes import Channel, Episode, Schema, fit_statistics
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.world_model import WorldModel, WorldModelConfig

CHANNELS = (
    Channel(name="glucose", role="observation", unit="mg/dL", low=20, high=600),
    Channel(name="pulse", role="observation", unit="1/min"),
    Channel(name="insulin", role="action", unit="U", low=0, high=25, per="weight", lowers=("glucose",)),
    Channel(name="mode", role="action", dtype="int32", categories=("rest", "walk", "run")),
    Channel(name="meal", role="exogenous", kind="event", unit="g", low=0, high=300, raises=("glucose",)),
    Channel(name="weight", role="static", unit="kg", low=1, high=300, log=True),
    Channel(name="age", role="static", unit="a", low=0, high=120),
    Channel(name="sex", role="static", dtype="int32", categories=("f", "m")),
)
BARE = Schema(name="toy", step=5.0, channels=CHANNELS, periods=(1440.0,))
CONFIG = WorldModelConfig(
    grid=HorizonGrid.geometric(fine=4, last=12, per_doubling=2),
    width=16,
    hidden=12,
    latent=4,
    members=3,
    stride=3,
    recent=4,
    memory=(2.0, 10.0),
    scales=(2.0, 6.0),
    curves=3,
)


def episode(seed: int, actions: int) -> Episode:
    """Noise with gaps in time, missing values, and a value behind every mask."""
    r = np.random.default_rng(seed)
    n = actions + 1
    glucose = r.uniform(40, 400, n).astype(np.float32)
    glucose[r.random(n) < 0.3] = np.nan
    return Episode(
        subject=f"s{seed}",
        times=1000.0 * r.random() + np.cumsum(r.uniform(1, 12, n)),
        values={
            "glucose": glucose,
            "pulse": r.normal(80, 10, n).astype(np.float32),
            "insulin": r.uniform(0, 9, actions).astype(np.float32),
            "mode": r.integers(0, 3, actions, dtype=np.int32),
            "meal": (r.uniform(10, 90, n) * (r.random(n) < 0.2)).astype(np.float32),
            "weight": np.float32(r.uniform(40, 120)),
            "age": np.float32(r.uniform(10, 90)),
            "sex": np.int32(r.integers(0, 2)),
        },
        masks={"pulse": r.random(n) < 0.6},
    )


SCHEMA = BARE.with_statistics(fit_statistics(BARE, [episode(seed, 60) for seed in range(100, 108)]))


def make_model(seed: int = 0, config: WorldModelConfig = CONFIG, scale: float = 1.0) -> WorldModel:
    """A world model with random weights, all of them multiplied by `scale`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WorldModel(SCHEMA, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model.eval()
