"""The thinnest path through everything: collect, train, calibrate, close the loop, rows of evidence."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foreworld.agent.agent import ACTORS
from foreworld.domains.treatment import prepare, prepared, protocols, track_protocol
from foreworld.domains.treatment.calibrate import CalibrateConfig, load_forecaster
from foreworld.domains.treatment.closed_loop import (
    STEPS_A_DAY,
    Job,
    add_samples,
    groups_of,
    run_job,
    subjects_of,
)
from foreworld.domains.treatment.collect import CollectConfig, collect
from foreworld.domains.treatment.dosing import dose_cap
from foreworld.domains.treatment.prepare import Recipe
from foreworld.domains.treatment.tables import TRAINING, UNSEEN, load_patients
from foreworld.domains.treatment.tracks import TRACKS, LoopConfig
from foreworld.episodes import EpisodeStore
from foreworld.episodes.files import one_writer
from foreworld.errors import InputError, MissingDataError
from foreworld.evidence import parallel
from foreworld.evidence.protocol import Evidence, Request
from foreworld.evidence.rows import NAMES, Names
from foreworld.evidence.samples import Samples
from foreworld.model.checkpoint import load, read_extra

RECIPE = Recipe(
    name="tiny",
    window=576,
    collect=CollectConfig(subjects=14, days=3),
    steps=12,
    calibrate=CalibrateConfig(subjects=8, logged_subjects=16, days=2, loop_days=0.3, rounds=1, every=2),
)
LOOP = LoopConfig(days=1, burn_in=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Prepared in one go: folder, CPU seconds, what was reported."""
    folder, told = tmp_path_factory.mktemp("pipeline") / "made", []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, spent = prepare.prepare(folder, RECIPE, seed=1, progress="none", report=told.append)
    torch.set_num_threads(threads)
    return folder, spent, told


def same_model(one, two):
    first, second = load(one / "model").state_dict(), load(two / "model").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The time it took is not part of it.
    assert read_extra(one / "model")["calibration"] == read_extra(two / "model")["calibration"]


def forbidden(*inputs, **options):
    raise AssertionError("this part was finished and must not be made again")


def test_prepare_gives_a_calibrated_forecaster_and_says_what_it_does(whole):
    folder, spent, told = whole
    calibration = load_forecaster(folder / "model").calibration
    assert calibration.subjects == 16 and calibration.novelty is not None
    assert calibration.trajectory["predicted_low"].keys() >= {"0.2"}
    assert calibration.notes["rounds"][0]["plans"] > 20
    assert 0 < spent < 600
    assert [line.split()[0] for line in told] == ["collecting", "training", "calibrating", "round"]
    card = (folder / "model" / "README.md").read_text()
    # Calibrating keeps what training said.
    assert "for 12 steps" in card and "On subjects not learned from" in card
    assert "Calibrated on 16 other virtual people, its guardrails in 1 rounds" in card


def test_a_finished_folder_is_reused_as_it_is(whole, monkeypatch):
    folder, spent, _ = whole
    for part in ("collect", "train", "calibrate"):
        monkeypatch.setattr(prepare, part, forbidden)
    forecaster, again = prepare.prepare(folder, RECIPE, seed=1, progress="none")
    assert again == spent
    assert forecaster.calibration == load_forecaster(folder / "model").calibration


def test_another_calibration_is_made_of_the_same_model_and_costs_what_it_costs(whole, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    shutil.copytree(whole[0], folder)
    other = RECIPE.model_copy(update={"calibrate": RECIPE.calibrate.model_copy(update={"every": 3})})
    with monkeypatch.context() as patch:
        for part in ("collect", "train"):
            patch.setattr(prepare, part, forbidden)
        forecaster, spent = prepare.prepare(folder, other, seed=1, progress="none")
    before = load_forecaster(whole[0] / "model").calibration
    assert forecaster.calibration.notes["config"]["every"] == 3
    assert forecaster.calibration.bands == before.bands and forecaster.calibration != before
    assert 0 < spent < 600


@pytest.mark.parametrize("change", [{"seed": 2}, {"steps": 13}])
def test_a_folder_is_not_reused_for_another_seed_or_recipe(whole, change):
    recipe = RECIPE.model_copy(update={k: v for k, v in change.items() if k != "seed"})
    with pytest.raises(InputError, match="another recipe, seed or store; use a new folder"):
        prepare.prepare(whole[0], recipe, seed=change.get("seed", 1), progress="none")


KILLED = """
import os, signal, torch
from foreworld.domains.treatment import prepare
from tests.end_to_end.test_pipeline import RECIPE
torch.set_num_threads(1)
def die(*inputs, **options):
    os.kill(os.getpid(), signal.SIGKILL)
prepare.train = die
prepare.prepare({folder!r}, RECIPE, seed=1, progress="none")
"""


def test_killed_after_collecting_it_goes_on_to_the_same_result(whole, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED.format(folder=str(folder))],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert (folder / "data").is_dir() and not (folder / "model").exists()
    monkeypatch.setattr(prepare, "collect", forbidden)
    _, spent = prepare.prepare(folder, RECIPE, seed=1, progress="none")
    same_model(folder, whole[0])
    # What the killed process spent on training nobody knows.
    assert np.isnan(spent)


class Interrupted(Exception):
    pass


def interrupted(*inputs, **options):
    raise Interrupted


def test_interrupted_while_collecting_it_collects_again(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "split", interrupted)
        with pytest.raises(Interrupted):
            prepare.prepare(tmp_path / "made", RECIPE, seed=1, progress="none")
    assert (tmp_path / "made" / "data").is_dir()
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "train", interrupted)
        with pytest.raises(Interrupted):
            prepare.prepare(tmp_path / "made", RECIPE, seed=1, progress="none")
    ours, theirs = EpisodeStore.open(tmp_path / "made" / "data"), EpisodeStore.open(whole[0] / "data")
    assert ours.schema == theirs.schema and ours.splits() == theirs.splits() and len(ours) == len(theirs)


def test_interrupted_while_calibrating_it_only_calibrates_and_threads_are_given_back(whole, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "calibrate", interrupted)
        torch.set_num_threads(2)
        with pytest.raises(Interrupted):
            prepare.prepare(folder, RECIPE, seed=1, progress="none")
        assert torch.get_num_threads() == 2
    monkeypatch.setattr(prepare, "train", forbidden)
    prepare.prepare(folder, RECIPE, seed=1, progress="none")
    same_model(folder, whole[0])


def test_two_processes_cannot_prepare_one_folder_and_many_may_read_a_finished_one(whole, tmp_path):
    with one_writer(whole[0] / ".lock"):
        prepare.prepare(whole[0], RECIPE, seed=1, progress="none")
        assert prepare.collected(whole[0], RECIPE, seed=1) == whole[0] / "data"
        # The same weights, calibrated for other people, are not there yet.
        with pytest.raises(InputError, match="another writer"):
            prepare.prepare(whole[0], RECIPE, seed=1, announced=False, progress="none")
    with one_writer(tmp_path / ".lock"), pytest.raises(InputError, match="another writer"):
        prepare.prepare(tmp_path, RECIPE, seed=1, progress="none")


def test_a_model_of_a_given_store_is_kept_apart_from_that_of_a_collected_one(whole, tmp_path):
    collect(tmp_path / "mine", CollectConfig(subjects=14, days=1), seed=9)
    keys = {RECIPE.key(0), RECIPE.key(1), RECIPE.key(0, whole[0] / "data"), RECIPE.key(0, tmp_path / "mine")}
    assert len(keys) == 4
    EpisodeStore.open(tmp_path / "mine").split("other", {"fit": 0.5, "validate": 0.5}, 0)
    assert RECIPE.key(0, tmp_path / "mine") not in keys
    with pytest.raises(InputError, match="no episode store"):
        RECIPE.key(0, tmp_path / "nothing")


# --- closed loop -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(whole):
    names = subjects_of(3)
    return Job("foreworld", 0, names, LOOP, whole[0] / "model", whole[0] / "data", keep_forecasts=24)


@pytest.fixture(scope="module")
def run(job):
    return run_job(job)


def test_three_unseen_patients_are_treated_for_a_day_within_the_dose_cap(job, run):
    assert set(job.subjects) <= set(UNSEEN) and not set(job.subjects) & set(TRAINING)
    assert run.bg.shape == run.insulin.shape == (3, STEPS_A_DAY)
    # Twelve steps of training make no doctor: whether everybody is well is not asked.
    assert np.isfinite(run.bg).all() and np.isfinite(run.insulin).all()
    assert (run.insulin >= 0).all() and (run.insulin <= dose_cap(load_patients(job.subjects))[:, None] * 1.000001).all()
    assert (run.insulin > 0).any(axis=1).all()
    assert run.loop is not None and run.planned is not None
    np.testing.assert_array_equal(run.planned, (run.loop.actors == ACTORS.index(ACTORS[0])).mean(1))
    assert sum(run.loop.refusals.values()) == round(float((1 - run.planned).sum()) * STEPS_A_DAY)
    assert sorted(run.loop.forecasts) == list(range(0, STEPS_A_DAY, 24))
    assert 0 < run.cpu_ms < 1000 and run.cpu_seconds > 1e-3 * run.cpu_ms * STEPS_A_DAY * 3


def test_a_run_gives_valid_rows(job, run):
    names = NAMES | Names(frozenset({"foreworld"}), frozenset(prepared.GROUPS), frozenset(track_protocol.LOOP_METRICS))
    samples = Samples((0,), names)
    add_samples(samples, job, run)
    rows = samples.rows()
    found = {(row.group, row.metric): row for row in rows}
    assert len(found) == len(rows)
    share = found["all", "time_in_range"]
    assert share.value == pytest.approx(((run.bg >= 70) & (run.bg <= 180)).mean()) and share.n == 3
    assert found["child", "time_in_range"].n == 1 and found["unseen", "failures"].value == pytest.approx(
        (run.bg.min(1) < 10).mean()
    )
    assert found["all", "refusals"].value == pytest.approx(1 - run.planned.mean())


def test_the_same_job_gives_the_same_run_in_another_process(job, run):
    (other,) = list(parallel.run_all(run_job, [job, job], workers=2))[:1]
    np.testing.assert_array_equal(other.bg, run.bg)
    np.testing.assert_array_equal(other.insulin, run.insulin)


def test_arms_meet_the_same_meals_and_errors(whole):
    runs = {arm: run_job(Job(arm, 3, subjects_of(3), LOOP)) for arm in ("bb", "bb_error", "nothing")}
    # Before anybody eats every arm delivers basal to the same people.
    np.testing.assert_allclose(runs["bb"].bg[:, :48], runs["nothing"].bg[:, :48])
    assert not np.allclose(runs["bb"].insulin, runs["bb_error"].insulin)
    assert all(run.planned is None for run in runs.values())


def test_subjects_are_the_unseen_first_and_every_group_has_its_share():
    names = subjects_of(None)
    assert len(names) == 30 and set(names[:21]) == set(UNSEEN) and set(names[21:]) == set(TRAINING)
    assert [name.split("#")[0] for name in names[:3]] == ["adult", "adolescent", "child"]
    assert groups_of(("adult#001", "adult#005")) == [("adult",), ("adult", "unseen")]


# --- protocols -------------------------------------------------------------------------------------------------------


def test_a_protocol_without_a_learning_arm_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    request = Request(quick=True, arms=("bb_error", "fallback"), seeds=(0,))
    evidence = protocols.PROTOCOLS["treatment/t1d-announced"].evaluate(request)
    assert isinstance(evidence, Evidence) and not list(tmp_path.iterdir())
    found = {(row.arm, row.group, row.metric): row for row in evidence.rows}
    assert len(found) == len(evidence.rows)
    assert found["fallback", "all", "time_in_range"].n == 4
    assert found["fallback", "all", "time_below_54"].value <= found["bb_error", "all", "time_below_54"].value
    content = json.loads(evidence.to_json())
    assert content["protocol"] == "treatment/t1d-announced" and content["seeds"] == [0]


@pytest.mark.parametrize("track", TRACKS, ids=lambda track: track.name)
def test_every_track_runs_its_arms_on_patients_of_its_groups(track, tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    request = Request(quick=True, arms=("fallback", "nothing"), seeds=(0,))
    evidence = protocols.PROTOCOLS[f"treatment/{track.name}"].evaluate(request)
    found = {(row.arm, row.group, row.metric): row for row in evidence.rows}
    assert {row.group for row in evidence.rows} == {"all", "unseen", *track.config.groups}
    mean, worst = found["nothing", "all", "time_in_range"], found["nothing", "all", "time_in_range_worst"]
    assert worst.value <= found["nothing", "all", "time_in_range_p5"].value <= mean.value and worst.n == 4


def test_a_peer_that_is_not_installed_is_left_out_unless_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_OREF0", str(tmp_path))
    with pytest.warns(UserWarning, match="left out.*npm install"):
        assert track_protocol.available(("foreworld", "oref0", "oref0_smb", "pid")) == ("foreworld", "pid")
    assert track_protocol.available(("foreworld", "pid")) == ("foreworld", "pid")
    with pytest.raises(MissingDataError, match="npm install"):
        run_job(Job("oref0", 0, subjects_of(1), LOOP))


def test_episodes_of_a_patient_are_days_of_their_own_and_count_as_one():
    config = LoopConfig(days=1, burn_in=0, episodes=3, groups=("adult",))
    job = Job("fallback", 5, ("adult#004", "adult#005"), config)
    run = run_job(job)
    assert run.bg.shape == (6, STEPS_A_DAY) and not np.array_equal(run.bg[0], run.bg[2])
    names = Names(groups=frozenset(prepared.GROUPS), metrics=frozenset(track_protocol.LOOP_METRICS))
    samples = Samples((5,), NAMES | names)
    add_samples(samples, job, run)
    row = next(row for row in samples.rows() if row.metric == "time_in_range" and row.group == "all")
    assert row.n == 2 and row.value == pytest.approx(((run.bg >= 70) & (run.bg <= 180)).mean())
    alone = run_job(Job("fallback", 5, ("adult#005",), config))
    np.testing.assert_array_equal(alone.bg, run.bg[1::2])


@pytest.mark.parametrize(
    ("protocol", "arms"), [("treatment/forecast", ("persistence", "ar")), ("treatment/counterfactual", ("constant",))]
)
def test_other_protocols_train_nothing_either_for_arms_that_need_no_model(protocol, arms, tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    for part in ("collect", "train", "calibrate"):
        monkeypatch.setattr(prepare, part, forbidden)
    evidence = protocols.PROTOCOLS[protocol].evaluate(Request(quick=True, arms=arms, seeds=(0,)))
    assert {row.arm for row in evidence.rows} == set(arms)


def test_a_model_that_was_given_is_used_and_what_it_took_is_not_claimed(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    monkeypatch.setattr(prepare, "train", forbidden)
    request = Request(quick=True, arms=("foreworld",), seeds=(0,), subjects=1, model=whole[0] / "model")
    evidence = protocols.PROTOCOLS["treatment/t1d-announced"].evaluate(request)
    assert not list(tmp_path.iterdir())
    metrics = {row.metric for row in evidence.rows}
    assert "refusals" in metrics and "train_cpu_seconds" not in metrics


def test_an_arm_that_learns_from_the_store_gets_one_although_the_model_was_given(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    monkeypatch.setattr(prepared, "QUICK", RECIPE)
    monkeypatch.setattr(prepare, "train", forbidden)
    request = Request(quick=True, arms=("arx",), seeds=(1,), subjects=1, model=whole[0] / "model")
    parts = prepared.prepare_all(request)
    assert parts[1].model == whole[0] / "model" and np.isnan(parts[1].cpu_seconds)
    ours, theirs = EpisodeStore.open(parts[1].data), EpisodeStore.open(whole[0] / "data")
    assert ours.schema.statistics == theirs.schema.statistics
