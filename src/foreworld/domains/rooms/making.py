"""Models of several seeds, made where they are missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from foreworld.domains.rooms.prepare import RoomsRecipe, prepare
from foreworld.evidence.parallel import run_all
from foreworld.evidence.protocol import Request


def runs() -> Path:
    """Where prepared models are."""
    return Path(os.environ.get("FOREWORLD_RUNS", "runs")) / "models"


@dataclass(frozen=True)
class Making:
    """A model to prepare."""

    seed: int
    recipe: RoomsRecipe
    folder: Path


def make(making: Making) -> tuple[int, float]:
    """Prepare it on one thread; its seed and CPU seconds."""
    torch.set_num_threads(1)
    return making.seed, prepare(making.folder, making.recipe, seed=making.seed, progress="none").cpu_seconds


def make_all(recipe: RoomsRecipe, folders: Mapping[int, Path], request: Request) -> dict[int, float]:
    """Prepare a recipe for each seed in its folder; CPU seconds by seed."""
    request.tell(f"preparing {len(folders)} models in {runs()} (those that are there are reused)")
    return dict(run_all(make, [Making(seed, recipe, folder) for seed, folder in folders.items()]))
