"""Growth of a lung tumour under chemo- and radiotherapy, in people drawn from published distributions.

Equations of Geng, Paganetti and Grassberger (2017, Sci Rep 7:13542), as Lim, Alaa and van der Schaar (2018, RMSN), Bica
et al. (2020, CRN) and Melnychuk et al. (2022, Causal Transformer) use them. A step is a day; volumes are in cm3 and
diameters in cm; the tumour is a sphere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

LARGEST = 13.0  # cm, the diameter at which a patient dies
CHEMO, RADIO = 5.0, 2.0  # mg/m3 and Gy a dose
HALF = 0.5  # of the drug is left after a day
NOISE = 0.01  # standard deviation of the growth rate, 1/day
CELLS = 5.8e8  # per cm3
# By stage: patients (Detterbeck and Gibson 2008); mean, sd, least and greatest of the log-normal diameter, cm.
STAGES = (
    (1432, 1.72, 4.70, 0.3, 5.0),
    (128, 1.96, 1.63, 0.3, 13.0),
    (1306, 1.91, 9.40, 0.3, 13.0),
    (7248, 2.76, 6.87, 0.3, 13.0),
    (12840, 3.86, 8.82, 0.3, 13.0),
)
# Radiosensitivity alpha (1/Gy) and growth rate (1/day), correlated, and sensitivity to the drug (per mg/m3).
ALPHA, GROWTH, CORRELATION, DRUG = (0.0398, 0.168), (7e-5, 7.23e-3), 0.87, (0.028, 0.0007)
SHIFT = 0.1  # by which share of its mean a sensitivity is raised in the kind of patient that responds better
BETA = 0.1  # 1/Gy: the quadratic radiosensitivity is this share of the linear one


def volume(diameter: np.ndarray | float) -> np.ndarray:
    """Cubic centimetres of a sphere of this diameter in cm."""
    return np.asarray(np.pi / 6.0 * np.asarray(diameter) ** 3)


def diameter(volumes: np.ndarray) -> np.ndarray:
    """Centimetres of a sphere of this volume in cm3."""
    return np.asarray(np.cbrt(6.0 / np.pi * volumes))


DEATH = float(volume(LARGEST))  # 1150.3 cm3; errors are given as a share of it
CAPACITY = float(volume(30.0))


@dataclass(frozen=True)
class Patients:
    """What the patients are; every field is [n], or [n, k] for k guesses of each.

    Attributes:
        kind: 0 (radiation works better), 1, or 2 (the drug works better).
        start: First volume, cm3.
        growth: Gompertz rate, 1/day.
        alpha: Linear radiosensitivity, 1/Gy.
        drug: Sensitivity to the drug, per mg/m3.
    """

    kind: np.ndarray
    start: np.ndarray
    growth: np.ndarray
    alpha: np.ndarray
    drug: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> Self:
        """Patients from the published distributions."""
        shares = np.array([stage[0] for stage in STAGES], dtype=np.float64)
        _, mean, spread, least, most = np.array(STAGES).T[:, rng.choice(len(STAGES), n, p=shares / shares.sum())]
        low, high = np.log(least), np.log(most)
        size = np.exp(_until(lambda: rng.normal(mean, spread), lambda x: (x > low) & (x < high)))
        both = CORRELATION * ALPHA[1] * GROWTH[1]
        covariance = np.array([[ALPHA[1] ** 2, both], [both, GROWTH[1] ** 2]])
        pair = _until(
            lambda: rng.multivariate_normal([ALPHA[0], GROWTH[0]], covariance, n), lambda x: np.all(x > 0.0, axis=1)
        )
        drug = _until(lambda: rng.normal(*DRUG, n), lambda x: x > 0.0)
        kind = rng.integers(0, 3, n)
        alpha = pair[:, 0] + SHIFT * ALPHA[0] * (kind == 0)
        return cls(kind, volume(size), pair[:, 1], alpha, drug + SHIFT * DRUG[0] * (kind == 2))

    def pick(self, index: np.ndarray | slice) -> Self:
        """Some of them."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def after_a_day(
        self, now: np.ndarray, drug: np.ndarray, radio: np.ndarray, noise: np.ndarray | float
    ) -> np.ndarray:
        """Volume a day later, cm3: NaN where it was below zero, as in the benchmark.

        Args:
            now: [n, ...] volume, cm3.
            drug: [n, ...] concentration after today's dose, mg/m3.
            radio: [n, ...] dose of today, Gy.
            noise: Of the growth rate, 1/day.
        """
        lead = self.growth.shape + (1,) * (now.ndim - self.growth.ndim)
        growth, alpha, sensitive = (x.reshape(lead) for x in (self.growth, self.alpha, self.drug))
        with np.errstate(invalid="ignore"):
            natural = growth * np.log(CAPACITY / (now + 1e-7) + 1e-7)
        killed = sensitive * drug + alpha * (radio + BETA * radio**2)
        return np.asarray(now * (1.0 + natural - killed + noise))


def _until(draw: Callable[[], np.ndarray], good: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rows redrawn until all are good: a truncated distribution."""
    values = draw()
    while not (fine := good(values)).all():
        values = np.where(fine.reshape(-1, *[1] * (values.ndim - 1)), values, draw())
    return values
