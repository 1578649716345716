"""Sets of admissible discrete actions: what a log knows (`Familiar`), and what is declared with each observation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from foreworld.episodes.flat import Flat
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast
from foreworld.model.belief import History
from foreworld.planning.guardrail import Guardrail


@dataclass(frozen=True, kw_only=True)
class Familiar(Guardrail):
    """The next action must have been logged at least so often in the present category of a discrete channel.

    Where nobody has done a thing, nobody knows what it leads to. The counts are taken once, from the log that the
    model learns from, and are then as frozen and hashed as any other bound. Where no action is familiar enough,
    recovery takes the one that was logged most often.

    Attributes:
        channel: The discrete observation channel that tells the state.
        counts: [K][actions] how often each action was logged in each category.
        least: Fewest times.
    """

    channel: str
    counts: tuple[tuple[int, ...], ...]
    least: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least < 1 or len({len(row) for row in self.counts}) != 1:
            raise InputError(f"guardrail {self.name}: give least >= 1 and as many counts in each category")

    @classmethod
    def learn(cls, flat: Flat, channel: str, action: str, shape: tuple[int, int], *, least: int, source: str) -> Self:
        """Count what was done.

        Args:
            flat: The log, with both channels.
            channel: Discrete observation channel.
            action: Discrete action channel.
            shape: Number of categories and of actions.
            least: Fewest times.
            source: Whose log it is.
        """
        counts = np.zeros(shape, dtype=np.int64)
        acted = ~flat.last
        np.add.at(counts, (flat.values[channel][acted].astype(int), flat.values[action][acted].astype(int)), 1)
        rows = tuple(tuple(row) for row in counts.tolist())
        return cls(name="familiar", unit="times", source=source, channel=channel, counts=rows, least=least, severity=4)

    @cached_property
    def _table(self) -> Tensor:
        """[K, actions] the counts."""
        return torch.tensor(self.counts, dtype=torch.float32)

    def logged(self, history: History) -> Tensor:
        """[B, actions] how often each action was logged in the present category; NaN where that is missing."""
        present = history.values[self.channel][torch.arange(len(history)), history.lengths - 1].double()
        times = self._table[torch.nan_to_num(present).long()]
        return torch.where(torch.isnan(present)[:, None], torch.nan, times)

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """[B, S] times above the least."""
        return self.logged(history).gather(1, actions[:, :, 0, 0].long()) - self.least


@dataclass(frozen=True, kw_only=True)
class Declared(Guardrail):
    """The next action must be in the set that came with the newest observation.

    Attributes:
        channel: Observation channel of the sets: bit a is set where action a is admissible.
    """

    channel: str

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """[B, S] 0 inside the set, -1 outside, NaN where no set was observed."""
        bits = history.values[self.channel][torch.arange(len(history)), history.lengths - 1].double()
        inside = (torch.nan_to_num(bits).long()[:, None] >> actions[:, :, 0, 0].long()) & 1
        return torch.where(torch.isnan(bits)[:, None], torch.nan, inside.float() - 1.0)
