"""A maze of a seed: its scenes share it, goals lie many doors away, and only ways that were walked lead there."""

import numpy as np
import pytest

from foreworld.domains.rooms.pairs import drawn
from foreworld.domains.rooms.prepare import RoomsRecipe, prepare
from foreworld.domains.rooms.protocols import IN_A_MAZE, MAZE, TASKS, Job, ReachConfig, arms_of, run_job
from foreworld.domains.rooms.scene import Scenes
from foreworld.domains.rooms.way import Way
from foreworld.errors import InputError

# Four rooms and three doors, so from one end to the other it is three.
SMALL = MAZE.model_copy(update={"cells": 2})
QUICK = IN_A_MAZE.quick()
TINY = QUICK.model_copy(update={"rooms": SMALL, "waypoints": 250})


def test_all_scenes_of_a_seed_share_a_maze_and_those_of_others_have_another():
    one, other = (Scenes(MAZE.of(seed), range(3)).layouts.door for seed in (70, 71))
    np.testing.assert_array_equal(one[0], one[2])
    assert not np.array_equal(np.isnan(one[0]), np.isnan(other[0]))
    with pytest.raises(InputError, match="that of a seed"):
        Scenes(MAZE, range(3))
    assert MAZE.model_copy(update={"shared": 5}).of(70).shared == 5


def test_goals_lie_at_least_so_many_doors_away_whichever_others_are_drawn():
    rooms = MAZE.of(70)
    pairs = drawn(rooms, 70, 12, doors=4)
    way = Way.find(Scenes(rooms, [0]).layouts, 0)
    doors = [way.between(start, goal) for start, goal in zip(pairs.start, pairs.goal, strict=True)]
    assert min(doors) >= 4 and max(doors) > 5
    np.testing.assert_array_equal(drawn(rooms, 70, 5, doors=4).goal, pairs.goal[:5])
    assert way.between(pairs.start[0], pairs.start[0]) == 0
    with pytest.raises(InputError, match="ask for fewer"):
        drawn(SMALL.of(70), 70, 2, doors=4)


def test_recipes_that_know_nothing_of_it_are_what_they_were():
    assert "astray" not in RoomsRecipe(name="other").model_dump()
    assert "doors" not in ReachConfig(recipe=RoomsRecipe(name="other")).model_dump()
    assert TASKS["maze"][1].model_dump()["recipe"]["astray"] == IN_A_MAZE.astray
    assert "foreworld_waypoints" not in arms_of(TASKS["maze"][1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maze")
    prepare(folder, TINY, seed=70, progress="none")
    return folder


def test_waypoints_lead_through_a_small_maze_where_a_flat_plan_stops_at_walls(tiny):
    config = ReachConfig(rooms=SMALL, recipe=TINY, doors=2, budget=100, by="waypoints", horizon=5, flat_horizon=10)
    reached = {arm: run_job(Job(arm, 70, config, tiny, 12)).reached for arm in ("foreworld", "foreworld_flat")}
    assert reached["foreworld"].mean() > max(0.7, reached["foreworld_flat"].mean())
