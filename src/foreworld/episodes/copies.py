"""Many copies of one Gymnasium environment side by side, for `record` and for policies that decide on batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from foreworld.episodes.schema import Schema
from foreworld.episodes.spaces import GymAdapter
from foreworld.errors import InputError


class Copies:
    """B copies of an environment, a `BatchSource`: each `reset` begins the next B episodes, each a subject of its own.

    An episode depends only on the seed, its number and what is done in it, so two policies can be compared on the same
    episodes. What is done in an episode that has ended is not looked at; its last observation is repeated.

    Args:
        make: Makes one copy; called B times. Copies may share what they only read.
        size: B.
        seed: Of the episodes.
        schema: Of the channels; inferred from the spaces if None.
        first: Number of the first episode; to go on after so many.

    Raises:
        InputError: `size` is below 1, or a space is not supported.
        SchemaError: The schema does not fit the spaces.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        size: int,
        seed: int,
        schema: Schema | None = None,
        *,
        first: int = 0,
    ) -> None:
        if size < 1:
            raise InputError(f"{size} copies of an environment; give at least 1")
        self._copies = [make() for _ in range(size)]
        self._adapter = GymAdapter(self._copies[0], schema)
        self._seed, self._begun = seed, first
        self.running = np.zeros(size, dtype=bool)

    @property
    def schema(self) -> Schema:
        """Of what is seen and done."""
        return self._adapter.schema

    @property
    def subjects(self) -> list[str]:
        """Names of the running episodes; between episodes, of those that the next `reset` begins."""
        first = self._begun - len(self._copies) * bool(self.running.any())
        return [f"seed{self._seed}-{first + i:06d}" for i in range(len(self._copies))]

    def statics(self) -> dict[str, np.ndarray]:
        """An environment has none."""
        return {}

    def reset(self) -> dict[str, np.ndarray]:
        """Begin the next B episodes; what is seen first, [B, *shape] by channel."""
        self._seen = []
        for i, environment in enumerate(self._copies):
            words = np.random.SeedSequence([self._seed, self._begun + i]).generate_state(1)
            raw, _ = environment.reset(seed=int(words[0]))
            self._seen.append(self._adapter.observation(raw, reward=np.nan))
        self._begun += len(self._copies)
        self.running[:] = True
        return self._stacked()

    def step(self, actions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Act in the episodes that go on; `done` [B] says which have ended."""
        given = actions[self._adapter.action_channel.name]
        for i in np.flatnonzero(self.running):
            raw, reward, ended, cut, _ = self._copies[i].step(self._adapter.raw_action(given[i]))
            self._seen[i] = self._adapter.observation(raw, reward=float(reward))
            self.running[i] = not (ended or cut)
        return self._stacked() | {"done": ~self.running}

    def _stacked(self) -> dict[str, np.ndarray]:
        return {name: np.stack([one[name] for one in self._seen]) for name in self._seen[0]}
