"""Gymnasium spaces as channels, and an environment's observations and actions as arrays of those channels."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from foreworld.episodes.schema import Channel, Kind, Role, Schema
from foreworld.errors import InputError, SchemaError

_REWARD = "reward"
_DTYPES = {"float16": "float32", "int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}


def infer_schema(environment: gymnasium.Env[Any, Any]) -> Schema:
    """Channels from an environment's spaces, the action, and the reward; one step is the unit of time.

    A Box of uint8 and shape [height, width, 3] becomes video; a Discrete space becomes categories. Bounds are
    taken over for actions only: environments leave the bounds they declare for observations by rounding.

    Raises:
        InputError: A space is neither Box nor Discrete (nor, for observations, a Dict of them).
    """
    space = environment.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    channels = [_channel(channel_name(key), part, Role.observation) for key, part in parts.items()]
    channels.append(_channel("action", environment.action_space, Role.action))
    channels.append(Channel(name=_REWARD, role=Role.observation, description="of the action one step before"))
    name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
    return Schema(name=name, channels=tuple(channels), step=1.0, time_unit="step")


def channel_name(key: str) -> str:
    """A key of a Dict space as a channel name: lower case, with underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
    return name if name[:1].isalpha() else f"x_{name}"


def _channel(name: str, space: spaces.Space[Any], role: Role) -> Channel:
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        categories = tuple(str(first + i) for i in range(int(space.n)))
        return Channel(name=name, role=role, dtype="int64", categories=categories)
    if not isinstance(space, spaces.Box):
        raise InputError(
            f"{role} {name} has a {type(space).__name__} space; record supports Box, Discrete and, for "
            "observations, a Dict of them: wrap the environment"
        )
    dtype = _DTYPES.get(str(space.dtype), str(space.dtype))
    if role is Role.observation and dtype == "uint8" and len(space.shape) == 3 and space.shape[2] == 3:
        return Channel(name=name, role=role, kind=Kind.video, dtype=dtype, shape=space.shape)
    low, high = float(space.low.min()), float(space.high.max())
    bounded = role is Role.action
    return Channel(
        name=name,
        role=role,
        dtype=dtype,
        shape=space.shape,
        low=low if bounded and np.isfinite(low) else None,
        high=high if bounded and np.isfinite(high) else None,
    )


class GymAdapter:
    """Turns what an environment gives and takes into arrays of a schema's channels.

    Attributes:
        schema: The schema given, or inferred.
        action_channel: Its only action channel.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], schema: Schema | None = None) -> None:
        """Match the spaces with the schema.

        Raises:
            InputError: A space is not supported.
            SchemaError: The schema has not exactly one action channel, or a channel the environment has not.
        """
        inferred = infer_schema(environment)
        self.schema = inferred if schema is None else schema
        actions = self.schema.by_role(Role.action)
        if len(actions) != 1:
            raise SchemaError(f"schema {self.schema.name} has {len(actions)} action channels; an environment has one")
        self.action_channel = actions[0]
        self._action_start = _start(environment.action_space)
        space = environment.observation_space
        wanted = [c.name for c in self.schema.channels if c.role is not Role.action and c.name != _REWARD]
        if isinstance(space, spaces.Dict):
            self._keys: dict[str, str | None] = {channel_name(key): key for key in space.spaces}
            self._starts = {channel_name(key): _start(part) for key, part in space.spaces.items()}
        else:
            # A single observation needs no particular name in a schema given by the user.
            only = wanted[0] if len(wanted) == 1 else "observation"
            self._keys, self._starts = {only: None}, {only: _start(space)}
        missing = sorted(set(wanted) - set(self._keys))
        if missing:
            raise SchemaError(
                f"channel {missing[0]} of schema {self.schema.name} is not in the environment's observations "
                f"({', '.join(self._keys)})"
            )
        self._names = wanted
        self._rewarded = _REWARD in self.schema

    def observation(self, raw: Any, reward: float) -> dict[str, np.ndarray]:
        """Copies of one observation by channel, [*shape], and the reward that came with it (NaN at step 0)."""
        values = {}
        for name in self._names:
            key = self._keys[name]
            values[name] = _from_zero(raw if key is None else raw[key], self._starts[name])
        if self._rewarded:
            values[_REWARD] = np.asarray(reward, dtype=np.float32)
        return values

    def action(self, raw: Any) -> np.ndarray:
        """A copy of one action, [*shape]; a discrete one counts from 0."""
        return _from_zero(raw, self._action_start)

    def raw_action(self, action: np.ndarray) -> Any:
        """One action of the channel as the environment takes it; the inverse of `action`."""
        return int(action) + self._action_start if self.action_channel.discrete else action


def _start(space: spaces.Space[Any]) -> int:
    """The first value of a Discrete space; 0 for any other."""
    return int(space.start) if isinstance(space, spaces.Discrete) else 0


def _from_zero(raw: Any, start: int) -> np.ndarray:
    """A copy, as an environment may reuse its arrays; categories counted from 0."""
    array: np.ndarray = np.array(raw)
    return array - start if start else array
