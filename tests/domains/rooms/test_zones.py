import numpy as np
import pytest

from foreworld.domains.rooms.layout import two_rooms
from foreworld.domains.rooms.loop import run_scenes
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.zones import CLEAR, Zones, blocked, left, zoned


def box(low, high):
    return np.array(low, np.float32), np.array(high, np.float32)


def test_distance_is_that_of_the_guardrail():
    import torch

    from foreworld.planning.zone import KeepOut

    generator = np.random.default_rng(0)
    low = generator.uniform(0, 50, (4, 2)).astype(np.float32)
    zones = Zones(low, low + generator.uniform(5, 40, (4, 2)).astype(np.float32))
    place = generator.uniform(-20, 120, (4, 7, 2)).astype(np.float32)
    ends = zones.corners()
    rail = KeepOut(name="z", unit="px", source="t", risk=0.1, quantities=("x", "y"), low=ends[0], high=ends[1])
    np.testing.assert_allclose(zones.distance(place), rail.distance(torch.from_numpy(place)).numpy(), atol=1e-4)
    assert (zones.crossed(place[:, 0], place[:, 0]) == (zones.distance(place)[:, 0] < 0)).all()


@pytest.mark.parametrize(
    ("before", "after", "inside"),
    [
        ((8, 9), (9, 8), False),  # past the corner at (10, 10)
        ((9, 12), (12, 9), True),  # across it: neither end is inside
        ((9, 11), (11, 9), False),  # touching it
        ((5, 15), (25, 15), True),  # right through
        ((5, 15), (9, 15), False),  # stops short
        ((5, 5), (5, 30), False),  # along, outside
        ((15, 5), (15, 12), True),
        ((15, 15), (15, 15), True),  # stays inside
        ((5, 15), (5, 15), False),
    ],
)
def test_a_step_that_cuts_a_corner_is_seen_although_it_ends_outside(before, after, inside):
    low, high = box([(10, 10)], [(20, 20)])
    zones = Zones(low, high)
    for one, two in ((before, after), (after, before)):
        found = zones.crossed(np.array([one], np.float32), np.array([two], np.float32))
        assert found.tolist() == [inside]


def test_a_way_is_left_unless_the_only_door_is_shut():
    layout, config = two_rooms(), RoomsConfig()
    start, goal = np.array([50, 180], np.float32), np.array([180, 180], np.float32)
    assert left(layout, start, goal, *box((150, 20), (200, 60)), config)
    assert not left(layout, start, goal, *box((100, 25), (124, 75)), config)
    assert not left(layout, start, goal, *box((14, 100), (112, 130)), config)


def test_nobody_stands_in_a_wall_but_in_a_door():
    layout = two_rooms()
    place = np.array([[112, 150], [112, 49], [50, 50], [16, 50]], np.float32)
    assert blocked(layout, place, 7.0).tolist() == [True, False, False, True]


def test_zones_keep_clear_of_start_and_goal_and_some_leave_no_way():
    pairs, zones, open_ = zoned(RoomsConfig(), 0, 40)
    assert len(pairs) == len(zones) == len(open_) == 40
    assert (zones.distance(pairs.start) > 0).all() and (zones.distance(pairs.goal) > 0).all()
    assert 0.5 < open_.mean() < 0.95
    again = zoned(RoomsConfig(), 0, 40)
    np.testing.assert_array_equal(again[1].low, zones.low)


class Guided:
    """Follows the expert's way, and so enters what lies on it."""

    def begin(self, scenes, frames):
        from foreworld.domains.rooms.behaviour import Expert

        self.scenes, self.expert = scenes, Expert(noise=0.0, repeat=0.0)
        self.expert.start(scenes, [np.random.default_rng(n) for n in range(len(scenes))])

    def act(self, frames, going):
        return self.expert.act(self.scenes)


@pytest.mark.parametrize("shut", [0.25, 1.0])
def test_no_zone_lies_where_an_episode_starts_or_is_to_end(shut):
    pairs, zones, _ = zoned(RoomsConfig(), 72, 60, shut=shut)
    assert min(zones.distance(pairs.start).min(), zones.distance(pairs.goal).min()) > CLEAR


def test_a_door_that_is_shut_is_entered_by_whoever_goes_through():
    pairs, zones, open_ = zoned(RoomsConfig(), 0, 30)
    scenes = Scenes(RoomsConfig(), pairs.seeds)
    scenes.place(pairs.start, pairs.goal)
    found = run_scenes(Guided(), scenes, 100, zone=zones.crossed)
    assert found.reached.mean() > 0.9
    assert (found.entered[~open_ & found.reached] > 0).all()


@pytest.mark.parametrize("shut", [0.0, 1.0])
def test_the_share_of_shut_doors_is_as_asked(shut):
    assert zoned(RoomsConfig(), 1, 10, shut=shut)[2].mean() == pytest.approx(1.0 - shut, abs=0.21)
