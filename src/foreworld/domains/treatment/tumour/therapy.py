"""The tumour domain: its schema, confounded therapy of many patients in a store, and the settings of its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foreworld.domains.treatment.tumour.growth import (
    CAPACITY,
    CELLS,
    CHEMO,
    DEATH,
    HALF,
    LARGEST,
    NOISE,
    RADIO,
    Patients,
    diameter,
)
from foreworld.episodes import Channel, Episode, EpisodeStore, Schema, fit_statistics
from foreworld.episodes.schema import Kind, Role
from foreworld.learning.fit import FitConfig
from foreworld.learning.train import TrainConfig
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.loss import LossConfig
from foreworld.model.world_model import WorldModelConfig

DAYS = 60
WINDOW = 15  # days of diameters that the therapy looks back on
HORIZON = 6  # days ahead that the model predicts
# 6 mm across: a scanner sees little that is smaller, and an error of that size is nothing beside 1150 cm3.
SMALLEST = 0.1
SCHEMA = Schema(
    name="tumour",
    step=1.0,
    time_unit="d",
    channels=(
        Channel(name="volume", role=Role.observation, unit="cm3", low=SMALLEST, high=CAPACITY, log=True),
        Channel(name="chemo", role=Role.action, kind=Kind.event, unit="mg/m3", low=0.0, high=CHEMO),
        Channel(name="radio", role=Role.action, kind=Kind.event, unit="Gy", low=0.0, high=RADIO),
        Channel(name="kind", role=Role.static, dtype="int32", categories=("radiosensitive", "usual", "chemosensitive")),
    ),
)
MODEL = WorldModelConfig(
    grid=HorizonGrid(points=tuple(range(1, HORIZON + 1))),
    latent=0,
    members=2,
    stride=1,
    recent=4,
    # The drug halves in a day: the leaky sum with this time constant is its concentration.
    memory=(1.4427, 10.0, 1000.0),
    scales=(0.3, 0.7, 1.4427, 3.0),
    joint=64,
    changes=True,
)


def training(steps: int, seed: int) -> TrainConfig:
    """Settings for so many optimiser steps; the seed is that of weights and batches."""
    return TrainConfig(
        model=MODEL,
        loss=LossConfig(anchors=8, points=HORIZON, warmup=0, latent=0.0, beta=1.0, partial=True),
        fit=FitConfig(steps=steps, lr=2e-3, seed=seed, threads=1, ema=0.998),
        windows=64,
        whole=True,
    )


@dataclass(frozen=True)
class Chance:
    """All that is random in n patients' days: courses that share it differ by therapy alone.

    Attributes:
        noise: [n, days + horizon] of the growth rate, 1/day.
        treat: [n, days, 2] uniform: a treatment is given where its probability is higher.
        recover: [n, days] uniform.
    """

    noise: np.ndarray
    treat: np.ndarray
    recover: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> Chance:
        """For n patients."""
        return cls(NOISE * rng.standard_normal((n, DAYS + HORIZON)), rng.random((n, DAYS, 2)), rng.random((n, DAYS)))

    def pick(self, index: slice) -> Chance:
        """That of some patients."""
        return Chance(self.noise[index], self.treat[index], self.recover[index])


@dataclass(frozen=True)
class Courses:
    """What n patients went through; zero after their last day.

    Attributes:
        volumes: [n, days] cm3.
        doses: [n, days, 2] of the drug (mg/m3) and of radiation (Gy).
        drug: [n, days] concentration after the dose, mg/m3.
        lengths: [n] days until death, recovery or the end.
    """

    volumes: np.ndarray
    doses: np.ndarray
    drug: np.ndarray
    lengths: np.ndarray


def probability(mean_diameter: np.ndarray, gamma: float) -> np.ndarray:
    """Chance of each treatment today after this mean diameter, cm; gamma is the confounding (Lim et al. 2018)."""
    return np.asarray(1.0 / (1.0 + np.exp(-gamma / LARGEST * (mean_diameter - LARGEST / 2.0))))


def treat(patients: Patients, gamma: float, chance: Chance, *, lag: int, seen: np.ndarray | None = None) -> Courses:
    """Sixty days of therapy that answers to the mean diameter of the last fifteen.

    Args:
        patients: n of them.
        gamma: Confounding; 0 treats at random.
        chance: Theirs.
        lag: 1 where the therapy does not see today's volume and begins on the second day, as in the benchmark's
            training set; 0 as in its test sets.
        seen: [n, days] volumes that the therapy looks at instead of the patient's own.
    """
    n = len(patients.start)
    volumes, drug = np.zeros((n, DAYS)), np.zeros((n, DAYS))
    doses, lengths, alive = np.zeros((n, DAYS, 2)), np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    volumes[:, 0] = patients.start
    for t in range(DAYS - 1):
        if t >= lag:
            window = (volumes if seen is None else seen)[:, max(t - WINDOW, 0) : t + 1 - lag]
            likely = probability(diameter(np.maximum(window, 0.0)).mean(1), gamma)
            doses[:, t] = (chance.treat[:, t] < likely[:, None]) * alive[:, None] * [CHEMO, RADIO]
        drug[:, t] = HALF * drug[:, t - 1] * (t > 0) + doses[:, t, 0]
        after = patients.after_a_day(volumes[:, t], drug[:, t], doses[:, t, 1], chance.noise[:, t + 1])
        volumes[:, t + 1] = np.clip(after, 0.0, DEATH) * alive
        lengths += alive
        alive &= (after < DEATH) & (chance.recover[:, t] >= np.exp(-CELLS * volumes[:, t + 1]))
    return Courses(volumes, doses, drug, lengths)


def collect(folder: Path, gamma: float, sizes: tuple[int, int], seed: int) -> EpisodeStore:
    """A new store of patients to learn from and of others to judge the fit by, treated with this confounding."""
    store, parts = EpisodeStore.create(folder, SCHEMA), dict[str, list[str]]()
    for part, n in zip(("fit", "validate"), sizes, strict=True):
        rng = np.random.default_rng([seed, len(parts)])
        patients = Patients.draw(n, rng)
        made = list(_episodes(patients, treat(patients, gamma, Chance.draw(n, rng), lag=1), part))
        store.append(made)
        parts[part] = [episode.subject for episode in made]
    store.set_split("default", parts)
    store.set_statistics(fit_statistics(SCHEMA, (store.episode(i) for i in store.episodes_of("default/fit"))))
    return store


def _episodes(patients: Patients, courses: Courses, prefix: str) -> Iterator[Episode]:
    """From the second day on: nobody is treated on the first, which would teach that nobody can be."""
    for i in np.flatnonzero(courses.lengths > 1):
        end = courses.lengths[i]
        values = {
            "volume": _scanned(courses.volumes[i, 1 : end + 1]),
            "chemo": courses.doses[i, 1:end, 0].astype(np.float32),
            "radio": courses.doses[i, 1:end, 1].astype(np.float32),
            "kind": np.asarray(patients.kind[i], dtype=np.int32),
        }
        yield Episode(f"{prefix}{i:05d}", np.arange(end, dtype=np.float64), values)


def history_of(patients: Patients, courses: Courses) -> History:
    """All days of n courses; those past the end are for nobody to ask about."""
    values = {
        "volume": _scanned(courses.volumes),
        "chemo": courses.doses[:, :-1, 0].astype(np.float32),
        "radio": courses.doses[:, :-1, 1].astype(np.float32),
        "kind": patients.kind.astype(np.int32),
    }
    return History.from_arrays(SCHEMA, np.tile(np.arange(float(DAYS)), (len(patients.start), 1)), values)


def _scanned(volumes: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(volumes, SMALLEST), dtype=np.float32)
