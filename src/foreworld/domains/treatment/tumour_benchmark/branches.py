"""The benchmark's test sets: what other therapies would have led to, on every day of every patient.

As in the repository of the Causal Transformer (Melnychuk et al. 2022, with the correction of its last entries of 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foreworld.domains.treatment.tumour.growth import CHEMO, HALF, RADIO, Patients
from foreworld.domains.treatment.tumour.therapy import DAYS, HORIZON, Chance, Courses, treat

Plans = Literal["single", "random", "sliding"]
PER_DAY = 10  # branches of six days


@dataclass(frozen=True)
class Branches:
    """S branches of H days from each of N days of patients.

    Attributes:
        patient: [N] index into the courses.
        day: [N] the last day whose volume is known.
        plan: [N, S, H, 2] doses from that day on.
        truth: [N, S, H] volumes on the days that follow, cm3; not cut at death or at zero, as in the benchmark.
        oracle: [N, S, H] the same without noise.
        kept: [N, S] whether a branch counts: the benchmark leaves out those that fall below zero before their end.
    """

    patient: np.ndarray
    day: np.ndarray
    plan: np.ndarray
    truth: np.ndarray
    oracle: np.ndarray
    kept: np.ndarray


def branch_out(
    patients: Patients, courses: Courses, chance: Chance, plans: Plans, rng: np.random.Generator
) -> Branches:
    """All branches of all days, each with its patient's own noise.

    Args:
        patients: n of them.
        courses: Their days.
        chance: What those had of it.
        plans: `single`: each of the four treatments of one day. `random`: after the treatment that was given, five days
            of random ones, ten times. `sliding`: likewise with one dose in all, on each of the five days.
        rng: Draws the random plans.
    """
    patient, day = np.nonzero(np.arange(DAYS) < courses.lengths[:, None])
    given = courses.doses[patient, day] > 0
    plan = (_single(given) if plans == "single" else _six_days(given, plans, rng)) * np.array([CHEMO, RADIO])
    who = patients.pick(patient)
    drug = np.where(day > 0, courses.drug[patient, day - 1], 0.0)[:, None]
    now = calm = np.broadcast_to(courses.volumes[patient, day][:, None], plan.shape[:2])
    truth, oracle = [], []
    for h in range(plan.shape[2]):
        drug = HALF * drug + plan[:, :, h, 0]
        now = who.after_a_day(now, drug, plan[:, :, h, 1], chance.noise[patient, day + 1 + h][:, None])
        calm = who.after_a_day(calm, drug, plan[:, :, h, 1], 0.0)
        if h == 0:
            # What did happen was cut at death and at zero.
            happened = ((plan[:, :, 0] > 0) == given[:, None]).all(-1)
            now = np.where(happened, courses.volumes[patient, day + 1][:, None], now)
        truth.append(now)
        oracle.append(calm)
    true = np.stack(truth, axis=-1)
    return Branches(patient, day, plan, true, np.nan_to_num(np.stack(oracle, axis=-1)), np.isfinite(true).all(-1))


def _single(given: np.ndarray) -> np.ndarray:
    """[n, 4, 1, 2] flags of the four treatments, the one that was given first."""
    number = (2 * given[:, :1] + given[:, 1:]) ^ np.arange(4)
    return np.stack([number // 2, number % 2], axis=-1)[:, :, None]


def _six_days(given: np.ndarray, plans: Plans, rng: np.random.Generator) -> np.ndarray:
    """[n, 10, 6, 2] flags that begin with what was given."""
    later = rng.integers(0, 2, (len(given), PER_DAY, HORIZON - 1, 2))
    if plans == "sliding":
        one = np.eye(HORIZON - 1, dtype=np.int64)
        later[:] = np.concatenate([np.stack([one, 0 * one], axis=-1), np.stack([0 * one, one], axis=-1)])
    first = np.broadcast_to(given[:, None, None], (len(given), PER_DAY, 1, 2))
    return np.concatenate([first, later], axis=2)


def published(patients: Patients, gamma: float, chance: Chance, plans: Plans, rng: np.random.Generator) -> Courses:
    """Test courses as that repository makes them: the therapy of patient i looks at row i of the results so far.

    Those rows are branches of the first few patients, so that gamma acts through the tumours of others. The published
    figures are of such courses; `treat` without `seen` is what the papers describe.
    """
    n = len(patients.start)
    seen, done = np.zeros((n, DAYS)), 1
    while True:
        some = slice(0, done)
        courses = treat(patients.pick(some), gamma, chance.pick(some), lag=0, seen=seen[some])
        if done == n:
            return courses
        made = branch_out(patients.pick(some), courses, chance.pick(some), plans, rng)
        place, which = (index[:n] for index in np.nonzero(made.kept))
        rows = len(place)
        ahead = np.arange(DAYS) - made.day[place, None] - 1
        seen[:rows] = np.where(ahead < 0, courses.volumes[made.patient[place]], 0.0)
        row, column = np.nonzero((ahead >= 0) & (ahead < made.truth.shape[2]))
        seen[row, column] = made.truth[place, which][row, ahead[row, column]]
        done = max(rows, min(n, done + 1))
