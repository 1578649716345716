"""Clips of video and actions from a store, as a latent model reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreworld.episodes import EpisodeStore, WindowReader
from foreworld.episodes.schema import Role
from foreworld.episodes.windows import WindowBatch
from foreworld.model.latent_loss import Clips
from foreworld.model.latent_model import LatentModel


class ClipStream:
    """Endless clips of frames one block apart, with the actions of each block.

    Args:
        store: Of episodes.
        model: Whose video channel, block and scale of actions.
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
        self._names, self._model = store.schema.names(Role.action), model
        self._reader = WindowReader(
            store,
            model.block * (frames - 1),
            seed=seed,
            batch_size=clips,
            split=split,
            channels=(model.config.frames, *self._names),
            every=model.block,
            clips=group,
        )

    def next(self) -> Clips:
        """The next batch."""
        batch = next(self._reader)
        acted = np.stack([batch.values[name] for name in self._names], axis=-1)
        blocks = acted.reshape(len(acted), -1, self._model.block, len(self._names))
        actions = (torch.from_numpy(blocks).float() - self._model.centre) / self._model.reach
        return Clips(torch.from_numpy(batch.values[self._model.config.frames]), actions)

    def state_dict(self) -> dict[str, Any]:
        """State of the draw."""
        return self._reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the draw."""
        self._reader.load_state_dict(state)


def clips_of(store: EpisodeStore, model: LatentModel, split: str, *, frames: int, count: int, seed: int) -> Clips:
    """Clips drawn once; as `ClipStream`."""
    return ClipStream(store, model, split, frames=frames, clips=count, seed=seed).next()


def labelled_frames(
    store: EpisodeStore, model: LatentModel, split: str, count: int, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Frames [N, H, W, C] and labels by quantity [N], one moment of each of `count` random places."""
    reader = WindowReader(
        store, 1, seed=seed, batch_size=count, split=split, channels=(model.config.frames, *model.quantities)
    )
    batch: WindowBatch = next(reader)
    labels = {name: torch.from_numpy(batch.values[name][:, 0]).double() for name in model.quantities}
    return torch.from_numpy(batch.values[model.config.frames][:, 0]), labels
