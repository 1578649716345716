"""Commands that learn: `train` and `calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foreworld.cli.output import heartbeat, note, say
from foreworld.errors import InputError

if TYPE_CHECKING:
    from foreworld.episodes import EpisodeStore
    from foreworld.learning.train import TrainConfig


def train(
    store: Path,
    *,
    out: Path,
    steps: int | None = None,
    window: int | None = None,
    horizon: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> None:
    """Train a world model on a store; a store without a split by subject and statistics is given both first.

    An interrupted run goes on where it stopped when the same command is given again.

    Example: `foreworld train runs/walks --out runs/walks-model --steps 200 --window 40 --horizon 12`

    Args:
        store: Folder of the episodes.
        out: Folder of the model; the state and log of the run are in OUT-run beside it.
        steps: Optimiser steps.
        window: Steps of a training window, history and future together; at most the length of an episode.
        horizon: Steps ahead that are predicted; not for the domain treatment, whose horizon is fixed.
        seed: Of the split, the initialisation and the order of the data.
        threads: CPU threads; a run is exactly repeatable only with one number of threads.
    """
    for name, value in (("steps", steps), ("window", window), ("horizon", horizon), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"--{name} {value} must be at least 1")
    from foreworld.episodes import EpisodeStore
    from foreworld.learning.train import train as fit

    episodes = EpisodeStore.open(store)
    _divide(episodes, seed)
    config = _config(episodes, steps, window, horizon, seed, threads)
    longest = int(episodes.lengths[episodes.episodes_of(config.split)].max())
    if window is None and longest < config.window:
        note(f"the longest episode has {longest} steps, so windows have {longest} instead of {config.window}")
        config = config.model_copy(update={"window": longest})
    fit(store, out, config)
    say(f"{out}: trained on {len(episodes.episodes_of(config.split))} episodes for {config.fit.steps} steps")


def calibrate(model: Path, *, subjects: int = 80, days: int = 6, rounds: int = 2, seed: int = 0) -> None:
    """Calibrate a model of the domain treatment on virtual people of their own: bands, novelty, guardrail scores.

    Plans come from a calibrated model only: `plan` asks for it.

    Example: `foreworld calibrate runs/model --subjects 16 --rounds 1`

    Args:
        model: Folder of the model; the calibration is kept in it.
        subjects: Virtual people who were not trained on and are planned for; three times as many are watched.
        days: Days of logged therapy.
        rounds: Calibrate, plan, carry the plans out, calibrate again.
        seed: Of people and days.
    """
    if subjects < 8 or days < 2 or rounds < 1:
        raise InputError(f"subjects {subjects}, days {days}, rounds {rounds} must be at least 8, 2 and 1")
    import torch

    from foreworld.domains.treatment.calibrate import CalibrateConfig, save_calibration
    from foreworld.domains.treatment.calibrate import calibrate as fit
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.model.checkpoint import load

    trained = load(model, SCHEMA)
    torch.set_num_threads(1)  # a second one costs small tensors more in barriers than it gives
    config = CalibrateConfig(subjects=subjects, logged_subjects=3 * subjects, days=days, rounds=rounds)
    with heartbeat("calibrating"):
        found = fit(trained, config, seed=seed, report=note)
    save_calibration(model, found)
    say(f"{model}: calibrated on {found.subjects} people; rounds: {rounds}")


def _config(
    store: EpisodeStore, steps: int | None, window: int | None, horizon: int | None, seed: int, threads: int | None
) -> TrainConfig:
    """The domain's settings where the channels are those of treatment, general ones otherwise."""
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.domains.treatment.settings import training
    from foreworld.learning.fit import FitConfig
    from foreworld.learning.train import TrainConfig
    from foreworld.model.dynamics import HorizonGrid
    from foreworld.model.world_model import WorldModelConfig

    if SCHEMA.same_channels(store.schema):
        if horizon is not None:
            raise InputError("the domain treatment has a fixed horizon; leave --horizon out")
        config = training(steps or 9000, seed, threads)
        return config if window is None else config.model_copy(update={"window": window})
    ahead = horizon or 32
    model = WorldModelConfig(grid=HorizonGrid.geometric(fine=min(8, ahead), last=ahead))
    fit = FitConfig(steps=steps or 4000, seed=seed, threads=threads)
    # By default the history before the first prediction is as long as the future after the last one.
    return TrainConfig(model=model, fit=fit, window=window or 4 * ahead)


def _divide(store: EpisodeStore, seed: int) -> None:
    """Split by subject and fit statistics on those who are learned from, where neither was done."""
    from foreworld.episodes import fit_statistics

    if "default" not in store.splits():
        parts = store.split("default", {"fit": 0.9, "validate": 0.1} if len(store.subjects) > 4 else {"fit": 1.0}, seed)
        sizes = ", ".join(f"{part} {len(subjects)}" for part, subjects in parts.items())
        note(f"subjects of {store.path} divided, seed {seed}: {sizes}")
    if not store.schema.statistics:
        fitted = (store.episode(i) for i in store.episodes_of("default/fit"))
        store.set_statistics(fit_statistics(store.schema, fitted))
        note("statistics fitted on the part `fit`")
