"""The equations against a plain loop, the distributions, and how therapy answers to the tumour."""

import math

import numpy as np
import pytest

from foreworld.domains.treatment.tumour.growth import CAPACITY, DEATH, Patients, diameter, volume
from foreworld.domains.treatment.tumour.therapy import DAYS, Chance, probability, treat


@pytest.fixture(scope="module")
def patients():
    return Patients.draw(400, np.random.default_rng(0))


@pytest.fixture(scope="module")
def chance():
    return Chance.draw(400, np.random.default_rng(1))


def reference(start, growth, alpha, sensitive, doses, noise):
    """The published equations, one patient and one day at a time, in plain Python."""
    volumes, drug = [start], 0.0
    for (chemo, radio), e in zip(doses, noise, strict=True):
        drug = drug * math.exp(-math.log(2.0)) + chemo
        now = volumes[-1]
        beta = alpha / 10.0
        volumes.append(
            now
            * (
                1.0
                + growth * math.log((4.0 / 3.0 * math.pi * 15.0**3) / now)
                - sensitive * drug
                - (alpha * radio + beta * radio * radio)
                + e
            )
        )
    return volumes


def test_courses_follow_the_published_equations(patients, chance):
    courses = treat(patients, 4.0, chance, lag=1)
    # Full courses, and volumes above the cell that the small constants inside the logarithm stand for.
    long = np.flatnonzero((courses.lengths == DAYS - 1) & (courses.volumes.min(1) > 1e-3))
    assert len(long) > 50
    for i in long[:50]:
        wanted = reference(
            patients.start[i],
            patients.growth[i],
            patients.alpha[i],
            patients.drug[i],
            courses.doses[i, :-1],
            chance.noise[i, 1:DAYS],
        )
        np.testing.assert_allclose(courses.volumes[i], wanted, rtol=1e-3)
        np.testing.assert_allclose(courses.volumes[i, :5], wanted[:5], rtol=1e-6)


def test_a_sphere_of_13_cm_is_fatal_and_its_diameter_is_13_cm():
    assert pytest.approx(1150.35, abs=0.01) == DEATH
    assert diameter(volume(np.array([13.0, 30.0]))) == pytest.approx([13.0, 30.0])
    assert volume(30.0) == pytest.approx(CAPACITY)


def test_patients_are_as_published():
    many = Patients.draw(20_000, np.random.default_rng(3))
    sizes = diameter(many.start)
    assert 0.3 <= sizes.min() and sizes.max() <= 13.0
    assert (many.alpha > 0).all() and (many.growth > 0).all() and (many.drug > 0).all()
    # The shifted means of who responds better; a truncated normal's correlation stays high.
    assert many.drug[many.kind == 2].mean() - many.drug[many.kind == 1].mean() == pytest.approx(0.0028, rel=0.05)
    assert np.corrcoef(many.alpha, many.growth)[0, 1] > 0.6
    assert np.bincount(many.kind) / 20_000 == pytest.approx([1 / 3] * 3, abs=0.02)


def test_gamma_zero_treats_at_random_and_more_gamma_follows_the_tumour_more():
    sizes = np.array([1.0, 6.5, 12.0])
    assert probability(sizes, 0.0) == pytest.approx([0.5, 0.5, 0.5])
    spread = [np.ptp(probability(sizes, gamma)) for gamma in (0, 1, 2, 4, 10)]
    assert (np.diff(spread) > 0).all()
    assert probability(np.array([6.5]), 10.0) == pytest.approx([0.5])


def test_confounding_grows_with_gamma(patients, chance):
    def confounding(gamma):
        courses = treat(patients, gamma, chance, lag=1)
        day = courses.lengths > 10
        return np.corrcoef(diameter(patients.start[day]), courses.doses[day, 1, 1])[0, 1]

    found = [confounding(gamma) for gamma in (0.0, 2.0, 4.0, 10.0)]
    assert abs(found[0]) < 0.15
    assert (np.diff(found) > 0).all()
    assert found[-1] > 0.5


def test_therapy_of_the_training_set_begins_on_the_second_day_and_sees_no_volume_of_today(patients, chance):
    courses = treat(patients, 2.0, chance, lag=1)
    assert (courses.doses[:, 0] == 0).all() and (courses.doses[:, 1] > 0).any()
    likely, alive = probability(diameter(patients.start), 2.0), courses.lengths > 1
    np.testing.assert_array_equal((courses.doses[:, 1, 1] > 0)[alive], (chance.treat[:, 1, 1] < likely)[alive])


def test_a_course_ends_at_death_or_recovery_and_stays_ended(patients, chance):
    courses = treat(patients, 0.0, chance, lag=0)
    over = np.arange(DAYS)[None] > courses.lengths[:, None]
    assert (courses.volumes[over] == 0).all() and (courses.doses[over[:, :DAYS]] == 0).all()
    ended = courses.volumes[np.arange(400), courses.lengths][courses.lengths < DAYS - 1]
    assert len(ended) > 20 and ((ended >= DEATH) | (ended < 1e-6)).all()
