"""Rooms seen through a vision transformer, and through an encoder that somebody else trained."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.domains.rooms.test_sighted import TINY, placed
from tests.model.test_pretrained import given

from foreworld.domains.rooms.loop import Planned, run_scenes
from foreworld.domains.rooms.prepare import prepare
from foreworld.domains.rooms.source import PLACE
from foreworld.learning.latent import train_latent
from foreworld.model.checkpoint import load_as
from foreworld.model.latent_loss import LatentLossConfig
from foreworld.model.latent_model import LatentConfig, LatentModel
from foreworld.model.vit import VitConfig

SMALL = {"quantities": PLACE, "width": 8, "hidden": 16, "grid": TINY.train.model.grid}


def recipe(model):
    train = TINY.train.model_copy(update={"model": model, "loss": LatentLossConfig(slices=16), "check": None})
    return TINY.model_copy(update={"name": f"tiny-{model.kind}", "places": 0, "train": train})


def frames():
    return torch.from_numpy(placed(3).frames())


@pytest.fixture(scope="module")
def seen_by_vit(tmp_path_factory):
    model = LatentConfig(kind="vit", vit=VitConfig(width=32, layers=2, heads=2), **SMALL)
    chosen = recipe(model)
    chosen = chosen.model_copy(update={"train": chosen.train.model_copy(update={"check": "default/check"})})
    return prepare(tmp_path_factory.mktemp("vit"), chosen, seed=70, progress="none")


def test_a_vision_transformer_learns_rooms_and_is_loaded_bit_for_bit(seen_by_vit, tmp_path):
    trained = train_latent(
        seen_by_vit.store, tmp_path / "model", recipe(seen_by_vit.model.config).training(70), progress="none"
    )
    again = load_as(LatentModel, tmp_path / "model")
    assert again.config.kind == "vit" and again.encoder.patches.weight.shape[2:] == (8, 8)
    with torch.no_grad():
        latents = [model.embed(frames()) for model in (trained, again, seen_by_vit.model)]
    assert torch.equal(latents[0], latents[1]) and torch.equal(latents[0], latents[2])  # the same seed, the same model
    assert np.isfinite(seen_by_vit.diagnosis.variance)


def test_rooms_are_planned_in_through_a_vision_transformer(seen_by_vit):
    found = run_scenes(Planned(seen_by_vit, by="straight"), placed(2), 2)
    assert found.decisions == 4 and not found.refused.any()


def test_rooms_are_planned_in_through_a_pretrained_encoder(seen_by_vit, tmp_path):
    encoder = given(size=32)
    model = LatentConfig(kind="pretrained", pretrained=encoder.declared(), **SMALL)
    train_latent(seen_by_vit.store, tmp_path / "model", recipe(model).training(70), encoder=encoder, progress="none")
    loaded = load_as(LatentModel, tmp_path / "model", encoder=given(size=32))
    found = run_scenes(Planned(dataclasses.replace(seen_by_vit, model=loaded), by="straight"), placed(2), 2)
    assert found.decisions == 4 and not found.refused.any()
