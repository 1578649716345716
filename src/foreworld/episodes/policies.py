"""Policies that are a table: how often each action is taken in each category of a discrete observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foreworld.errors import InputError


class TablePolicy:
    """Draws actions for a batch, as `record` asks for them.

    Args:
        shares: [K, actions] relative frequencies in each of the K categories, at least 0; all zero counts as equal.
        seed: Of the draws; one number or several.
        observation: Discrete observation channel, never missing.
        action: Discrete action channel.

    Raises:
        InputError: A share is negative or not finite.
    """

    def __init__(self, shares: np.ndarray, seed: int | Sequence[int], *, observation: str, action: str) -> None:
        given = np.asarray(shares, dtype=np.float64)
        if given.ndim != 2 or not np.isfinite(given).all() or (given < 0).any():
            raise InputError("a table of shares is [categories, actions], finite and at least 0")
        total = given.sum(1, keepdims=True)
        even = np.full_like(given, 1.0 / given.shape[1])
        self._edges = np.cumsum(np.where(total > 0, given / np.where(total > 0, total, 1.0), even), axis=1)
        self._generator = np.random.default_rng(seed)
        self._observation, self._action = observation, action

    def __call__(self, seen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Actions [B] by channel."""
        edges = self._edges[seen[self._observation].astype(int)]
        draws = self._generator.random((len(edges), 1))
        # Rounding may leave the last edge a little below one.
        return {self._action: (edges[:, :-1] <= draws).sum(1)}
