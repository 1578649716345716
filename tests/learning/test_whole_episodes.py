"""Training on whole episodes, also on those that end early."""

import pytest
import torch
from pydantic import ValidationError
from tests.model.toy import BARE, CONFIG, SCHEMA, episode, make_model

from foreworld.episodes import EpisodeStore, fit_statistics
from foreworld.errors import InputError
from foreworld.learning.fit import FitConfig
from foreworld.learning.train import EpisodeStream, TrainConfig, train
from foreworld.model.belief import History
from foreworld.model.loss import LossConfig, future_of, prediction_loss

PARTIAL = LossConfig(anchors=6, points=3, warmup=0, futures=2, slices=4, partial=True)
LENGTHS = (1, 3, 20, 40)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = EpisodeStore.create(tmp_path_factory.mktemp("whole") / "data", BARE)
    made.append([episode(seed, LENGTHS[seed % 4]) for seed in range(12)])
    subjects = made.subjects
    made.set_split("default", {"fit": list(subjects[:8]), "validate": list(subjects[8:])})
    made.set_statistics(fit_statistics(BARE, (made.episode(i) for i in range(8))))
    return made


def stream(store, seed=0):
    return EpisodeStream(store, store.schema, seed=seed, batch=6, split="default/fit")


def test_whole_episodes_come_from_their_first_moment_and_short_ones_too(store):
    seen = set()
    draws = stream(store)
    for _ in range(20):
        batch = draws.next()
        assert len(batch) == 6
        seen |= set(batch.lengths.tolist())
    assert seen == {length + 1 for length in LENGTHS}


def test_a_stream_goes_on_where_it_stopped_and_refuses_another_store(store):
    draws, other = stream(store), stream(store, seed=9)
    draws.next()
    state = draws.state_dict()
    wanted = draws.next()
    other.load_state_dict(state)
    torch.testing.assert_close(other.next().times, wanted.times)
    with pytest.raises(InputError, match="same store"):
        draws.load_state_dict({**state, "episodes": 3})


def test_what_lies_after_the_end_of_an_episode_changes_nothing():
    model = make_model()
    batch = History.from_episodes(SCHEMA, [episode(seed, LENGTHS[seed % 4]) for seed in range(8)])
    values = dict(batch.values)
    for name in ("glucose", "pulse", "meal", "insulin"):
        padded = torch.arange(values[name].shape[1]) >= (batch.lengths - int(name == "insulin"))[:, None]
        values[name] = torch.where(padded, 123.0, values[name])
    altered = History(batch.times, values, batch.lengths)
    found = [
        prediction_loss(model, one, PARTIAL, torch.Generator().manual_seed(3))["supervised"] for one in (batch, altered)
    ]
    # What a dose after the end would do is asked of no moment that has a target there.
    torch.testing.assert_close(*found)


def test_a_target_is_masked_from_the_end_on_and_all_moments_but_the_last_are_used():
    model = make_model()
    batch = History.from_episodes(SCHEMA, [episode(0, 5), episode(1, 30)])
    long = batch.extended(SCHEMA, CONFIG.grid.last)
    anchors = torch.tensor([[0, 4], [0, 29]])
    _, _, _, mask = future_of(model, long, anchors)
    at = anchors[..., None] + torch.tensor(CONFIG.grid.points)
    assert not mask[at >= batch.lengths[:, None, None]].any()
    assert mask[at < batch.lengths[:, None, None]].any()
    with pytest.raises(InputError, match="too short"):
        prediction_loss(model, batch, LossConfig(warmup=5, partial=True), torch.Generator())


def test_windows_that_are_whole_are_masked_nowhere():
    model = make_model()
    batch = History.from_episodes(SCHEMA, [episode(0, 30)])
    _, _, _, mask = future_of(model, batch, torch.tensor([[3]]))
    seen = ~torch.isnan(batch.values["glucose"][0, 3 + torch.tensor(CONFIG.grid.points)])
    assert torch.equal(mask[0, 0, :, 0] > 0, seen)


def test_training_on_whole_episodes_gives_a_model(store, tmp_path):
    config = TrainConfig(
        model=CONFIG, loss=PARTIAL, fit=FitConfig(steps=3, log_every=1), windows=4, whole=True, window=2
    )
    model = train(store.path, tmp_path / "model", config, progress="none")
    assert (tmp_path / "model").is_dir() and not model.training


def test_whole_episodes_need_a_loss_that_knows_where_they_end():
    with pytest.raises(ValidationError, match="partial"):
        TrainConfig(whole=True)
