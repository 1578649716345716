"""What happens to a patient whatever the treatment: meals, wrong counts, forgotten entries, drift, noise, faults.

Everything is drawn before the first decision, so every arm of a comparison meets the same days. A subject's draw
depends on the seed and its name alone, never on the batch; the first days of a long scenario are those of a short one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from foreworld.domains.treatment.sensor import SAMPLE_MINUTES, FaultRates, SensorFaults, cgm_noise, draw_faults
from foreworld.domains.treatment.tables import Patients
from foreworld.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MINUTES_A_DAY = 1440
REFERENCE_WEIGHT = 78.0  # kg; `weight_scaled` gives a person of this weight the stock grams


class Meal(NamedTuple):
    """One possible meal of a day: probability, clock time in hours (truncated normal), grams."""

    probability: float
    earliest: float
    usual: float
    latest: float
    time_sd: float
    grams: float
    grams_sd: float


# simglucose 0.2.11, RandomScenario; grams are normal, rounded, at least 0.
STOCK = (
    Meal(0.95, 5.0, 7.0, 9.0, 1.0, 45.0, 10.0),
    Meal(0.3, 9.0, 9.5, 10.0, 0.5, 10.0, 5.0),
    Meal(0.95, 10.0, 12.0, 14.0, 1.0, 70.0, 10.0),
    Meal(0.3, 14.0, 15.0, 16.0, 0.5, 10.0, 5.0),
    Meal(0.95, 16.0, 18.0, 20.0, 1.0, 80.0, 10.0),
    Meal(0.3, 20.0, 21.5, 23.0, 0.5, 10.0, 5.0),
)
# The defaults of the G2P2C code (github.com/RL4H/G2P2C, utils/options.py and extended_scenario.py): three meals, no
# snacks, grams *uniform* within three standard deviations.
G2P2C = (
    Meal(0.95, 7.0, 8.0, 9.0, 1.0, 45.0, 5.0),
    Meal(0.95, 12.0, 13.0, 14.0, 1.0, 85.0, 5.0),
    Meal(0.95, 19.0, 20.0, 21.0, 1.0, 80.0, 10.0),
)


class ScenarioConfig(BaseModel):
    """How the days look. The defaults are exact sensors' ordinary noise, counted meals and no drift or faults.

    Attributes:
        days: length; the clock starts at midnight.
        meals: `stock` as simglucose; `weight_scaled` the same times weight / 78 kg; `g2p2c` 45/85/80 g without snacks.
        carb_error_sd: announced = grams x clip(1 + sd N(0,1), 0.3, 1.7).
        announced: whether meals are announced at all.
        missed_bolus: probability that the person forgets to announce a meal.
        triple_entry: probability that a meal is entered three times too large.
        sensitivity_drift: insulin sensitivity of each day uniform within 1 +- this (0.3 is x0.7 ... 1.3).
        circadian: relative amplitude of the daily wave of insulin sensitivity, lowest in the morning (dawn phenomenon).
        dropout_per_day: mean number of sensor dropouts a day, 15-120 min each.
        stuck_per_day: mean number of windows with a repeated value, 30-120 min.
        bias_per_day: mean number of windows in which the sensor is wrong by +-20 %, 2-8 h.
        compression_per_night: probability of a 90-minute compression low of 30-80 mg/dL between 0 and 5 h.
        dropout_minutes: range of their lengths, likewise for the two kinds that follow.
        stuck_minutes: see above.
        bias_minutes: see above.
        regular_faults: whether these rates are kept exactly instead of on average.
        sensor: `GuardianRT` (5 min) or `Dexcom` (3 min).
        sensor_noise: whether the sensor has noise.
        step_minutes: time between decisions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(default=14, ge=1)
    meals: Literal["stock", "weight_scaled", "g2p2c"] = "weight_scaled"
    carb_error_sd: float = Field(default=0.3, ge=0.0)
    announced: bool = True
    missed_bolus: float = Field(default=0.0, ge=0.0, le=1.0)
    triple_entry: float = Field(default=0.0, ge=0.0, le=1.0)
    sensitivity_drift: float = Field(default=0.0, ge=0.0, lt=1.0)
    circadian: float = Field(default=0.0, ge=0.0, lt=1.0)
    dropout_per_day: float = Field(default=0.0, ge=0.0)
    stuck_per_day: float = Field(default=0.0, ge=0.0)
    bias_per_day: float = Field(default=0.0, ge=0.0)
    compression_per_night: float = Field(default=0.0, ge=0.0, le=1.0)
    dropout_minutes: tuple[float, float] = FaultRates.dropout_minutes
    stuck_minutes: tuple[float, float] = FaultRates.stuck_minutes
    bias_minutes: tuple[float, float] = FaultRates.bias_minutes
    regular_faults: bool = False
    sensor: Literal["GuardianRT", "Dexcom"] = "GuardianRT"
    sensor_noise: bool = True
    step_minutes: int = Field(default=5, ge=1, le=60)

    @property
    def steps(self) -> int:
        """Number of decisions that lead to an observation."""
        return self.days * MINUTES_A_DAY // self.step_minutes


def _subject_seed(seed: int, name: str, stream: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode()), stream])


def _clock_minute(generator: np.random.Generator, meal: Meal) -> int:
    """A truncated normal time by rejection, rounded to the minute as simglucose does."""
    while True:
        hour = generator.normal(meal.usual, meal.time_sd)
        if meal.earliest <= hour <= meal.latest:
            return round(hour * 60.0)


def _draw_meals(generator: np.random.Generator, config: ScenarioConfig, weight: float) -> list[tuple[int, float]]:
    """Minute and grams of every meal, in order of drawing."""
    meals = G2P2C if config.meals == "g2p2c" else STOCK
    scale = weight / REFERENCE_WEIGHT if config.meals == "weight_scaled" else 1.0
    result = []
    for day in range(config.days):
        for meal in meals:
            if generator.uniform() >= meal.probability:
                continue
            minute = _clock_minute(generator, meal)
            if config.meals == "g2p2c":
                grams = generator.uniform(meal.grams - 3.0 * meal.grams_sd, meal.grams + 3.0 * meal.grams_sd)
            else:
                grams = generator.normal(meal.grams, meal.grams_sd)
            grams = max(round(grams), 0) * scale
            if grams > 0.0:
                result.append((day * MINUTES_A_DAY + minute, grams))
    return result


def _draw_sensitivity(generator: np.random.Generator, config: ScenarioConfig) -> FloatArray:
    """`[days * 24]` hourly factors on insulin sensitivity."""
    # Lowest between 5 and 9 h: within the span of the dawn phenomenon.
    lowest = generator.uniform(5.0, 9.0)
    by_day = 1.0 + config.sensitivity_drift * generator.uniform(-1.0, 1.0, config.days)
    hours = np.arange(config.days * 24)
    wave = 1.0 - config.circadian * np.cos(2.0 * np.pi * (hours % 24 - lowest) / 24.0)
    result: FloatArray = np.repeat(by_day, 24) * wave
    return result


def _draw_noise(seeds: Sequence[int], names: Sequence[str], config: ScenarioConfig) -> FloatArray:
    """`[B, steps + 1]` sensor noise at each decision; between samples the last one holds."""
    if not config.sensor_noise:
        return np.zeros((len(names), config.steps + 1))
    sample = np.arange(config.steps + 1) * config.step_minutes // SAMPLE_MINUTES[config.sensor]
    states = [int(_subject_seed(seed, name, 3).generate_state(1)[0]) for seed, name in zip(seeds, names, strict=True)]
    return np.ascontiguousarray(cgm_noise(states, int(sample[-1]) + 1, config.sensor)[:, sample])


@dataclass(frozen=True)
class Scenario:
    """The days of a batch of subjects, drawn once; arrays are read-only.

    Attributes:
        config: how they were drawn.
        names: the subjects, `[B]`.
        meals: `[B, minutes]` grams put on the table at each minute.
        announced: `[B, steps + 1]` grams the person enters, seen at that decision: the first one at or after the first
            bite, never earlier. Zero where forgotten or unannounced.
        grams: `[B, steps + 1]` true grams of the same meals, at the same decisions.
        missed: `[B, steps + 1]` whether a meal of this decision was not announced because the person forgot.
        sensitivity: `[B, hours]` factor on insulin sensitivity.
        noise: `[B, steps + 1]` sensor noise in mg/dL.
        faults: sensor faults.
    """

    config: ScenarioConfig
    names: tuple[str, ...]
    meals: FloatArray
    announced: FloatArray
    grams: FloatArray
    missed: BoolArray
    sensitivity: FloatArray
    noise: FloatArray
    faults: SensorFaults

    def __post_init__(self) -> None:
        faults = self.faults
        for array in (
            self.meals, self.announced, self.grams, self.missed, self.sensitivity, self.noise,
            faults.dropout, faults.stuck, faults.gain, faults.dip,
        ):  # fmt: skip
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def steps(self) -> int:
        """Number of steps; there is one more observation."""
        return self.config.steps

    @classmethod
    def draw(cls, patients: Patients, config: ScenarioConfig, seed: int | Sequence[int]) -> Scenario:
        """Draw the days of every patient.

        Args:
            patients: the batch.
            config: how the days look.
            seed: one seed, or one a patient, to hold several repetitions of a patient in one batch.

        Raises:
            InputError: the number of seeds is not the number of patients, or a seed is negative.
        """
        seeds = [int(seed)] * len(patients) if isinstance(seed, int | np.integer) else [int(s) for s in seed]
        if len(seeds) != len(patients):
            raise InputError(f"{len(seeds)} seeds for {len(patients)} patients; give one seed or one a patient")
        if any(value < 0 for value in seeds):
            raise InputError(f"seed {min(seeds)} is negative; use 0 or above")
        steps, subjects = config.steps, len(patients)
        meals = np.zeros((subjects, config.days * MINUTES_A_DAY))
        announced, grams = np.zeros((subjects, steps + 1)), np.zeros((subjects, steps + 1))
        missed = np.zeros((subjects, steps + 1), dtype=np.bool_)
        sensitivity = np.ones((subjects, config.days * 24))
        for row, (name, value) in enumerate(zip(patients.names, seeds, strict=True)):
            eating, person, body = (np.random.default_rng(_subject_seed(value, name, k)) for k in range(3))
            for minute, amount in _draw_meals(eating, config, float(patients.weight[row])):
                decision = -(-minute // config.step_minutes)
                # Drawn for every meal, used or not, so that one option leaves the other draws where they were.
                error, forgets, slips = person.normal(), person.uniform(), person.uniform()
                count = amount * float(np.clip(1.0 + config.carb_error_sd * error, 0.3, 1.7))
                if slips < config.triple_entry:
                    count *= 3.0
                meals[row, minute] += amount
                if decision > steps:
                    continue
                grams[row, decision] += amount
                if forgets < config.missed_bolus:
                    missed[row, decision] = True
                elif config.announced:
                    announced[row, decision] += count
            sensitivity[row] = _draw_sensitivity(body, config)
        rates = FaultRates(
            dropout_per_day=config.dropout_per_day,
            stuck_per_day=config.stuck_per_day,
            bias_per_day=config.bias_per_day,
            compression_per_night=config.compression_per_night,
            dropout_minutes=config.dropout_minutes,
            stuck_minutes=config.stuck_minutes,
            bias_minutes=config.bias_minutes,
            regular=config.regular_faults,
        )
        fault_seeds = [_subject_seed(value, name, 4) for name, value in zip(patients.names, seeds, strict=True)]
        return cls(
            config=config,
            names=patients.names,
            meals=meals,
            announced=announced,
            grams=grams,
            missed=missed,
            sensitivity=sensitivity,
            noise=_draw_noise(seeds, patients.names, config),
            faults=draw_faults(fault_seeds, rates, steps, config.step_minutes),
        )
