"""Sets of admissible actions, counted in a log or declared with an observation."""

import numpy as np
import pytest
import torch

from foreworld.episodes.flat import Flat
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.planning.admissible import Declared, Familiar

FLAT = Flat(
    {"place": np.array([0, 0, 1, 1, 1]), "action": np.array([1, 0, 0, 0, 0])},
    np.array([False, False, True, False, True]),
    np.array([0, 0, 0, 1, 1]),
)
ACTIONS = torch.arange(2.0).reshape(1, 2, 1, 1)


def now(name, value):
    return History(torch.zeros(1, 1), {name: torch.tensor([[value]])}, torch.ones(1, dtype=torch.int64))


def learn(least=1):
    return Familiar.learn(FLAT, "place", "action", (2, 2), least=least, source="test")


def test_counts_leave_out_the_last_moment_of_an_episode():
    assert learn().counts == ((1, 1), (1, 0))


def test_an_action_is_admissible_where_it_was_logged_often_enough():
    margin = learn().margin(None, ACTIONS, now("place", 1))
    assert margin.tolist() == [[0.0, -1.0]]


def test_an_unknown_state_makes_no_action_admissible():
    assert torch.isnan(learn().margin(None, ACTIONS, now("place", float("nan")))).all()


def test_the_state_is_the_newest_one_and_not_padding():
    history = History(torch.zeros(1, 2), {"place": torch.tensor([[1, 0]])}, torch.tensor([1]))
    assert learn().margin(None, ACTIONS, history).tolist() == [[0.0, -1.0]]


def test_a_threshold_of_nothing_is_refused():
    with pytest.raises(InputError, match="least"):
        learn(least=0)


def test_a_declared_set_bars_what_is_not_in_it():
    rail = Declared(name="declared", unit="", source="test", channel="set")
    assert rail.margin(None, ACTIONS, now("set", 2)).tolist() == [[-1.0, 0.0]]
    assert torch.isnan(rail.margin(None, ACTIONS, now("set", float("nan")))).all()


def test_the_last_bit_of_a_wide_set_is_exact():
    rail = Declared(name="declared", unit="", source="test", channel="set")
    candidates = torch.tensor([0.0, 24.0]).reshape(1, 2, 1, 1)
    assert rail.margin(None, candidates, now("set", 1 << 24)).tolist() == [[-1.0, 0.0]]
