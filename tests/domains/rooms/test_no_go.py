"""The protocol of zones that must not be entered, on a model that has learned next to nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.domains.rooms.test_sighted import TINY

from foreworld.domains.rooms import calibrate, loop, no_go
from foreworld.domains.rooms.calibrate import CalibrateRoomsConfig, walk
from foreworld.domains.rooms.loop import Outcome, Planned
from foreworld.domains.rooms.prepare import prepare
from foreworld.domains.rooms.protocols import PROTOCOLS, TWO_ROOMS_SIGHTED
from foreworld.domains.rooms.running import Job, add_episodes
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.zones import Zones, zoned
from foreworld.errors import InputError
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import NAMES, Names
from foreworld.evidence.samples import Samples
from foreworld.planning.hierarchy import Towards

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
        assert counts[0] == 10 == counts[1] + counts[2] and found[arm, "solved_at_start", "all"].value == 0.0
    assert found["foreworld", "entered", "all"].value == 0.0
    assert 0.0 <= found["foreworld", "refused_throughout", "shut"].value <= 1.0
    assert ("straight_line", "refusals", "all") not in found


def test_scenes_of_one_kind_alone_are_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("FOREWORLD_RUNS", str(tmp_path))
    with pytest.raises(InputError, match="of the 1 scenes of seed 3 a way is left"):
        no_go.NO_GO.rows(CONFIG, Request(seeds=(3,), subjects=1))
    assert not list(tmp_path.iterdir())


def test_what_is_solved_at_its_start_is_counted_and_part_of_nothing_else():
    solved = np.array([True, False, False, False])
    done = Outcome(
        reached=np.array([False, True, False, True]), solved=solved, steps=np.array([0, 2, 4, 3]),
        refused=np.array([0, 0, 4, 0]), entered=np.array([0, 0, 0, 1]), decisions=9, cpu_seconds=0.1,
        path=np.zeros((0, 4, 2), np.float32),
    )  # fmt: skip
    names = Names(frozenset(no_go.ARMS), frozenset(no_go.GROUPS), frozenset(no_go.METRICS))
    samples, job = Samples((3,), NAMES | names), Job("foreworld", 3, CONFIG, Path(), 4)
    no_go.add_samples(samples, job, no_go.Kept(done, np.array([True, True, False, True])))
    found = {(row.metric, row.group): row for row in samples.rows()}
    assert (found["solved_at_start", "open"].value, found["solved_at_start", "open"].n) == (pytest.approx(1 / 3), 3)
    assert (found["success", "open"].value, found["success", "open"].n) == (1.0, 2)
    assert (found["entered", "all"].value, found["entered", "all"].n) == (pytest.approx(1 / 3), 3)
    assert found["refused_throughout", "shut"].value == 1.0 and found["refused_throughout", "open"].value == 0.0


def test_scenes_that_are_all_solved_at_their_start_are_told():
    solved, none = np.ones(2, dtype=bool), np.zeros(2, dtype=int)
    done = Outcome(~solved, solved, none, none, none, 0, 0.0, np.zeros((0, 2, 2), np.float32))
    with pytest.raises(InputError, match="all 2 scenes of seed 3 are solved at their start"):
        add_episodes(Samples((3,)), "nothing", 3, done)


def test_a_zone_is_watched_for_as_many_blocks_as_are_asked_for(tmp_path):
    prepared = prepare(tmp_path / "made", CONFIG.recipe, seed=0, progress="none")
    zones = Zones(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))
    points = prepared.model.config.grid.points
    assert Planned(prepared, horizon=3, watched=1).rail(zones).horizon == points[0]
    assert Planned(prepared, horizon=3).rail(zones).horizon == points[2]
    with pytest.raises(InputError, match="of 3 blocks that are planned 4 cannot be watched"):
        Planned(prepared, horizon=3, watched=4).rail(zones)


def test_a_plan_that_came_nowhere_near_is_scored_as_far_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(Towards, "left", lambda self, now: torch.ones(len(now), 1, dtype=torch.bool))
    prepared = prepare(tmp_path / "made", CONFIG.recipe, seed=0, progress="none")
    pairs = zoned(CONFIG.rooms, 5, 6)[0]
    low = np.full((6, 2), 1000.0, np.float32)
    player = Planned(prepared, horizon=3, by="imagined", watched=1, far=20.0, zones=Zones(low, low + 5.0))
    visits = walk(player, CONFIG.rooms, pairs, player.zones, CONFIG.calibrate)[1]
    assert len(visits.subject) and (visits.true["no_go"] == 20.0).all() and (visits.least["no_go"] == 20.0).all()


def test_a_step_that_cuts_a_zone_counts_although_it_ends_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(Towards, "left", lambda self, now: torch.ones(len(now), 1, dtype=torch.bool))
    leap = np.array([30.0, 0.0], np.float32)
    monkeypatch.setattr(calibrate, "move", lambda layouts, place, *rest: place + leap)
    prepared = prepare(tmp_path / "made", CONFIG.recipe, seed=0, progress="none")
    pairs = zoned(CONFIG.rooms, 5, 6)[0]
    zones = Zones(*(pairs.start + 0.5 * leap + size for size in (-2.0, 2.0)))
    player = Planned(prepared, horizon=3, by="imagined", watched=1, far=20.0, zones=zones)
    visits = walk(player, CONFIG.rooms, pairs, zones, CONFIG.calibrate)[1]
    assert len(visits.subject) and np.allclose(visits.true["no_go"], -2.0)


def test_readouts_are_less_sure_away_from_what_was_seen_where_there_are_zones_alone(tmp_path):
    prepared = prepare(tmp_path / "made", CONFIG.recipe, seed=0, progress="none")
    scenes, generator = Scenes(CONFIG.rooms, [3]), torch.Generator().manual_seed(0)
    far = 5.0 * torch.randn(50, prepared.model.config.width, generator=generator)
    box = Zones(*(np.full((1, 2), side, np.float32) for side in (1000.0, 1005.0)))
    scales = []
    for zones in (None, box):
        player = Planned(prepared, horizon=3, by="imagined", watched=1, far=20.0, zones=zones)
        player.begin(scenes, scenes.reset())
        scales.append(player.agent.forecaster.model.read_scale(far)["x"])
    assert (scales[1] >= scales[0]).all() and (scales[1] > scales[0]).any()


def test_each_scene_keeps_its_own_zone_where_they_are_run_in_parts(tmp_path, monkeypatch):
    prepared = prepare(tmp_path / "made", CONFIG.recipe, seed=0, progress="none")
    pairs, zones, _ = zoned(CONFIG.rooms, 3, 5)
    seen = []

    def episodes(player, scenes, budget, *, frames, zone):
        seen.append((player.zones, zone.__self__))
        none = np.zeros(len(scenes), dtype=int)
        return Outcome(none > 0, none > 0, none, none, none, 0, 0.0, np.zeros((0, len(scenes), 2), np.float32))

    monkeypatch.setattr(loop, "TOGETHER", 2)
    monkeypatch.setattr(loop, "run_scenes", episodes)
    done = loop.run_pairs(Planned(prepared, zones=zones), CONFIG.rooms, pairs, 4, zones=zones)
    assert [len(told) for told, _ in seen] == [2, 2, 1] and len(done.reached) == 5
    for which in (0, 1):
        assert np.array_equal(np.concatenate([both[which].low for both in seen]), zones.low)


def test_moves_across_a_zone_are_barred_and_so_is_what_cannot_be_told(tmp_path, monkeypatch):
    given = {}

    def ways(model, places, now, around, goals, *, barred, bars):
        given.update(barred=barred, bars=bars)
        return Towards(places, torch.zeros(1, 1, len(places.nodes)))

    monkeypatch.setattr(loop, "imagine_ways", ways)
    monkeypatch.setattr(Planned, "_places", lambda self, latents: latents[..., :2])
    prepared = prepare(tmp_path / "made", CONFIG.recipe, seed=0, progress="none")
    nodes = torch.zeros_like(prepared.places.nodes)
    nodes[0], nodes[1, :2] = torch.nan, 55.0
    prepared = replace(prepared, places=replace(prepared.places, nodes=nodes))
    scenes = Scenes(CONFIG.rooms, [3])
    box = (np.full((1, 2), side, np.float32) for side in (50.0, 60.0))
    Planned(prepared, horizon=3, by="imagined", watched=1, zones=Zones(*box)).begin(scenes, scenes.reset())
    assert given["barred"][0, :3].tolist() == [True, True, False]
    ends = torch.tensor([[70.0, 55.0], [30.0, 55.0], [torch.nan, 55.0]])
    assert given["bars"](0, torch.tensor([[40.0, 55.0]]), ends[None, None, :, None])[0, 0, :, 0].tolist() == [
        True, False, True,
    ]  # fmt: skip


def test_the_protocol_is_that_of_the_settings():
    protocol = PROTOCOLS["rooms/no-go"]
    assert protocol.settings["recipe"]["name"] == TWO_ROOMS_SIGHTED.name and protocol.keeps
    assert np.isclose(protocol.settings["risk"], 0.01)
