"""`train_latent`: a latent model from a store of video and actions, into a checkpoint folder.

model = train_latent("runs/rooms/data", "runs/rooms/model", TrainLatentConfig())
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from foreworld.episodes import EpisodeStore, WindowReader
from foreworld.episodes.options import Options
from foreworld.episodes.schema import Role
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.progress import Mode
from foreworld.model.checkpoint import save
from foreworld.model.latent_loss import Clips, LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentConfig, LatentModel

PIXEL_CLIPS = 256  # clips that the mean frame is taken of


class TrainLatentConfig(Options):
    """How a latent model is trained.

    Attributes:
        model: Sizes.
        loss: Weights of the loss.
        fit: Optimisation.
        frames: Frames a clip, one block of actions apart.
        clips: Clips a batch.
        group: Clips of one episode in a batch.
        labels: Labelled frames that readouts are fitted on, at most.
        split: Part of the store that is learned from.
    """

    model: LatentConfig = LatentConfig()
    loss: LatentLossConfig = LatentLossConfig()
    fit: FitConfig = FitConfig(steps=400, lr=1e-3, warmup=40, floor=0.0, weight_decay=1e-3)
    frames: int = Field(default=4, ge=2)
    clips: int = Field(default=128, ge=1)
    group: int = Field(default=1, ge=1)
    labels: int = Field(default=500, ge=0)
    split: str = "default/fit"


class ClipStream:
    """Clips of frames one block apart, with the actions of each block."""

    def __init__(self, store: EpisodeStore, model: LatentModel, config: TrainLatentConfig, seed: int) -> None:
        self._names = store.schema.names(Role.action)
        self._frames, self._block = model.config.frames, model.block
        self._model = model
        self._reader = WindowReader(
            store,
            model.block * (config.frames - 1),
            seed=seed,
            batch_size=config.clips,
            split=config.split,
            channels=(self._frames, *self._names),
            every=model.block,
            clips=config.group,
        )

    def next(self) -> Clips:
        """The next batch."""
        batch = next(self._reader)
        acted = np.stack([batch.values[name] for name in self._names], axis=-1)
        blocks = acted.reshape(len(acted), -1, self._block, len(self._names))
        actions = (torch.from_numpy(blocks).float() - self._model.centre) / self._model.reach
        return Clips(torch.from_numpy(batch.values[self._frames]), actions)

    def state_dict(self) -> dict[str, Any]:
        """State of the draw."""
        return self._reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the draw."""
        self._reader.load_state_dict(state)


def train_latent(
    store: str | Path, out: str | Path, config: TrainLatentConfig | None = None, *, progress: Mode = "auto"
) -> LatentModel:
    """Train a latent model on a store and save it as a checkpoint folder; an interrupted call goes on.

    Args:
        store: Folder of an `EpisodeStore` with the split.
        out: Folder of the checkpoint; the run's state and log are in `out`-run beside it.
        config: How.
        progress: See `Progress`.

    Raises:
        SchemaError: The store's channels do not fit the model.
        InputError: The split or the clips do not fit the store.
    """
    config = config or TrainLatentConfig()
    data = EpisodeStore.open(store)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        model = LatentModel(data.schema, config.model)
        learner = LatentLearner(model, config.loss, config.group)
    first = ClipStream(data, model, config.model_copy(update={"clips": PIXEL_CLIPS, "group": 1}), config.fit.seed + 1)
    model.fit_pixels(first.next().frames[:, 0])
    stream, target = ClipStream(data, model, config, config.fit.seed), Path(out)

    def loss(module: LatentLearner, clips: Clips, generator: torch.Generator) -> dict[str, Tensor]:
        return module.loss(clips, generator)

    fitted = fit(learner, stream, loss, config.fit, target.parent / f"{target.name}-run", progress=progress)
    model.eval()
    shares = fit_readout(model, data, config) if model.quantities else {}
    trained = {
        "episodes": len(data.episodes_of(config.split)),
        "steps": fitted.steps,
        "train": config.model_dump(mode="json"),
        "metrics": dict(fitted.metrics),
        "readout": shares,
    }
    save(model, target, card=card_of(trained), extra={"training": trained})
    return model


@torch.no_grad()
def fit_readout(model: LatentModel, data: EpisodeStore, config: TrainLatentConfig) -> dict[str, float]:
    """Fit the readouts on at most `labels` labelled frames, one of each clip; gives their shares of variance."""
    reader = WindowReader(
        data, 1, seed=config.fit.seed + 2, batch_size=config.labels, split=config.split,
        channels=(model.config.frames, *model.quantities),
    )  # fmt: skip
    batch = next(reader)
    labels = {name: torch.from_numpy(batch.values[name][:, 0]).double() for name in model.quantities}
    return model.readout.fit(model.embed(torch.from_numpy(batch.values[model.config.frames][:, 0])), labels)


def card_of(trained: dict[str, Any]) -> str:
    """What a model card says of the training."""
    text = f"Trained on {trained['episodes']} episodes of video for {trained['steps']} steps."
    if trained["readout"]:
        told = ", ".join(f"{name} {share:.3f}" for name, share in trained["readout"].items())
        text += f" Share of variance read out of the latents on frames not fitted on: {told}."
    return text
