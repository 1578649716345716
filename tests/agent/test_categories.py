"""A world model of a discrete channel: probabilities from frequencies, from training, and from the present alone."""

import numpy as np
import pytest
import torch
from ladder import MODEL, RISE, SCHEMA, log, model

from foreworld.errors import SchemaError
from foreworld.model.belief import History
from foreworld.model.checkpoint import load
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.follows import Follows
from foreworld.model.world_model import WorldModel


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return log(tmp_path_factory.mktemp("ladder") / "data")


def past(*places):
    n = len(places)
    # As logged: no reward comes with the place where an episode begins.
    reward = np.where(np.array([places]) == 0, np.nan, 0.0)
    values = {"place": np.array([places]), "reward": reward, "action": np.zeros((1, n - 1))}
    return History.from_arrays(SCHEMA, np.arange(n, dtype=float)[None], values)


@torch.no_grad()
def probabilities(found, history):
    belief = found.encode(history)
    actions = found.normalise_actions(belief, torch.arange(3.0)[None, :, None, None])
    logits = found.category_logits(found.respond(found.prepare(belief), actions))["place"]
    return torch.softmax(logits, -1)[:, 0, :, 0].mean(0).numpy()


def test_without_training_the_forecast_is_what_usually_followed(data, tmp_path):
    found = probabilities(model(data.path, tmp_path / "m"), past(0))
    np.testing.assert_allclose(found[:2, 1], RISE[0, :2], atol=0.04)
    # An action that nobody took is held to do what is usual there.
    assert found[2, 1] == pytest.approx(RISE[0, :2].mean(), abs=0.04)


def test_a_network_learns_the_same_without_frequencies(data, tmp_path):
    found = probabilities(model(data.path, tmp_path / "m", steps=150, follows=0.0), past(0))
    np.testing.assert_allclose(found[:2, 1], RISE[0, :2], atol=0.1)


def test_a_model_without_recurrence_carries_no_state(data, tmp_path):
    found = model(data.path, tmp_path / "m", steps=3)
    assert torch.equal(found.encode(past(0, 1)).state, found.encode(past(1)).state)


def test_an_update_equals_the_encoding_of_the_longer_history(data, tmp_path):
    found = model(data.path, tmp_path / "m", steps=3)
    history, observed = past(0, 1), {"place": torch.tensor([1]), "reward": torch.tensor([0.0])}
    with torch.no_grad():
        updated = found.update(found.encode(past(0)), torch.tensor([1.0]), observed, {"action": torch.tensor([0])})
        torch.testing.assert_close(found.context(updated), found.context(found.encode(history)))


def test_a_checkpoint_keeps_the_frequencies(data, tmp_path):
    before = model(data.path, tmp_path / "m")
    np.testing.assert_array_equal(probabilities(load(tmp_path / "m"), past(0)), probabilities(before, past(0)))


def test_frequencies_are_the_mean_of_a_dirichlet_posterior():
    follows = Follows(2, 2, strength=2.0)
    follows.count(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))
    usual = (np.array([2.0, 2.0]) + 0.5) / 5.0
    found = follows(torch.tensor([0]), torch.eye(2)[None]).exp().numpy()[0]
    np.testing.assert_allclose(found[0], (np.array([2.0, 1.0]) + 2.0 * usual) / 5.0, rtol=1e-5)
    np.testing.assert_allclose(found[1], (np.array([0.0, 1.0]) + 2.0 * usual) / 3.0, rtol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"categories": ("reward",)}, "not a discrete"),
        ({"categories": ()}, "one predicted category"),
        ({"grid": HorizonGrid(points=(1, 2))}, "one step ahead"),
    ],
)
def test_what_cannot_work_is_refused(data, change, match):
    with pytest.raises(SchemaError, match=match):
        WorldModel(data.schema, MODEL.model_copy(update=change))


def test_a_history_can_be_cut_to_its_beginning():
    cut = past(0, 1, 3).until(SCHEMA, 2)
    assert cut.values["place"].tolist() == [[0, 1]]
    assert cut.values["action"].shape == (1, 1)
    assert cut.lengths.tolist() == [2]
