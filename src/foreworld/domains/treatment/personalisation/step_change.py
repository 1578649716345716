"""A person whose insulin sensitivity drops one day: how forecasts, bands and control fare before and after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreworld.domains.treatment.collect import statics_of
from foreworld.domains.treatment.forecast_arms import forecast_from, joined
from foreworld.domains.treatment.forecasting import Prediction
from foreworld.domains.treatment.loop import Loop, insulin_agent, run_agent
from foreworld.domains.treatment.personalisation.settings import (
    PersonalisationConfig,
    RecoveredConfig,
    StepConfig,
    forecaster_of,
    world_model,
)
from foreworld.domains.treatment.scenario import Scenario
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import Patients
from foreworld.domains.treatment.windows import future_readings
from foreworld.forecast.adaptive import AdaptiveBands, AdaptiveConfig
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import Around, Forgetful
from foreworld.forecast.renewing import Renewing
from foreworld.model.belief import Belief, History
from foreworld.model.loss import beliefs_at

WINDOWS = ("before", "0_24h", "24_48h", "48_72h", "72_96h")
# Minutes ahead; "all" is the whole grid, two thirds of whose points lie within the first two hours.
AHEAD = {"60": (60,), "120": (120,), "420": (420,), "720": (720,), "all": ()}
HOUR = 60 // STEP_MINUTES


def changed(patients: Patients, config: StepConfig, seed: int, reach: int) -> Scenario:
    """Days in which sensitivity is multiplied from `before` hours on; long enough to score the last window.

    Args:
        patients: Who lives through them.
        config: When and by how much.
        seed: Of meals and sensor.
        reach: Steps that must follow the last forecast.
    """
    hours = config.before + (len(WINDOWS) - 1) * config.window + -(-reach // HOUR)
    scenario = Scenario.draw(patients, config.scenario.model_copy(update={"days": -(-hours // 24)}), seed)
    sensitivity = scenario.sensitivity.copy()
    sensitivity[:, config.before :] *= config.factor
    return replace(scenario, sensitivity=sensitivity)


def close_loop(arm: str, folder: Path, patients: Patients, config: PersonalisationConfig, seed: int) -> Loop:
    """The agent of an arm through the change."""
    forecaster = forecaster_of(arm, folder, config)
    scenario = changed(patients, config.step, seed, forecaster.model.config.grid.last)
    return run_agent(insulin_agent(forecaster, seed=seed), Simulator(patients, scenario))


def history_of(patients: Patients, loop: Loop) -> History:
    """What was measured, announced and done in a loop."""
    values = {"cgm": loop.cgm, "insulin": loop.insulin, "carbs": loop.announced, **statics_of(patients)}
    times = np.tile(STEP_MINUTES * np.arange(loop.cgm.shape[1], dtype=np.float64), (len(patients), 1))
    return History.from_arrays(SCHEMA, times, values)


@dataclass(frozen=True)
class StepScores:
    """Scores of one arm's forecasts around the change, by when the reading came.

    Attributes:
        covered: By those horizons of `AHEAD` that the grid has, [B, W] share of readings inside the band.
        width: [B, W] mean width of the band, mg/dL.
        squared: [B, W] mean squared error, (mg/dL)^2.
    """

    covered: dict[str, np.ndarray]
    width: dict[str, np.ndarray]
    squared: dict[str, np.ndarray]


@torch.no_grad()
def score_step(
    forecaster: Forecaster, history: History, config: StepConfig, bands: AdaptiveConfig | None = None
) -> StepScores:
    """Forecast all along a log that holds the change, with the insulin and the entries that followed.

    Args:
        forecaster: How a person is known.
        history: The log.
        config: When the change came.
        bands: How bands follow the person; None leaves them as calibrated.
    """
    grid = forecaster.model.config.grid
    last = (config.before + (len(WINDOWS) - 1) * config.window) * HOUR
    at = torch.arange(config.burn_in * HOUR, min(last, history.times.shape[1] - grid.last), config.stride)
    at = at.expand(len(history), -1)
    # Beliefs as they were in force, so the model itself forecasts from them.
    plain = forecaster
    if isinstance(forecaster.model, Around):
        plain = Forecaster(forecaster.model.model, forecaster.calibration)
    known = beliefs(forecaster, history, at)
    forecast = forecast_from(plain, known, history, at)
    half = torch.maximum(forecast.upper - forecast.mean, forecast.mean - forecast.lower)
    if bands is not None:
        adaptive = AdaptiveBands(grid.points, forecaster.calibration.coverage, bands)
        since = at + 1 - known.count.reshape(at.shape)
        half = half * multipliers(adaptive, history, at, forecast.mean, half, since)
    # Not cut off at the bounds of the sensor, where a band that is too narrow would look as wide as one that is not.
    forecast = Prediction(forecast.mean, forecast.mean - half, forecast.mean + half)
    return _by_window(forecast, future_readings(history, at, grid), at[0], torch.tensor(grid.points), config)


def beliefs(forecaster: Forecaster, history: History, at: Tensor) -> Belief:
    """The beliefs in force at moments [B, N] (the same for every subject), as one batch of B * N."""
    model, moments = forecaster.model, at[0].tolist()
    if isinstance(model, Renewing | Forgetful):
        return joined(model.along(history.until(SCHEMA, moments[-1] + 1), moments))
    return beliefs_at(world_model(forecaster).encode_all(history), at)


def multipliers(
    bands: AdaptiveBands, history: History, at: Tensor, mean: Tensor, half: Tensor, since: Tensor
) -> Tensor:
    """[B, N, H] multipliers in force when forecasts were made, each from earlier readings alone.

    Args:
        bands: How they follow a person.
        history: The log.
        at: [B, N] moments of the forecasts, the same for every subject.
        mean: [B, N, H] mg/dL.
        half: [B, N, H] calibrated half-widths, mg/dL.
        since: [B, N] where the history of the picture in force begins; another one tells another picture.
    """
    readings, places = history.values["cgm"].double(), {t: i for i, t in enumerate(at[0].tolist())}
    first, last = int(at[0, 0]), int(at[0, -1])
    state, found = bands.start(len(history)), torch.ones_like(mean)
    for t in range(first, last + 1):
        state = bands.observe(state, readings[:, t]) if t > first else state
        if (place := places.get(t)) is not None:
            if place:
                state = bands.renewed(state, since[:, place] != since[:, place - 1])
            found[:, place] = state.multiplier
            state = bands.remember(state, mean[:, place], half[:, place])
    return found


def window_of(due: Tensor, config: StepConfig) -> Tensor:
    """Index into `WINDOWS` of the steps at which readings came; -1 outside of all of them."""
    hours = due.double() / HOUR - config.before
    after = torch.floor(hours / config.window).long() + 1
    inside = (hours >= -2 * config.window) & (after < len(WINDOWS))
    return torch.where(inside, after.clamp(min=0), torch.full_like(after, -1))


def _by_window(forecast: Prediction, truth: Tensor, at: Tensor, points: Tensor, config: StepConfig) -> StepScores:
    window = window_of(at[:, None] + points, config)
    measured = ~torch.isnan(truth)
    inside = ((truth >= forecast.lower) & (truth <= forecast.upper)).double()
    wide, squared = forecast.upper - forecast.lower, torch.nan_to_num(forecast.mean - truth) ** 2
    found = StepScores({}, {}, {})
    for name, minutes in AHEAD.items():
        wanted = torch.ones_like(points, dtype=torch.bool)
        if minutes:
            wanted = torch.isin(points, torch.tensor(minutes) // STEP_MINUTES)
            if not wanted.any():
                continue
        for values, table in ((inside, found.covered), (wide, found.width), (squared, found.squared)):
            columns = []
            for number in range(len(WINDOWS)):
                chosen = measured & (window == number) & wanted
                columns.append((values * chosen).sum((1, 2)) / chosen.sum((1, 2)))
            table[name] = torch.stack(columns, dim=1).numpy()
    return found


def recovered(scores: StepScores, config: RecoveredConfig) -> np.ndarray:
    """[B] 1 for those who meet all three conditions themselves from 48 to 72 hours after the change, else 0."""
    before, after = WINDOWS.index("before"), WINDOWS.index("48_72h")
    covered, width, squared = (part["all"] for part in (scores.covered, scores.width, scores.squared))
    low, high = config.coverage
    inside = (covered[:, after] >= low) & (covered[:, after] <= high)
    narrow = width[:, after] <= config.width * width[:, before]
    close = squared[:, after] <= config.rmse**2 * squared[:, before]
    return (inside & narrow & close).astype(np.float64)


def in_range_by_window(bg: np.ndarray, config: StepConfig) -> np.ndarray:
    """[B, W] share of true glucose [B, N] in 70 to 180 mg/dL."""
    window = window_of(torch.arange(bg.shape[1]), config).numpy()
    inside = (bg >= 70.0) & (bg <= 180.0)
    return np.stack([inside[:, window == number].mean(1) for number in range(len(WINDOWS))], axis=1)
