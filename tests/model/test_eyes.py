"""Several cameras, depth, stacks and series in one latent."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.model.test_latent_model import config as plain_config
from tests.model.test_latent_model import frames as plain_frames
from tests.model.test_latent_model import schema as plain_schema
from tests.model.test_pretrained import given
from tests.model.two_cameras import BARE, FAR, SCHEMA, SIDE, config, episode

from foreworld.episodes import Channel
from foreworld.errors import InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.checkpoint import load_as, save
from foreworld.model.eyes import DepthEye, Eyes, Seen, VideoEye
from foreworld.model.latent_config import LatentConfig
from foreworld.model.latent_loss import LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentModel
from foreworld.model.vit import VitConfig

HISTORY = History.from_episodes(SCHEMA, [episode(seed, 7) for seed in (11, 12, 13)])
STACKS = (1, 3)


def made(**more):
    torch.manual_seed(0)
    model = LatentModel(SCHEMA, config(**more))
    model.fit_pixels(model.encoder.recall(HISTORY))
    return model.eval()


@pytest.fixture(scope="module", params=STACKS)
def model(request):
    return made(stack=request.param)


def at(history, t):
    """What is observed at moment t."""
    return {name: history.values[name][:, t] for name in ("left", "right", "range", "tool", "x")}


# --- the past --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_updates_from_the_first_moment_equal_encoding_each_longer_history(model):
    belief = model.encode(HISTORY.until(SCHEMA, 1))
    for moments in range(2, 9):
        stamps = torch.full((3,), float(moments - 1), dtype=torch.float64)
        belief = model.update(belief, stamps, at(HISTORY, moments - 1), {})
        whole = model.encode(HISTORY.until(SCHEMA, moments))
        assert torch.equal(belief.latent, whole.latent) and torch.equal(belief.look, whole.look)
        assert torch.equal(belief.count, whole.count) and torch.equal(belief.time, whole.time)


@torch.no_grad()
def test_histories_of_different_lengths_end_where_each_ends(model):
    ragged = History(HISTORY.times, HISTORY.values, torch.tensor([8, 3, 6]))
    found = model.encode(ragged)
    for row, moments in enumerate((8, 3, 6)):
        alone = model.encode(HISTORY.until(SCHEMA, moments))
        torch.testing.assert_close(found.latent[row], alone.latent[row], rtol=0, atol=1e-6)


@torch.no_grad()
def test_all_moments_of_a_stack_count_and_before_the_first_it_counts_again():
    model = made(stack=3)
    seen = model.encoder.recall(HISTORY)
    latent = model.embed(seen)
    for moment in range(3):
        for name in ("left", "range"):
            other = Seen({**seen.values, name: seen.values[name].clone()})
            other.values[name][:, moment] = 9
            assert not torch.equal(model.embed(other), latent)
    first = model.encoder.recall(HISTORY.until(SCHEMA, 2)).values["left"]
    assert torch.equal(first[:, 0], first[:, 1]) and torch.equal(first[:, 1], HISTORY.values["left"][:, 0])
    assert torch.equal(first[:, 2], HISTORY.values["left"][:, 1])


@torch.no_grad()
def test_a_memory_must_keep_as_many_frames_as_a_latent_is_made_of():
    model = made(stack=3)
    kept = {
        name: value[:, -3:] if name in ("left", "right", "range") else value for name, value in HISTORY.values.items()
    }
    short = History(HISTORY.times, kept, HISTORY.lengths)
    assert torch.equal(model.encode(short).latent, model.encode(HISTORY).latent)
    kept["left"] = kept["left"][:, -2:]
    with pytest.raises(InputError, match=r"3 moments of left and 2 are kept.*frames=3"):
        model.encode(short)


@torch.no_grad()
def test_a_belief_of_some_scenes_goes_on_as_that_of_all(model):
    rows = torch.tensor([2, 0])
    belief = model.encode(HISTORY.until(SCHEMA, 4))
    stamps = torch.full((3,), 4.0, dtype=torch.float64)
    whole = model.update(belief, stamps, at(HISTORY, 4), {})
    some = model.update(belief.select(rows), stamps[rows], {n: v[rows] for n, v in at(HISTORY, 4).items()}, {})
    torch.testing.assert_close(some.latent, whole.latent[rows], rtol=0, atol=1e-6)


# --- what is missing -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_missing_frame_of_any_camera_leaves_no_latent_while_it_is_among_the_last():
    model = made(stack=2)
    values = {name: value.clone() for name, value in HISTORY.values.items()}
    values["right"] = values["right"].float()
    values["right"][1, 5] = torch.nan
    history = History(HISTORY.times, values, HISTORY.lengths)
    for moments, gone in ((5, False), (6, True), (7, True), (8, False)):
        belief = model.encode(history.until(SCHEMA, moments))
        assert bool(torch.isnan(belief.latent[1]).all()) is gone
        assert torch.isfinite(belief.latent[[0, 2]]).all() and bool(torch.isfinite(belief.latent[1]).all()) is not gone
        assert bool(torch.isnan(belief.look[1]).any()) is (moments == 6)


def test_depth_is_scaled_by_its_bounds_and_masked_where_nothing_came_back():
    eye = DepthEye(SCHEMA["range"])
    raw = torch.full((1, 2, SIDE, SIDE), 1.0)
    raw[0, 0, 3, 4], raw[0, 0, 0, 0], raw[0, 0, 6, 6], raw[0, 1, 5, 5] = torch.nan, 0.0, torch.inf, FAR
    found = eye.pixels(raw)
    assert found.shape == (1, 4, SIDE, SIDE)
    depth, mask, later, _ = found[0]
    for at in ((3, 4), (0, 0), (6, 6)):
        assert depth[at] == mask[at] == 0.0
    assert mask.sum() == SIDE**2 - 3
    assert depth[1, 1] == pytest.approx(2.0 * 1.0 / FAR - 1.0) and later[5, 5] == 1.0


@torch.no_grad()
def test_what_is_behind_a_hole_does_not_matter_and_the_hole_does():
    model = made()
    seen = model.encoder.recall(HISTORY)
    holes = [Seen({**seen.values, "range": seen.values["range"].clone()}) for _ in range(2)]
    holes[0].values["range"][:, :, 4, 4] = torch.nan
    holes[1].values["range"][:, :, 4, 4] = 0.0
    assert torch.equal(model.embed(holes[0]), model.embed(holes[1]))
    assert not torch.equal(model.embed(holes[0]), model.embed(seen))


def test_whole_millimetres_of_16_bits_mean_what_metres_do():
    channel = SCHEMA["range"].model_copy(update={"dtype": "uint16", "unit": "mm", "high": 1000.0 * FAR})
    raw = torch.from_numpy(np.random.default_rng(0).uniform(0.5, FAR, (2, 1, SIDE, SIDE)).astype(np.float32))
    millimetres = torch.from_numpy((1000 * raw.numpy()).round().astype(np.uint16))
    millimetres[0, 0, 0, 0] = 0
    raw[0, 0, 0, 0] = torch.nan
    torch.testing.assert_close(
        DepthEye(channel).pixels(millimetres), DepthEye(SCHEMA["range"]).pixels(raw), atol=1e-3, rtol=0
    )


@torch.no_grad()
def test_series_are_normalised_by_the_schema_and_masked_where_missing():
    model = made()
    seen = model.encoder.recall(HISTORY)
    seen.values["tool"][0, 0] = torch.tensor([torch.nan, 5.0])
    (told,) = model.encoder.told(seen)
    s = SCHEMA.statistics["tool"]
    wanted = (seen.values["tool"][1, 0] - s.mean) / s.std
    torch.testing.assert_close(told[1], torch.cat([wanted, torch.ones(2)]))
    torch.testing.assert_close(told[0], torch.tensor([0.0, (5.0 - s.mean) / s.std, 0.0, 1.0]))
    assert torch.isfinite(model.embed(seen)).all()


# --- what is made of it ----------------------------------------------------------------------------------------------


def test_every_channel_reaches_the_latent_and_every_encoder_learns():
    model = made(stack=2)
    seen = model.encoder.recall(HISTORY)
    latent = model.embed(seen)
    for name in ("left", "right", "range", "tool"):
        other = Seen({**seen.values, name: seen.values[name].flip(0)})
        assert not torch.equal(model.embed(other), latent), name
    latent.pow(2).sum().backward()
    for name, weight in model.encoder.named_parameters():
        assert weight.grad is not None and float(weight.grad.abs().sum()) > 0, name


@torch.no_grad()
def test_cameras_alike_may_share_an_encoder_and_each_keeps_its_own_mean_frame():
    shared, apart = made(shared=True), made()
    assert len(shared.encoder.encoders) == 2 and len(apart.encoder.encoders) == 3
    left, right = (eye for eye in shared.encoder.eyes if isinstance(eye, VideoEye))
    assert not torch.equal(left.mean_frame, right.mean_frame)
    assert shared.embed(shared.encoder.recall(HISTORY)).shape == (3, 8)


@torch.no_grad()
@pytest.mark.parametrize(
    "more", [{"kind": "vit", "vit": VitConfig(patch=8, width=16, layers=1, heads=2)}, {"kind": "conv"}, {"stack": 3}]
)
def test_a_checkpoint_gives_the_same_bits(more, tmp_path):
    model = made(**more)
    save(model, tmp_path / "model")
    again = load_as(LatentModel, tmp_path / "model")
    assert again.config == model.config
    seen = model.encoder.recall(HISTORY)
    assert torch.equal(again.embed(seen), model.embed(seen))


@torch.no_grad()
def test_two_cameras_may_be_seen_through_one_pretrained_encoder(tmp_path):
    encoder = given()
    torch.manual_seed(0)
    model = LatentModel(SCHEMA, config(kind="pretrained", pretrained=encoder.declared(), stack=2), encoder).eval()
    save(model, tmp_path / "model")
    again = load_as(LatentModel, tmp_path / "model", encoder=given())
    assert torch.equal(again.encode(HISTORY).latent, model.encode(HISTORY).latent)


def test_a_stack_of_one_camera_knows_motion():
    torch.manual_seed(0)
    model = LatentModel(plain_schema(), plain_config(stack=2))
    assert isinstance(model.encoder, Eyes)
    pair = Seen({"frame": plain_frames(4)[:, None].expand(-1, 2, -1, -1, -1).clone()})
    model.fit_pixels(pair)
    moved = Seen({"frame": torch.stack([pair.values["frame"][:, 0].flip(2), pair.values["frame"][:, 1]], dim=1)})
    assert not torch.equal(model.embed(pair), model.embed(moved))
    learner = LatentLearner(model, LatentLossConfig(slices=8))
    assert learner.model is model
    with pytest.raises(InputError, match="can be painted"):
        LatentLearner(model, LatentLossConfig(reconstruct=1.0))


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_frames_alone_are_enough_only_where_nothing_else_is_seen():
    model = made()
    with pytest.raises(InputError, match="made of left, right, range, tool, 1 moments"):
        model.embed(HISTORY.values["left"])
    with pytest.raises(InputError, match="also sees tool"):
        model.embed(Seen({name: v for name, v in model.encoder.recall(HISTORY).values.items() if name != "tool"}))
    with pytest.raises(InputError, match="one camera"):
        model.pixels(HISTORY.values["left"][:, 0])
    plain = LatentModel(plain_schema(), plain_config())
    with pytest.raises(InputError, match="as a tensor"):
        plain.embed(model.encoder.recall(HISTORY))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"frames": ("left", "tool"), "series": ()}, "no video channel 'tool'"),
        ({"frames": "right", "depth": ("left",)}, "no square depth map"),
        ({"depth": ("none",)}, "no channel 'none'"),
        ({"series": ("across",)}, "continuous observation"),
        ({"series": ("range",), "depth": ()}, "continuous observation"),
    ],
)
def test_a_channel_that_does_not_fit_is_named(more, words):
    with pytest.raises((SchemaError, InputError), match=words):
        LatentModel(SCHEMA, config(**more))


def test_series_need_statistics_and_depth_needs_bounds():
    with pytest.raises(SchemaError, match=r"no statistics for channel tool.*set_statistics"):
        LatentModel(BARE, config())
    with pytest.raises(SchemaError, match="range has no bounds"):
        DepthEye(Channel(name="range", role="observation", kind="depth", shape=(SIDE, SIDE)))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kind": "points"}, "one camera"),
        ({"series": ("left",)}, "each channel once"),
        ({"frames": (), "depth": ()}, "at least one of them frames"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(more, words):
    with pytest.raises(ValidationError, match=words):
        config(**more)


def test_what_is_new_is_not_in_the_configuration_of_one_camera():
    dumped = LatentConfig().model_dump()
    assert not {"depth", "series", "stack", "shared", "vit", "pretrained"} & set(dumped) and dumped["frames"] == "frame"
    whole = config(stack=2)
    assert LatentConfig.model_validate_json(whole.model_dump_json()) == whole
