"""From nothing to a calibrated forecaster: collect, train, calibrate; finished parts are reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from foreworld import __version__
from foreworld.domains.treatment.calibrate import CalibrateConfig, calibrate, load_forecaster, save_calibration
from foreworld.domains.treatment.collect import CollectConfig, collect
from foreworld.domains.treatment.settings import training
from foreworld.episodes import EpisodeStore
from foreworld.evidence.protocol import cpu_seconds
from foreworld.forecast.forecaster import Forecaster
from foreworld.learning.progress import Mode
from foreworld.learning.train import train
from foreworld.model.checkpoint import load, read_extra, save


class Recipe(BaseModel):
    """Everything that shapes a prepared forecaster, apart from the seed.

    Attributes:
        name: For people.
        collect: Logged data.
        steps: Optimiser steps.
        calibrate: Calibration.
        threads: CPU threads of training; part of the recipe because results depend on it in the last bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    collect: CollectConfig = CollectConfig()
    steps: int = 9000
    calibrate: CalibrateConfig = CalibrateConfig()
    threads: int = 1

    def key(self, seed: int) -> str:
        """A name for what this recipe and seed give."""
        text = f"{__version__} {self.model_dump_json()} {training(self.steps, seed, self.threads).model_dump_json()}"
        return f"{self.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


FULL = Recipe(name="full")
DEMO = Recipe(
    name="demo",
    collect=CollectConfig(subjects=300, days=7),
    steps=1400,
    calibrate=CalibrateConfig(subjects=40, days=3, loop_days=0.75, rounds=1),
    threads=2,
)
QUICK = Recipe(
    name="quick",
    collect=CollectConfig(subjects=24, days=5),
    steps=60,
    calibrate=CalibrateConfig(subjects=16, days=3, loop_days=0.4, rounds=1, every=5),
)


def prepare(
    folder: str | Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    data: Path | None = None,
    progress: Mode = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Forecaster, float]:
    """Collect, train and calibrate into `folder`, reusing what an earlier call with the same recipe finished.

    Args:
        folder: Holds `data` and `model`.
        recipe: What to do.
        seed: Of data, initialisation and calibration.
        data: A store to learn from instead of collecting one.
        progress: Of training.
        report: Takes a line at each stage.

    Returns:
        The forecaster, and the CPU seconds that data, training and calibration took when they were made.
    """
    place = Path(folder)
    model_folder = place / "model"
    began = cpu_seconds()
    if not model_folder.exists():
        store = data
        if store is None:
            store = place / "data"
            if not _complete(store):
                report(f"collecting {recipe.collect.subjects} virtual people, {recipe.collect.days} days each")
                collect(store, recipe.collect, seed=seed)
        report(f"training for {recipe.steps} steps")
        model = train(store, model_folder, training(recipe.steps, seed, recipe.threads), progress=progress)
        spent = cpu_seconds() - began
        save(model, model_folder, extra=read_extra(model_folder) | {"cpu_seconds": spent})
    extra = read_extra(model_folder)
    if "calibration" not in extra:
        began = cpu_seconds()
        report(f"calibrating on {recipe.calibrate.subjects} other virtual people")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        calibration = calibrate(load(model_folder), recipe.calibrate, seed=seed, report=report)
        torch.set_num_threads(threads)
        save_calibration(model_folder, calibration)
        spent = float(extra.get("cpu_seconds", 0.0)) + cpu_seconds() - began
        save(load(model_folder), model_folder, extra=read_extra(model_folder) | {"cpu_seconds": spent})
    return load_forecaster(model_folder), float(read_extra(model_folder).get("cpu_seconds", 0.0))


def _complete(store: Path) -> bool:
    """Whether a store was collected to its end: statistics are written last."""
    if not store.exists():
        return False
    return bool(EpisodeStore.open(store).schema.statistics)
