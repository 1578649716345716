"""From raw channels to what a network reads: normalised tokens, masks, ages and leaky memories.

Normalisation comes from the schema's statistics and from nowhere else. A missing value is a zero with a zero
mask beside it, never an imputed number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import SchemaError
from foreworld.model.belief import History

# Ages are capped here: beyond this many steps a measurement is simply old.
MAX_AGE = 1000.0
# Moments per chunk of a scan: large enough for efficient products, small enough that pairs stay few.
CHUNK = 64


class Features:
    """Turns values of a schema into normalised tensors.

    Args:
        schema: Carries statistics (`Schema.with_statistics`).
        quantities: Observation channels that the model predicts; scalar.
        memory: Time constants of the leaky memories, in steps.
        recent: How many of the last observations are kept as they are.
        changes: Whether a token holds the changes since the moment before (`changes`).
    """

    def __init__(
        self,
        schema: Schema,
        quantities: tuple[str, ...],
        memory: tuple[float, ...],
        recent: int,
        *,
        changes: bool = False,
    ) -> None:
        for channel in schema.channels:
            if not channel.discrete and not schema.statistics.get(channel.name):
                raise SchemaError(
                    f"schema {schema.name} has no statistics for channel {channel.name}; "
                    "fit them on the training subjects (fit_statistics) first"
                )
        self.schema = schema
        self.observations = schema.by_role(Role.observation)
        self.actions = schema.by_role(Role.action)
        self.exogenous = schema.by_role(Role.exogenous)
        self.statics = schema.by_role(Role.static)
        self.quantities = quantities
        self.memory_steps = memory
        self.recent = recent
        self.n_observation = sum(_width(c) for c in self.observations)
        self.n_action = sum(_width(c) for c in self.actions)
        self.n_exogenous = sum(_width(c) for c in self.exogenous)
        self.n_static = sum(_width(c) for c in self.statics)
        self.n_signal = self.n_observation + self.n_action + self.n_exogenous
        self.n_memory = len(memory) * (self.n_signal + self.n_observation)
        self.n_token = 3 * self.n_observation + self.n_action + self.n_exogenous + 1 + 2 * len(schema.periods)
        self._decays = torch.tensor([1.0 / tau for tau in memory])
        self.n_token += self.n_observation if changes else 0
        self._typical = torch.tensor([_typical(schema, c) for c in self.observations for _ in range(_width(c))])

    # --- one channel -----------------------------------------------------------------------------------------

    def normalise(self, channel: Channel, values: Tensor, statics: dict[str, Tensor]) -> Tensor:
        """Values [..., *shape] in units to [..., width] in the network's scale (NaN stays NaN)."""
        if channel.discrete:
            index = torch.nan_to_num(values.double()).long()
            hot = torch.nn.functional.one_hot(index, len(channel.categories)).float()
            return torch.where(torch.isnan(values)[..., None], torch.nan, hot)
        x = values.double()
        if channel.per is not None:
            per = statics[channel.per].double()
            x = x / per.reshape(per.shape + (1,) * (x.dim() - per.dim()))
        return normalised(self.schema, channel, x)

    def group(self, channels: tuple[Channel, ...], values: dict[str, Tensor], statics: dict[str, Tensor]) -> Tensor:
        """All channels of a role, normalised and concatenated on the last axis."""
        parts = [self.normalise(channel, values[channel.name], statics) for channel in channels]
        if parts:
            return torch.cat(parts, dim=-1)
        raise SchemaError("this schema has no channel of the role asked for")

    def to_units(self, quantity: str, values: Tensor) -> Tensor:
        """Normalised values of a predicted quantity back in its unit, within its bounds."""
        channel, s = self.schema[quantity], self.schema.statistics[quantity]
        raw = values * s.std + s.mean
        raw = torch.exp(raw) if channel.log else raw
        return torch.clamp(raw, min=channel.low, max=channel.high) if _bounded(channel) else raw

    def scale_of(self, quantity: str) -> float:
        """The unit's amount that one normalised unit stands for; of a `log` channel, the share of its value."""
        return self.schema.statistics[quantity].std

    # --- a whole history -------------------------------------------------------------------------------------

    def statics_of(self, values: dict[str, Tensor]) -> Tensor:
        """[B, S] normalised statics."""
        statics = {c.name: values[c.name] for c in self.statics}
        if not self.statics:
            return torch.zeros(len(next(iter(values.values()))), 0)
        return torch.nan_to_num(self.group(self.statics, statics, statics))

    def signals(self, history: History) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised observations [B,T,O] (zero where missing), mask [B,T,O], previous actions [B,T,A], exogenous."""
        values = history.values
        statics = {c.name: values[c.name] for c in self.statics}
        observed = self.group(self.observations, values, statics)
        batch, length = observed.shape[:2]
        mask = (~torch.isnan(observed)).float()
        observed = torch.nan_to_num(observed)
        acted = torch.zeros(batch, length, self.n_action)
        if self.n_action and length > 1:
            acted[:, 1:] = self.group(self.actions, values, statics)
        announced = torch.zeros(batch, length, 0)
        if self.n_exogenous:
            announced = self.group(self.exogenous, values, statics)
        return observed, mask, acted, announced

    def changes(self, recent: Tensor) -> Tensor:
        """[..., O] changes in units of the typical one; zero where either value is missing.

        Args:
            recent: [..., moments, 2 O] the last normalised observations and their masks.
        """
        if recent.shape[-2] < 2:
            raise SchemaError("changes need the last two observations; give the model recent=2 or more")
        observed, mask = recent.chunk(2, dim=-1)
        both = mask[..., -1, :] * mask[..., -2, :]
        return both * (observed[..., -1, :] - observed[..., -2, :]) / self._typical

    def phases(self, times: Tensor) -> Tensor:
        """[..., 2 * periods] sine and cosine of the phase of each cycle."""
        parts = []
        for period in self.schema.periods:
            angle = (torch.remainder(times, period) * (2 * math.pi / period)).float()
            parts += [torch.sin(angle), torch.cos(angle)]
        return torch.stack(parts, dim=-1) if parts else torch.zeros(*times.shape, 0)

    def scan(self, memory: Tensor, signal: Tensor, mask: Tensor, stamps: Tensor) -> Tensor:
        """Leaky memories over a history: `m(t) = exp(-gap / tau) m(t - 1) + x(t) / tau`.

        Worked out in chunks: inside a chunk as one product with the decays between all pairs of moments, from
        chunk to chunk by carrying the last value.

        Args:
            memory: [B, K, C] before the first moment, already decayed to it.
            signal: [B, T, signals]; observations are zero where missing.
            mask: [B, T, O].
            stamps: [B, T] float64, in steps.

        Returns:
            [B, T, K, C] with C = signals + observations.
        """
        x = torch.cat([signal, mask], dim=-1)
        decays = self._decays
        parts, carried, before = [], memory, stamps[:, :1]
        for start in range(0, x.shape[1], CHUNK):
            piece, at = x[:, start : start + CHUNK], stamps[:, start : start + CHUNK]
            apart = (at[:, :, None] - at[:, None, :]).float()
            weight = torch.exp(-apart[:, None].clamp(min=0) * decays[:, None, None]) * decays[:, None, None]
            weight = torch.tril(weight)
            since = (at - before).float()
            kept = torch.exp(-since[:, None, :, None] * decays[:, None, None]) * carried[:, :, None, :]
            now = torch.matmul(weight, piece[:, None]) + kept
            parts.append(now.transpose(1, 2))
            carried, before = now[:, :, -1], at[:, -1:]
        return torch.cat(parts, dim=1)

    def step(self, memory: Tensor, signal: Tensor, mask: Tensor, gap: Tensor) -> Tensor:
        """One step of the leaky memories: [B, K, C] after `gap` [B] steps and a new signal [B, signals]."""
        kept = memory * torch.exp(-gap[:, None, None] * self._decays[:, None])
        return kept + torch.cat([signal, mask], dim=-1)[:, None, :] * self._decays[:, None]

    def ages(self, age: Tensor, mask: Tensor, stamps: Tensor) -> Tensor:
        """[B, T, O] steps since each observation was measured; `age` [B, O] is that at the first moment.

        Args:
            age: Steps since the last measurement before this history, counted to its first moment.
            mask: [B, T, O].
            stamps: [B, T] float64, in steps.
        """
        never = stamps[:, :1, None] - age[:, None, :].double()
        at = torch.where(mask > 0, stamps[..., None].expand(-1, -1, mask.shape[-1]), never)
        return torch.clamp(stamps[..., None] - at.cummax(dim=1).values, max=MAX_AGE).float()

    def read_memory(self, memory: Tensor) -> Tensor:
        """[..., K, signals + observations] to [..., M]: observation sums become means where anything was measured."""
        weight = memory[..., self.n_signal :]
        mean = memory[..., : self.n_observation] / torch.clamp(weight, min=1e-3)
        # A leaky mean of sparse events shrinks with its time constant; bring all of them to one scale.
        events = memory[..., self.n_observation : self.n_signal] * torch.sqrt(2.0 / self._decays)[:, None]
        return torch.cat([mean, events, weight], dim=-1).flatten(-2)


def normalised(schema: Schema, channel: Channel, values: Tensor) -> Tensor:
    """Values [..., *shape] of a continuous channel, divided by its `per` before, to [..., size] (NaN stays NaN)."""
    x = values.double()
    if channel.log:
        x = torch.log(torch.clamp(x, min=channel.floor))
    s = schema.statistics[channel.name]
    # An event or a dose of zero stays zero: "nothing happened" must not depend on the average.
    centre = 0.0 if channel.role in (Role.action, Role.exogenous) else s.mean
    x = ((x - centre) / s.std).float()
    return x.reshape(*x.shape[: x.dim() - len(channel.shape)], channel.size)


def _width(channel: Channel) -> int:
    return len(channel.categories) if channel.discrete else channel.size


def _typical(schema: Schema, channel: Channel) -> float:
    """Typical change of an observation from one moment to the next, normalised."""
    return 1.0 if channel.discrete else schema.statistics[channel.name].change_after(1)


def _bounded(channel: Channel) -> bool:
    return channel.low is not None or channel.high is not None
