"""The arms of the forecast protocol: any model through its `Forecaster`, and the baselines it must beat.

Persistence, AR(12), and an ARX fitted on each patient's own first days; the plain network is in `direct_network`. All
see the same entries and the same insulin to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from foreworld.domains.treatment.arx import LinearConfig, LinearModel, fit_linear
from foreworld.domains.treatment.forecasting import Prediction, Record
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.windows import (
    WindowConfig,
    future_amounts,
    future_readings,
    windows_at,
)
from foreworld.errors import InputError
from foreworld.forecast.adapter import Adapted
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import Forgetful
from foreworld.model.belief import Belief, History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.interface import Believed, Imaginer
from foreworld.model.loss import beliefs_at
from foreworld.model.world_model import WorldModel

NINETY = 1.6448536269514722  # half-width of a 90 % band in standard deviations of a normal distribution
CHUNK = 2048  # moments forecast at a time; bounds memory


def beliefs_along(model: Imaginer, history: History, at: Tensor) -> Believed:
    """The beliefs at moments [B, N] as one batch of B * N, each from what came before it alone.

    Raises:
        InputError: The model cannot encode many moments of a record in one pass.
    """
    if isinstance(model, WorldModel):
        return beliefs_at(model.encode_all(history), at)
    if isinstance(model, LinearModel | Adapted):
        return model.encode_at(history, at)
    raise InputError(f"{type(model).__name__} cannot encode many moments at once; give a WorldModel or a LinearModel")


class ForecasterArm:
    """A model and its calibration.

    Args:
        forecaster: Its model's grid must be the protocol's.
        within: Range in mg/dL that `Prediction.stays` is about; None asks for none.
    """

    def __init__(self, forecaster: Forecaster, within: tuple[float, float] | None = None) -> None:
        self.forecaster, self.within = forecaster, within

    @torch.no_grad()
    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`; nothing is fitted."""
        return forecast_at(self.forecaster, record.history, at, grid, self.within)


class RecentArm:
    """The same world model and calibration, knowing of the past the last so many steps alone.

    Args:
        forecaster: Its model's grid must be the protocol's.
        steps: How far back it remembers.
        within: As `ForecasterArm`.

    Raises:
        InputError: The model is no world model, or is to remember less than one step.
    """

    def __init__(self, forecaster: Forecaster, steps: int, within: tuple[float, float] | None = None) -> None:
        if not isinstance(forecaster.model, WorldModel):
            raise InputError(f"a {type(forecaster.model).__name__} has no belief of the last steps; give a WorldModel")
        self.forecaster, self.within = forecaster, within
        self.brief = Forgetful(forecaster.model, steps)

    @torch.no_grad()
    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`; nothing is fitted.

        Raises:
            InputError: The moments are not the same for every subject.
        """
        if not bool((at == at[:1]).all()):
            raise InputError("histories are cut at the same moments for every subject; give each the same ones")
        _same_grid(self.forecaster, grid)
        # Beliefs as they are in force, so the model itself forecasts from them.
        beliefs = joined(self.brief.along(record.history, at[0].tolist()))
        return forecast_from(self.forecaster, beliefs, record.history, at, self.within)


def joined(beliefs: Sequence[Belief]) -> Belief:
    """Beliefs of B subjects at each of N moments as one batch of B * N."""
    stacked = {f.name: torch.stack([getattr(one, f.name) for one in beliefs], dim=1) for f in fields(Belief)}
    return Belief(**{name: value.flatten(0, 1) for name, value in stacked.items()})


@torch.no_grad()
def forecast_at(
    forecaster: Forecaster, history: History, at: Tensor, grid: HorizonGrid, within: tuple[float, float] | None = None
) -> Prediction:
    """Forecasts from moments [B, N] with the insulin and the entries that followed; `within` as `ForecasterArm`."""
    _same_grid(forecaster, grid)
    return forecast_from(forecaster, beliefs_along(forecaster.model, history, at), history, at, within)


@torch.no_grad()
def forecast_from(
    forecaster: Forecaster, beliefs: Believed, history: History, at: Tensor, within: tuple[float, float] | None = None
) -> Prediction:
    """The same from beliefs of moments [B, N], given as one batch of B * N."""
    grid = forecaster.model.config.grid
    insulin, carbs = (amount.flatten(0, 1).float() for amount in future_amounts(history, at, grid))
    parts: list[tuple[Tensor, ...]] = []
    for index in torch.split(torch.arange(at.numel()), CHUNK):
        imagined = forecaster.begin(beliefs.select(index), carbs[index, :, None])
        forecast = forecaster.forecast(imagined, insulin[index, None, :, None])
        part = forecast.mean["cgm"][:, 0], forecast.lower["cgm"][:, 0], forecast.upper["cgm"][:, 0]
        parts.append(part if within is None else (*part, share_within(forecast.samples["cgm"][:, :, 0], within)))
    return Prediction(*(torch.cat(part).reshape(*at.shape, -1).double() for part in zip(*parts, strict=True)))


def share_within(futures: Tensor, within: tuple[float, float]) -> Tensor:
    """[..., H] share of futures [S, ..., H] that are within a range at every point up to each."""
    inside = (futures >= within[0]) & (futures <= within[1])
    return inside.cummin(dim=-1).values.double().mean(0)


def _same_grid(forecaster: Forecaster, grid: HorizonGrid) -> None:
    if forecaster.model.config.grid != grid:
        raise InputError("the model's horizon grid is not the protocol's; give the protocol the model's grid")


class Persistence:
    """Glucose stays where it is; the band is the change seen in the patient's first days."""

    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`."""
        window = WindowConfig(readings=2, bins=1)
        earlier = torch.arange(1, fit_moments - grid.last, 3).expand(len(at), -1)

        def last(moments: Tensor) -> Tensor:
            return windows_at(record.history, moments, window).cgm[:, -1].reshape(*moments.shape, 1)

        changes = future_readings(record.before(fit_moments), earlier, grid) - last(earlier)
        return banded(last(at).expand(-1, -1, len(grid)), torch.nanmean(changes**2, dim=1).sqrt())


class AutoRegression:
    """AR(12) on each patient's own first days, direct for each horizon point, least squares.

    Args:
        order: Readings that are used.
    """

    def __init__(self, order: int = 12) -> None:
        self.order = order

    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`."""
        window = WindowConfig(readings=self.order, bins=1)
        earlier = torch.arange(self.order, fit_moments - grid.last).expand(len(at), -1)
        targets = future_readings(record.before(fit_moments), earlier, grid)

        def inputs(moments: Tensor) -> Tensor:
            readings = windows_at(record.history, moments, window).cgm.reshape(*moments.shape, -1)
            return torch.cat([readings, torch.ones_like(readings[..., :1])], dim=-1)

        x, now, means, scales = inputs(earlier), inputs(at), [], []
        for row in range(len(at)):
            sound = ~torch.isnan(targets[row]).any(1)
            slope = torch.linalg.lstsq(x[row, sound], targets[row, sound]).solution
            means.append(now[row] @ slope)
            scales.append(((x[row, sound] @ slope - targets[row, sound]) ** 2).mean(0).sqrt())
        return banded(torch.stack(means), torch.stack(scales))


class PatientARX:
    """The linear model fitted on each patient's own first days, with known insulin and entries.

    Args:
        config: As of the population's model; held-out parts are stretches of time, and every moment is used.
    """

    def __init__(self, config: LinearConfig) -> None:
        self.config = config.model_copy(update={"held_out": "time", "stride": 1, "members": 1})

    def fit(self, history: History) -> list[Forecaster]:
        """One forecaster for each subject of a record."""
        return [Forecaster(fit_linear(SCHEMA, [rows(history, [row])], self.config)) for row in range(len(history))]

    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`."""
        parts = [
            forecast_at(forecaster, rows(record.history, [row]), at[row : row + 1], grid)
            for row, forecaster in enumerate(self.fit(record.before(fit_moments)))
        ]
        return Prediction(
            torch.cat([p.mean for p in parts]), torch.cat([p.lower for p in parts]), torch.cat([p.upper for p in parts])
        )


def rows(history: History, which: Sequence[int]) -> History:
    """Some subjects of a record."""
    index = torch.tensor(which)
    values = {name: value[index] for name, value in history.values.items()}
    return History(history.times[index], values, history.lengths[index])


def banded(mean: Tensor, scale: Tensor) -> Prediction:
    """A normal 90 % band around forecasts [B, N, H] with errors of size [B, H]."""
    half = NINETY * scale[:, None]
    return Prediction(mean, mean - half, mean + half)
