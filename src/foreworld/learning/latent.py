"""`train_latent`: a latent model from a store of video and actions, into a checkpoint folder.

model = train_latent("runs/rooms/data", "runs/rooms/model", TrainLatentConfig())
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from foreworld.episodes import EpisodeStore
from foreworld.episodes.options import Options
from foreworld.learning.clips import ClipStream, clips_of, labelled_frames
from foreworld.learning.diagnose import Diagnosis, diagnose
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.progress import Mode
from foreworld.model.checkpoint import save
from foreworld.model.latent_loss import Clips, LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentConfig, LatentModel
from foreworld.model.pretrained import Pretrained

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
        check: Part that the model is looked at on afterwards (`learning.diagnose`); None looks at nothing.
    """

    model: LatentConfig = LatentConfig()
    loss: LatentLossConfig = LatentLossConfig()
    fit: FitConfig = FitConfig(steps=400, lr=1e-3, warmup=40, floor=0.0, weight_decay=1e-3)
    frames: int = Field(default=4, ge=2)
    clips: int = Field(default=128, ge=1)
    group: int = Field(default=1, ge=1)
    labels: int = Field(default=500, ge=0)
    split: str = "default/fit"
    check: str | None = None


def train_latent(
    store: str | Path,
    out: str | Path,
    config: TrainLatentConfig | None = None,
    *,
    encoder: Pretrained | None = None,
    progress: Mode = "auto",
) -> LatentModel:
    """Train a latent model on a store and save it as a checkpoint folder; an interrupted call goes on.

    Args:
        store: Folder of an `EpisodeStore` with the split.
        out: Folder of the checkpoint; the run's state and log are in `out`-run beside it.
        config: How.
        encoder: The pretrained encoder, where `config.model` declares one.
        progress: See `Progress`.

    Raises:
        SchemaError: The store's channels do not fit the model.
        InputError: The split or the clips do not fit the store.
    """
    config = config or TrainLatentConfig()
    data = EpisodeStore.open(store)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        model = LatentModel(data.schema, config.model, encoder)
        learner = LatentLearner(model, config.loss, config.group)
    seed, target = config.fit.seed, Path(out)
    first = clips_of(data, model, config.split, frames=config.frames, count=PIXEL_CLIPS, seed=seed + 1)
    model.fit_pixels(first.frames[:, 0])
    stream = ClipStream(
        data, model, config.split, frames=config.frames, clips=config.clips, group=config.group, seed=seed
    )

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
        "diagnosis": None if config.check is None else look(model, store, config).model_dump(mode="json"),
    }
    save(model, target, card=card_of(trained), extra={"training": trained})
    return model


def look(model: LatentModel, store: str | Path, config: TrainLatentConfig) -> Diagnosis:
    """Diagnose a model on the part that is kept for it."""
    assert config.check is not None
    labelled = config.split if config.labels else None
    return diagnose(model, store, config.check, labelled=labelled, labels=config.labels, seed=config.fit.seed)


@torch.no_grad()
def fit_readout(model: LatentModel, data: EpisodeStore, config: TrainLatentConfig) -> dict[str, float]:
    """Fit the readouts on at most `labels` labelled frames, one of each clip; gives their shares of variance."""
    frames, labels = labelled_frames(data, model, config.split, config.labels, config.fit.seed + 2)
    return model.readout.fit(model.embed(frames), labels)


def card_of(trained: dict[str, Any]) -> str:
    """What a model card says of the training."""
    text = f"Trained on {trained['episodes']} episodes of video for {trained['steps']} steps."
    if trained["readout"]:
        told = ", ".join(f"{name} {share:.3f}" for name, share in trained["readout"].items())
        text += f" Share of variance read out of the latents on frames not fitted on: {told}."
    return text
