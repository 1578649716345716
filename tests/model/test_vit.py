"""A vision transformer in the place of the convolutional encoder."""

import numpy as np
import pytest
import torch
from tests.model.test_latent_model import SIDE, clips, config, frames, schema

from foreworld.errors import InputError
from foreworld.model.checkpoint import load_as, save
from foreworld.model.latent_loss import LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentModel
from foreworld.model.vit import Block, VitConfig, VitEncoder

TINY = VitConfig(patch=8, width=16, layers=2, heads=2)


def vit(**more):
    torch.manual_seed(0)
    made = LatentModel(schema(), config(kind="vit", vit=TINY, **more))
    made.fit_pixels(frames(20))
    return made


def test_by_default_a_frame_of_64_px_is_64_patches():
    encoder = VitEncoder(3, 64, 32, VitConfig())
    assert encoder.positions.shape == (64, 128) and encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 32)


def test_frames_stay_bytes_until_the_encoder_and_all_of_it_learns():
    model = vit()
    seen = frames(6)
    assert seen.dtype == torch.uint8
    found = model.embed(seen)
    assert found.shape == (6, 8) and found.dtype == torch.float32
    found.pow(2).sum().backward()
    for name, weight in model.encoder.named_parameters():
        assert weight.grad is not None and float(weight.grad.abs().sum()) > 0, name


@torch.no_grad()
def test_what_is_where_matters():
    encoder = VitEncoder(3, SIDE, 8, TINY)
    pixels = torch.zeros(2, 3, SIDE, SIDE)
    pixels[0, :, :8, :8] = pixels[1, :, -8:, -8:] = 3.0
    assert float((encoder(pixels[:1]) - encoder(pixels[1:])).abs().max()) > 1e-3
    encoder.positions.zero_()  # without positions the same patches are the same picture
    torch.testing.assert_close(encoder(pixels[:1]), encoder(pixels[1:]))


@torch.no_grad()
def test_a_block_adds_attention_over_all_patches_as_torch_has_it():
    block = Block(16, 2)
    tokens = torch.randn(3, 5, 16)
    torch_block = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    torch_block.in_proj_weight.copy_(block.asked.weight)
    torch_block.in_proj_bias.copy_(block.asked.bias)
    torch_block.out_proj.load_state_dict(block.told.state_dict())
    normal = block.first(tokens)
    after = tokens + torch_block(normal, normal, normal)[0]
    wanted = after + block.narrow(torch.nn.functional.gelu(block.wide(block.second(after))))
    torch.testing.assert_close(block(tokens), wanted, rtol=1e-5, atol=1e-5)


def test_it_learns_to_foresee():
    model = vit()
    learner = LatentLearner(model, LatentLossConfig(slices=16), group=4)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    batch, losses = clips(), []
    for step in range(30):
        optimiser.zero_grad()
        loss = learner.loss(batch, torch.Generator().manual_seed(step))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@torch.no_grad()
def test_a_checkpoint_gives_the_same_bits(tmp_path):
    model = vit(bf16=True).eval()
    save(model, tmp_path / "model")
    again = load_as(LatentModel, tmp_path / "model")
    assert again.config == model.config and again.config.vit == TINY
    assert torch.equal(again.embed(frames(3)), model.embed(frames(3)))


@pytest.mark.parametrize(
    ("sizes", "words"), [({"patch": 7}, "multiple of 7"), ({"width": 15, "heads": 2}, "split over 2")]
)
def test_sizes_that_do_not_fit_are_named(sizes, words):
    with pytest.raises(InputError, match=words):
        VitEncoder(3, SIDE, 8, VitConfig(**sizes))
