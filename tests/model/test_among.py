"""A latent away from all that was seen is read with less certainty, one among it as before."""

import pytest
import torch
from tests.model.test_latent_model import config, frames, schema

from foreworld.errors import InputError
from foreworld.model.among import Among
from foreworld.model.latent_model import LatentModel


def read(latents):
    return {"x": 10.0 * latents[..., 0], "y": 10.0 * latents[..., 1]}


SEEN = torch.cat([torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)), torch.ones(25, 1)], dim=1)
COUNTED = torch.tensor([True, True, False])


def test_it_is_away_by_what_both_read_where_it_is_farther_than_usual():
    among = Among.of(read, SEEN, COUNTED, 3)
    latents = torch.tensor([[[2.0, 2.0, 9.0], [2.5, 2.5, 0.0]], [[6.0, 2.5, 0.0], [2.0, -3.0, 0.0]]])
    found = among.away(latents, read(latents))
    assert found["x"].tolist() == [[0.0, 0.0], [20.0, 0.0]]
    assert found["y"].tolist() == [[0.0, 0.0], [5.0, 30.0]]


def test_numbers_that_do_not_count_lead_nowhere_unless_all_do():
    latents = torch.tensor([[2.0, 2.0, 9.0]])
    everything = Among.of(read, SEEN, None, 3)
    assert float(everything.away(latents, {"x": torch.tensor([80.0])})["x"]) == 60.0
    assert float(Among.of(read, SEEN, COUNTED, 3).away(latents, {"x": torch.tensor([80.0])})["x"]) == 0.0


@pytest.mark.parametrize("seen", [torch.zeros(1, 3), torch.zeros(4, 2), torch.zeros(3)])
def test_what_was_seen_are_latents_at_least_two(seen):
    with pytest.raises(InputError, match="at least two of 3 numbers"):
        Among.of(read, seen, None, 3)


@torch.no_grad()
def test_a_model_beside_what_it_saw_predicts_the_same_and_says_how_sure_it_is():
    torch.manual_seed(0)
    model = LatentModel(schema(), config()).eval()
    latents = model.embed(frames(40))
    model.readout.fit(latents, {"x": latents[:, 0] * 5.0}, penalty=1e-3)
    sure = model.beside(latents)
    assert model._among is None and torch.equal(sure.read(latents)["x"], model.read(latents)["x"])
    assert torch.equal(sure.read_scale(latents)["x"], model.read_scale(latents)["x"])
    far = latents + 10.0
    assert (sure.read_scale(far)["x"] > model.read_scale(far)["x"]).all()
