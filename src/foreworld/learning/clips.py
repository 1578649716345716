"""Clips of what is seen and done from a store, as a latent model reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreworld.episodes import EpisodeStore, WindowReader
from foreworld.episodes.schema import Role
from foreworld.episodes.windows import WindowBatch
from foreworld.errors import InputError
from foreworld.model.eyes import Seen
from foreworld.model.latent_loss import Clips
from foreworld.model.latent_model import LatentModel


class ClipStream:
    """Endless clips of frames one block apart, with the actions of each block.

    Args:
        store: Of episodes.
        model: Whose channels, block and scale of actions.
        split: Part of the store.
        frames: Frames a clip.
        clips: Clips a batch.
        group: Clips of one episode in a batch.
        seed: Of the draw.

    Raises:
        InputError: Clips do not fit the store.
    """

    def __init__(
        self, store: EpisodeStore, model: LatentModel, split: str, *, frames: int, clips: int, seed: int, group: int = 1
    ) -> None:
        self._names, self._model, self._frames = store.schema.names(Role.action), model, frames
        # Where a latent is made of several moments, those before the first frame are read, too.
        self._before = model.stack - 1
        self._reader = WindowReader(
            store,
            model.block * (frames - 1) + self._before,
            seed=seed,
            batch_size=clips,
            split=split,
            channels=(*model.config.channels, *self._names),
            every=1 if self._before else model.block,
            clips=group,
        )

    def next(self) -> Clips:
        """The next batch.

        Raises:
            InputError: A frame of a camera is missing.
        """
        batch = next(self._reader)
        acted = np.stack([batch.values[name] for name in self._names], axis=-1)[:, self._before :]
        blocks = acted.reshape(len(acted), -1, self._model.block, len(self._names))
        actions = (torch.from_numpy(blocks).float() - self._model.centre) / self._model.reach
        apart = self._model.block if self._before else 1
        moments = self._before + apart * np.arange(self._frames)
        return Clips(seen_at(self._model, batch, moments), actions)

    def state_dict(self) -> dict[str, Any]:
        """State of the draw."""
        return self._reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the draw."""
        self._reader.load_state_dict(state)


def seen_at(model: LatentModel, batch: WindowBatch, moments: np.ndarray) -> Tensor | Seen:
    """What a model sees at moments [F] of windows: frames [B, F, H, W, C] of its only camera, or of all channels.

    Raises:
        InputError: A frame of a camera is missing: what was not seen cannot be learned from.
    """
    config = model.config
    for name in config.cameras:
        gone = np.argwhere(~batch.masks[name])
        if len(gone):
            window, moment = gone[0]
            raise InputError(
                f"a frame of {name} is missing in episode {batch.episodes[window]}, {moment} observations after "
                f"step {batch.starts[window]}; end episodes where a camera fails, or record them without it"
            )
    if not config.fused:
        frames = torch.from_numpy(batch.values[config.cameras[0]])
        return frames if len(moments) == frames.shape[1] else frames[:, torch.from_numpy(moments)]
    # [F, K]: each moment with those just before it.
    at = moments[:, None] + np.arange(1 - config.stack, 1)
    values = {}
    for name in config.channels:
        found, known = batch.values[name][:, at], batch.masks[name][:, at]
        if name not in config.cameras:
            # Also of integers, which have no NaN of their own.
            found = found.astype(np.float64 if found.dtype == np.float64 else np.float32)
            found[~known] = np.nan
        values[name] = torch.from_numpy(found)
    return Seen(values)


def clips_of(store: EpisodeStore, model: LatentModel, split: str, *, frames: int, count: int, seed: int) -> Clips:
    """Clips drawn once; as `ClipStream`."""
    return ClipStream(store, model, split, frames=frames, clips=count, seed=seed).next()


def labelled_frames(
    store: EpisodeStore, model: LatentModel, split: str, count: int, seed: int
) -> tuple[Tensor | Seen, dict[str, Tensor]]:
    """What is seen (frames [N, H, W, C] of an only camera) and labels by quantity [N], at one moment of N places."""
    last = model.stack - 1
    channels = tuple(dict.fromkeys((*model.config.channels, *model.quantities)))
    reader = WindowReader(store, max(1, last), seed=seed, batch_size=count, split=split, channels=channels)
    batch: WindowBatch = next(reader)
    labels = {name: torch.from_numpy(batch.values[name][:, last]).double() for name in model.quantities}
    return seen_at(model, batch, np.array([last]))[:, 0], labels
