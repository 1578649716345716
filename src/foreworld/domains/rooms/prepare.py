"""From nothing to a model of a scene: record, train, learn ways; finished parts are reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from foreworld import __version__
from foreworld.domains.rooms.behaviour import Expert, Mixed, Roam
from foreworld.domains.rooms.scene import RoomsConfig
from foreworld.domains.rooms.source import PLACE, Mover, RoomsSource, schema_of
from foreworld.episodes import EpisodeStore, WindowReader, record
from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.evidence.stages import Stages
from foreworld.learning.clips import clips_of
from foreworld.learning.diagnose import Diagnosis, Gate, require_sound
from foreworld.learning.fit import FitConfig
from foreworld.learning.latent import TrainLatentConfig, train_latent
from foreworld.learning.progress import Mode
from foreworld.model.checkpoint import load_as, read_extra
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.latent_model import LatentConfig, LatentModel
from foreworld.planning.hierarchy import WaypointGraph
from foreworld.planning.imagined import Places, moved_by_actions
from foreworld.planning.temporal import TemporalConfig, TemporalDistance, fit_temporal

SIDE_BY_SIDE = 250  # scenes that are recorded together
JUDGED = 256  # scenes in which it is judged what actions move
SPLIT, CHECK = "default/fit", "default/check"
BLOCKS = HorizonGrid(points=tuple(range(4, 41, 4)))  # ten blocks of four steps


class RoomsRecipe(Options):
    """Everything that shapes a model of rooms, apart from the seed.

    Attributes:
        name: For people.
        rooms: What scenes are like.
        episodes: Recorded scenes.
        steps: Actions each.
        walkers: Scenes of one layout, where each layout is another: what is on the other side of a wall is told apart
            only by who has been there.
        behaviour: Who is recorded: somebody who `roam`s, walls or not, or in every other scene somebody who knows the
            way (`mixed`), without whom few get through many doors.
        train: Training; its seed is replaced.
        temporal: How a temporal distance is learned, of latents one block apart; None learns none.
        waypoints: Of the graph; 0 makes none.
        astray: How far from all of them a plan may lead, as in `WaypointGraph.build`; or from all places, as in
            `Places.gather`, where scenes have the same walls.
        places: By which ways through a scene of its own are imagined; 0 gathers none.
        gate: What the model must show on a twentieth of the scenes, which it does not learn from; None asks nothing.
    """

    later: ClassVar[frozenset[str]] = frozenset({"astray"})

    name: str
    rooms: RoomsConfig = RoomsConfig()
    episodes: int = Field(default=240, gt=0)
    steps: int = Field(default=200, gt=0)
    walkers: int = Field(default=1, gt=0)
    behaviour: Literal["roam", "mixed"] = "roam"
    train: TrainLatentConfig = TrainLatentConfig(
        model=LatentConfig(quantities=PLACE, grid=BLOCKS),
        fit=FitConfig(steps=280, lr=1e-3, warmup=40, floor=0.0, weight_decay=1e-3, threads=1),
        split=SPLIT,
        check=CHECK,
    )
    temporal: TemporalConfig | None = TemporalConfig(
        block=1, fit=FitConfig(steps=600, lr=3e-3, warmup=50, floor=0.02, weight_decay=1e-4, threads=1)
    )
    waypoints: int = Field(default=600, ge=0)
    astray: float | None = Field(default=None, ge=1)
    places: int = Field(default=0, ge=0)
    gate: Gate | None = Gate()

    def training(self, seed: int) -> TrainLatentConfig:
        """Training settings for a seed."""
        return self.train.model_copy(update={"fit": self.train.fit.model_copy(update={"seed": seed})})

    def key(self, seed: int) -> str:
        """A name for what recipe and seed give."""
        text = f"{__version__} {self.model_dump_json()}"
        return f"rooms-{self.name}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def quick(self) -> RoomsRecipe:
        """A smoke run, of which nothing is asked."""
        fit = self.train.fit.model_copy(update={"steps": 120, "warmup": 20})
        changed = {
            "name": f"{self.name}-quick",
            "episodes": 60,
            "steps": 120,
            "waypoints": min(self.waypoints, 150),
            "places": min(self.places, 300),
            "temporal": self.temporal and _shortened(self.temporal, 300),
            "gate": None,
            "train": self.train.model_copy(update={"fit": fit}),
        }
        return self.model_copy(update=changed)


@dataclass(frozen=True)
class Prepared:
    """What was made.

    Attributes:
        model: Of the scene.
        diagnosis: What it sees in scenes that it did not learn from.
        temporal: A learned distance, or None.
        graph: Waypoints, or None.
        places: To imagine ways by, or None.
        store: Recorded episodes.
        cpu_seconds: All of it together; NaN where nobody knows.
    """

    model: LatentModel
    diagnosis: Diagnosis
    temporal: TemporalDistance | None
    graph: WaypointGraph | None
    places: Places | None
    store: Path
    cpu_seconds: float


def prepare(
    folder: str | Path,
    recipe: RoomsRecipe,
    *,
    seed: int = 0,
    recorded: Path | None = None,
    progress: Mode = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Record, train and learn ways in `folder`, reusing what an earlier call with the same recipe finished.

    Args:
        folder: Holds `data` and `model`.
        recipe: What to do.
        seed: Of data and initialisation.
        recorded: A store that such a recipe recorded with this seed; what it cost is then not counted.
        progress: Of training.
        report: Takes a line at each stage.

    Raises:
        InputError: The folder holds what another recipe or seed gave, or another process is preparing it.
        ModelError: The model is not fit for use (`Gate`).
    """
    stages = Stages(folder, recipe.key(seed))
    store, model = recorded or stages.place / "data", stages.place / "model"
    if not (stages.claimed and _complete(model, recipe)):
        with stages.making():
            if not model.exists():
                if recorded is None:
                    _record(stages, store, recipe, seed, report)
                report(f"training for {recipe.train.fit.steps} steps")
                with stages.stage("train"):
                    train_latent(store, model, recipe.training(seed), progress=progress)
            if not _complete(model, recipe):
                report("learning ways")
                with stages.stage("ways"):
                    learn_ways(load_as(LatentModel, model), store, model, recipe, seed)
    found = load_as(LatentModel, model)
    diagnosis = Diagnosis.model_validate(read_extra(model)["training"]["diagnosis"])
    if recipe.gate is not None:
        require_sound(diagnosis, recipe.gate)
    temporal = TemporalDistance.load(model) if recipe.temporal else None
    graph = WaypointGraph.load(model) if recipe.waypoints else None
    places = Places.load(model) if recipe.places else None
    ways = ("ways",) if recipe.temporal or recipe.waypoints or recipe.places else ()
    parts = ("train", *ways) if recorded else ("record", "train", *ways)
    return Prepared(found, diagnosis, temporal, graph, places, store, stages.cost(parts))


def learn_ways(model: LatentModel, store: str | Path, folder: Path, recipe: RoomsRecipe, seed: int) -> None:
    """Learn what the recipe asks for and write it into the model's folder."""
    paths, episodes = paths_of(model, store)
    if recipe.waypoints:
        count = min(recipe.waypoints, paths.shape[0] * paths.shape[1])
        WaypointGraph.build(paths, nodes=count, seed=seed, astray=recipe.astray).save(folder)
    if recipe.places:
        count = min(recipe.places, paths.shape[0] * paths.shape[1])
        moved = moved_of(model, store, seed)
        Places.gather(paths, moved, count=count, seed=seed, astray=recipe.astray).save(folder)
    if recipe.temporal:
        fitted = recipe.temporal.model_copy(update={"fit": recipe.temporal.fit.model_copy(update={"seed": seed})})
        alike = recipe.rooms.layout == "two_rooms" or recipe.rooms.shared is not None
        # Last, as a sign that all is there.
        fit_temporal(paths, fitted, layouts=None if alike else episodes // recipe.walkers).save(folder)


@torch.no_grad()
def moved_of(model: LatentModel, store: str | Path, seed: int) -> torch.Tensor:
    """[D] which numbers of the latent actions move, judged on recorded scenes."""
    frames = clips_of(EpisodeStore.open(store), model, SPLIT, frames=2, count=JUDGED, seed=seed).frames[:, 0]
    around = model.around(frames)
    if around is None:
        raise InputError("places are for models that see what is around; give the recipe `sight`, or no places")
    return moved_by_actions(model, model.embed(frames), around)


@torch.no_grad()
def paths_of(model: LatentModel, store: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [N, F, D] of whole recorded episodes, one block apart, and the number [N] of each episode."""
    data = EpisodeStore.open(store)
    chosen = data.episodes_of(SPLIT)
    length = int(data.lengths[chosen].min()) // model.block * model.block
    reader = WindowReader(
        data, length, seed=0, batch_size=len(chosen), split=SPLIT, channels=model.config.cameras, every=model.block
    )
    batch = next(reader)
    paths = torch.stack([model.embed(torch.from_numpy(clip)) for clip in batch.values[model.config.cameras[0]]])
    return paths, torch.from_numpy(batch.episodes)


def _record(stages: Stages, store: Path, recipe: RoomsRecipe, seed: int, report: Callable[[str], None]) -> None:
    """Record what is missing: parts of at most `SIDE_BY_SIDE` scenes, each with seeds of its own."""
    done = len(EpisodeStore.open(store)) if (store / "zarr.json").is_file() else 0
    if done < recipe.episodes:
        report(f"recording {recipe.episodes} episodes of {recipe.steps} steps")
        rooms = recipe.rooms.of(seed)
        with stages.stage("record"):
            for first in range(done, recipe.episodes, SIDE_BY_SIDE):
                numbers = range(first, min(first + SIDE_BY_SIDE, recipe.episodes))
                seeds = scene_seeds(seed, numbers)
                own = [scene_seeds(seed, range(n, n + 1))[0] for n in (k - k % recipe.walkers for k in numbers)]
                source = RoomsSource(rooms, seeds, own)
                mover = Mover(source, Roam() if recipe.behaviour == "roam" else Mixed(Roam(), Expert()), seeds)
                record(source, mover, store, seed=seeds[0], steps=recipe.steps, schema=schema_of(rooms))
    data = EpisodeStore.open(store)
    (name, part), (_, held) = SPLIT.split("/"), CHECK.split("/")
    if name not in data.splits():
        data.split(name, {part: 0.95, held: 0.05}, seed=seed)


def scene_seeds(seed: int, numbers: range, *, held_out: bool = False) -> list[int]:
    """Seeds of scenes: those that are learned from and those that are evaluated on never meet."""
    return [int(np.random.SeedSequence((seed, int(held_out), number)).generate_state(1)[0]) for number in numbers]


def _shortened(config: TemporalConfig, steps: int) -> TemporalConfig:
    return config.model_copy(update={"fit": config.fit.model_copy(update={"steps": steps})})


def _complete(model: Path, recipe: RoomsRecipe) -> bool:
    asked = {"waypoints": recipe.waypoints, "places": recipe.places, "temporal": recipe.temporal}
    return model.exists() and all((model / f"{name}.safetensors").is_file() for name, one in asked.items() if one)
