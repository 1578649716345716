"""What is the same, and what is not, for the arms of a track."""

from pathlib import Path

import numpy as np
import pytest

from foreworld.agent.agent import ACTORS, Actor
from foreworld.domains.treatment import closed_loop, track_protocol
from foreworld.domains.treatment.closed_loop import (
    CEILING_ARMS,
    Job,
    Run,
    add_samples,
    run_job,
    sensor_sound,
    subjects_of,
)
from foreworld.domains.treatment.loop import Loop, planner_share
from foreworld.domains.treatment.oref0 import Oref0
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import GROUPS, Prepared
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.task import PROFILES
from foreworld.domains.treatment.track_protocol import LOOP_METRICS
from foreworld.domains.treatment.tracks import TRACKS, LoopConfig
from foreworld.evidence import sampled
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import Names
from foreworld.evidence.samples import Samples


@pytest.mark.parametrize("track", TRACKS, ids=lambda track: track.name)
def test_whoever_announces_nothing_is_planned_for_with_the_caution_that_guessed_meals_need(track):
    assert track.config.profile == ("standard" if track.config.scenario.announced else "unannounced")
    assert PROFILES[track.config.profile].weight("low") == (1.0 if track.config.scenario.announced else 6.0)
    # A trajectory score is that of the plans which a profile chooses: it is calibrated by the same.
    calibrated = FULL.calibrate if track.config.scenario.announced else FULL.calibrate.silent()
    assert calibrated.profile == track.config.profile


class Stopped(Exception):
    pass


@pytest.mark.parametrize("arm", [*CEILING_ARMS, "foreworld"])
def test_a_ceiling_plans_by_the_standard_profile_whatever_the_track_asks_of_others(arm, monkeypatch):
    planned = []

    def run(agent, simulator, **options):
        planned.append(agent.configurator.profile.name)
        raise Stopped

    monkeypatch.setattr(closed_loop, "run_agent", run)
    if arm == "foreworld":  # any forecaster will do: what it plans by is asked, not how well
        monkeypatch.setattr(
            closed_loop, "_forecaster", lambda job: closed_loop.make_oracle(closed_loop.simulator_of(job))
        )
    job = Job(arm, 0, subjects_of(1), LoopConfig(days=1, burn_in=0, profile="unannounced"))
    with pytest.raises(Stopped):
        run_job(job)
    assert planned == ["unannounced" if arm == "foreworld" else "standard"]


def test_refusals_and_interventions_are_counted_a_day_and_apart_from_faults():
    names = subjects_of(2)
    job = Job("foreworld", 0, names, LoopConfig(days=1, burn_in=1))
    planner, fallback = ACTORS.index(Actor.planner), ACTORS.index(Actor.fallback)
    actors = np.full((2, 576), planner)
    actors[0, 0:100] = fallback  # burn-in
    actors[0, 288:300] = fallback
    sound = np.ones((2, 288), dtype=bool)
    sound[0, :6] = sound[1, :144] = False
    intervened = np.zeros((2, 576), dtype=bool)
    intervened[1, [5, 300, 301]] = True
    bg = np.full((2, 576), 120.0)
    bg[0, 480:], actors[0, 480:] = 10.0, fallback  # failed, and frozen
    loop = Loop(bg, bg, bg, bg, actors, bg, (), np.ones(2, bool), intervened=intervened)
    run = Run(bg[:, 288:], np.full((2, 288), 0.1), 1.0, 1.0, planner_share(loop, 288), sound, loop)
    samples = Samples((0,), Names(frozenset({"foreworld"}), frozenset(GROUPS), frozenset(LOOP_METRICS)))
    add_samples(samples, job, run)
    order = [sorted(names).index(name) for name in names]
    for metric, expected in (
        ("refusals", [(12 + 96) / 288, 0.0]),
        ("refusals_per_day", [12.0 + 96.0, 0.0]),
        ("refusals_unfaulted", [6 / (282 - 96), 0.0]),
        ("interventions_per_day", [0.0, 2.0]),
    ):
        np.testing.assert_allclose(samples.by_subject("foreworld", metric)[0, order], expected, err_msg=metric)


def test_a_sensor_is_sound_where_no_fault_is_active():
    patients = load_patients(["adult#001"])
    config = ScenarioConfig(days=14, dropout_per_day=1.0, dropout_minutes=(120.0, 120.0), regular_faults=True)
    sound = sensor_sound(Simulator(patients, Scenario.draw(patients, config, seed=0)))
    assert sound.shape == (1, 14 * 288)
    assert (~sound).mean() == pytest.approx(2 / 24, abs=0.01)
    assert sensor_sound(Simulator(patients, Scenario.draw(patients, ScenarioConfig(days=1), seed=0))).all()


def test_what_another_process_spends_on_a_decision_counts(monkeypatch):
    class Elsewhere(Oref0):
        def __init__(self, **options):
            self.cpu_seconds = 0.0

        def reset(self, patients):
            self.dose = patients.basal / 12.0

        def act(self, seen):
            self.cpu_seconds += 2.0
            return self.dose

    monkeypatch.setattr(closed_loop, "Oref0", Elsewhere)
    run = run_job(Job("oref0", 0, subjects_of(2), LoopConfig(days=1, burn_in=0)))
    assert run.cpu_ms == pytest.approx(1000.0, rel=0.01)  # 2 s for two patients
    assert run.cpu_seconds >= 2.0 * 288


def test_pid_and_oref0_are_fitted_in_the_simulator_that_they_then_run_in(monkeypatch):
    legacy = next(track.config for track in TRACKS if track.name == "t1d-legacy")
    told = []
    monkeypatch.setattr(closed_loop, "tune_pid", lambda patients, *, scenario, simulator: told.append(simulator))
    monkeypatch.setattr(closed_loop, "PID", lambda gains: None)
    patients = load_patients(subjects_of(2))
    closed_loop._controller(Job("pid", 0, subjects_of(2), legacy), patients)
    made = closed_loop._controller(Job("oref0_smb", 0, subjects_of(2), legacy), patients)
    assert [*told, made.simulator] == [legacy.simulator] * 2 and legacy.simulator.meal_units == "legacy"


@pytest.mark.parametrize(("costs", "told"), [((900.0, float("nan")), False), ((900.0, 1200.0), True)])
def test_a_training_cost_is_told_of_all_seeds_or_of_none(costs, told, monkeypatch):
    made = {
        seed: Prepared(model=Path("m"), data=Path("d"), cpu_seconds=cost, policies={})
        for seed, cost in enumerate(costs)
    }
    bg = np.full((2, 288), 120.0)
    monkeypatch.setattr(track_protocol, "prepare_all", lambda request, report, announced: made)
    monkeypatch.setattr(sampled, "run_all", lambda work, jobs, workers: [Run(bg, bg, 1.0, 1.0) for _ in jobs])
    track = next(track for track in TRACKS if track.name == "t1d-announced")
    request = Request(seeds=(0, 1), arms=("foreworld",), subjects=2, quick=True)
    rows = track_protocol.run_loop(track, request).rows()
    found = [row.value for row in rows if row.metric == "train_cpu_seconds" and row.group == "all"]
    assert found == ([1200.0] if told else [])
    assert any(row.metric == "time_in_range" for row in rows)
