"""The fast mode in rooms: a policy distilled from the deliberate planner, and a player that acts by it.

policy = distil(prepared, DistilConfig(), seed=0, folder="runs/models/fast-0")[0]
run_scenes(Fast(Planned(prepared), policy), scenes, 100)
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foreworld.agent.policy import FILE, Examples, Policy, Teacher, fit_policy
from foreworld.agent.reflex import Reflex
from foreworld.domains.rooms.layout import BoolArray, FloatArray
from foreworld.domains.rooms.loop import SEARCH, By, Planned, run_scenes
from foreworld.domains.rooms.prepare import Prepared, RoomsRecipe, scene_seeds
from foreworld.domains.rooms.render import ByteArray
from foreworld.domains.rooms.scene import Scenes
from foreworld.domains.rooms.source import FRAME
from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.evidence.stages import Stages
from foreworld.forecast.forecaster import Imagined
from foreworld.learning.fit import FitConfig
from foreworld.model.belief import History
from foreworld.model.glance import Glance
from foreworld.model.latent_model import LatentModel
from foreworld.model.vision import ConvEncoder
from foreworld.planning.planners.cem import CEMPlanner


class DistilConfig(Options):
    """How a policy is distilled.

    Attributes:
        scenes: A round, of those that the model learned from.
        budget: Actions each, at most.
        rounds: In the first the planner acts, in the others the policy of the rounds before (DAgger).
        hidden: Width of the policy's layers.
        fit: Optimisation, after each round.
    """

    scenes: int = Field(default=80, gt=0)
    budget: int = Field(default=60, gt=0)
    rounds: int = Field(default=3, gt=0)
    hidden: int = Field(default=256, gt=0)
    fit: FitConfig = FitConfig(steps=1500, lr=3e-3, warmup=50, floor=0.02, weight_decay=1e-4, threads=1)


def distil(
    prepared: Prepared,
    recipe: RoomsRecipe,
    config: DistilConfig,
    folder: str | Path,
    *,
    by: By = "temporal",
    horizon: int = 3,
    seed: int = 0,
) -> tuple[Policy, float]:
    """Distil the deliberate planner of a model, or read what an earlier call with the same arguments gave.

    Args:
        prepared: Model and ways.
        recipe: That it was made by; the scenes are those that were recorded, start and goal as the scene draws them.
        config: How.
        folder: Holds the policy.
        by: As in `Planned`.
        horizon: Blocks that are planned ahead.
        seed: Of the scenes, the search and the fit.

    Returns:
        The policy, and the CPU seconds that it took; NaN where nobody knows.

    Raises:
        InputError: The folder holds what other arguments gave, or the recipe recorded too few scenes.
    """
    if config.rounds * config.scenes > recipe.episodes:
        raise InputError(
            f"{config.rounds} rounds of {config.scenes} scenes are more than the {recipe.episodes} that were recorded; "
            "distil from fewer"
        )
    stages = Stages(folder, f"{recipe.key(seed)} {config.model_dump_json()} {by} {horizon}")
    if not (stages.claimed and (stages.place / FILE).is_file()):
        with stages.making(), stages.stage("distil"):
            _distilled(prepared, recipe, config, by, horizon, seed).save(stages.place)
    return Policy.load(stages.place), stages.cost("distil")


def _distilled(
    prepared: Prepared, recipe: RoomsRecipe, config: DistilConfig, by: By, horizon: int, seed: int
) -> Policy:
    policy: Policy | None = None
    found: list[Examples] = []
    for one in range(config.rounds):
        numbers = range(one * config.scenes, (one + 1) * config.scenes)
        scenes = Scenes(recipe.rooms, scene_seeds(seed, numbers))
        teacher = Teacher(CEMPlanner(SEARCH), policy)
        frames = scenes.reset()
        player = Planned(prepared, horizon=horizon, planner=teacher, by=by, seed=seed + one)
        run_scenes(player, scenes, config.budget, frames=frames)
        found.append(teacher.examples())
        examples = Examples(torch.cat([e.features for e in found]), torch.cat([e.plans for e in found]))
        policy = fit_policy(examples, config.fit.model_copy(update={"seed": seed}), hidden=config.hidden)
    assert policy is not None
    return policy


@dataclass
class Fast:
    """A player that acts by a policy, and asks the deliberate one where a guardrail does not let its plan pass.

    Args:
        slow: Searches for those; knows the task.
        policy: Distilled for the same task and horizon.

    Attributes:
        searched: Decisions for which the deliberate one was asked.
        planning: CPU seconds of all decisions without encoding, those of the deliberate one within.
    """

    slow: Planned
    policy: Policy

    @cached_property
    def _see(self) -> Glance | LatentModel:
        model = self.slow.prepared.model
        return Glance(model) if isinstance(model.encoder, ConvEncoder) else model

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Look at the goals' frames."""
        self.slow.begin(scenes, frames)
        self.reflex = Reflex(self.policy, self.slow.agent.forecaster)
        self.refused = np.zeros(len(scenes), int)
        self.searched, self.planning = 0, 0.0
        self._pose(np.arange(len(scenes)))

    def _pose(self, rows: np.ndarray) -> None:
        """The task of the scenes that go on; it stays the same from step to step."""
        self.slow.keep(rows)
        agent = self.slow.agent
        self._rows, task, known = rows, agent.task, torch.zeros(len(rows), 1, dtype=torch.float64)
        self._history = History(known, {}, torch.ones(len(rows), dtype=torch.int64))
        space = task.space(agent.forecaster.model.config.grid, self._history)
        wanted = task.objective(self.slow.profile).condition()
        self._posed = self.reflex.pose(wanted, space, tuple(task.guardrails))

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """Decide for the scenes that go on."""
        if int(going.sum()) < len(self._rows):
            self._pose(np.flatnonzero(going))
        rows = self._rows
        seen = torch.from_numpy(frames if len(rows) == len(frames) else frames[rows])
        look = self._see
        context = look(seen) if isinstance(look, Glance) else look.embed(seen).detach()
        began = time.process_time()
        done, may = self.reflex.answer(self._posed, context, self._history, lambda: self._imagined(seen))
        action = done.numpy()
        if len(rows) < len(going):
            action = np.zeros((len(going), 2), dtype=np.float32)
            action[rows] = done.numpy()
        self.refused[:] = 0
        passed = may.numpy()
        if not passed.all():
            others = rows[~passed]
            self.searched += len(others)
            action[others] = self.slow.act(frames, going)[others]
            self.refused[others] = self.slow.refused[others]
        self.planning += time.process_time() - began
        return action

    def _imagined(self, seen: Tensor) -> Imagined:
        forecaster, known = self.slow.agent.forecaster, self._history
        return forecaster.begin(forecaster.model.encode(History(known.times, {FRAME: seen[:, None]}, known.lengths)))
