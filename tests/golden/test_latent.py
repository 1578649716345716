"""A latent model of one camera, written before there could be several, loads and gives what it gave."""

import json

from tests.golden import make_latent as make
from tests.golden.test_golden import compare

from foreworld.model.checkpoint import load_as
from foreworld.model.latent_model import LatentModel


def expected():
    return json.loads((make.HERE / "expected.json").read_text())


def test_a_checkpoint_of_one_camera_gives_what_it_gave():
    compare(make.given(load_as(LatentModel, make.HERE / "checkpoint")), expected()["points"], "points")


def test_weights_drawn_from_a_seed_are_what_they_were():
    compare(make.given(make.made(kind="points", sight=1)), expected()["points"], "points")
    compare(make.given(make.made(members=2)), expected()["conv"], "conv")
