"""A store's scalar channels as long columns, for what counts and averages over all moments at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreworld.episodes.schema import Role
from foreworld.episodes.store import EpisodeStore
from foreworld.errors import InputError


@dataclass(frozen=True)
class Flat:
    """The N moments of some episodes, one after another.

    Attributes:
        values: Observations and exogenous channels by name [N], NaN where a float is missing; actions [N], of no
            meaning at the last moment of an episode.
        last: [N] bool, the last moment of an episode.
        episode: [N] which episode, from 0.
    """

    values: dict[str, np.ndarray]
    last: np.ndarray
    episode: np.ndarray

    def __len__(self) -> int:
        """Number of moments N."""
        return len(self.last)


def flatten(store: EpisodeStore, channels: Sequence[str], split: str | None = None) -> Flat:
    """Read channels of all episodes, or of one part (`EpisodeStore.episodes_of`), into memory.

    Raises:
        InputError: A channel is static or no scalar, or the store is empty.
    """
    if not len(store):
        raise InputError(f"{store.path} holds no episode; record some first")
    moments = store.lengths + 1
    episode = np.repeat(np.arange(len(store)), moments)
    last = np.zeros(len(episode), dtype=bool)
    last[np.cumsum(moments) - 1] = True
    values = {}
    for name in channels:
        channel = store.schema[name]
        if channel.role is Role.static or channel.shape != ():
            raise InputError(f"channel {name} is static or no scalar; only scalar series can be laid end to end")
        parts = [s.result(s.array(f"values/{name}").read(), f"values/{name}") for s in store.segments]
        column = np.concatenate(parts)
        if channel.role is Role.action:
            values[name] = np.zeros(len(episode), dtype=column.dtype)
            values[name][~last] = column
        else:
            values[name] = column
    if split is None:
        return Flat(values, last, episode)
    kept = np.isin(episode, store.episodes_of(split))
    _, renumbered = np.unique(episode[kept], return_inverse=True)
    return Flat({name: column[kept] for name, column in values.items()}, last[kept], renumbered)
