"""How well glucose is foreseen after so many days with a person: the same moments, the history cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.treatment.forecast_arms import forecast_at
from foreworld.domains.treatment.forecasting import (
    DAY,
    ForecastScores,
    Prediction,
    Record,
    scored_moments,
    scores_of,
)
from foreworld.domains.treatment.personalisation.settings import MEMORY, KnownConfig
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.errors import InputError
from foreworld.forecast.adapter import AdaptConfig, adapt
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import last_of


def scores_by_days(forecaster: Forecaster, record: Record, config: KnownConfig) -> dict[int, ForecastScores]:
    """Errors by days of history, each from the same moments against the same readings.

    Args:
        forecaster: Of a world model.
        record: Of therapy, from its first day on.
        config: Which days are scored, and how many are known.

    Raises:
        InputError: The record does not reach as far back as is to be known.
    """
    at = _moments(forecaster, record, config)
    return {days: _scores(forecaster, record, config, at, days) for days in config.days}


@dataclass(frozen=True)
class AdaptedScores:
    """What gradient steps on the known days are worth.

    Attributes:
        scores: Of forecasts after them.
        accepted: [B] 1 where the guard let them stand, 0 where the person kept the model as it was.
    """

    scores: ForecastScores
    accepted: np.ndarray


def adapted_by_days(
    forecaster: Forecaster, record: Record, config: KnownConfig, adapting: AdaptConfig
) -> dict[int, AdaptedScores]:
    """The same after the model was adapted to each person on the days that lie before the first scored moment.

    Args:
        forecaster: Of a world model.
        record: Of therapy, from its first day on.
        config: Which days are scored, and how many are known.
        adapting: How. Days that are fewer than it needs are left out.

    Raises:
        InputError: As `scores_by_days`.
    """
    at, found = _moments(forecaster, record, config), {}
    before = record.history.until(SCHEMA, int(at[0, 0]) + 1)
    for days in config.days:
        known = last_of(SCHEMA, before, MEMORY + days * DAY)
        if known.times.shape[1] < adapting.needed:
            continue
        adaptation = adapt(forecaster, known, adapting)
        accepted = np.array([float(verdict.accepted) for verdict in adaptation.verdicts])
        found[days] = AdaptedScores(_scores(adaptation.forecaster, record, config, at, days), accepted)
    return found


def _moments(forecaster: Forecaster, record: Record, config: KnownConfig) -> Tensor:
    """[B, N] scored moments; raises where not all of the days lie before them."""
    at = scored_moments(record, forecaster.model.config.grid, config.forecast)
    if int(at[0, 0]) < max(config.days) * DAY + MEMORY:
        raise InputError(
            f"{max(config.days)} days and {MEMORY} steps must lie before the first scored moment; it is moment "
            f"{int(at[0, 0])}: record more days, or score later ones"
        )
    return at


def _scores(forecaster: Forecaster, record: Record, config: KnownConfig, at: Tensor, days: int) -> ForecastScores:
    """Errors with so many days of history."""
    grid, parts = forecaster.model.config.grid, []
    blocks = [at[:, at[0] // config.block == number] for number in torch.unique(at[0] // config.block).tolist()]
    for block in blocks:
        begin = int(block[0, 0]) // config.block * config.block - MEMORY - days * DAY
        end = int(block[0, -1]) + grid.last
        window = last_of(SCHEMA, record.history.until(SCHEMA, end + 1), end - begin)
        parts.append(forecast_at(forecaster, window, block - begin, grid))
    joined = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("mean", "lower", "upper"))
    return scores_of(record, at, Prediction(*joined), grid)
