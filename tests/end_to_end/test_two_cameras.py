"""From a store with two cameras, depth and a pose to a decision: trained, looked at, saved, loaded, planned."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from tests.cli.commands import run
from tests.model.test_pretrained import given
from tests.model.two_cameras import BARE, SIDE, config, episode

from foreworld.agent.agent import ACTORS, Actor, Agent
from foreworld.agent.calibrate import fit_novelty
from foreworld.agent.configurator import Configurator
from foreworld.cli.app import INPUT
from foreworld.conformance import check_world_model
from foreworld.domains.rooms.task import STANDARD, Reach
from foreworld.episodes import EpisodeStore, fit_statistics
from foreworld.errors import ConformanceError, InputError, SchemaError
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.learning.clips import ClipStream, labelled_frames
from foreworld.learning.diagnose import diagnose
from foreworld.learning.fit import FitConfig
from foreworld.learning.latent import TrainLatentConfig, train_latent
from foreworld.model.belief import History
from foreworld.model.checkpoint import load_as
from foreworld.model.interface import familiar
from foreworld.model.latent_loss import LatentLossConfig
from foreworld.model.latent_model import LatentModel
from foreworld.planning.goal import GoalObjective
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.space import ActionSpace


def settings(model):
    return TrainLatentConfig(
        model=model,
        loss=LatentLossConfig(slices=16),
        fit=FitConfig(steps=40, lr=3e-3, warmup=5, floor=0.0, weight_decay=1e-3, threads=1, seed=70),
        frames=3, clips=32, labels=60, check="default/check",
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "data"
    made = EpisodeStore.create(folder, BARE)
    made.append([episode(seed, 24) for seed in range(70, 90)])
    made.split("default", {"fit": 0.8, "check": 0.2}, 0)
    made.set_statistics(fit_statistics(BARE, [made.episode(i) for i in made.episodes_of("default/fit")]))
    return folder


@pytest.fixture(scope="module")
def trained(store):
    out = store.parent / "model"
    return out, train_latent(store, out, settings(config(stack=2, shared=True)), progress="none")


@dataclass(frozen=True)
class Go:
    """Move the tool to where it was seen."""

    goals: torch.Tensor
    guardrails: tuple = (Reach(),)
    max_age: dict = field(default_factory=dict)

    def objective(self, profile):
        return GoalObjective(profile, self.goals, None)

    def space(self, grid, history):
        high = torch.ones(len(history), len(grid), 2)
        return ActionSpace(grid, tuple(range(1, len(grid) + 1)), -high, high, ("across", "down"))

    def suggestions(self, space, history):
        return torch.zeros_like(space.lower)[:, None]

    def fallback(self, history):
        return torch.zeros(len(history), 2)

    last_resort = fallback


def agent_of(model, goals, calibration=None):
    agent = Agent(
        Forecaster(model, calibration), Go(goals), CEMPlanner(CEMConfig.icem(samples=16, iterations=2)),
        configurator=Configurator(STANDARD), checker=None, seed=1,
    )  # fmt: skip
    agent.start([f"bench{i}" for i in range(len(goals))], {})
    return agent


def observed(episodes, t):
    names = ("left", "right", "range", "tool", "x")
    return {name: np.stack([one.values[name][t] for one in episodes]) for name in names}


def test_what_was_learned_is_looked_at_and_loads_to_the_same_bits(store, trained):
    out, model = trained
    found = diagnose(model, store, "default/check", labelled="default/fit", clips=32, labels=60, seed=70)
    assert np.isfinite([found.variance, found.sensitivity, *found.error]).all()
    assert found.variance > 0.1 and max(found.linear["x"], found.perceptron["x"]) > 0.5
    again = load_as(LatentModel, out)
    seen = labelled_frames(EpisodeStore.open(store), model, "default/check", 8, 70)[0]
    with torch.no_grad():
        assert torch.equal(again.embed(seen), model.embed(seen))


def test_it_keeps_the_contract_of_a_world_model_but_for_what_it_does_not_see(store, trained):
    data = EpisodeStore.open(store)
    history = History.from_episodes(data.schema, [data.episode(i) for i in data.episodes_of("default/check")])
    with pytest.raises(ConformanceError) as found:
        check_world_model(load_as(LatentModel, trained[0]), history)
    # A latent is of what is seen: neither what was done last nor the label x is.
    first, second = found.value.findings
    assert "uses the last action done" in first and "missing x to differ" in second


def test_an_agent_decides_and_its_belief_is_that_of_its_memory(store, trained):
    model = load_as(LatentModel, trained[0])
    data = EpisodeStore.open(store)
    episodes = [data.episode(i) for i in data.episodes_of("default/check")][:2]
    goals = model.embed(labelled_frames(data, model, "default/check", 2, 70)[0]).detach()[:, None]
    agent = agent_of(model, goals)
    for t in range(3):
        step = agent.decide(float(t), observed(episodes, t))
        assert (step.actors == ACTORS.index(Actor.planner)).all() and (np.abs(step.actions) <= 1.0).all()
    with torch.no_grad():
        whole = model.encode(agent.memory.history())
    torch.testing.assert_close(agent.belief.latent, whole.latent, rtol=0, atol=1e-6)
    assert agent.memory.history().values["left"].shape[1] == 2  # of the frames no more than a latent is made of


def test_an_agent_whose_camera_fails_makes_no_plan(store, trained):
    model = load_as(LatentModel, trained[0])
    data = EpisodeStore.open(store)
    episodes = [data.episode(i) for i in data.episodes_of("default/check")][:2]
    seen = labelled_frames(data, model, "default/fit", 200, 70)[0]
    with torch.no_grad():
        contexts = familiar(model.prepare(model._believe(model.encoder, seen, torch.zeros(200), torch.zeros(200))))
    novelty = fit_novelty(contexts, torch.zeros(200, 3), 0.02)
    agent = agent_of(model, model.embed(seen[:2]).detach()[:, None], Calibration(novelty=novelty, subjects=4))
    agent.decide(0.0, observed(episodes, 0))
    now = observed(episodes, 1)
    now["right"] = now["right"].astype(np.float32)
    now["right"][1] = np.nan
    step = agent.decide(1.0, now)
    assert step.actors[0] == ACTORS.index(Actor.planner)
    assert step.actors[1] != ACTORS.index(Actor.planner) and (step.actions[1] == 0.0).all()


def test_clips_hold_the_moments_before_each_frame(store, trained):
    data, model = EpisodeStore.open(store), trained[1]
    stream = ClipStream(data, model, "default/fit", frames=3, clips=4, seed=70)
    clips = stream.next()
    left, tool = clips.frames.values["left"], clips.frames.values["tool"]
    assert left.shape == (4, 3, 2, SIDE, SIDE, 3) and left.dtype == torch.uint8 and tool.shape == (4, 3, 2, 2)
    assert clips.frames.values["range"].dtype == torch.float32 and torch.isnan(clips.frames.values["range"]).any()
    for row in range(4):
        # Find the clip in its episode: all its frames and what was done lie where they were recorded.
        places = []
        for i in data.episodes_of("default/fit"):
            one = data.episode(i)
            for t in range(len(one) - 4):
                if np.array_equal(one.values["left"][t : t + 2], left[row, 0].numpy()):
                    places.append((one, t))
        ((one, t),) = places
        for f in range(3):
            moments = slice(t + 2 * f, t + 2 * f + 2)
            assert np.array_equal(one.values["left"][moments], left[row, f].numpy())
            np.testing.assert_array_equal(one.values["range"][moments], clips.frames.values["range"][row, f].numpy())
        done = np.stack([one.values["across"], one.values["down"]], -1)[t + 1 : t + 5].reshape(2, 2, 2)
        np.testing.assert_allclose(clips.actions[row].numpy(), done, atol=1e-6)


def test_labels_are_of_the_newest_moment(store, trained):
    data = EpisodeStore.open(store)
    seen, labels = labelled_frames(data, trained[1], "default/fit", 6, 70)
    known = {one.values["left"][t].tobytes(): one.values["x"][t] for one in data for t in range(len(one) + 1)}
    for row in range(6):
        assert known[seen.values["left"][row, -1].numpy().tobytes()] == pytest.approx(float(labels["x"][row]))


def test_frames_that_a_camera_missed_are_not_learned_from(tmp_path):
    one = episode(70, 10)
    hidden = np.ones(11, bool)
    hidden[4] = False
    data = EpisodeStore.create(tmp_path / "data", BARE)
    data.append([type(one)(one.subject, one.times, one.values, {"right": hidden})])
    data.set_statistics(fit_statistics(BARE, [one]))
    model = LatentModel(data.schema, config())
    with pytest.raises(InputError, match=r"frame of right is missing in episode 0"):
        ClipStream(data, model, None, frames=6, clips=2, seed=0).next()


def test_depth_that_a_mask_hides_is_not_seen(tmp_path):
    whole = {"dtype": "uint16", "unit": "mm", "high": 4000.0}
    channels = tuple(c.model_copy(update=whole) if c.name == "range" else c for c in BARE.channels)
    schema = BARE.model_copy(update={"channels": channels})
    one = episode(70, 10)
    depth = np.nan_to_num(1000 * one.values["range"]).astype(np.uint16)
    shown = np.ones(11, bool)
    shown[:5] = False
    data = EpisodeStore.create(tmp_path / "data", schema)
    data.append([type(one)(one.subject, one.times, {**one.values, "range": depth}, {"range": shown})])
    data.set_statistics(fit_statistics(schema, [one]))
    model = LatentModel(data.schema, config())
    found = ClipStream(data, model, None, frames=6, clips=1, seed=0).next().frames.values["range"][0, :, 0]
    assert torch.isnan(found[:3]).all()
    np.testing.assert_array_equal(found[3:].numpy(), depth[6::2].astype(np.float32))


def test_series_without_statistics_are_refused_before_training(tmp_path):
    data = EpisodeStore.create(tmp_path / "data", BARE)
    data.append([episode(70, 10)])
    data.split("default", {"fit": 1.0}, 0)
    with pytest.raises(SchemaError, match="no statistics for channel tool"):
        train_latent(tmp_path / "data", tmp_path / "model", settings(config()), progress="none")


def test_two_cameras_are_learned_through_a_pretrained_encoder_and_inspected(store, tmp_path, capsys):
    encoder = given()
    options = settings(config(kind="pretrained", pretrained=encoder.declared()))
    fit = options.fit.model_copy(update={"steps": 3, "warmup": 1})
    options = options.model_copy(update={"fit": fit, "check": None})
    model = train_latent(store, tmp_path / "model", options, encoder=encoder, progress="none")
    again = load_as(LatentModel, tmp_path / "model", encoder=given())
    seen = labelled_frames(EpisodeStore.open(store), model, "default/check", 4, 70)[0]
    with torch.no_grad():
        assert torch.equal(again.embed(seen), model.embed(seen))
    code, out, _ = run(capsys, "inspect", tmp_path / "model")
    assert code == 0 and "Sees through stand-in (24 px, frozen" in out
    code, _, err = run(capsys, "probe", tmp_path / "model", store)
    assert code == INPUT and "not stored with it: stand-in" in err
