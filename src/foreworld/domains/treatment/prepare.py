"""From nothing to a calibrated forecaster: collect, train, calibrate; finished parts are reused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from foreworld import __version__
from foreworld.domains.treatment.calibrate import (
    CalibrateConfig,
    calibrate,
    load_forecaster,
    notes_of,
    save_calibration,
)
from foreworld.domains.treatment.collect import CollectConfig, collect
from foreworld.domains.treatment.settings import training
from foreworld.episodes import EpisodeStore
from foreworld.errors import InputError
from foreworld.evidence.stages import Stages
from foreworld.forecast.forecaster import Forecaster
from foreworld.learning.progress import Mode
from foreworld.learning.train import TrainConfig, train
from foreworld.model.checkpoint import load, read_extra, save

PART = "part: "  # before the names of stages that no forecaster is made from


class Recipe(BaseModel):
    """Everything that shapes a prepared forecaster, apart from the seed.

    Attributes:
        name: For people.
        collect: Logged data.
        steps: Optimiser steps.
        window: Steps a training window.
        calibrate: Calibration.
        threads: CPU threads of training; part of the recipe because results depend on it in the last bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    collect: CollectConfig = CollectConfig()
    steps: int = 12000
    window: int = 2016
    calibrate: CalibrateConfig = CalibrateConfig()
    threads: int = 1

    def training(self, seed: int) -> TrainConfig:
        """Training settings of this recipe."""
        return training(self.steps, seed, self.threads, self.window)

    def key(self, seed: int, data: Path | None = None) -> str:
        """A name for the model that recipe and seed give, from the store `data` instead of a collected one if given.

        How it is calibrated is no part of it: a model is calibrated again without being trained again.
        """
        learned = self.model_dump_json(exclude={"calibrate"})
        text = f"{__version__} {learned} {self.training(seed).model_dump_json()}"
        if data is not None:
            # The index of a store changes whenever an episode, a split or a statistic does.
            index = data / "zarr.json"
            if not index.is_file():
                raise InputError(f"no episode store at {data}; make one with foreworld collect or foreworld import")
            text += f" {data.resolve()} {hashlib.sha256(index.read_bytes()).hexdigest()}"
        return f"{self.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


FULL = Recipe(name="full")
DEMO = Recipe(
    name="demo",
    window=1008,
    collect=CollectConfig(subjects=300, days=7),
    steps=1400,
    calibrate=CalibrateConfig(subjects=40, logged_subjects=80, days=3, loop_days=0.75, rounds=1),
    threads=2,
)
QUICK = Recipe(
    name="quick",
    window=1008,
    collect=CollectConfig(subjects=24, days=5),
    steps=60,
    calibrate=CalibrateConfig(subjects=16, logged_subjects=24, days=3, loop_days=0.4, rounds=1),
)


def prepare(
    folder: str | Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    data: Path | None = None,
    announced: bool = True,
    progress: Mode = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Forecaster, float]:
    """Collect, train and calibrate into `folder`, reusing what an earlier call with the same recipe finished.

    Args:
        folder: Holds `data` and `model`.
        recipe: What to do.
        seed: Of data, initialisation and calibration.
        data: A store to learn from instead of collecting one.
        announced: Whether it is calibrated for people who announce their meals, in `model`, or for people who announce
            nothing, in `model-silent`: the same weights, other errors.
        progress: Of training.
        report: Takes a line at each stage.

    Returns:
        The forecaster, and the CPU seconds that data, training and calibration took when they were made; NaN if one
        of them was interrupted, as nobody knows what the process that ended had spent.

    Raises:
        InputError: The folder holds what another recipe, seed or store gave, or another process is preparing it.
    """
    stages = Stages(folder, recipe.key(seed, data))
    place, config = stages.place, recipe.calibrate if announced else recipe.calibrate.silent()
    model_folder = place / "model"
    wanted = model_folder if announced else silent_folder(place)
    if stages.claimed and wanted.exists() and _calibrated(wanted, config):
        return load_forecaster(wanted), _spent(stages, announced)
    with stages.making():
        if not model_folder.exists():
            store = data or _collected(stages, recipe, seed, report)
            report(f"training for {recipe.steps} steps")
            with stages.stage("train"):
                train(store, model_folder, recipe.training(seed), progress=progress)
        if not wanted.exists():
            save(load(model_folder), wanted, extra={"training": read_extra(model_folder)["training"]})
        if not _calibrated(wanted, config):
            report(f"calibrating on {config.logged_subjects} other virtual people")
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with stages.stage("calibrate" if announced else "calibrate, silent"):
                    save_calibration(wanted, calibrate(load(wanted), config, seed=seed, report=report))
            finally:
                torch.set_num_threads(threads)
        return load_forecaster(wanted), _spent(stages, announced)


def _calibrated(model: Path, config: CalibrateConfig) -> bool:
    """Whether a checkpoint folder holds a calibration that was made this way."""
    found = read_extra(model).get("calibration")
    return found is not None and all(found["notes"].get(name) == value for name, value in notes_of(config).items())


def silent_folder(place: Path) -> Path:
    """Where the model that was calibrated for people who announce nothing is, in a prepared folder."""
    return place / "model-silent"


def collected(
    folder: str | Path, recipe: Recipe, *, seed: int = 0, report: Callable[[str], None] = lambda line: None
) -> Path:
    """The store of a recipe and seed in `folder`, collected if it is not there: for arms that need no world model.

    Raises:
        InputError: As in `prepare`.
    """
    stages = Stages(folder, recipe.key(seed))
    if stages.claimed and _complete(stages.place / "data"):
        return stages.place / "data"
    with stages.making():
        return _collected(stages, recipe, seed, report)


def learned(
    folder: str | Path,
    recipe: Recipe,
    name: str,
    make: Callable[[Path], None],
    *,
    seed: int = 0,
    data: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Path, float]:
    """Something else that is learned from the store of a recipe and seed, made once and reused.

    Args:
        folder: As in `prepare`.
        recipe: As in `prepare`.
        name: Of the part's own folder; it tells apart whatever gives another result.
        make: Writes the part into the folder that it is given.
        seed: As in `prepare`.
        data: As in `prepare`.
        report: Takes a line at each stage.

    Returns:
        The part's folder, and the CPU seconds that it took, the collection of its data apart; NaN if nobody knows.

    Raises:
        InputError: As in `prepare`.
    """
    stages = Stages(folder, recipe.key(seed, data))
    with stages.making():
        made = stages.place / name
        if not made.exists():
            report(f"learning {name}")
            half = stages.place / f"{name}-half"
            shutil.rmtree(half, ignore_errors=True)
            with stages.stage(PART + name):
                make(half)
                half.replace(made)
        return made, stages.cost(PART + name)


def _collected(stages: Stages, recipe: Recipe, seed: int, report: Callable[[str], None]) -> Path:
    store = stages.place / "data"
    if not _complete(store):
        report(f"collecting {recipe.collect.subjects} virtual people, {recipe.collect.days} days each")
        # What an interrupted call left has no statistics; it is collected again from the start.
        shutil.rmtree(store, ignore_errors=True)
        with stages.stage("collect"):
            collect(store, recipe.collect, seed=seed)
    return store


def _complete(store: Path) -> bool:
    """Whether a store was collected to its end: statistics are written last."""
    return (store / "zarr.json").is_file() and bool(EpisodeStore.open(store).schema.statistics)


def _spent(stages: Stages, announced: bool) -> float:
    """CPU seconds of the stages behind one of the two models."""
    other = "calibrate, silent" if announced else "calibrate"
    return stages.cost(name for name in stages.names if name != other and not name.startswith(PART))
