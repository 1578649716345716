"""What is learned of sepsis: logged treatments, a world model of them, and a critic that imagines with it."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from foreworld.agent.agent import Agent
from foreworld.agent.check import Checker
from foreworld.agent.configurator import Configurator
from foreworld.agent.critic import Moments, fit_critic
from foreworld.domains.treatment.sepsis.task import DECLARED, STANDARD, SepsisTask, rules
from foreworld.domains.treatment.sepsis.ward import ACTIONS, SCHEMA, STATES, bedsides, drawn, environment
from foreworld.episodes import EpisodeStore, fit_statistics, record
from foreworld.episodes.copies import Copies
from foreworld.episodes.flat import flatten
from foreworld.forecast.forecaster import Forecaster
from foreworld.learning.fit import FitConfig
from foreworld.learning.train import TrainConfig, train
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.loss import LossConfig
from foreworld.model.world_model import WorldModel, WorldModelConfig
from foreworld.planning.admissible import Familiar
from foreworld.planning.planners.exhaustive import ExhaustivePlanner


class Recipe(BaseModel):
    """How much is logged and learned; everything here shapes the figures.

    Attributes:
        episodes: Patients logged under the clinicians' policy.
        steps: Optimiser steps of the world model.
        batch: Transitions a step.
        least: Fewest times that a treatment was logged in a state to be allowed there.
        alone: The same where the log is all that says what is admissible.
        model: The state tells all of the past, so one moment is history enough and one step the horizon; the critic
            sees beyond.
    """

    model_config = ConfigDict(frozen=True)

    episodes: int = 200_000
    steps: int = 200
    batch: int = 1024
    least: int = 10
    alone: int = 100
    model: WorldModelConfig = WorldModelConfig(
        grid=HorizonGrid(points=(1,)), quantities=("sofa",), categories=("state",), follows=20.0,
        recurrent=False, stride=1, recent=1, memory=(), scales=(1.0,), curves=1, joint=64, width=64, hidden=64,
        latent=0, members=1,
    )  # fmt: skip


# Patients logged together.
GROUP = 2000
FULL = Recipe()
QUICK = Recipe(episodes=2000, steps=20, batch=256, least=1, alone=5)


def collect(out: Path, recipe: Recipe, seed: int) -> EpisodeStore:
    """Log treatments by the clinicians' policy that comes with the package; goes on where it stopped."""
    one, there = environment(), (out / "zarr.json").is_file()
    store = EpisodeStore.open(out, schema=SCHEMA) if there else EpisodeStore.create(out, SCHEMA)
    while (done := len(store)) < recipe.episodes:
        ward = Copies(bedsides(one), min(GROUP, recipe.episodes - done), seed, SCHEMA, first=done)
        record(ward, drawn(one.expert_policy, (seed, done)), store, seed=seed)
    if not store.schema.statistics:
        # A score's mean and spread need no more, and episodes are read one by one.
        store.set_statistics(fit_statistics(SCHEMA, (store.episode(i) for i in range(min(len(store), 5000)))))
        store.set_split("default", {"fit": store.subjects})
    return store


def learn(data: Path, out: Path, recipe: Recipe, seed: int) -> WorldModel:
    """The world model of what each treatment leads to."""
    config = TrainConfig(
        model=recipe.model,
        loss=LossConfig(anchors=1, points=1, warmup=0),
        fit=FitConfig(steps=recipe.steps, lr=3e-3, seed=seed, ema=0.998, bf16=True),
        window=1,
        windows=recipe.batch,
    )
    return train(data, out, config, progress="none")


def sepsis_agent(model: WorldModel, store: EpisodeStore, recipe: Recipe, seed: int, *, alone: bool = False) -> Agent:
    """The agent, its guardrail counted and its critic fitted on the log that its model learned from.

    Args:
        model: Trained.
        store: The log.
        recipe: Of the guardrail.
        seed: Of the agent.
        alone: Without the sets that the environment declares: only the log says what is admissible.
    """
    log = flatten(store, SCHEMA.names())
    least, source = recipe.alone if alone else recipe.least, f"{len(store)} logged episodes of the clinicians' policy"
    familiar = Familiar.learn(log, "state", "action", (STATES, ACTIONS), least=least, source=source)
    guardrails = (familiar,) if alone else (DECLARED, familiar)
    forecaster, candidates = Forecaster(model), torch.arange(ACTIONS, dtype=torch.float32)[:, None, None]
    critic = fit_critic(forecaster, Moments.draw(log, SCHEMA, "state"), "state", candidates, guardrails)
    task, settings = SepsisTask(guardrails, familiar, critic), Configurator(STANDARD)
    return Agent(forecaster, task, ExhaustivePlanner(), configurator=settings, checker=Checker(rules()), seed=seed)
