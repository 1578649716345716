"""The numbers of `treatment/personalisation`, and what its arms are made of."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.calibrate import load_forecaster
from foreworld.domains.treatment.forecasting import ForecastConfig
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.tracks import LoopConfig
from foreworld.errors import InputError
from foreworld.forecast.adapter import AdaptConfig
from foreworld.forecast.adaptive import AdaptiveConfig
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import Forgetful
from foreworld.forecast.renewing import RenewConfig, Renewing
from foreworld.model.world_model import WorldModel

ARMS = ("foreworld", "foreworld_fixed", "population", "population_day")
ADAPTED = "adapted"  # of the error by days of history alone: in the loop it would have to be fitted anew every day
MEMORY = 72  # steps: six hours, which hold most of the insulin that still acts and little of the person
MEMORY_DAY = 288  # steps: a day, after which bands and guardrails are those of somebody known for a day


class KnownConfig(BaseModel):
    """Forecasts of the same moments by what is known of the days before them.

    Attributes:
        forecast: Therapy and scored days; the first `fit_days` are the longest history.
        days: Days of history.
        block: Steps; the history of all moments of a block starts together, so that what is known is at least the
            days and `MEMORY`, and at most a block more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    forecast: ForecastConfig = ForecastConfig(days=16, fit_days=11)
    days: tuple[int, ...] = (0, 1, 2, 3, 5, 7, 10)
    block: int = Field(default=72, ge=1)


class RecoveredConfig(BaseModel):
    """What one person's day must meet for them to count as recovered: who has not changed meets it 95 times in 100.

    One person's 24 hours vary more than the mean of many, so the limits are wider than those for the mean.

    Attributes:
        coverage: Least and greatest share of readings inside the band, over all of the grid.
        width: Greatest width of the band, as a ratio to that before the change.
        rmse: Greatest root mean square error, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: tuple[float, float] = (0.8, 0.98)
    width: float = Field(default=1.25, gt=0)
    rmse: float = Field(default=1.5, gt=0)


class StepConfig(BaseModel):
    """A step change of insulin sensitivity.

    Attributes:
        factor: On insulin sensitivity from the change on, held.
        before: Hours before the change.
        window: Hours of each window after it; the one before it lasts twice as long.
        burn_in: Hours from the start at which forecasts begin.
        stride: Steps between two forecasts.
        recovered: Who has recovered.
        scenario: Meals, errors, sensor; days are set from the above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(default=0.6, gt=0)
    before: int = Field(default=168, ge=1)
    window: int = Field(default=24, ge=1)
    burn_in: int = Field(default=24, ge=1)
    stride: int = Field(default=2, ge=1)
    recovered: RecoveredConfig = RecoveredConfig()
    scenario: ScenarioConfig = ScenarioConfig()


class PersonalisationConfig(BaseModel):
    """All of the protocol.

    Attributes:
        known: Forecasts by days of history.
        loop: The closed loop; track A from the first day on.
        learnt: Days of the loop after which control is compared.
        step: The change of sensitivity.
        memory: Steps that the arm `population` remembers.
        memory_day: Steps that the arm `population_day` remembers.
        renew: Of the arm `foreworld`: when a younger picture of a person takes over.
        bands: Of the arm `foreworld`: how its bands follow a person.
        adapt: Of the arm `adapted`: gradient steps on the days that are known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    known: KnownConfig = KnownConfig()
    loop: LoopConfig = LoopConfig(days=14, burn_in=0)
    learnt: int = 7
    step: StepConfig = StepConfig()
    memory: int = MEMORY
    memory_day: int = MEMORY_DAY
    renew: RenewConfig = RenewConfig()
    bands: AdaptiveConfig = AdaptiveConfig()
    adapt: AdaptConfig = AdaptConfig()


QUICK = PersonalisationConfig(
    known=KnownConfig(forecast=ForecastConfig(days=3, fit_days=2, stride=29), days=(0, 1)),
    loop=LoopConfig(days=1, burn_in=0),
    learnt=0,
    step=StepConfig(before=20, window=3, burn_in=2),
    adapt=AdaptConfig(warmup=36, least=72, held_out=144, steps=3),
)


def world_model(forecaster: Forecaster) -> WorldModel:
    """The world model of a forecaster; raises InputError where it is another model."""
    if not isinstance(forecaster.model, WorldModel):
        raise InputError(f"a {type(forecaster.model).__name__} has no belief that could be renewed or forgotten")
    return forecaster.model


def forecaster_of(arm: str, folder: Path, config: PersonalisationConfig) -> Forecaster:
    """The forecaster of an arm: one set of weights, one calibration, four ways of knowing a person."""
    whole = load_forecaster(folder)
    if arm == "foreworld_fixed":
        return whole
    model, memories = world_model(whole), {"population": config.memory, "population_day": config.memory_day}
    known = Forgetful(model, memories[arm]) if arm in memories else Renewing(model, config.renew)
    return Forecaster(known, whole.calibration)
