"""A ladder of two rungs: a fully observed task whose values are known, its log, and an agent that learned from it."""

from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from foreworld.episodes import Channel, EpisodeStore, Schema, fit_statistics, record
from foreworld.episodes.copies import Copies
from foreworld.episodes.policies import TablePolicy
from foreworld.learning.fit import FitConfig
from foreworld.learning.train import TrainConfig, train
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.loss import LossConfig
from foreworld.model.world_model import WorldModel, WorldModelConfig

PLACES = ("low", "high", "lost", "won")
# Chance to rise by place and action; otherwise all is lost. Action 2 is never logged.
RISE = np.array([[0.5, 0.9, 1.0], [0.5, 0.8, 1.0]])
SCHEMA = Schema(
    name="ladder",
    step=1.0,
    channels=(
        Channel(name="place", role="observation", dtype="int32", categories=PLACES),
        Channel(name="reward", role="observation"),
        Channel(name="action", role="action", dtype="int32", categories=("slow", "fast", "leap")),
    ),
)
MODEL = WorldModelConfig(
    grid=HorizonGrid(points=(1,)),
    quantities=("reward",),
    categories=("place",),
    follows=1.0,
    recurrent=False,
    stride=1,
    recent=1,
    memory=(),
    scales=(1.0,),
    curves=1,
    joint=8,
    width=8,
    hidden=8,
    latent=0,
    members=2,
)


class Ladder(gymnasium.Env):
    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return 0, {}

    def step(self, action):
        rose = self.np_random.random() < RISE[self.place, action]
        self.place = (self.place + 1 if self.place == 0 else 3) if rose else 2
        return self.place, float(self.place == 3), self.place >= 2, False, {}


def log(folder: Path, episodes: int = 4000) -> EpisodeStore:
    ward = Copies(Ladder, episodes, seed=0, schema=SCHEMA)
    shares = np.array([[1.0, 1.0, 0.0]] * 4)
    policy = TablePolicy(shares, 0, observation="place", action="action")
    store = record(ward, policy, folder, seed=0, schema=SCHEMA)
    store.set_statistics(fit_statistics(SCHEMA, store))
    store.set_split("default", {"fit": store.subjects})
    return store


def model(data: Path, out: Path, *, steps: int = 1, **changes) -> WorldModel:
    config = TrainConfig(
        model=MODEL.model_copy(update=changes),
        loss=LossConfig(anchors=1, points=1, warmup=0),
        fit=FitConfig(steps=steps, lr=1e-2 if steps > 1 else 1e-9, warmup=0),
        window=1,
        windows=256,
    )
    return train(data, out, config, progress="none")
