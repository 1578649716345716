"""Branches of the same patient, the published test set, the comparators and the protocol."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.tumour.growth import CHEMO, DEATH, RADIO, Patients
from foreworld.domains.treatment.tumour.therapy import (
    DAYS,
    HORIZON,
    SMALLEST,
    Chance,
    collect,
    history_of,
    training,
    treat,
)
from foreworld.domains.treatment.tumour_benchmark import protocol
from foreworld.domains.treatment.tumour_benchmark.branches import PER_DAY, branch_out, published
from foreworld.domains.treatment.tumour_benchmark.comparators import PlainNetwork, filtered, network_volumes
from foreworld.domains.treatment.tumour_benchmark.predict import directly, stepwise
from foreworld.evidence.protocol import Request
from foreworld.model.world_model import WorldModel

N = 60


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    patients, chance = Patients.draw(N, rng), Chance.draw(N, rng)
    return patients, chance, treat(patients, 2.0, chance, lag=0)


def branches_of(world, plans, seed=0):
    patients, chance, courses = world
    return branch_out(patients, courses, chance, plans, np.random.default_rng(seed))


def few(found):
    """Those of the first days."""
    return replace(found, **{field.name: getattr(found, field.name)[:20] for field in fields(found)})


def test_a_branch_of_what_was_done_is_what_happened(world):
    courses = world[2]
    for plans in ("single", "random", "sliding"):
        found = branches_of(world, plans)
        done = (found.plan[:, :, 0] == courses.doses[found.patient, found.day][:, None]).all(-1)
        assert done.any(1).all()
        wanted = np.broadcast_to(courses.volumes[found.patient, found.day + 1][:, None], done.shape)
        np.testing.assert_allclose(found.truth[done, 0], wanted[done], rtol=1e-9)


def test_branches_share_the_patients_noise(world):
    _, chance, courses = world
    found = branches_of(world, "single")
    now = courses.volumes[found.patient, found.day][:, None]
    # The factual branch is cut at death and at zero; noise shows in all others.
    inside = (found.truth[..., 0] < DEATH) & (found.truth[..., 0] > 1e-9)
    noise = np.broadcast_to(chance.noise[found.patient, found.day + 1][:, None], inside.shape)
    shown = (found.truth[..., 0] - found.oracle[..., 0]) / now
    np.testing.assert_allclose(shown[inside], noise[inside], atol=1e-9)


def test_one_day_has_all_four_treatments_and_six_days_have_ten_plans(world):
    single = branches_of(world, "single")
    assert {tuple(dose) for dose in single.plan[0, :, 0]} == {(0, 0), (CHEMO, 0), (0, RADIO), (CHEMO, RADIO)}
    sliding = branches_of(world, "sliding")
    assert sliding.plan.shape[1:] == (PER_DAY, HORIZON, 2)
    assert ((sliding.plan[:, :, 1:] > 0).sum((2, 3)) == 1).all()
    assert len(np.unique(sliding.plan[0, :, 1:].reshape(PER_DAY, -1), axis=0)) == PER_DAY
    random = branches_of(world, "random")
    assert 0.45 < (random.plan[:, :, 1:] > 0).mean() < 0.55


def test_the_published_therapy_looks_at_the_first_patients(world):
    patients, chance, own = world
    rng = np.random.default_rng(5)
    small = published(patients, 10.0, chance, "single", rng)
    # The first patient sees nothing at all, and at gamma 10 nothing is nearly never treated.
    assert small.doses[0].any(-1).mean() < 0.05
    # What others see does not depend on their own tumour.
    patients_swapped = patients.pick(np.r_[0, np.arange(1, N)[::-1]])
    again = published(patients_swapped, 10.0, chance, "single", np.random.default_rng(5))
    shared = np.minimum(small.lengths, again.lengths) > 20
    np.testing.assert_array_equal(small.doses[shared, :20], again.doses[shared, :20])
    assert not np.array_equal(own.doses, small.doses)


def test_the_store_begins_on_the_second_day_and_keeps_short_courses(tmp_path):
    store = collect(tmp_path / "data", 2.0, (80, 20), seed=0)
    assert store.lengths.min() >= 1 and store.lengths.max() == DAYS - 2
    episode = store.episode(0)
    assert episode.values["volume"].min() >= np.float32(SMALLEST)
    starts = np.mean([store.episode(i).values["radio"][0] > 0 for i in range(len(store))])
    assert starts > 0.1
    assert set(store.splits()["default"]) == {"fit", "validate"}


def test_the_filter_is_better_than_knowing_nothing_and_knows_the_patient_in_the_end():
    rng = np.random.default_rng(0)
    patients, chance = Patients.draw(300, rng), Chance.draw(300, rng)
    courses = treat(patients, 0.0, chance, lag=0)
    found = branch_out(patients, courses, chance, "single", rng)
    guess = filtered(patients, courses, found, rng)
    size = courses.volumes[found.patient, found.day][:, None, None]
    wrong, unavoidable = ((guess - found.truth) / size), ((found.oracle - found.truth) / size)
    early, late = found.day == 0, found.day > 20
    assert np.sqrt((wrong[late] ** 2).mean()) < 1.5 * np.sqrt((unavoidable[late] ** 2).mean())
    assert np.sqrt((wrong[early] ** 2).mean()) > 5.0 * np.sqrt((wrong[late] ** 2).mean())
    # Nobody is known on the first day: the best guess is right in the mean.
    assert abs(wrong[early].mean()) < 0.03


def test_a_network_without_a_plan_beyond_the_day_asked_for_does_not_change(world):
    patients, _, courses = world
    torch.manual_seed(0)
    network, found = PlainNetwork(), few(branches_of(world, "random"))
    first = network_volumes(network, patients, courses, found)
    assert first.shape == (*found.kept.shape, HORIZON)
    later = found.plan.copy()
    later[:, :, 3:] = 0.0
    other = replace(found, plan=later)
    second = network_volumes(network, patients, courses, other)
    np.testing.assert_allclose(first[..., :3], second[..., :3], rtol=1e-5)
    assert not np.allclose(first[..., 5], second[..., 5], rtol=1e-5)


def test_the_world_model_foresees_no_dose_before_it_is_given(tmp_path, world):
    patients, _, courses = world
    store = collect(tmp_path / "data", 2.0, (60, 10), seed=0)
    torch.manual_seed(0)
    model = WorldModel(store.schema, training(1, 0).model).eval()
    found = few(branches_of(world, "random"))
    first = directly(model, patients, courses, found)
    later = found.plan.copy()
    later[:, :, 3:] = 0.0
    second = directly(model, patients, courses, replace(found, plan=later))
    np.testing.assert_allclose(first[..., :3], second[..., :3], rtol=1e-4)
    assert not np.allclose(first[..., 5], second[..., 5], rtol=1e-4)
    assert len(history_of(patients, courses)) == N


def test_day_by_day_begins_like_all_days_at_once_and_looks_no_further(tmp_path, world):
    patients, _, courses = world
    store = collect(tmp_path / "data", 2.0, (60, 10), seed=0)
    torch.manual_seed(0)
    model = WorldModel(store.schema, training(1, 0).model).eval()
    found = few(branches_of(world, "random"))
    first = stepwise(model, patients, courses, found)
    at_once = directly(model, patients, courses, found)
    np.testing.assert_allclose(first[..., 0], at_once[..., 0], rtol=1e-4)
    later = found.plan.copy()
    later[:, :, 3:] = 0.0
    second = stepwise(model, patients, courses, replace(found, plan=later))
    np.testing.assert_allclose(first[..., :3], second[..., :3], rtol=1e-4)
    assert not np.allclose(first[..., 5], second[..., 5], rtol=1e-4)


def test_the_quick_protocol_gives_a_row_for_every_arm_and_metric():
    experiment = protocol.tumour((0, 4))
    evidence = experiment.evaluate(Request(seeds=(0,), quick=True))
    assert {row.arm for row in evidence.rows} == set(protocol.ARMS)
    assert {row.metric for row in evidence.rows} == set(protocol.METRICS)
    assert {row.group for row in evidence.rows} == {"gamma_4", "gamma_4_own"}
    oracle, best = (
        evidence.row("oracle", "rmse_random_6", "gamma_4"),
        evidence.row("filter", "rmse_random_6", "gamma_4"),
    )
    assert 0.0 < oracle.value < best.value
