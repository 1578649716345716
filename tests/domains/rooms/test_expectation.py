"""Surprise: what is staged is what it is called, and the protocol runs on a model that has learned next to nothing."""

import numpy as np
import pytest
import torch
from tests.domains.rooms.test_sighted import TINY

from foreworld.domains.rooms import expectation
from foreworld.domains.rooms.expectation import ExpectationConfig, above, crossed, difference, roam, teleported
from foreworld.domains.rooms.protocols import PROTOCOLS, RANDOM
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.errors import InputError
from foreworld.evidence.protocol import Request


@pytest.fixture(scope="module")
def episodes():
    return roam(RANDOM, range(30), 3, 4)


def test_a_teleport_changes_the_last_frame_alone_and_leads_far(episodes):
    frames, far = teleported(episodes, 10.0)
    assert torch.equal(frames[:, :-1], episodes.frames[:, :-1])
    assert (frames[:, -1] != episodes.frames[:, -1]).flatten(1).any(1)[torch.from_numpy(far)].all()
    assert far.mean() > 0.5
    # What needs no model sees a teleport, too: of pixels no more changes than on a long way.
    assert difference(frames).shape == (30, 3)


def test_a_crossing_ends_behind_the_wall_and_being_held_before_it():
    scenes = Scenes(RANDOM, range(40))
    scenes.reset()
    (through, pushed), (held, same) = crossed(scenes, 0, 4)
    assert torch.equal(through[:, 0], held[:, 0]) and torch.equal(pushed, same) and len(through) > 20
    assert (through[:, 1] != held[:, 1]).flatten(1).any(1).all()
    assert (pushed[..., 0].abs() == 1).all() and not pushed[..., 1].any()
    maze = Scenes(RoomsConfig(layout="maze", cells=2), [0])
    maze.reset()
    maze.layouts.axis[:] = 1
    with pytest.raises(InputError, match="upright wall"):
        crossed(maze, 0, 4)


def test_placement_values_have_the_auroc_as_their_mean():
    generator = np.random.default_rng(0)
    strange, usual = generator.integers(0, 9, 50), generator.integers(0, 7, 40)
    pairs = (strange[:, None] > usual).mean() + 0.5 * (strange[:, None] == usual).mean()
    assert above(strange, usual).mean() == pytest.approx(pairs)


def test_every_arm_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    recipe = TINY.model_copy(update={"gate": None, "name": "tiny-expectation"})
    config = ExpectationConfig(rooms=RANDOM, recipe=recipe, count=60, blocks=2)
    rows = expectation.EXPECTATION.rows(config, Request(seeds=(3,)))
    found = {(row.arm, row.metric): row.value for row in rows}
    for arm in expectation.ARMS:
        assert all(0.0 <= found[arm, metric] <= 1.0 for metric in expectation.METRICS)
        # Who is called unfamiliar is called so by looks, whoever is asked.
        assert found[arm, "unfamiliar_agent_blue"] == found["foreworld", "unfamiliar_agent_blue"]
        assert found[arm, "broken_law_agent_blue"] <= 1.0 - found[arm, "unfamiliar_agent_blue"]
    assert PROTOCOLS["rooms/expectation"].keeps
