"""`train`: a world model from a store of episodes, into a checkpoint folder.

model = train("runs/data", "runs/model", TrainConfig(model=WorldModelConfig(), fit=FitConfig(steps=5000)))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from foreworld.episodes import EpisodeStore, WindowReader
from foreworld.episodes.flat import flatten
from foreworld.episodes.options import Options
from foreworld.episodes.schema import Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.learning.distributed import current
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.progress import Mode
from foreworld.model.belief import History
from foreworld.model.checkpoint import save
from foreworld.model.follows import Follows
from foreworld.model.loss import LossConfig, prediction_loss
from foreworld.model.world_model import WorldModel, WorldModelConfig

VALIDATION_BATCHES = 4


class TrainConfig(Options):
    """How a world model is trained.

    Attributes:
        model: Sizes.
        loss: Weights of the loss.
        fit: Optimisation.
        window: Steps a window, history and future together.
        windows: Windows a batch.
        whole: Whole episodes from their first moment on instead of windows, short ones too (with `loss.partial`): what
            is known of a subject then grows as it does in use. They are held in memory.
        split: Part of the store that is learned from.
        validate_split: Part of other subjects that the figures on the card come from.
    """

    later = frozenset({"whole"})

    model: WorldModelConfig = WorldModelConfig()
    loss: LossConfig = LossConfig()
    fit: FitConfig = FitConfig(steps=4000)
    window: int = Field(default=1008, ge=1)
    windows: int = Field(default=16, ge=1)
    whole: bool = False
    split: str = "default/fit"
    validate_split: str = "default/validate"

    @model_validator(mode="after")
    def _whole_are_partial(self) -> Self:
        if self.whole and not self.loss.partial:
            raise ValueError("whole episodes end at different moments; train on them with loss.partial")
        return self


class Histories(Protocol):
    """Endless batches of histories that go on where they stopped."""

    def next(self) -> History:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """State of the draw."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the draw."""


class EpisodeStream:
    """Whole episodes drawn at random, padded to the longest of all, as a stream of histories."""

    def __init__(self, store: EpisodeStore, schema: Schema, *, seed: int, batch: int, split: str) -> None:
        chosen = [store.episode(i) for i in store.episodes_of(split)]
        self._history = History.from_episodes(schema, chosen)
        self._batch = batch
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def next(self) -> History:
        """The next batch of episodes."""
        return self._history.select(torch.from_numpy(self._generator.integers(0, len(self._history), self._batch)))

    def state_dict(self) -> dict[str, Any]:
        """State of the draw."""
        return {"episodes": len(self._history), "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the draw.

        Raises:
            InputError: The state is of a stream of other episodes.
        """
        if state["episodes"] != len(self._history):
            raise InputError(
                f"the saved state is of a stream of {state['episodes']} episodes, this one has {len(self._history)}; "
                "use the same store and split to go on"
            )
        self._generator.bit_generator.state = state["generator"]


class HistoryStream:
    """A `WindowReader` as a stream of histories."""

    def __init__(self, store: EpisodeStore, schema: Schema, length: int, *, seed: int, batch: int, split: str) -> None:
        self._reader = WindowReader(store, length, seed=seed, batch_size=batch, split=split)
        self._schema = schema

    def next(self) -> History:
        """The next batch of windows."""
        batch = next(self._reader)
        return History.from_arrays(self._schema, batch.times, batch.values, batch.masks)

    def state_dict(self) -> dict[str, Any]:
        """State of the reader."""
        return self._reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the reader."""
        self._reader.load_state_dict(state)


def train(
    store: str | Path, out: str | Path, config: TrainConfig | None = None, *, progress: Mode = "auto"
) -> WorldModel:
    """Train a world model on a store and save it as a checkpoint folder.

    An interrupted call with the same arguments goes on where it stopped.

    Args:
        store: Folder of an `EpisodeStore` with statistics and the split.
        out: Folder of the checkpoint; the run's state and log are in `out`-run beside it.
        config: How.
        progress: See `Progress`.

    Raises:
        SchemaError: The store has no statistics.
        InputError: The split or the window does not fit the store.
    """
    config = config or TrainConfig()
    data = EpisodeStore.open(store)
    if not data.schema.statistics:
        raise SchemaError(f"{store} has no statistics; fit them on training subjects: EpisodeStore.set_statistics")
    if not config.whole and config.window < config.model.grid.last + config.loss.warmup:
        raise InputError(
            f"a window of {config.window} steps is too short: the model predicts {config.model.grid.last} steps ahead"
        )
    # The caller's random state must not notice.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        model = WorldModel(data.schema, config.model)
    if model.follows is not None:
        _count(model.follows, data, config)
    stream = _stream(data, config, config.split)
    held_out = _held_out(data, config)

    def loss(module: WorldModel, history: History, generator: torch.Generator) -> dict[str, Tensor]:
        return prediction_loss(module, history, config.loss, generator)

    target, ranks = Path(out), current()
    fitted = fit(model, stream, loss, config.fit, target.parent / f"{target.name}-run", progress=progress)
    model.eval()
    trained: dict[str, Any] = {
        "episodes": len(data.episodes_of(config.split)),
        "steps": fitted.steps,
        "train": config.model_dump(mode="json"),
        "metrics": dict(fitted.metrics),
    }
    if held_out is not None:
        trained["validate"] = _validate(model, held_out, config)
    if ranks.main:
        save(model, target, card=card_of(trained), extra={"training": trained})
    ranks.wait()
    return model


def _stream(data: EpisodeStore, config: TrainConfig, split: str) -> Histories:
    """Batches of windows, or of whole episodes, of a part of the store."""
    seed, batch = config.fit.seed, config.windows
    if config.whole:
        return EpisodeStream(data, data.schema, seed=seed, batch=batch, split=split)
    return HistoryStream(data, data.schema, config.window, seed=seed, batch=batch, split=split)


def _count(follows: Follows, data: EpisodeStore, config: TrainConfig) -> None:
    """Fit what usually follows, on the part that is learned from."""
    channel, action = config.model.categories[0], data.schema.names(Role.action)[0]
    flat = flatten(data, (channel, action), config.split)
    acted = np.flatnonzero(~flat.last)
    category, done = flat.values[channel], flat.values[action]
    follows.count(*(torch.from_numpy(column) for column in (category[acted], done[acted], category[acted + 1])))


def _held_out(data: EpisodeStore, config: TrainConfig) -> Histories | None:
    """Batches of the part that is not learned from; None where there is no such part, or its episodes are too short."""
    try:
        return _stream(data, config, config.validate_split)
    except InputError:
        return None


@torch.no_grad()
def _validate(model: WorldModel, stream: Histories, config: TrainConfig) -> dict[str, float]:
    """Means over a few batches of windows that were not learned from."""
    generator = torch.Generator().manual_seed(config.fit.seed)
    found = [prediction_loss(model, stream.next(), config.loss, generator) for _ in range(VALIDATION_BATCHES)]
    return {name: float(torch.stack([parts[name] for parts in found]).mean()) for name in found[0]}


def card_of(trained: Mapping[str, Any]) -> str:
    """What a model card says of the training, from what a checkpoint keeps of it under `training`."""
    config = trained["train"]
    text = f"Trained on {trained['episodes']} episodes ({config['split']}) for {trained['steps']} steps."
    if "validate" not in trained:
        return f"{text} No subject was held out to judge it by: take its forecasts for unproven."
    return (
        f"{text} On subjects not learned from ({config['validate_split']}): root mean square error "
        f"{trained['validate']['rmse']:.3f} in standard deviations of the quantity, over all horizons."
    )
