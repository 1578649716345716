"""The trainable critic: what a moment is worth in the long run, learned from stored moments in imagination.

critic = fit_critic(forecaster, Moments.draw(flat, schema, "state"), "state", candidates, task.guardrails)
objective = LongRun(profile, critic)      # judges a candidate by the value of where it leads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreworld.episodes.flat import Flat
from foreworld.episodes.schema import Role, Schema
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast, Forecaster, Imagined
from foreworld.model.belief import History
from foreworld.model.world_model import WorldModel
from foreworld.planning.guardrail import Guardrail, margin_of
from foreworld.planning.objective import Objective
from foreworld.planning.profile import Profile


@dataclass(frozen=True)
class Critic:
    """A value for every category of one predicted channel.

    Linear in the predicted probabilities, so the value of an imagined distribution is the mean of the values in it:
    a curved critic on the model's means would overrate uncertain outcomes.

    Attributes:
        model: What predicts the channel (`WorldModelConfig.categories`).
        channel: Name of the channel.
        values: [K] reward on arrival in each category plus all that follows.
    """

    model: WorldModel
    channel: str
    values: Tensor

    def value(self, forecast: Forecast) -> Tensor:
        """[E, B, S, H] expected value at each horizon point.

        Raises:
            InputError: The forecast was picked out of another and holds no latents.
        """
        return probabilities(self.model, self.channel, forecast) @ self.values


def probabilities(model: WorldModel, channel: str, forecast: Forecast) -> Tensor:
    """[E, B, S, H, K] predicted probabilities of the categories of a channel."""
    if forecast.latents is None:
        raise InputError("this forecast holds no latents; ask the forecaster for it")
    return torch.softmax(model.category_logits(forecast.latents)[channel], dim=-1)


class LongRun(Objective):
    """The value lost in the long run: minus the critic's value of what a candidate leads to at the plan's end."""

    names = ("lost",)

    def __init__(self, profile: Profile, critic: Critic) -> None:
        super().__init__(profile)
        self.critic = critic

    def terms(self, forecast: Forecast, actions: Tensor, imagined: Imagined) -> dict[str, Tensor]:
        """`lost` [E, B, S]."""
        return {"lost": -self.critic.value(forecast)[..., -1]}


@dataclass(frozen=True)
class Moments:
    """Stored moments to learn from.

    Attributes:
        history: Of B subjects, each up to its moment.
        rewards: [B] reward on arrival at the moment; NaN counts as none.
        ended: [B] bool, whether the episode ended there: nothing follows.
    """

    history: History
    rewards: Tensor
    ended: Tensor

    @classmethod
    def draw(cls, flat: Flat, schema: Schema, channel: str, *, reward: str = "reward", each: int = 4) -> Moments:
        """The last few logged moments of every category, each a history of one moment.

        That is for models of fully observed tasks, which learned from single moments (`TrainConfig.window` of 1); for
        another one, make the histories yourself.

        Args:
            flat: The log, with all observation channels; episodes that were cut short count as ended.
            schema: Of the log.
            channel: Discrete observation channel, never missing.
            reward: Channel of the reward on arrival.
            each: Moments a category.
        """
        category = flat.values[channel]
        order = np.argsort(category, kind="stable")
        sorted_ = category[order]
        rows = order[np.searchsorted(sorted_, sorted_, side="right") - np.arange(len(order)) <= each]
        values = {name: flat.values[name][rows, None] for name in schema.names(Role.observation)}
        values |= {name: np.zeros((len(rows), 0)) for name in schema.names(Role.action)}
        history = History.from_arrays(schema, np.zeros((len(rows), 1)), values)
        return cls(history, torch.from_numpy(flat.values[reward][rows]), torch.from_numpy(flat.last[rows]))


@torch.no_grad()
def fit_critic(
    forecaster: Forecaster,
    moments: Moments,
    channel: str,
    candidates: Tensor,
    guardrails: Sequence[Guardrail],
    *,
    discount: float = 1.0,
    rounds: int = 500,
    tolerance: float = 1e-5,
    chunk: int = 64,
) -> Critic:
    """Iterate Bellman backups through the learned model (fitted value iteration, Gordon 1995).

    The value of a category is the mean over its moments of the reward on arrival plus, unless the episode ended
    there, the discounted value of the best candidate that every guardrail lets pass, as the model imagines it. Where
    none passes, the one that violates least counts, as in the agent's recovery. A mean never expands differences, so
    the iteration converges.

    Args:
        forecaster: Imagines; its model predicts `channel`.
        moments: Stored moments, all categories that matter among them.
        channel: A predicted category channel, observed at every moment.
        candidates: [S, H, A] raw actions to choose among.
        guardrails: Of the task.
        discount: Of what comes one plan's length later.
        rounds: At most so many backups.
        tolerance: Stop when no value changes by more.
        chunk: Moments imagined at once.

    Raises:
        InputError: The model does not predict the channel, or a moment has not measured it.
    """
    model = forecaster.model
    if not isinstance(model, WorldModel) or channel not in model.config.categories:
        raise InputError(f"the model does not predict the categories of {channel!r}; name it in its config.categories")
    history, count = moments.history, len(model.schema[channel].categories)
    rows = torch.arange(len(history))
    seen = history.values[channel][rows, history.lengths - 1].double()
    if torch.isnan(seen).any():
        raise InputError(f"channel {channel} is missing at a moment; a critic learns from moments that measured it")
    category = seen.long()
    goes_on = rows[~moments.ended]
    owner, expected = [], []
    for part in torch.split(goes_on, chunk):
        passed, outcome = _imagine(forecaster, history.select(part), channel, candidates, guardrails)
        owner.append(part[passed[:, 0]])
        expected.append(outcome)
    rewards = torch.nan_to_num(moments.rewards.float())
    values = torch.zeros(count)
    if not owner:
        return Critic(model, channel, _by_category(rewards, category, count))
    of, outcomes = torch.cat(owner), torch.cat(expected)
    for _ in range(rounds):
        best = torch.full((len(history),), -torch.inf).scatter_reduce(0, of, outcomes @ values, "amax")
        following = torch.where(moments.ended, torch.zeros_like(best), discount * best)
        updated = _by_category(rewards + following, category, count)
        change, values = float((updated - values).abs().max()), updated
        if change <= tolerance:
            break
    return Critic(model, channel, values)


def _imagine(
    forecaster: Forecaster, history: History, channel: str, candidates: Tensor, guardrails: Sequence[Guardrail]
) -> tuple[Tensor, Tensor]:
    """Pairs (moment, candidate) [N, 2] that may be chosen, and what each leads to: probabilities [N, K]."""
    imagined = forecaster.begin(forecaster.model.encode(history))
    actions = candidates.expand(len(history), -1, -1, -1)
    forecast = forecaster.forecast(imagined, actions)
    margins = torch.stack([margin_of(g, forecast, actions, history) for g in guardrails]).nan_to_num(nan=-torch.inf)
    least = margins.amin(0)
    passed = least >= 0
    passed |= ~passed.any(1, keepdim=True) & (least == least.amax(1, keepdim=True))
    assert isinstance(forecaster.model, WorldModel)
    outcome = probabilities(forecaster.model, channel, forecast)[..., -1, :].mean(0)
    return passed.nonzero(), outcome[passed]


def _by_category(targets: Tensor, category: Tensor, count: int) -> Tensor:
    """[K] mean target of each category; the mean of all where it was never seen."""
    total = torch.zeros(count).index_add(0, category, targets)
    times = torch.zeros(count).index_add(0, category, torch.ones_like(targets))
    return torch.where(times > 0, total / times.clamp(min=1), targets.mean())
