import numpy as np
import pytest
import torch

from foreworld.episodes.schema import Channel, Kind, Role, Schema
from foreworld.errors import FormatError, InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.checkpoint import load, load_as, save
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.latent_loss import Clips, LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentConfig, LatentModel

SIDE = 32


def schema(side=SIDE, **frame):
    video = {"name": "frame", "role": Role.observation, "kind": Kind.video, "dtype": "uint8", "shape": (side, side, 3)}
    return Schema(
        name="scene",
        step=1.0,
        time_unit="step",
        channels=(
            Channel(**{**video, **frame}),
            Channel(name="x", role=Role.observation, unit="px", low=0.0, high=32.0),
            Channel(name="right", role=Role.action, unit="share", low=-1.0, high=1.0),
            Channel(name="turn", role=Role.action, unit="rad", low=0.0, high=4.0),
        ),
    )


def config(**more):
    return LatentConfig(
        **{"grid": HorizonGrid(points=(2, 4, 6)), "quantities": ("x",), "width": 8, "hidden": 16, "bf16": False, **more}
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = LatentModel(schema(), config(members=2))
    made.fit_pixels(frames(20))
    return made.eval()


def frames(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8))


def history(seen, lengths=None):
    batch, steps = seen.shape[:2]
    values = {
        "frame": seen.numpy(),
        "x": np.full((batch, steps), np.nan),
        "right": np.zeros((batch, steps - 1)),
        "turn": np.zeros((batch, steps - 1)),
    }
    return History.from_arrays(schema(), np.tile(np.arange(float(steps)), (batch, 1)), values)


# --- the past --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_update_equals_encoding_the_longer_history(model):
    seen = frames(12).reshape(3, 4, SIDE, SIDE, 3)
    belief = model.encode(history(seen[:, :3]))
    later = model.update(belief, torch.full((3,), 3.0, dtype=torch.float64), {"frame": seen[:, 3]}, {})
    whole = model.encode(history(seen))
    torch.testing.assert_close(later.latent, whole.latent, rtol=0, atol=1e-6)
    assert torch.equal(later.count, whole.count) and torch.equal(later.time, whole.time)
    with pytest.raises(InputError, match="backwards"):
        model.update(later, later.time, {"frame": seen[:, 3]}, {})


@torch.no_grad()
def test_a_missing_frame_gives_no_latent_at_all(model):
    seen = frames(2).float()
    seen[1, 0, 0, 0] = torch.nan
    belief = model.encode(history(seen[:, None]))
    assert torch.isfinite(belief.latent[0]).all() and torch.isnan(belief.latent[1]).all()


@torch.no_grad()
def test_a_latent_does_not_depend_on_its_batch(model):
    seen = frames(6)
    torch.testing.assert_close(model.embed(seen)[2:3], model.embed(seen[2:3]), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.embed(seen.reshape(2, 3, SIDE, SIDE, 3)).flatten(0, 1), model.embed(seen))


def test_a_scene_in_which_nothing_moves_is_not_blown_up():
    still = LatentModel(schema(), config())
    still.fit_pixels(frames(1).expand(8, -1, -1, -1))
    assert torch.isfinite(still.embed(frames(1))).all()


# --- the future ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_held_actions_are_foreseen_as_single_steps_are(model):
    latent, actions = model.embed(frames(4)), torch.randn(4, 5, 3, 2)
    at_once = model.predict(latent, actions)
    for s in range(5):
        held = actions[:, s, :, None].expand(-1, -1, model.block, -1)
        torch.testing.assert_close(at_once[:, :, s], model.roll(latent, held), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(at_once[:, :, 0, 0], model.step(latent, held_over(actions[:, 0, 0], model.block)))
    assert at_once.shape == (2, 4, 5, 3, 8)


def held_over(action, block):
    return action[:, None].expand(-1, block, -1)


@torch.no_grad()
def test_nothing_after_an_action_changes_what_came_before_it(model):
    latent, actions = model.embed(frames(2)), torch.randn(2, 1, 3, 2)
    other = actions.clone()
    other[:, :, 2] += 1.0
    first, second = model.predict(latent, actions), model.predict(latent, other)
    assert torch.equal(first[..., :2, :], second[..., :2, :]) and not torch.equal(first[..., 2, :], second[..., 2, :])


def test_actions_are_normalised_over_their_bounds(model):
    raw = torch.tensor([[[[-1.0, 0.0], [1.0, 4.0], [0.0, 2.0]]]])
    found = model.normalise_actions(None, raw)
    torch.testing.assert_close(found, torch.tensor([[[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]]]))


def test_a_shorter_horizon_shares_the_weights(model):
    short = model.with_horizon(2)
    assert short.config.grid.points == (2, 4) and model.config.grid.points == (2, 4, 6)
    assert short.encoder is model.encoder
    for points in (0, 4):
        with pytest.raises(InputError, match="1 to 3 points"):
            model.with_horizon(points)


# --- readouts --------------------------------------------------------------------------------------------------------


def test_a_quantity_is_read_where_it_was_labelled_and_within_its_bounds(model):
    latents = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    labels = (10.0 + 4.0 * latents[:, 0] + 0.5 * latents[:, 1] ** 2).clamp(0.0, 32.0).double()
    assert torch.isinf(model.read_scale(latents)["x"]).all()  # nothing was labelled yet
    shares = model.readout.fit(latents, {"x": labels})
    assert shares["x"] > 0.9
    found = model.read(10.0 * latents)["x"]
    assert float(found.min()) >= 0.0 and float(found.max()) <= 32.0
    error = (model.read(latents)["x"] - labels).pow(2).mean().sqrt()
    assert float(model.read_scale(latents)["x"][0]) == pytest.approx(float(error), rel=0.3)
    with pytest.raises(InputError, match="at least ten"):
        model.readout.fit(latents, {"x": torch.full((200,), torch.nan).double()})


# --- loss ------------------------------------------------------------------------------------------------------------


def clips(batch=16, count=4, seed=0):
    drawn = frames(batch * count, seed).reshape(batch, count, SIDE, SIDE, 3)
    return Clips(drawn, torch.randn(batch, count - 1, 2, 2, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, {"one", "ahead", "regular"}),
        ({"regulariser": "vicreg", "ahead": 0.0}, {"one", "regular"}),
        ({"regulariser": "none", "inverse": 1.0}, {"one", "ahead", "inverse"}),
        ({"reconstruct": 1.0, "regulariser": "none"}, {"one", "ahead", "reconstruct"}),
        ({"within": 0.5}, {"one", "ahead", "regular"}),
    ],
)
def test_a_loss_is_the_sum_of_its_parts_and_teaches_the_encoder(options, parts):
    torch.manual_seed(0)
    learner = LatentLearner(LatentModel(schema(), config()), LatentLossConfig(**options), group=4)
    found = learner.loss(clips(), torch.Generator().manual_seed(0))
    assert set(found) == {"loss", *parts}
    weights = {"one": 1.0, "ahead": learner.config.ahead, "regular": learner.config.regular, "inverse": 1.0}
    total = sum(weights.get(name, 1.0) * found[name] for name in parts)
    torch.testing.assert_close(found["loss"], total)
    found["loss"].backward()
    assert float(learner.model.encoder.out.weight.grad.abs().sum()) > 0


def test_within_episodes_nothing_is_regularised_where_each_is_there_once():
    learner = LatentLearner(LatentModel(schema(), config()), LatentLossConfig(within=0.5), group=1)
    with pytest.raises(InputError, match="several clips of each"):
        learner.loss(clips(), torch.Generator())


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "more", "words"),
    [
        ({}, {"frames": "x"}, "x"),
        ({"shape": (32, 16, 3)}, {}, "square"),
        ({}, {"quantities": ("right",)}, "observation"),
        ({}, {"grid": HorizonGrid(points=(2, 3, 6))}, "equally spaced"),
        ({"shape": (40, 40, 3)}, {}, "multiple of 16"),
    ],
)
def test_a_schema_or_grid_that_does_not_fit_is_named(frame, more, words):
    with pytest.raises((InputError, SchemaError), match=words):
        LatentModel(schema(**frame), config(**more))


# --- checkpoints -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_checkpoint_gives_the_same_model_and_is_not_taken_for_another(model, tmp_path):
    save(model, tmp_path / "model")
    again = load_as(LatentModel, tmp_path / "model")
    assert torch.equal(again.eval().embed(frames(3)), model.embed(frames(3)))
    assert again.config == model.config
    with pytest.raises(FormatError, match="holds a LatentModel"):
        load(tmp_path / "model")
