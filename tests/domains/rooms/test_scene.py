"""Layouts, motion and what the camera sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreworld.domains.rooms.behaviour import Expert, Roam, Wander, Way
from foreworld.domains.rooms.layout import maze, random_two_rooms, two_rooms
from foreworld.domains.rooms.motion import move
from foreworld.domains.rooms.render import Appearance, Camera, reduce
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.errors import InputError

RANDOM = RoomsConfig(layout="random_two_rooms", speed=1.5, radius=2.0, reach=4.5)
MAZE = RoomsConfig(layout="maze", radius=5.0, reach=12.0)
EVERY = [RoomsConfig(), RANDOM, MAZE, RoomsConfig(other=True)]


def one(*values):
    return np.array([values], dtype=np.float32)


def radius(value=7.0, count=1):
    return np.full(count, value, dtype=np.float32)


# --- motion ----------------------------------------------------------------------------------------------------------


def test_an_agent_moves_by_its_action_times_its_speed():
    after = move(two_rooms(), one(50.0, 100.0), one(0.5, -1.0), radius(), radius(5.0))
    np.testing.assert_allclose(after, [[52.5, 95.0]])


def test_an_action_counts_within_its_bounds():
    after = move(two_rooms(), one(50.0, 100.0), one(9.0, -9.0), radius(), radius(5.0))
    np.testing.assert_allclose(after, [[55.0, 95.0]])


@pytest.mark.parametrize(("y", "through"), [(49.0, True), (64.0, True), (65.5, False), (120.0, False)])
def test_a_wall_is_passed_through_its_door_alone_and_slid_along_elsewhere(y, through):
    place = one(98.0, y)
    for _ in range(8):
        place = move(two_rooms(), place, one(1.0, 0.0), radius(), radius(5.0))
    assert (place[0, 0] > 112.0) == through
    if not through:
        assert place[0, 0] == pytest.approx(112.0 - 5.0 - 7.0 - 0.5)
        slid = move(two_rooms(), place, one(1.0, 1.0), radius(), radius(5.0))
        np.testing.assert_allclose(slid, [[place[0, 0], y + 5.0]])


@given(st.integers(0, 2**31), st.sampled_from(range(3)))
def test_nobody_gets_into_a_wall_nor_out_of_the_scene(seed, which):
    scenes = Scenes(EVERY[which], [seed])
    scenes.reset()
    rooms, generator = scenes.layouts.rooms(scenes.position), np.random.default_rng(seed)
    for _ in range(40):
        before, rooms = scenes.position, scenes.layouts.rooms(scenes.position)
        scenes.step(generator.uniform(-1, 1, (1, 2)))
        after = scenes.position
        assert (after >= scenes.layouts.border).all() and (after <= scenes.layouts.size - scenes.layouts.border).all()
        if scenes.layouts.rooms(after) != rooms:  # then it went through a door
            crossed = [
                wall
                for wall in range(scenes.layouts.axis.shape[1])
                if (before[0, scenes.layouts.axis[0, wall]] - scenes.layouts.centre[0, wall])
                * (after[0, scenes.layouts.axis[0, wall]] - scenes.layouts.centre[0, wall])
                <= 0
            ]
            assert all(scenes.layouts.through(w, after[:, 1 - scenes.layouts.axis[0, w]])[0] for w in crossed)


# --- layouts ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31))
def test_every_room_of_a_maze_is_reached_from_every_other(seed):
    layout = maze(np.random.default_rng(seed), 1)
    way = Way.find(layout, 0)
    assert len(way.doors) == 2 * 15  # sixteen rooms and a tree between them
    rooms = sorted({room for pair in way.doors for room in pair})
    assert len(rooms) == 16
    assert all(way._path(rooms[0], room)[-1] == room for room in rooms)


def test_layouts_of_other_scenes_differ_and_of_the_same_seed_do_not():
    ten = random_two_rooms(np.random.default_rng(0), 10)
    assert len(set(ten.centre[:, 0])) > 3 and len(set(ten.door[:, 0, 0])) > 3
    again = random_two_rooms(np.random.default_rng(0), 10)
    np.testing.assert_array_equal(ten.centre, again.centre)


def test_layouts_that_are_unseen_are_none_that_are_seen():
    def found(part):
        made = random_two_rooms(np.random.default_rng(0), 3000, part=part)
        return set(zip(made.centre[:, 0].tolist(), made.door[:, 0, 0].tolist(), strict=True))

    seen, unseen = found("seen"), found("unseen")
    assert not seen & unseen and len(seen) > 600 and len(unseen) > 200
    assert len(seen | unseen) >= len(found("all"))


def test_a_maze_of_one_room_is_refused():
    with pytest.raises(InputError, match="at least two cells"):
        maze(np.random.default_rng(0), 1, cells=1)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_the_agent_is_seen_where_it_is_and_the_wall_where_it_stands():
    scenes = Scenes(RoomsConfig(frame=224), [0])
    frame = scenes.place(one(40.0, 150.0), one(180.0, 60.0))[0]
    assert tuple(frame[150, 40]) == (255, 0, 0)
    assert tuple(frame[150, 112]) == (0, 0, 0) and tuple(frame[49, 112]) == (255, 255, 255)


@pytest.mark.parametrize("size", [64, 65, 100, 224])
def test_a_small_frame_is_the_mean_of_the_full_one(size):
    scenes = Scenes(RoomsConfig(frame=224, other=True), range(5))
    scenes.reset()
    small = Camera(scenes.layouts, size).frames(scenes.position, radius(count=5), scenes.other)
    np.testing.assert_array_equal(small, reduce(scenes.frames(), size))


@pytest.mark.parametrize("config", EVERY)
def test_a_scene_does_not_depend_on_which_others_are_beside_it(config):
    together, alone = Scenes(config, [5, 6, 7]), Scenes(config, [6])
    np.testing.assert_array_equal(together.reset()[1], alone.reset()[0])
    action = np.random.default_rng(0).uniform(-1, 1, (12, 3, 2))
    for step in action:
        np.testing.assert_array_equal(together.step(step)[1], alone.step(step[1:2])[0])
    np.testing.assert_array_equal(together.goal_frames()[1], alone.goal_frames()[0])


def test_a_narrow_view_shows_the_middle_larger_and_a_wide_one_more_than_the_scene():
    seen = {view: Scenes(RoomsConfig(view=view), [3]).reset()[0] for view in (0.5, 1.0, 2.0)}
    middle = seen[1.0][16:48, 16:48]
    np.testing.assert_array_equal(seen[0.5], middle.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(seen[2.0][16:48, 16:48], seen[1.0][1::2, 1::2])
    np.testing.assert_array_equal(seen[2.0][:16, 20], seen[2.0][16, 20][None].repeat(16, 0))
    with pytest.raises(InputError, match="view of 3 sides"):
        Camera(Scenes(RoomsConfig(), [3]).layouts, 64, view=3.0)


def test_colours_are_those_asked_for():
    scenes = Scenes(RoomsConfig(frame=224, agent_colour=(0, 200, 0), wall_colour=(9, 9, 9)), [0])
    frame = scenes.place(one(40.0, 150.0), one(180.0, 60.0))[0]
    assert tuple(frame[150, 40]) == (0, 200, 0) and tuple(frame[150, 112]) == (9, 9, 9)


@pytest.mark.parametrize("size", [0, 225])
def test_a_frame_larger_than_its_scene_is_refused(size):
    with pytest.raises(InputError, match="cannot be made"):
        Camera(two_rooms(), size)
    with pytest.raises(InputError, match="one for each of the 3"):
        Camera(two_rooms(3), 64, (Appearance(), Appearance()))


# --- scenes and behaviours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("goal", "same"), [("another", False), ("same", True)])
def test_the_goal_lies_where_it_was_asked_for_and_is_not_reached_at_the_start(goal, same):
    scenes = Scenes(RoomsConfig(goal=goal), range(40))
    scenes.reset()
    rooms = scenes.layouts.rooms(scenes.position) == scenes.layouts.rooms(scenes.goal)
    assert (rooms == same).all() and not scenes.reached.any()


@pytest.mark.parametrize("action", [np.zeros((2, 2)), np.array([[np.nan, 0.0]])])
def test_a_wrong_action_is_refused_and_nobody_moves(action):
    scenes = Scenes(RoomsConfig(), [0])
    scenes.reset()
    before = scenes.position.copy()
    with pytest.raises(InputError, match="action"):
        scenes.step(action)
    np.testing.assert_array_equal(scenes.position, before)


@pytest.mark.parametrize("config", [RoomsConfig(), RANDOM, MAZE])
def test_who_knows_the_way_gets_there(config):
    scenes = Scenes(config, range(12))
    scenes.reset()
    expert = Expert(noise=0.0, repeat=0.0)
    expert.start(scenes, [np.random.default_rng(n) for n in range(12)])
    done = scenes.reached
    for _ in range(400):
        scenes.step(expert.act(scenes))
        done |= scenes.reached
    assert done.mean() > 0.9


@pytest.mark.parametrize("behaviour", [Roam(), Wander(), Expert()])
def test_movements_are_within_bounds_and_repeat_with_their_seed(behaviour):
    found = []
    for _ in range(2):
        scenes = Scenes(RoomsConfig(), range(4))
        scenes.reset()
        behaviour.start(scenes, [np.random.default_rng(n) for n in range(4)])
        for _ in range(20):
            action = behaviour.act(scenes)
            assert action.dtype == np.float32 and (np.abs(action) <= 1.0).all()
            scenes.step(action)
        found.append(scenes.position.copy())
    np.testing.assert_array_equal(found[0], found[1])
