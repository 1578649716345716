"""Histories as arrays that step-by-step models read: relative amounts, one row a subject, padded at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.windows import WindowConfig, held_readings, windows_at
from foreworld.errors import InputError
from foreworld.model.belief import History

DAY_MINUTES = 1440.0


@dataclass(frozen=True)
class Log:
    """B subjects and T moments of 5 minutes.

    Attributes:
        glucose: [B, T] mg/dL, NaN where missing and after the end.
        held: [B, T] mg/dL, gaps bridged by the last reading before them.
        insulin: [B, T] delivered from each moment to the next, in hours of profile basal.
        carbs: [B, T] announced at each moment, g/kg.
        day: [B, T] share of the day that has passed.
        profile: [B, 7] as in `Window`.
        lengths: [B] int64 moments that are real.
    """

    glucose: Tensor
    held: Tensor
    insulin: Tensor
    carbs: Tensor
    day: Tensor
    profile: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.glucose)

    @classmethod
    def of(cls, histories: Sequence[History]) -> Self:
        """The rows of several batches of histories.

        Raises:
            InputError: There is none, or one is not sampled every step.
        """
        if not histories:
            raise InputError("no history to learn from; give a store with episodes in its split default/fit")
        moments = max(history.times.shape[1] for history in histories)
        parts = [_arrays(history.extended(SCHEMA, moments - history.times.shape[1])) for history in histories]
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _arrays(history: History) -> tuple[Tensor, ...]:
    v = history.values
    real = torch.arange(history.times.shape[1]) < history.lengths[:, None]
    start = torch.zeros(len(history), 1, dtype=torch.int64)
    profile = windows_at(history, start, WindowConfig(readings=2, bins=1)).profile
    glucose = torch.where(real, v["cgm"].float(), torch.full((), float("nan")))
    insulin = torch.cat([v["insulin"].float(), torch.zeros(len(history), 1)], dim=1) / v["basal"].float()[:, None]
    carbs = v["carbs"].float() / v["weight"].float()[:, None]
    return (
        glucose,
        held_readings(glucose.double()).float(),
        torch.where(real, insulin, torch.zeros(())),
        torch.where(real, carbs, torch.zeros(())),
        (history.times % DAY_MINUTES / DAY_MINUTES).float(),
        profile.float(),
        history.lengths,
    )
