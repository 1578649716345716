"""How well glucose is foreseen after so many days with a person: the same moments, the history cut."""

from __future__ import annotations

import torch

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
    grid = forecaster.model.config.grid
    at = scored_moments(record, grid, config.forecast)
    if int(at[0, 0]) < max(config.days) * DAY + MEMORY:
        raise InputError(
            f"{max(config.days)} days and {MEMORY} steps must lie before the first scored moment; it is moment "
            f"{int(at[0, 0])}: record more days, or score later ones"
        )
    blocks = [at[:, at[0] // config.block == number] for number in torch.unique(at[0] // config.block).tolist()]
    found = {}
    for days in config.days:
        parts = []
        for block in blocks:
            begin = int(block[0, 0]) // config.block * config.block - MEMORY - days * DAY
            end = int(block[0, -1]) + grid.last
            window = last_of(SCHEMA, record.history.until(SCHEMA, end + 1), end - begin)
            parts.append(forecast_at(forecaster, window, block - begin, grid))
        joined = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("mean", "lower", "upper"))
        found[days] = scores_of(record, at, Prediction(*joined), grid)
    return found
