"""Encoders that others trained, behind a head: stand-ins with random weights that answer as DINO and V-JEPA 2 do."""

import copy
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from tests.model.test_latent_model import SIDE, clips, config, frames, history, schema
from torch import nn

from foreworld.errors import FormatError, InputError
from foreworld.model.checkpoint import TENSORS, check, load_any, load_as, save
from foreworld.model.latent_loss import LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentModel
from foreworld.model.pretrained import AT_ONCE, Pretrained, PretrainedConfig, PretrainedEncoder, weights_hash
from foreworld.model.world_model import WorldModel

WIDTH, PATCH, SIZE, REGISTERS = 12, 8, 24, 2


class Hub(nn.Module):
    """As DINOv2 and DINOv3 from torch.hub: the class token, and everything from `forward_features`."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.dropout = nn.Dropout(0.5)

    def forward_features(self, x):
        tokens = self.dropout(torch.tanh(self.patches(x)).flatten(2).transpose(1, 2))
        return {"x_norm_clstoken": tokens.mean(1), "x_norm_patchtokens": tokens}

    def forward(self, x):
        return self.forward_features(x)["x_norm_clstoken"]


class Transformers(Hub):
    """As DINOv2 and DINOv3 from transformers: a class token and registers stand before the patches."""

    def forward(self, pixel_values):
        found = self.forward_features(pixel_values)
        extra = found["x_norm_clstoken"][:, None].expand(-1, 1 + REGISTERS, -1)
        hidden = torch.cat([extra, found["x_norm_patchtokens"]], dim=1)
        return SimpleNamespace(last_hidden_state=hidden, pooler_output=hidden[:, 0])


class Video(nn.Module):
    """As V-JEPA 2 from transformers: clips [B, T, C, H, W], two frames a token."""

    def __init__(self):
        super().__init__()
        self.tubes = nn.Conv3d(3, WIDTH, (2, PATCH, PATCH), stride=(2, PATCH, PATCH))

    def forward(self, pixel_values_videos, skip_predictor=False):
        assert pixel_values_videos.dim() == 5 and skip_predictor
        found = torch.tanh(self.tubes(pixel_values_videos.transpose(1, 2)))
        return SimpleNamespace(last_hidden_state=found.flatten(2).transpose(1, 2))


STYLES = {
    "hub, patches": (Hub, {"ask": lambda m, x: m.forward_features(x)["x_norm_patchtokens"]}, 9),
    "hub, pooled": (Hub, {}, 1),
    "transformers, patches": (Transformers, {"ask": lambda m, x: m(x).last_hidden_state[:, 1 + REGISTERS :]}, 9),
    "transformers, pooled": (Transformers, {"ask": lambda m, x: m(x).pooler_output}, 1),
    "video": (
        Video,
        {
            "ask": lambda m, x: m(pixel_values_videos=x.repeat(1, 2, 1, 1, 1), skip_predictor=True).last_hidden_state,
            "video": True,
        },
        9,
    ),
}


def given(style="hub, patches", seed=0, **more):
    made, options, _ = STYLES[style]
    torch.manual_seed(seed)
    return Pretrained(made(), "stand-in", **{"size": SIZE, **options, **more})


def model_of(encoder, **more):
    torch.manual_seed(1)
    made = LatentModel(schema(), config(kind="pretrained", pretrained=encoder.declared(), **more), encoder)
    made.fit_pixels(frames(20))
    return made.eval()


@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_features_becomes_a_latent_and_only_the_head_learns(style):
    encoder = given(style)
    before = weights_hash(encoder.module)
    model = model_of(encoder)
    latents = model.embed(frames(5))
    assert latents.shape == (5, 8)
    learner = LatentLearner(model, LatentLossConfig(slices=16), group=4)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    learner.train()
    assert not encoder.module.training
    for step in range(3):
        optimiser.zero_grad()
        learner.loss(clips(), torch.Generator().manual_seed(step))["loss"].backward()
        optimiser.step()
    assert weights_hash(encoder.module) == before
    assert all(p.grad is None for p in encoder.module.parameters())
    assert not torch.equal(model.embed(frames(5)), latents)


@pytest.mark.parametrize("style", STYLES)
def test_features_are_those_asked_for_of_frames_resized_and_normalised(style):
    encoder, patches = given(style), STYLES[style][2]
    adapter = PretrainedEncoder(encoder, 3, 1, 8)
    raw = frames(4, seed=3).permute(0, 3, 1, 2).float() / 255.0
    found = adapter.features(raw[:, None])
    assert found.shape == (4, patches, WIDTH)
    small = nn.functional.interpolate(raw, (SIZE, SIZE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    wanted = encoder.ask(encoder.module, (small - mean) / std if style != "video" else ((small - mean) / std)[:, None])
    torch.testing.assert_close(found, wanted.detach().reshape(4, patches, WIDTH))


@torch.no_grad()
def test_many_frames_go_through_in_parts():
    adapter = PretrainedEncoder(given(), 3, 1, 8)
    many = torch.rand(2 * AT_ONCE + 3, 1, 3, SIDE, SIDE)
    torch.testing.assert_close(adapter(many)[-2:], adapter(many[-2:]))


@torch.no_grad()
def test_a_stack_goes_through_frame_by_frame_or_as_a_clip():
    seen = torch.rand(4, 2, 3, SIDE, SIDE)
    single = PretrainedEncoder(given(), 3, 2, 8)
    assert single.features(seen).shape == (4, 18, WIDTH)
    torch.testing.assert_close(single.features(seen)[:, 9:], single.features(seen[:, 1:]))
    whole = PretrainedEncoder(given("video", ask=lambda m, x: m(x, skip_predictor=True).last_hidden_state), 3, 2, 8)
    assert whole.features(seen).shape == (4, 9, WIDTH)
    assert not torch.equal(whole.features(seen), whole.features(seen.flip(1)))


@torch.no_grad()
def test_a_missing_frame_gives_no_latent_and_an_update_equals_encoding():
    model = model_of(given())
    seen = frames(4).reshape(2, 2, SIDE, SIDE, 3)
    belief = model.encode(history(seen[:, :1]))
    later = model.update(belief, torch.ones(2, dtype=torch.float64), {"frame": seen[:, 1]}, {})
    assert torch.equal(later.latent, model.encode(history(seen)).latent)
    torch.testing.assert_close(later.latent, model.embed(seen[:, 1]))
    gone = seen[:, 1].float()
    gone[0, 0, 0, 0] = torch.nan
    found = model.update(belief, torch.ones(2, dtype=torch.float64), {"frame": gone}, {})
    assert torch.isnan(found.latent[0]).all() and torch.isnan(found.look[0]).all()
    assert torch.equal(found.latent[1], later.latent[1])


# --- checkpoints -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_checkpoint_holds_the_head_and_asks_for_the_encoder(tmp_path):
    encoder = given()
    model = model_of(encoder)
    save(model, tmp_path / "model")
    assert not any("patches" in name for name in model.state_dict())
    again = load_as(LatentModel, tmp_path / "model", encoder=given())
    assert torch.equal(again.embed(frames(3)), model.embed(frames(3)))
    assert torch.equal(load_any(tmp_path / "model", encoder=given()).embed(frames(3)), model.embed(frames(3)))
    with pytest.raises(InputError, match=r"not stored with it: stand-in \(24 px, frozen, sha256 .*encoder=Pretrained"):
        load_as(LatentModel, tmp_path / "model")
    assert check(tmp_path / "model") == encoder.declared()
    assert "stand-in" in (tmp_path / "model" / "README.md").read_text()


def test_without_the_encoder_a_damaged_checkpoint_is_still_found(tmp_path):
    save(model_of(given()), tmp_path / "model")
    path = tmp_path / "model" / TENSORS
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(FormatError, match="truncated or altered"):
        check(tmp_path / "model")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 1}, "sha256 is"),
        ({"mean": (0.5, 0.5, 0.5)}, r"mean is \(0.5, 0.5, 0.5\)"),
        ({"size": 32}, "size is 32, expected 24"),
        ({"frozen": False}, "frozen is False"),
        ({"ask": lambda m, x: m.forward_features(x)["x_norm_patchtokens"].flip(1)}, "other features"),
        ({"ask": lambda m, x: m(x)}, "other features"),
        ({"ask": lambda m, x: m(x)[:, :, None, None]}, r"shape \(1, 12, 1, 1\)"),
        ({"ask": lambda m, x: {"a": x}}, "type dict"),
    ],
)
def test_another_encoder_is_refused(other, words, tmp_path):
    save(model_of(given()), tmp_path / "model")
    with pytest.raises(InputError, match=words):
        load_as(LatentModel, tmp_path / "model", encoder=given(**other))


def test_an_encoder_is_given_only_to_a_model_that_declares_one(tmp_path):
    save(LatentModel(schema(), config()).eval(), tmp_path / "model")
    assert check(tmp_path / "model") is None
    with pytest.raises(InputError, match="kind 'conv'; it takes none"):
        load_as(LatentModel, tmp_path / "model", encoder=given())
    with pytest.raises(ValidationError, match="need each other"):
        config(kind="pretrained")
    with pytest.raises(ValidationError, match="need each other"):
        config(pretrained=given().declared())


@torch.no_grad()
def test_one_trained_further_is_in_the_checkpoint_and_leaves_what_was_given_alone(tmp_path):
    encoder = given(frozen=False)
    before = weights_hash(encoder.module)
    model = model_of(encoder)
    with torch.enable_grad():
        model.embed(frames(4)).pow(2).sum().backward()
    trained = [p for name, p in model.named_parameters() if "module.patches" in name]
    assert trained and all(float(p.grad.abs().sum()) > 0 for p in trained)
    for weight in trained:
        weight.add_(0.1)
    assert weights_hash(encoder.module) == before
    save(model, tmp_path / "model")
    again = load_as(LatentModel, tmp_path / "model", encoder=given(seed=5, frozen=False))
    assert torch.equal(again.embed(frames(3)), model.embed(frames(3)))


def test_a_hash_is_of_names_types_shapes_and_bits():
    module = Hub()
    first = weights_hash(module)
    assert weights_hash(copy.deepcopy(module)) == first
    half = copy.deepcopy(module).to(torch.bfloat16)
    assert weights_hash(half) != first
    with torch.no_grad():
        module.patches.bias[0] = torch.nextafter(module.patches.bias[0], torch.tensor(9.0))
    assert weights_hash(module) != first


def test_a_declaration_is_json():
    declared = given().declared()
    assert PretrainedConfig.model_validate_json(declared.model_dump_json()) == declared


def test_a_world_model_of_series_takes_no_encoder(tmp_path):
    from tests.model.toy import make_model

    save(make_model(), tmp_path / "model")
    with pytest.raises(InputError, match="sees through no encoder"):
        load_as(WorldModel, tmp_path / "model", encoder=given())
