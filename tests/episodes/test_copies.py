"""Copies of an environment, policies that are tables, and a store laid end to end."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from foreworld.episodes import record
from foreworld.episodes.copies import Copies
from foreworld.episodes.flat import flatten
from foreworld.episodes.policies import TablePolicy
from foreworld.errors import InputError


class Countdown(gymnasium.Env):
    """Starts at 1, 2 or 3, falls by one a step, ends at 0 with reward 1; actions count from 5."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 4))
        return self.left, {}

    def step(self, action):
        assert action in (5, 6) and self.left > 0
        self.left -= 1
        return self.left, float(self.left == 0), self.left == 0, False, {}


def policy(seed=0):
    return TablePolicy(np.ones((4, 2)), seed, observation="observation", action="action")


def test_episodes_end_where_their_environment_ends(tmp_path):
    store = record(
        Copies(Countdown, 20, seed=1),
        policy(),
        tmp_path / "s",
        seed=1,
        episodes=2,
        schema=Copies(Countdown, 1, 1).schema,
    )
    assert len(store) == len(store.subjects) == 40
    for episode in store:
        assert episode.values["observation"][-1] == 0
        assert len(episode) == episode.values["observation"][0]
        assert episode.values["reward"][-1] == 1.0


def test_two_policies_meet_the_same_episodes():
    first, second = Copies(Countdown, 30, seed=3), Copies(Countdown, 30, seed=3)
    for _ in range(2):
        np.testing.assert_array_equal(first.reset()["observation"], second.reset()["observation"])
        while first.running.any():
            first.step({"action": np.zeros(30, dtype=int)})


def test_columns_hold_every_moment_and_mark_the_last(tmp_path):
    ward = Copies(Countdown, 10, seed=1)
    store = record(ward, policy(), tmp_path / "s", seed=1, schema=ward.schema)
    flat = flatten(store, ("observation", "action", "reward"))
    assert len(flat) == int((store.lengths + 1).sum())
    assert (flat.values["observation"][flat.last] == 0).all() and flat.last.sum() == 10
    np.testing.assert_array_equal(
        flat.values["action"][~flat.last], np.concatenate([e.values["action"] for e in store])
    )


def test_columns_of_one_part_are_those_of_its_episodes(tmp_path):
    ward = Copies(Countdown, 10, seed=1)
    store = record(ward, policy(), tmp_path / "s", seed=1, schema=ward.schema)
    store.set_split("default", {"fit": store.subjects[3:5]})
    flat = flatten(store, ("observation",), "default/fit")
    expected = np.concatenate([store.episode(i).values["observation"] for i in (3, 4)])
    np.testing.assert_array_equal(flat.values["observation"], expected)
    assert set(flat.episode) == {0, 1}


def test_a_table_is_drawn_in_its_shares():
    table = TablePolicy(np.array([[3.0, 1.0], [0.0, 0.0]]), 0, observation="o", action="a")
    drawn = table({"o": np.zeros(4000, dtype=int)})["a"]
    assert drawn.mean() == pytest.approx(0.25, abs=0.03)
    assert table({"o": np.ones(4000, dtype=int)})["a"].mean() == pytest.approx(0.5, abs=0.03)


def test_a_negative_share_is_refused():
    with pytest.raises(InputError, match="shares"):
        TablePolicy(np.array([[1.0, -1.0]]), 0, observation="o", action="a")


def test_no_copies_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        Copies(Countdown, 0, seed=0)


def test_going_on_later_begins_the_same_episodes():
    whole, rest = Copies(Countdown, 30, seed=3), Copies(Countdown, 30, seed=3, first=30)
    first = whole.reset()["observation"]
    whole.running[:] = False
    second = whole.reset()["observation"]
    assert (first != second).any()
    assert rest.subjects == whole.subjects
    np.testing.assert_array_equal(second, rest.reset()["observation"])
