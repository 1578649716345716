"""The protocol of zones that must not be entered, on a model that has learned next to nothing."""

import numpy as np
from tests.domains.rooms.test_sighted import TINY

from foreworld.domains.rooms import no_go
from foreworld.domains.rooms.calibrate import CalibrateRoomsConfig
from foreworld.domains.rooms.protocols import PROTOCOLS, TWO_ROOMS_SIGHTED
from foreworld.domains.rooms.scene import RoomsConfig
from foreworld.evidence.protocol import Request

CONFIG = no_go.NoGoConfig(
    recipe=TINY.model_copy(update={"rooms": RoomsConfig(), "name": "tiny-no-go", "gate": None}),
    calibrate=CalibrateRoomsConfig(scenes=40, budget=4, rounds=0),
    count=10,
    budget=4,
)


def test_every_arm_runs_and_scenes_are_told_apart_by_whether_a_way_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    rows = no_go.NO_GO.rows(CONFIG, Request(seeds=(3,)))
    found = {(row.arm, row.metric, row.group): row for row in rows}
    for arm in no_go.ARMS:
        counts = [found[arm, "success", group].n for group in ("all", "open", "shut")]
        assert counts[0] == 10 == counts[1] + counts[2]
    assert found["foreworld", "entered", "all"].value == 0.0
    assert 0.0 <= found["foreworld", "refused_throughout", "shut"].value <= 1.0
    assert ("straight_line", "refusals", "all") not in found


def test_the_protocol_is_that_of_the_settings():
    protocol = PROTOCOLS["rooms/no-go"]
    assert protocol.settings["recipe"]["name"] == TWO_ROOMS_SIGHTED.name and protocol.keeps
    assert np.isclose(protocol.settings["risk"], 0.01)
