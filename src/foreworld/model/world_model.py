"""`WorldModel`: one class for every domain, configured from the schema.

encode(history) -> Belief            update(belief, observation, action) -> Belief
predict(belief, actions, exogenous) -> latents          read(latents) -> {quantity: values in units}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from foreworld.episodes.options import Options
from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.model.belief import Belief, History
from foreworld.model.dynamics import HorizonGrid, Prepared, ResponseDynamics
from foreworld.model.encoders import TokenEncoder
from foreworld.model.features import MAX_AGE, Features
from foreworld.model.follows import Follows


class WorldModelConfig(Options):
    """Sizes of a world model; the defaults suit a laptop's CPU.

    Attributes:
        grid: Steps at which the future is predicted.
        quantities: Observation channels that are predicted and read out; all scalar ones if empty.
        categories: Discrete observation channels that are predicted as probabilities of their categories.
        follows: Where above 0, the one predicted category, one step ahead, starts from how often it followed the
            present category and action (`Follows`, this many observations of prior); the network learns the rest.
        width: Width of the recurrent state and the context.
        hidden: Hidden width of the predictor.
        latent: Width of the self-supervised block.
        members: Ensemble size E.
        recurrent: False where the last observations tell all of the past that matters (a fully observed task): the
            belief then carries no recurrent state.
        stride: Steps between two ticks of the recurrent encoder.
        recent: How many of the last observations the predictor sees as they are; at least `stride`.
        memory: Time constants of the leaky memories, in steps.
        scales: Time constants of the impulse responses, in steps.
        curves: Response curves an action.
        joint: Width of a response to all actions together, such as two drugs that help each other; 0 leaves it out. It
            has no sign, so it may not predict a quantity that an action only `lowers` or `raises`.
        changes: Whether the model also sees by how much each observation differs from the one before, in units of its
            typical change: small steps of a quantity with a large spread say the most about a person.
    """

    later = frozenset({"categories", "follows", "recurrent", "joint", "changes"})

    grid: HorizonGrid = HorizonGrid.geometric(fine=8, last=32)
    quantities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    follows: float = Field(default=0.0, ge=0)
    width: int = Field(default=96, gt=0)
    hidden: int = Field(default=64, gt=0)
    latent: int = Field(default=16, ge=0)
    members: int = Field(default=4, gt=0)
    recurrent: bool = True
    stride: int = Field(default=12, gt=0)
    recent: int = Field(default=12, gt=0)
    memory: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0, 300.0)
    scales: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0, 32.0)
    curves: int = Field(default=4, gt=0)
    joint: int = Field(default=0, ge=0)
    changes: bool = False


class WorldModel(nn.Module):
    """An encoder, an ensemble of direct predictors that share it, and readouts in physical units.

    Args:
        schema: Channels and statistics; `SchemaError` without statistics.
        config: Sizes.
    """

    sizes: Tensor

    def __init__(self, schema: Schema, config: WorldModelConfig) -> None:
        super().__init__()
        scalars = tuple(c.name for c in schema.by_role(Role.observation) if c.shape == () and not c.discrete)
        quantities = config.quantities or scalars
        for name in quantities:
            if name not in scalars:
                raise SchemaError(f"quantity {name!r} is not a scalar observation channel; there are {scalars}")
        for name in config.categories:
            if name not in {c.name for c in schema.by_role(Role.observation) if c.shape == () and c.discrete}:
                raise SchemaError(f"category channel {name!r} is not a discrete scalar observation channel")
        if not schema.by_role(Role.action):
            raise SchemaError(f"schema {schema.name} has no action channel; a world model predicts what actions do")
        self.schema, self.config, self.quantities = schema, config, quantities
        self.n_categories = sum(len(schema[name].categories) for name in config.categories)
        # The network predicts changes in units of their typical size at each horizon, [H, Q].
        sizes = [[schema.statistics[name].change_after(h) for name in quantities] for h in config.grid.points]
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.features = Features(schema, quantities, config.memory, config.recent, changes=config.changes)
        f, q = self.features, len(quantities)
        self.quantity_index = [_offset(schema, name) for name in quantities]
        seen = f.n_token + f.n_memory + config.recent * 2 * f.n_observation
        self.encoder = TokenEncoder(seen, f.n_static, config.width, config.stride)
        inputs = config.width + seen + f.n_static
        self.trunk = nn.Sequential(
            nn.Linear(inputs, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, 2 * config.width),
            nn.GELU(),
            nn.Linear(2 * config.width, config.width),
        )
        self.project = nn.Linear(config.width, config.latent) if config.latent else nn.Identity()
        self.dynamics = ResponseDynamics(
            context=config.width,
            quantities=q,
            latent=config.latent,
            actions=f.n_action,
            exogenous=f.n_exogenous,
            grid=config.grid,
            signs=_signs(schema, quantities),
            members=config.members,
            width=config.hidden,
            curves=config.curves,
            scales=config.scales,
            joint=config.joint,
            categories=self.n_categories,
        )
        self.follows: Follows | None = None
        if config.follows:
            if len(config.categories) != 1 or config.grid.points != (1,):
                raise SchemaError("`follows` starts one predicted category one step ahead: grid points (1,)")
            self.follows = Follows.of(schema, config.categories[0], config.follows)
            self.dynamics.silence_categories()

    # --- the past ----------------------------------------------------------------------------------------------

    def encode(self, history: History) -> Belief:
        """The belief at the end of each history."""
        beliefs = self.encode_all(history)
        last = history.lengths - 1
        rows = torch.arange(len(history))
        return Belief(**{name: value if name == "statics" else value[rows, last] for name, value in beliefs.items()})

    def encode_all(self, history: History) -> dict[str, Tensor]:
        """Beliefs at every time, as tensors [B, T, ...] by the fields of `Belief` (statics: [B, S])."""
        f, stride = self.features, self.config.stride
        with torch.no_grad():
            statics = f.statics_of(history.values)
            observed, mask, acted, announced = f.signals(history)
            stamps = history.times / self.schema.step
            gaps = torch.ones_like(stamps)
            gaps[:, 1:] = stamps.diff(dim=1)
            memory, age = self._blank(len(history))
            signal = torch.cat([observed, acted, announced], dim=-1)
            memories = f.scan(memory, signal, mask, stamps)
            ages = f.ages(age, mask, stamps)
            pairs = torch.cat([observed, mask], dim=-1)
            blank = pairs.new_zeros(len(history), self.config.recent - 1, pairs.shape[-1])
            recent = torch.cat([blank, pairs], dim=1).unfold(1, self.config.recent, 1).transpose(-1, -2)
            tokens = self._token(recent[:, :, -2:], ages, acted, announced, gaps.float(), history.times)
            last = _carried(observed, mask)[..., self.quantity_index]
            count = torch.arange(1, stamps.shape[1] + 1).expand(len(history), -1)
            inputs = torch.cat(
                [tokens[:, ::stride], f.read_memory(memories[:, ::stride]), recent[:, ::stride].flatten(2)], dim=-1
            )
        states = self.encoder.initial(statics)[:, None].expand(-1, stamps.shape[1], -1)
        if self.config.recurrent:
            states = self.encoder(inputs, statics, states[:, 0])
            states = states.repeat_interleave(stride, dim=1)[:, : stamps.shape[1]]
        return {
            "state": states,
            "memory": memories,
            "recent": recent,
            "last": last,
            "age": ages,
            "count": count,
            "token": tokens,
            "statics": statics,
            "time": history.times,
        }

    def update(
        self, belief: Belief, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Belief:
        """The belief one step later; equal to `encode` of the longer history.

        Args:
            belief: Of B subjects.
            time: [B] stamp of the new observation.
            observation: Observation and exogenous channels at that stamp, [B, *shape], NaN where missing.
            action: Action channels taken since, [B, *shape].

        Raises:
            InputError: The stamp is not later than the belief's.
        """
        f = self.features
        if (time <= belief.time).any():
            raise InputError("time goes backwards: an update must be later than the belief it continues")
        per = {c.name: self._raw_static(belief, c.name) for c in f.statics}
        observed = f.group(f.observations, dict(observation), per)
        mask = (~torch.isnan(observed)).float()
        observed = torch.nan_to_num(observed)
        acted = f.group(f.actions, dict(action), per)
        announced = observed.new_zeros(len(observed), 0)
        if f.exogenous:
            announced = f.group(f.exogenous, dict(observation), per)
        gap = ((time - belief.time) / self.schema.step).float()
        signal = torch.cat([observed, acted, announced], dim=-1)
        memory = f.step(belief.memory, signal, mask, gap)
        age = torch.where(mask > 0, torch.zeros_like(mask), torch.clamp(belief.age + gap[:, None], max=MAX_AGE))
        recent = torch.cat([belief.recent[:, 1:], torch.cat([observed, mask], dim=-1)[:, None]], dim=1)
        token = self._token(recent[:, -2:], age, acted, announced, gap, time)
        state = belief.state
        if self.config.recurrent:
            inputs = torch.cat([token, f.read_memory(memory), recent.flatten(1)], dim=-1)
            ticked = self.encoder(inputs[:, None], belief.statics, belief.state)[:, 0]
            state = torch.where((belief.count % self.config.stride == 0)[:, None], ticked, belief.state)
        index = self.quantity_index
        last = torch.where(mask[:, index] > 0, observed[:, index], belief.last)
        return Belief(state, memory, recent, last, age, belief.count + 1, token, belief.statics, time)

    # --- the future --------------------------------------------------------------------------------------------

    def context(self, belief: Belief) -> Tensor:
        """[B, width] what the predictor reads of a belief."""
        parts = [belief.state, belief.token, self.features.read_memory(belief.memory), belief.statics]
        out: Tensor = self.trunk(torch.cat([*parts, belief.recent.flatten(1)], dim=-1))
        return out

    def predict(
        self, belief: Belief, actions: Tensor, exogenous: Tensor | None = None, points: Tensor | None = None
    ) -> Tensor:
        """Every horizon directly from the action prefix.

        Args:
            belief: Of B subjects.
            actions: [B, S, H, A] normalised amounts a step for each interval of the grid (`normalise_actions`).
            exogenous: [B, H, X] normalised, or None where nothing is announced.
            points: Indices of the horizon points wanted; all H if None.

        Returns:
            Latents [E, B, S, H, 2 Q + K + F]: predicted quantities (normalised), their log scales, logits of all
            K predicted categories, and the self-supervised block.
        """
        return self.respond(self._prepare(belief, exogenous, points), actions, points)

    def prepare(self, belief: Belief, exogenous: Tensor | None = None, points: Tensor | None = None) -> Prepared:
        """What of `predict` does not depend on the actions; a planner asks for it once, for what can be read."""
        return self._prepare(belief, exogenous, points).readable(2 * len(self.quantities) + self.n_categories)

    def respond(self, prepared: Prepared, actions: Tensor, points: Tensor | None = None) -> Tensor:
        """The rest of `predict`: latents [E, B, S, H, 2 Q + K] of candidates [B, S, H, A], ready to be read.

        After `Prepared.hold` candidates have one amount for each block.
        """
        if prepared.held is not None:
            return prepared.held.respond(actions)
        out = self.dynamics.respond(prepared, actions)
        size = self.sizes if points is None else self.sizes[points]
        q = len(self.quantities)
        mean = out[..., :q] * size + prepared.last[:, None, None, :]
        parts = [mean, out[..., q : 2 * q] + size.log(), out[..., 2 * q :]]
        if self.follows is not None and prepared.present is not None:
            usual = self.follows(prepared.present, actions[:, :, 0])[None, :, :, None]
            k = self.n_categories
            parts[2:] = [out[..., 2 * q : 2 * q + k] + usual, out[..., 2 * q + k :]]
        return torch.cat(parts, dim=-1)

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Predicted quantities in units, clamped to the channel's bounds: latents [..., D] to {quantity: [...]}."""
        return {name: self.features.to_units(name, latents[..., i]) for i, name in enumerate(self.quantities)}

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """Predicted standard deviations in units: latents [..., D] to {quantity: [...]}."""
        q, scales = len(self.quantities), {}
        for i, name in enumerate(self.quantities):
            share = torch.exp(torch.clamp(latents[..., q + i], -6.0, 3.0)) * self.features.scale_of(name)
            log = self.schema[name].log
            scales[name] = share * self.features.to_units(name, latents[..., i]) if log else share
        return scales

    def category_logits(self, latents: Tensor) -> dict[str, Tensor]:
        """Unnormalised log probabilities: latents [..., D] to {channel: [..., categories]}."""
        logits, at = {}, 2 * len(self.quantities)
        for name in self.config.categories:
            width = len(self.schema[name].categories)
            logits[name] = latents[..., at : at + width]
            at += width
        return logits

    def normalise_actions(self, belief: Belief, actions: Tensor) -> Tensor:
        """Raw actions [B, S, H, A] (indices where discrete) to the predictor's scale."""
        return self._normalise(self.features.actions, belief, actions)

    def normalise_exogenous(self, belief: Belief, exogenous: Tensor) -> Tensor:
        """Raw exogenous amounts a step [B, H, X] to the predictor's scale."""
        return self._normalise(self.features.exogenous, belief, exogenous)

    # --- parts -------------------------------------------------------------------------------------------------

    def _prepare(self, belief: Belief, exogenous: Tensor | None, points: Tensor | None) -> Prepared:
        """With the self-supervised block."""
        present = None
        if self.follows is not None:
            at, k = _offset(self.schema, self.config.categories[0]), self.n_categories
            present = belief.recent[:, -1, at : at + k].argmax(-1)
        prepared = self.dynamics.prepare(self.context(belief), exogenous, points)
        sizes = self.sizes if points is None else self.sizes[points]
        return replace(prepared, sizes=sizes, last=belief.last, present=present)

    def _normalise(self, channels: tuple[Channel, ...], belief: Belief, raw: Tensor) -> Tensor:
        f = self.features
        needed = {channel.per for channel in channels}
        per = {c.name: self._raw_static(belief, c.name) for c in f.statics if c.name in needed}
        parts, at = [], 0
        for channel in channels:
            width = channel.size
            part = raw[..., at] if channel.shape == () else raw[..., at : at + width]
            parts.append(f.normalise(channel, part, per))
            at += width
        return torch.cat(parts, dim=-1)

    def _raw_static(self, belief: Belief, name: str) -> Tensor:
        at = 0
        for channel in self.features.statics:
            width = len(channel.categories) if channel.discrete else channel.size
            if channel.name == name:
                part = belief.statics[:, at : at + width].double()
                if channel.discrete:
                    return part.argmax(-1)
                s = self.schema.statistics[name]
                raw = part * s.std + s.mean
                raw = torch.exp(raw) if channel.log else raw
                return raw[:, 0] if channel.shape == () else raw
            at += width
        raise SchemaError(f"no static channel {name}")

    def _blank(self, batch: int) -> tuple[Tensor, Tensor]:
        f = self.features
        memory = torch.zeros(batch, len(self.config.memory), f.n_signal + f.n_observation)
        return memory, torch.full((batch, f.n_observation), MAX_AGE)

    def _token(
        self, recent: Tensor, age: Tensor, acted: Tensor, announced: Tensor, gap: Tensor, time: Tensor
    ) -> Tensor:
        """The input of a moment; `recent` [..., 1 or 2, 2 O] ends with its observations and their masks."""
        observed, mask = recent[..., -1, :].chunk(2, dim=-1)
        parts = [observed, mask, torch.log1p(age) * 0.3, acted, announced, torch.log1p(gap)[..., None]]
        if self.config.changes:
            parts.append(self.features.changes(recent))
        return torch.cat([*parts, self.features.phases(time)], dim=-1)


def _carried(observed: Tensor, mask: Tensor) -> Tensor:
    """The last measured value at every time: [B, T, O]."""
    steps = torch.arange(observed.shape[1])[None, :, None].expand_as(observed)
    at = torch.where(mask > 0, steps, torch.zeros_like(steps)).cummax(dim=1).values
    return observed.gather(1, at)


def _offset(schema: Schema, name: str) -> int:
    at = 0
    for channel in schema.by_role(Role.observation):
        if channel.name == name:
            return at
        at += len(channel.categories) if channel.discrete else channel.size
    raise SchemaError(f"no observation channel {name}")


def _signs(schema: Schema, quantities: tuple[str, ...]) -> Tensor:
    """[Q, A] of -1, 0, +1 from the schema's `lowers` and `raises`."""
    columns = []
    for channel in schema.by_role(Role.action):
        width = len(channel.categories) if channel.discrete else channel.size
        sign = [(-1.0 if q in channel.lowers else 1.0 if q in channel.raises else 0.0) for q in quantities]
        columns.append(torch.tensor(sign)[:, None].expand(-1, width))
    return torch.cat(columns, dim=1)
