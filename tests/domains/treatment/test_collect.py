import dataclasses

import numpy as np
import pytest

from foreworld.domains.treatment import collect as module
from foreworld.domains.treatment import tables
from foreworld.domains.treatment.collect import (
    HABITS,
    PURPOSES,
    CollectConfig,
    Habit,
    LoggedTherapy,
    cohort,
    collect,
    record_therapy,
    statics_of,
)
from foreworld.domains.treatment.dosing import dose_cap
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.schema import SCHEMA, STEP_MINUTES
from foreworld.domains.treatment.simulator import Observation, Simulator
from foreworld.domains.treatment.tables import TRAINING, UNSEEN
from foreworld.episodes import EpisodeStore, fit_statistics
from foreworld.errors import InputError

SMALL = CollectConfig(subjects=24, days=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("store") / "data", SMALL, seed=3)


def people(patients):
    """Each patient's parameters as one comparable value."""
    return {row.tobytes() for row in np.ascontiguousarray(patients.params)}


def test_cohorts_of_different_purposes_and_seeds_have_nobody_in_common():
    drawn = [cohort(purpose, 25, seed) for purpose in PURPOSES for seed in (0, 1, 10)]
    assert all(len(people(one)) == 25 for one in drawn)
    everyone = set().union(*map(people, drawn))
    names = {name for one in drawn for name in one.names}
    assert len(everyone) == len(names) == 25 * len(drawn)


def test_seeds_of_one_purpose_never_reach_those_of_the_next(monkeypatch):
    # Nobody is ever plausible: drawing must stop before it takes another cohort's seeds.
    seeds = []

    def drawn(parents, count, seed, spread, records):
        seeds.append(seed)
        return tables.jitter(parents, 1, seed=0, spread=0.1)

    monkeypatch.setattr(module, "jitter", drawn)
    monkeypatch.setattr(module, "BARELY_LOW", -1.0)
    monkeypatch.setattr(module, "ROUNDS", 5)
    for purpose in PURPOSES:
        with pytest.raises(InputError, match="smaller spread"):
            cohort(purpose, 1, 7)
    assert len(seeds) == len(set(seeds)) == 5 * len(PURPOSES)


def test_no_parameter_of_an_unseen_patient_is_read(monkeypatch, tmp_path):
    real, asked = tables.load_patients, []

    def watched(names=None):
        assert names is not None
        asked.extend(names)
        loaded = real(names)
        # Whoever takes a patient that was not asked for finds nothing.
        assert loaded.names == tuple(names)
        return loaded

    monkeypatch.setattr(module, "load_patients", watched)
    collect(tmp_path / "data", CollectConfig(subjects=8, days=1), seed=0)
    assert set(asked) == set(TRAINING) and not set(asked) & set(UNSEEN)


def test_people_are_the_same_whatever_the_unseen_patients_are(monkeypatch):
    plain = cohort("fit", 6, 0)
    real = tables.load_patients

    def altered(names=None):
        loaded = real(names)
        params = loaded.params.copy()
        params[[name in UNSEEN for name in loaded.names]] = np.nan
        return dataclasses.replace(loaded, params=params)

    monkeypatch.setattr(module, "load_patients", altered)
    np.testing.assert_array_equal(cohort("fit", 6, 0).params, plain.params)


def test_the_same_seed_gives_the_same_store_and_another_seed_another(store, tmp_path):
    again = collect(tmp_path / "again", SMALL, seed=3)
    other = collect(tmp_path / "other", SMALL, seed=4)
    assert len(store) == len(again)
    for one, two in zip(store, again, strict=True):
        assert one.subject == two.subject and one.info == two.info
        for name in SCHEMA.names():
            np.testing.assert_array_equal(one.values[name], two.values[name])
    assert store.splits() == again.splits() and store.schema == again.schema
    assert not np.array_equal(store.episode(0).values["cgm"], other.episode(0).values["cgm"])


def test_parts_are_disjoint_by_subject_and_statistics_are_those_of_the_fit_part_alone(store):
    parts = store.splits()["default"]
    assert set(parts) == {"fit", "validate"} and all(parts.values())
    assert not set(parts["fit"]) & set(parts["validate"])
    assert set(parts["fit"]) | set(parts["validate"]) == set(store.subjects)
    fitted = fit_statistics(SCHEMA, [store.episode(i) for i in store.episodes_of("default/fit")])
    everyone = fit_statistics(SCHEMA, list(store))
    assert dict(store.schema.statistics) == fitted != everyone


def test_an_episode_holds_what_the_schema_says_and_says_how_it_came_about(store):
    assert isinstance(store, EpisodeStore) and 20 <= len(store) <= 24
    for episode in store:
        episode.validate(SCHEMA)
        np.testing.assert_array_equal(np.diff(episode.times), STEP_MINUTES)
        assert len(episode) == 2 * 288
        assert episode.info["policy"] == "therapy" and episode.info["seed"] == 3
    assert {episode.info["habit"]["meals"] for episode in store} == {habit.meals for habit in SMALL.habits}


def test_doses_keep_to_the_cap_and_insulin_varies_as_real_life_does():
    patients = cohort("tune", 30, 0)
    config = CollectConfig(dose_error=1.5, habits=(Habit(share=1.0, extra=20.0),))
    scenario = Scenario.draw(patients, ScenarioConfig(days=2), seed=0)
    therapy = LoggedTherapy(config, 0)
    therapy.reset(patients)
    insulin = Simulator(patients, scenario).run(therapy.act).insulin
    cap = dose_cap(patients)[:, None]
    assert (insulin <= cap).all() and (insulin >= 0).all()
    assert (insulin == cap).any()  # the cap was needed
    basal = patients.basal[:, None] * STEP_MINUTES / 60
    assert 0.05 < (insulin == 0).mean() < 0.5  # pauses
    assert ((insulin > 0.5 * basal) & (insulin < 1.5 * basal)).mean() > 0.3


def test_logged_doses_keep_to_the_cap(store):
    patients = cohort("fit", SMALL.subjects, 3, SMALL.spread)
    cap = dict(zip(patients.names, dose_cap(patients), strict=True))
    for episode in store:
        assert episode.values["insulin"].max() <= cap[episode.subject] * (1 + 1e-6)


def test_a_silent_sensor_does_not_stop_therapy_nor_make_a_dose_nan():
    patients = cohort("tune", 4, 0)
    therapy = LoggedTherapy(CollectConfig(missed=0.0), 0)
    therapy.reset(patients)
    dose = therapy.act(Observation(0, 0, np.full(4, np.nan), np.full(4, 40.0)))
    assert np.isfinite(dose).all() and (dose > 0).all()


@pytest.mark.parametrize("exact", [False, True])
def test_the_log_holds_what_was_announced_never_before_the_first_bite(exact):
    patients = cohort("tune", 20, 1)
    config = CollectConfig(exact_log=exact, habits=(Habit(share=1.0, meals="stock"),))
    logged = {episode.subject: episode for episode in record_therapy(patients, config, 5, 2)}
    scenario = Scenario.draw(patients, ScenarioConfig(days=2, meals="stock"), seed=5)
    assert len(logged) > 15
    differ = 0
    for row, name in enumerate(patients.names):
        if name not in logged:
            continue
        carbs = logged[name].values["carbs"]
        wanted = scenario.grams if exact else scenario.announced
        np.testing.assert_allclose(carbs, wanted[row, : len(carbs)], rtol=1e-6)
        differ += not np.allclose(scenario.grams[row], scenario.announced[row])
        bites = np.flatnonzero(scenario.meals[row])
        for step in np.flatnonzero(carbs):
            before = bites[bites <= step * STEP_MINUTES]
            # The decision at or after a bite, at most a step later, and no bite without an entry.
            assert len(before) and step * STEP_MINUTES - before[-1] < STEP_MINUTES
        assert np.count_nonzero(carbs) <= len(bites)
    assert differ > 15


def test_those_who_fail_are_left_out(monkeypatch):
    patients = cohort("tune", 6, 0)
    real = Simulator.run

    def fatal(self, policy, steps=None):
        found = real(self, policy, steps)
        alive = found.alive.copy()
        alive[2, 100:] = False
        return dataclasses.replace(found, alive=alive)

    monkeypatch.setattr(Simulator, "run", fatal)
    kept = record_therapy(patients, CollectConfig(habits=(Habit(share=1.0, meals="stock"),)), 0, 1)
    assert patients.names[2] not in {episode.subject for episode in kept}
    assert len(kept) == 5


def test_statics_are_those_of_the_record():
    patients = cohort("tune", 5, 0)
    statics = statics_of(patients)
    for i, group in enumerate(patients.group):
        assert SCHEMA["age_group"].categories[statics["age_group"][i]] == group
    np.testing.assert_allclose(statics["cr"], patients.cr, rtol=1e-6)


def test_people_who_announce_nothing_are_given_insulin_that_knows_nothing_of_their_meals():
    patients = cohort("tune", 40, 2)
    habit = next(habit for habit in HABITS if not habit.announced)
    kept = record_therapy(patients, CollectConfig(habits=(habit,)), 0, 6)
    assert len(kept) > 15 and all(not episode.values["carbs"].any() for episode in kept)
    scenario = Scenario.draw(patients, habit.scenario(ScenarioConfig(days=6)), seed=0)
    eating, dosing = [], []
    for episode in kept:
        row = patients.names.index(episode.subject)
        doses = episode.values["insulin"] / (patients.basal[row] / 12.0)
        meals = scenario.grams[row, : len(doses)] > 0
        around = np.convolve(meals, np.ones(6), mode="same") > 0
        eating.append(doses[around].mean())
        dosing.append(doses[~around].mean())
    # Boluses near meals are no larger than elsewhere: within the error of their mean.
    difference = np.array(eating) - np.array(dosing)
    assert abs(difference.mean()) < 3.3 * difference.std() / np.sqrt(len(difference))
