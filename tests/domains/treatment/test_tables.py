"""The patients: read where pip put them, and jittered so that the basal state is exact."""

import importlib.util
import sys

import numpy as np
import pytest

from foreworld.domains.treatment import tables
from foreworld.domains.treatment.physiology import derivatives, initial_state
from foreworld.domains.treatment.tables import (
    COLUMN,
    DERIVED,
    GROUPS,
    INDEPENDENT,
    TRAINING,
    UNSEEN,
    concatenate,
    derive,
    jitter,
    load_patients,
    measured_response,
    steady_state,
    table_folder,
)
from foreworld.errors import InputError, MissingDataError


def test_loads_thirty_patients_with_known_values():
    patients = load_patients()
    assert len(patients) == 30 and len(set(patients.names)) == 30
    assert [patients.group.count(group) for group in GROUPS] == [10, 10, 10]
    adult = load_patients(["adult#001"])
    assert adult.weight[0] == pytest.approx(102.32)
    assert adult.basal[0] == pytest.approx(1.2386244136 * 102.32 / 100.0)
    assert adult.cr[0] == 10.0 and adult.cf[0] == pytest.approx(8.77310657487)


def test_training_and_unseen_split_the_thirty():
    assert len(TRAINING) == 9 and len(UNSEEN) == 21
    assert set(TRAINING) | set(UNSEEN) == set(load_patients().names)
    assert not set(TRAINING) & set(UNSEEN)


def test_does_not_import_simglucose():
    table_folder()
    assert "simglucose" not in sys.modules


def test_absent_tables_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"pip install --no-deps simglucose==0\.2\.11"):
        load_patients()


def test_selects_by_name_and_index_in_order():
    patients = load_patients()
    pair = patients.select(["child#003", "adult#001"])
    assert pair.names == ("child#003", "adult#001")
    assert pair.select([1, 1, 0]).names == ("adult#001", "adult#001", "child#003")
    assert (pair + pair).names == concatenate([pair, pair]).names == pair.names * 2
    for wrong in (["adult#011"], [30], [-1]):
        with pytest.raises(InputError, match="no patient"):
            patients.select(wrong)
    with pytest.raises(InputError, match="no patients"):
        concatenate([])


def test_derived_columns_follow_from_the_independent_ones():
    patients = load_patients()
    derived = derive(patients.params)
    relative = np.abs(derived / patients.params - 1.0)
    # adult#004's liver columns were made for 66.6 kg while its BW column says 63.0; the other 29 rows agree.
    odd = np.array([name == "adult#004" for name in patients.names])
    assert relative[~odd].max() < 1e-9
    weight_free = [COLUMN[name] for name in DERIVED if name in ("Ipb", "Gpb", "Gtb", "Vm0", "m30", "kp1")]
    assert relative[odd][:, weight_free].max() < 1e-9
    assert relative[odd].max() == pytest.approx(66.6006 / 63.0 - 1.0, rel=1e-3)
    np.testing.assert_allclose(steady_state(patients.params), patients.x0, rtol=1e-9)


@pytest.mark.parametrize("mix", [True, False])
def test_jittered_patients_rest_exactly_and_stay_plausible(mix):
    parents = load_patients(TRAINING)
    children = jitter(parents, 200, seed=3, mix=mix)
    state = initial_state(children)
    assert np.abs(derivatives(children, state, children.basal / 60.0)).max() < 1e-12
    value = {name: children.params[:, index] for name, index in COLUMN.items()}
    assert np.all(value["Gtb"] > 0) and np.all(value["EGPb"] > value["Fsnc"]) and np.all(value["Gpb"] < value["ke2"])
    assert np.all(value["kmin"] < value["kmax"]) and np.all(value["d"] < value["b"])
    assert np.all((value["b"] > 0) & (value["b"] < 1) & (value["d"] > 0) & (value["d"] < 1))
    for name in INDEPENDENT:
        column = parents.params[:, COLUMN[name]]
        assert value[name].min() >= column.min() / 1.5 - 1e-12 and value[name].max() <= column.max() * 1.5 + 1e-12
    assert np.std(np.log(value["Vmx"])) > 0.2, "children must differ"
    np.testing.assert_array_equal(children.weight, value["BW"])


def test_jitter_is_reproducible_and_a_child_does_not_depend_on_the_count():
    parents = load_patients(TRAINING)
    few, many = jitter(parents, 3, seed=5), jitter(parents, 8, seed=5)
    assert few.names == many.names[:3] and few.names[2].endswith("~0002")
    np.testing.assert_array_equal(few.params, many.params[:3])
    np.testing.assert_array_equal(few.cr, many.cr[:3])
    assert not np.array_equal(few.params, jitter(parents, 3, seed=6).params)


def test_without_spread_or_mixing_a_child_is_its_parent():
    parents = load_patients(TRAINING)
    children = jitter(parents, 6, seed=0, spread=0.0, mix=False)
    origin = parents.select([name.split("~")[0] for name in children.names])
    np.testing.assert_allclose(children.params, origin.params, rtol=1e-9)
    assert np.abs(np.log(children.cr / origin.cr)).max() < 0.15 * 4
    assert not np.array_equal(children.cr, origin.cr), "the record carries noise of its own"


def test_records_follow_the_measured_response():
    parents = load_patients(TRAINING)
    children = jitter(parents, 300, seed=1, mix=False)
    origin = parents.select([name.split("~")[0] for name in children.names])
    ratio, drop = measured_response(children.params)
    origin_ratio, origin_drop = measured_response(origin.params)
    for mine, theirs, record, before in (
        (ratio, origin_ratio, children.cr, origin.cr),
        (drop, origin_drop, children.cf, origin.cf),
    ):
        left_over = np.log(record / before) - np.clip(np.log(mine / theirs), np.log(0.4), np.log(2.5))
        assert np.median(np.abs(left_over)) < 0.15
        assert np.all((record / before >= 0.4 - 1e-12) & (record / before <= 2.5 + 1e-12))


def test_measured_response_orders_patients_as_their_correction_factors_do():
    patients = load_patients()
    ratio, drop = measured_response(patients.params)
    assert np.corrcoef(np.log(drop), np.log(patients.cf))[0, 1] > 0.9
    assert np.corrcoef(np.log(ratio), np.log(patients.cr))[0, 1] > 0.75


def test_jitter_refuses_what_it_cannot_do(monkeypatch):
    parents = load_patients(TRAINING)
    with pytest.raises(InputError, match="count=0"):
        jitter(parents, 0, seed=0)
    monkeypatch.setattr(tables, "derive", lambda params: np.zeros_like(params))
    with pytest.raises(InputError, match="smaller spread"):
        jitter(parents, 1, seed=0)
