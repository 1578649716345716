"""Scenes unlike those of the training, on a model that has learned next to nothing."""

from tests.domains.rooms.test_sighted import TINY

from foreworld.domains.rooms import variation
from foreworld.domains.rooms.calibrate import CalibrateRoomsConfig
from foreworld.domains.rooms.protocols import RANDOM
from foreworld.domains.rooms.variation import FACTORS, VariationConfig, varied
from foreworld.evidence.protocol import Request


def test_a_factor_changes_what_it_says_alone():
    assert varied(RANDOM, "usual") == RANDOM
    assert varied(RANDOM, "agent_large").radius == 3.0 and varied(RANDOM, "agent_slow").speed == 1.125
    assert varied(RANDOM, "walls_grey").model_copy(update={"wall_colour": RANDOM.wall_colour}) == RANDOM


def test_every_factor_is_a_group_with_both_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    config = VariationConfig(
        rooms=RANDOM, recipe=TINY.model_copy(update={"gate": None, "name": "tiny-variation"}), count=3, budget=3,
        calibrate=CalibrateRoomsConfig(scenes=40, budget=3),
    )  # fmt: skip
    found = {(row.arm, row.metric, row.group): row for row in variation.VARIATION.rows(config, Request(seeds=(3,)))}
    for factor in FACTORS:
        assert found["foreworld", "flagged", factor].n == 3 == found["foreworld_ungated", "success", factor].n
        assert found["foreworld_ungated", "flagged", factor].value == 0.0
        assert found["clone", "success", factor].n == 3 and ("clone", "flagged", factor) not in found
        assert found["nothing", "success", factor].value == 0.0
    # A look that was never seen is flagged whatever the model has learned.
    assert found["foreworld", "flagged", "agent_blue"].value == 1.0
