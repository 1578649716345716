"""What a filter knows of meals: how often, when and how large they are (the scenario's own statistics), never which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foreworld.domains.treatment.scenario import (
    G2P2C,
    MINUTES_A_DAY,
    REFERENCE_WEIGHT,
    STOCK,
    Meal,
    ScenarioConfig,
)
from foreworld.domains.treatment.schema import STEP_MINUTES

FloatArray = npt.NDArray[np.float64]

STEPS_A_DAY = MINUTES_A_DAY // STEP_MINUTES


@dataclass(frozen=True)
class Habits:
    """Statistics of the K meals of a day, of B people.

    Attributes:
        start: [288, K] probability that a meal not eaten before begins in a five-minute step of the day.
        share: [288, K] probability that the meal is eaten and begins in that step.
        grams: [B, K] mean, g.
        spread: [B, K] standard deviation, g; half the range of a uniform distribution where `uniform`.
        uniform: Whether grams are uniform rather than normal.
        error: Standard deviation of the relative error of a count.
        hidden: Probability that a meal is not announced.
        triple: Probability that a count is three times too large.
    """

    start: FloatArray
    share: FloatArray
    grams: FloatArray
    spread: FloatArray
    uniform: bool
    error: float
    hidden: float
    triple: float


def habits_of(config: ScenarioConfig, weight: FloatArray) -> Habits:
    """The statistics that scenarios of this configuration are drawn from.

    Args:
        config: Of the scenarios.
        weight: [B] kg.
    """
    uniform = config.meals == "g2p2c"
    meals = G2P2C if uniform else STOCK
    scale = weight / REFERENCE_WEIGHT if config.meals == "weight_scaled" else np.ones_like(weight)
    edges = np.arange(STEPS_A_DAY + 1) * STEP_MINUTES / 60.0
    eaten = np.stack([meal.probability * _by_then(meal, edges) for meal in meals], axis=1)
    share = np.diff(eaten, axis=0)
    return Habits(
        start=share / np.maximum(1.0 - eaten[:-1], 1e-12),
        share=share,
        grams=scale[:, None] * np.array([meal.grams for meal in meals]),
        spread=scale[:, None] * np.array([meal.grams_sd * (3.0 if uniform else 1.0) for meal in meals]),
        uniform=uniform,
        error=config.carb_error_sd,
        hidden=config.missed_bolus if config.announced else 1.0,
        triple=config.triple_entry,
    )


def _by_then(meal: Meal, hours: FloatArray) -> FloatArray:
    """Probability that a meal that is eaten has begun by clock times [T]: a truncated normal."""

    def normal(hour: float) -> float:
        return 0.5 * (1.0 + math.erf((hour - meal.usual) / (meal.time_sd * math.sqrt(2.0))))

    low, high = normal(meal.earliest), normal(meal.latest)
    return np.clip([(normal(float(hour)) - low) / (high - low) for hour in hours], 0.0, 1.0)
