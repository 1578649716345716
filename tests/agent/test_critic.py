"""The critic finds the values of a task that can be worked out by hand, and an agent acts by them."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from ladder import SCHEMA, Ladder, log, model

from foreworld.agent.acting import AgentPolicy
from foreworld.agent.agent import Agent
from foreworld.agent.configurator import Configurator
from foreworld.agent.critic import LongRun, Moments, fit_critic
from foreworld.episodes import record
from foreworld.episodes.copies import Copies
from foreworld.episodes.flat import flatten
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.planning.admissible import Familiar
from foreworld.planning.planners.exhaustive import ExhaustivePlanner
from foreworld.planning.profile import Profile
from foreworld.planning.space import ActionSpace

CANDIDATES = torch.arange(3.0)[:, None, None]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    store = log(folder / "data")
    return Forecaster(model(folder / "data", folder / "model")), flatten(store, SCHEMA.names())


def familiar(flat, least=20):
    return Familiar.learn(flat, "place", "action", (4, 3), least=least, source="test")


def test_the_critic_finds_the_values_worked_out_by_hand(learned):
    forecaster, flat = learned
    critic = fit_critic(forecaster, Moments.draw(flat, SCHEMA, "place"), "place", CANDIDATES, (familiar(flat),))
    assert critic.values[3] == pytest.approx(1.0)
    assert critic.values[2] == pytest.approx(0.0)
    assert critic.values[1] == pytest.approx(0.8, abs=0.04)
    assert critic.values[0] == pytest.approx(0.72, abs=0.05)


def test_a_barred_action_does_not_count_in_the_value(learned):
    forecaster, flat = learned
    rail = familiar(flat)
    counts = tuple((row[0], 0, row[2]) for row in rail.counts)
    slow = Familiar(name="slow", unit="times", source="test", channel="place", counts=counts, least=1)
    critic = fit_critic(forecaster, Moments.draw(flat, SCHEMA, "place"), "place", CANDIDATES, (slow,))
    assert critic.values[1] == pytest.approx(0.5, abs=0.04)


def test_where_nothing_is_admissible_the_nearest_counts(learned):
    forecaster, flat = learned
    rail = familiar(flat)
    counts = tuple((row[0] + 10**6, row[1], 0) for row in rail.counts)
    never = Familiar(name="never", unit="times", source="test", channel="place", counts=counts, least=10**9)
    critic = fit_critic(forecaster, Moments.draw(flat, SCHEMA, "place"), "place", CANDIDATES, (never,))
    assert critic.values[1] == pytest.approx(0.5, abs=0.04)


def test_discounting_shrinks_what_comes_later(learned):
    forecaster, flat = learned
    moments = Moments.draw(flat, SCHEMA, "place")
    whole = fit_critic(forecaster, moments, "place", CANDIDATES, (familiar(flat),))
    half = fit_critic(forecaster, moments, "place", CANDIDATES, (familiar(flat),), discount=0.5)
    assert half.values[1] == pytest.approx(0.5 * float(whole.values[1]), abs=1e-4)


def test_a_channel_that_is_not_predicted_is_refused(learned):
    forecaster, flat = learned
    with pytest.raises(InputError, match="does not predict"):
        fit_critic(forecaster, Moments.draw(flat, SCHEMA, "place"), "reward", CANDIDATES, (familiar(flat),))


@dataclass
class LadderTask:
    guardrails: tuple
    critic: object
    max_age: dict = field(default_factory=dict)

    def objective(self, profile):
        return LongRun(profile, self.critic)

    def space(self, grid, history):
        lower = torch.zeros(len(history), 1, 1)
        return ActionSpace(grid, (1,), lower, lower + 2, ("action",), levels=(3,))

    def suggestions(self, space, history):
        return torch.zeros(len(history), 1, 1, 1)

    def fallback(self, history):
        return torch.zeros(len(history), 1)

    last_resort = fallback


def test_an_agent_takes_the_best_action_that_the_log_knows(learned, tmp_path):
    forecaster, flat = learned
    rail = familiar(flat)
    critic = fit_critic(forecaster, Moments.draw(flat, SCHEMA, "place"), "place", CANDIDATES, (rail,))
    agent = Agent(
        forecaster, LadderTask((rail,), critic), ExhaustivePlanner(), configurator=Configurator(Profile(name="p")),
        checker=None,
    )  # fmt: skip
    policy = AgentPolicy(agent, lambda seen: seen["place"] < 2)
    store = record(Copies(Ladder, 400, 7, SCHEMA), policy, tmp_path / "acted", seed=7, schema=SCHEMA)
    acted = flatten(store, ("action", "reward"))
    assert (acted.values["action"][~acted.last] == 1).all()
    assert policy.refused == 0
    assert policy.decisions == store.lengths.sum()
    assert np.mean(acted.values["reward"][acted.last]) == pytest.approx(0.72, abs=0.07)


def test_a_policy_with_nobody_left_does_nothing(learned):
    forecaster, flat = learned
    agent = Agent(
        forecaster, LadderTask((familiar(flat),), None), ExhaustivePlanner(),
        configurator=Configurator(Profile(name="p")), checker=None,
    )  # fmt: skip
    seen = {"place": np.array([2, 3]), "reward": np.array([0.0, 1.0])}
    assert (AgentPolicy(agent, lambda seen: seen["place"] < 2)(seen)["action"] == 0).all()
