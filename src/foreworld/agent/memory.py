"""Short-term memory: what was measured and done of each subject, and the last decisions about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foreworld.episodes.schema import Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.interface import Believed


@dataclass(frozen=True)
class Remembered:
    """One decision about B subjects, as it was made.

    Attributes:
        time: Its stamp.
        belief: Before it.
        action: [B, A] what was done, raw units.
        predicted: By quantity: [B, H] mean forecast of what was chosen.
        margins: By guardrail: [B].
        cost: [B].
    """

    time: float
    belief: Believed
    action: np.ndarray
    predicted: dict[str, np.ndarray]
    margins: dict[str, np.ndarray]
    cost: np.ndarray


class Memory:
    """Measured data of B subjects on a regular clock, the last `steps` of them, and the last decisions.

    Args:
        schema: Its scalar channels are kept.
        subjects: Names.
        statics: By static channel [B].
        steps: How many steps back are kept.
        decisions: How many decisions are kept.
    """

    def __init__(
        self,
        schema: Schema,
        subjects: Sequence[str],
        statics: Mapping[str, np.ndarray],
        *,
        steps: int = 320,
        decisions: int = 12,
    ) -> None:
        self.schema, self.subjects = schema, tuple(subjects)
        missing = [c.name for c in schema.by_role(Role.static) if c.name not in statics]
        if missing:
            raise SchemaError(f"static channel {missing[0]} is missing; schema {schema.name} needs it")
        for channel in schema.by_role(Role.static):
            channel.check(np.asarray(statics[channel.name]), where="of the statics")
        self.statics = {c.name: np.asarray(statics[c.name]) for c in schema.by_role(Role.static)}
        self._seen_names = [c.name for c in schema.channels if c.role in (Role.observation, Role.exogenous)]
        self._action_names = list(schema.names(Role.action))
        self._times: deque[float] = deque(maxlen=steps + 1)
        self._seen: dict[str, deque[np.ndarray]] = {n: deque(maxlen=steps + 1) for n in self._seen_names}
        self._done: dict[str, deque[np.ndarray]] = {n: deque(maxlen=steps) for n in self._action_names}
        self.decisions: deque[Remembered] = deque(maxlen=decisions)

    def __len__(self) -> int:
        """Number of moments kept."""
        return len(self._times)

    def see(self, time: float, values: Mapping[str, np.ndarray]) -> None:
        """Add what is observed and announced now: by channel [B], NaN where missing.

        Raises:
            InputError: Time does not increase, or a value is out of its channel's bounds.
            SchemaError: A channel is missing.
        """
        if self._times and time <= self._times[-1]:
            raise InputError(f"time goes backwards: {time:g} after {self._times[-1]:g}; observations come in order")
        arrays = {}
        for name in self._seen_names:
            if name not in values:
                raise SchemaError(f"channel {name} is missing at time {time:g}; give NaN where nothing was measured")
            arrays[name] = np.asarray(values[name], dtype=np.float64)
            if arrays[name].shape[0] != len(self.subjects):
                raise InputError(f"channel {name} has {arrays[name].shape[0]} values for {len(self.subjects)} subjects")
            self.schema[name].check(arrays[name], where=f"at time {time:g}")
        self._times.append(time)
        for name, array in arrays.items():
            self._seen[name].append(array)

    def act(self, action: np.ndarray) -> None:
        """Add what is done now: [B, A] raw units."""
        for i, name in enumerate(self._action_names):
            self._done[name].append(np.asarray(action[:, i], dtype=np.float64))

    def arrays(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Times [T] and values by channel: observed and announced [B, T], done [B, T - 1], statics [B]."""
        moments, size = len(self._times), len(self.subjects)
        values = {name: np.stack(list(kept), axis=1) for name, kept in self._seen.items()}
        for name, kept in self._done.items():
            acts = list(kept)[-(moments - 1) :] if moments > 1 else []
            values[name] = np.stack(acts, axis=1) if acts else np.zeros((size, 0))
        return np.array(self._times), values | self.statics

    def history(self) -> History:
        """The kept past as a history."""
        times, values = self.arrays()
        return History.from_arrays(self.schema, np.tile(times, (len(self.subjects), 1)), values)

    def last_action(self) -> dict[str, torch.Tensor]:
        """By action channel [B]: what was done last."""
        return {name: torch.from_numpy(kept[-1]) for name, kept in self._done.items()}

    def now(self) -> tuple[float, dict[str, torch.Tensor]]:
        """The last stamp, and what was observed and announced at it."""
        return self._times[-1], {name: torch.from_numpy(kept[-1]) for name, kept in self._seen.items()}

    def ages(self, name: str) -> np.ndarray:
        """[B] time since a channel was last measured; infinite where it never was."""
        times, kept = np.array(self._times), np.stack(list(self._seen[name]), axis=1)
        measured = ~np.isnan(kept)
        newest = np.where(measured.any(1), times[kept.shape[1] - 1 - np.argmax(measured[:, ::-1], axis=1)], -np.inf)
        age: np.ndarray = times[-1] - newest
        return age
