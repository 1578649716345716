"""A latent of points, and what the predictor sees around them."""

import pytest
import torch
from pydantic import ValidationError
from tests.model.test_latent_model import SIDE, config, frames, history, schema

from foreworld.errors import InputError
from foreworld.model.latent_loss import Clips, LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentModel
from foreworld.model.sight import SPACING, Sight
from foreworld.model.vision import SPREAD, PointEncoder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = LatentModel(schema(), config(kind="points", width=4, sight=2, members=2))
    made.fit_pixels(frames(20))
    return made.eval()


def test_points_lie_within_the_frame_and_follow_what_they_attend_to():
    encoder = PointEncoder(3, SIDE, 2)
    with torch.no_grad():
        for layer in encoder.layers:
            if hasattr(layer, "weight"):
                layer.weight.zero_()
                layer.weight[:, 0, layer.weight.shape[2] // 2, layer.weight.shape[3] // 2] = 1.0
                layer.bias.zero_()
    lit = torch.zeros(2, 3, SIDE, SIDE)
    lit[0, 0, 8:12, 20:24] = 9.0
    lit[1, 0, 16:20, 4:8] = 9.0
    found = encoder(lit)
    assert found.shape == (2, 4) and (found.abs() <= SPREAD).all()
    # The middle of the lit cell of 4 x 4 px, from -1 to 1 over the frame.
    wanted = SPREAD * (torch.tensor([[22.0, 10.0], [6.0, 18.0]]) / (SIDE / 2) - 1.0)
    torch.testing.assert_close(found[:, :2], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, 2:], wanted, atol=1e-3, rtol=0)


def test_what_is_seen_is_the_frame_around_each_point_of_each_scene():
    sight = Sight(2, 8, points=2, colours=2, side=SIDE, reach=1)
    line = (torch.arange(SIDE) + 0.5) * (2.0 / SIDE) - 1.0
    around = torch.stack([line.expand(SIDE, SIDE), line[:, None].expand(SIDE, SIDE)])  # its x; its y
    around = torch.stack([around, 10.0 + around], dim=1)
    latents = SPREAD * torch.tensor([[0.1, 0.2, -0.3, 0.4], [0.0, 0.0, 0.5, -0.5], [0.3, -0.1, 0.0, 0.2]] * 2)
    seen = sight.patches(latents.expand(2, -1, -1), around).reshape(
        2, 6, 2, 2, 9
    )  # three places a scene; colours, points
    step = 2.0 * SPACING / SIDE
    across = step * torch.tensor([-1.0, 0.0, 1.0] * 3)
    for n in range(6):
        for point in range(2):
            place = latents[n, 2 * point : 2 * point + 2] / SPREAD
            wanted = place[0] + across if n < 3 else place[1] + across.reshape(3, 3).T.flatten()
            torch.testing.assert_close(seen[0, n, 0, point], wanted, atol=1e-5, rtol=0)
            torch.testing.assert_close(seen[0, n, 1, point], 10.0 + wanted, atol=1e-5, rtol=0)
    assert torch.equal(seen[0], seen[1])


@torch.no_grad()
def test_a_walk_is_foreseen_one_way_or_the_other_and_heeds_what_is_around(model):
    seen, actions = frames(4), torch.randn(4, 5, 3, 2)
    latent, around = model.embed(seen), model.around(seen)
    at_once = model.predict(latent, actions, around)
    for s in range(5):
        held = actions[:, s, :, None].expand(-1, -1, model.block, -1)
        torch.testing.assert_close(at_once[:, :, s], model.roll(latent, held, around), rtol=1e-5, atol=1e-5)
    moves = torch.randn(7, model.block, 2)
    fanned = model.fan(latent[:1], moves, around[:1])
    each = model.step(latent[:1].expand(7, -1), moves, around[:1])
    torch.testing.assert_close(fanned[:, 0], each, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(at_once, model.predict(latent, actions, around.roll(1, 0)))
    alone = model.predict(latent[2:3], actions[2:3], around[2:3])
    torch.testing.assert_close(alone, at_once[:, 2:3], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_belief_holds_the_frame_and_a_ready_model_answers_for_it(model):
    seen = frames(6).reshape(3, 2, SIDE, SIDE, 3)
    belief = model.encode(history(seen))
    later = model.update(
        model.encode(history(seen[:, :1])), torch.ones(3, dtype=torch.float64), {"frame": seen[:, 1]}, {}
    )
    assert torch.equal(belief.around, later.around) and torch.equal(belief.around, model.around(seen[:, 1]))
    actions = torch.randn(3, 2, 3, 2)
    ready = model.prepare(belief)
    one = model.respond(ready.select(torch.tensor([1])), actions[1:2])
    torch.testing.assert_close(one, model.respond(ready, actions)[:, 1:2], rtol=1e-5, atol=1e-5)
    assert torch.equal(belief.select(torch.tensor([2])).around, belief.around[2:])


def test_who_sees_is_to_be_shown_something(model):
    with pytest.raises(InputError, match="give it the frames"):
        model.predict(torch.zeros(1, 4), torch.zeros(1, 1, 3, 2))


@pytest.mark.parametrize("options", [{"kind": "points", "width": 5}, {"sight": 3}])
def test_a_latent_that_has_no_places_is_refused(options):
    with pytest.raises(ValidationError, match=r"is odd|needs kind"):
        config(**options)


def test_the_loss_teaches_encoder_sight_and_presence():
    torch.manual_seed(0)
    made = LatentModel(schema(), config(kind="points", width=4, sight=1))
    learner = LatentLearner(made, LatentLossConfig(within=1.0, regular=0.01, noise=0.1, inverse=1.0), group=2)
    clips = Clips(frames(24).reshape(8, 3, SIDE, SIDE, 3), torch.randn(8, 2, 2, 2))
    parts = learner.loss(clips, torch.Generator().manual_seed(0))
    parts["loss"].backward()
    assert {"one", "ahead", "regular", "present", "inverse"} < set(parts)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    before = made.sight.support[0].weight.grad.clone()
    made.zero_grad()
    parts = learner.loss(clips, torch.Generator().manual_seed(0))
    parts["present"].backward()
    # Presence looks on: it does not bend the latents towards what tells scenes apart.
    assert all(p.grad is None or not p.grad.any() for p in made.encoder.parameters())
    assert torch.allclose(made.sight.support[0].weight.grad * learner.config.present, before, atol=1e-6)
    alone = LatentLearner(made, LatentLossConfig(within=1.0), group=8)
    with pytest.raises(InputError, match="several episodes"):
        alone.loss(clips, torch.Generator())


def test_a_point_that_stands_still_within_episodes_is_asked_to_move():
    torch.manual_seed(0)
    made = LatentModel(schema(), config(kind="points", width=4, sight=1))
    learner = LatentLearner(made, LatentLossConfig(within=1.0, move=1.0), group=4)
    still = Clips(frames(2).repeat_interleave(12, 0).reshape(8, 3, SIDE, SIDE, 3), torch.randn(8, 2, 2, 2))
    parts = learner.loss(still, torch.Generator().manual_seed(0))
    assert parts["move"].item() == pytest.approx(learner.config.moving, abs=2e-3)
    # However different episodes are, that is no movement.
    assert made.embed(frames(2)).std(0).mean().item() > 0.0


def test_what_moves_enough_is_not_stretched():
    torch.manual_seed(0)
    made = LatentModel(schema(), config(kind="points", width=4, sight=1))
    learner = LatentLearner(made, LatentLossConfig(within=1.0, move=1.0), group=4)
    clips = Clips(frames(24).reshape(8, 3, SIDE, SIDE, 3), torch.randn(8, 2, 2, 2))
    spread = 2.0 * learner.config.moving / made.embed(clips.frames).reshape(2, 12, 4).var(1).mean(0).sqrt()
    made.embed = lambda frames: spread * LatentModel.embed(made, frames)
    assert learner.loss(clips, torch.Generator().manual_seed(0))["move"].item() == 0.0
