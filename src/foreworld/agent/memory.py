"""Short-term memory: what was measured and done of each subject, and the last decisions about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foreworld.episodes.schema import Channel, Role, Schema
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

    def select(self, rows: np.ndarray) -> Remembered:
        """Of some subjects."""
        return Remembered(
            self.time,
            self.belief.select(torch.from_numpy(rows)),
            self.action[rows],
            {name: values[rows] for name, values in self.predicted.items()},
            {name: values[rows] for name, values in self.margins.items()},
            self.cost[rows],
        )


class Memory:
    """Measured data of B subjects on a regular clock, the last `steps` of them, and the last decisions.

    Of frames (video, depth, points) only the newest are kept, as they came: what a model needs of earlier ones is in
    its belief.

    Args:
        schema: Its channels are kept.
        subjects: Names.
        statics: By static channel [B].
        steps: How many steps back are kept.
        decisions: How many decisions are kept.
        frames: How many of the newest frames are kept.
    """

    def __init__(
        self,
        schema: Schema,
        subjects: Sequence[str],
        statics: Mapping[str, np.ndarray],
        *,
        steps: int = 320,
        decisions: int = 12,
        frames: int = 1,
    ) -> None:
        self.schema, self.subjects = schema, tuple(subjects)
        missing = [c.name for c in schema.by_role(Role.static) if c.name not in statics]
        if missing:
            raise SchemaError(f"static channel {missing[0]} is missing; schema {schema.name} needs it")
        self.statics = {c.name: self._whole(c, statics[c.name], "of the statics") for c in schema.by_role(Role.static)}
        self._seen_channels = [c for c in schema.channels if c.role in (Role.observation, Role.exogenous)]
        self._actions = schema.by_role(Role.action)
        self._times: deque[float] = deque(maxlen=steps + 1)
        self._seen: dict[str, deque[np.ndarray]] = {
            c.name: deque(maxlen=frames if c.framed else steps + 1) for c in self._seen_channels
        }
        self._done: dict[str, deque[np.ndarray]] = {c.name: deque(maxlen=steps + 1) for c in self._actions}
        self._awaits_action = False
        self.decisions: deque[Remembered] = deque(maxlen=decisions)

    def __len__(self) -> int:
        """Number of moments kept."""
        return len(self._times)

    def see(self, time: float, values: Mapping[str, np.ndarray]) -> None:
        """Add what is observed and announced now: by channel [B]; an observation is NaN where it is missing.

        Raises:
            InputError: Time does not increase, a value is out of its channel's bounds, an announced amount is missing,
                or nothing was said of what was done since the moment before. Nothing is added then.
            SchemaError: A channel is missing.
        """
        if not np.isfinite(time):
            raise InputError(f"time is {time}; give a finite number in {self.schema.time_unit}")
        if self._times and time <= self._times[-1]:
            raise InputError(f"time goes backwards: {time:g} after {self._times[-1]:g}; observations come in order")
        if self._awaits_action:
            raise InputError(f"nothing was said of what was done at time {self._times[-1]:g}; give it to `act` first")
        arrays = {}
        for channel in self._seen_channels:
            if channel.name not in values:
                raise SchemaError(
                    f"channel {channel.name} is missing at time {time:g}; give NaN where nothing was measured"
                )
            where = f"at time {time:g}"
            array = np.asarray(values[channel.name])
            if array.dtype.kind in "fiub" and not channel.framed:
                array = array.astype(np.float64)
            if channel.role is Role.exogenous:
                arrays[channel.name] = self._whole(channel, array, where)
            else:
                arrays[channel.name] = self._checked(channel, array, where)
        self._times.append(time)
        for name, array in arrays.items():
            self._seen[name].append(array)
        self._awaits_action = True

    def keep(self, rows: np.ndarray) -> None:
        """Forget all subjects but those at `rows` [n], which stay in the order given."""
        self.subjects = tuple(self.subjects[row] for row in rows)
        self.statics = {name: values[rows] for name, values in self.statics.items()}
        for kept in (*self._seen.values(), *self._done.values()):
            whole = list(kept)
            kept.clear()
            kept.extend(values[rows] for values in whole)
        made = list(self.decisions)
        self.decisions.clear()
        self.decisions.extend(one.select(rows) for one in made)

    def forget(self) -> None:
        """Take back the last `see`, to which no action was added: what followed from it failed."""
        if not self._awaits_action:
            raise InputError("there is no moment without an action to forget")
        self._times.pop()
        for kept in self._seen.values():
            kept.pop()
        self._awaits_action = False

    def act(self, action: np.ndarray) -> None:
        """Add what is done now: [B, A] raw units.

        Raises:
            InputError: The shape is wrong, an amount is missing or out of its channel's bounds, or no moment was seen
                that it belongs to.
        """
        if not self._awaits_action:
            raise InputError("an action belongs to a moment that was seen; call `see` before `act`")
        done = np.array(action, dtype=np.float64)
        if done.shape != (len(self.subjects), len(self._actions)):
            raise InputError(
                f"actions have shape {done.shape}; expected ({len(self.subjects)}, {len(self._actions)}): "
                "one row a subject, one column an action channel"
            )
        where = f"at time {self._times[-1]:g}"
        columns = [self._whole(channel, done[:, i], where) for i, channel in enumerate(self._actions)]
        for channel, column in zip(self._actions, columns, strict=True):
            self._done[channel.name].append(column)
        self._awaits_action = False

    def _checked(self, channel: Channel, values: object, where: str) -> np.ndarray:
        """A copy of one value a subject, within the channel's bounds."""
        array = np.array(values)
        if array.shape != (len(self.subjects), *channel.shape):
            raise InputError(
                f"channel {channel.name} {where} has shape {array.shape}; expected "
                f"{(len(self.subjects), *channel.shape)}: one value a subject"
            )
        channel.check(array, where=where)
        return array

    def _whole(self, channel: Channel, values: object, where: str) -> np.ndarray:
        """The same for a channel that cannot be missing."""
        array = self._checked(channel, values, where)
        if array.dtype.kind == "f" and np.isnan(array).any():
            subject = self.subjects[int(np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(1))[0])]
            raise InputError(
                f"channel {channel.name} of {subject} {where} is NaN; only an observation may be missing"
                + (f", give 0 {channel.unit} where nothing was announced" if channel.role is Role.exogenous else "")
            )
        return array

    def arrays(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Times [T] and values by channel: observed and announced [B, T], done [B, T - 1], statics [B]; all copies.

        Of frames the newest, [B, F, *shape].

        Raises:
            InputError: Nothing was seen yet.
        """
        moments, size = len(self._times), len(self.subjects)
        if not moments:
            raise InputError("nothing was seen yet; call `see` first")
        values = {name: _side_by_side(list(kept)) for name, kept in self._seen.items()}
        for name, kept in self._done.items():
            # What was done at the last moment leads beyond it, so it is no part of this past.
            end = len(kept) - (not self._awaits_action)
            acts = list(kept)[end - (moments - 1) : end]
            values[name] = _side_by_side(acts) if acts else np.zeros((size, 0))
        return np.array(self._times), values | {name: value.copy() for name, value in self.statics.items()}

    def history(self) -> History:
        """The kept past as a history; its frames are of the last moments alone."""
        times, values = self.arrays()
        return History.from_arrays(self.schema, np.tile(times, (len(self.subjects), 1)), values)

    def last_action(self) -> dict[str, torch.Tensor]:
        """By action channel [B]: what was done last."""
        return {name: torch.from_numpy(kept[-1]) for name, kept in self._done.items()}

    def now(self) -> tuple[float, dict[str, torch.Tensor]]:
        """The last stamp, and what was observed and announced at it."""
        return self._times[-1], {name: torch.from_numpy(kept[-1]) for name, kept in self._seen.items()}

    def recent(self, role: Role, count: int) -> np.ndarray:
        """[B, count, C] the scalar channels of a role (observation, exogenous) at the last `count` moments."""
        columns = [
            _side_by_side(list(self._seen[c.name])[-count:])
            for c in self.schema.by_role(role)
            if c.shape == () and c.name in self._seen
        ]
        return np.stack(columns, axis=-1) if columns else np.zeros((len(self.subjects), count, 0))

    def ages(self, name: str) -> np.ndarray:
        """[B] time since a channel was last measured; infinite where it never was."""
        times, kept = np.array(self._times), np.stack(list(self._seen[name]), axis=1)
        measured = ~np.isnan(kept)
        newest = np.where(measured.any(1), times[kept.shape[1] - 1 - np.argmax(measured[:, ::-1], axis=1)], -np.inf)
        age: np.ndarray = times[-1] - newest
        return age


def _side_by_side(moments: list[np.ndarray]) -> np.ndarray:
    """[B, T, ...] a copy of T arrays [B, ...]; `np.stack` looks at each of them three times."""
    whole = np.concatenate(moments).reshape(len(moments), *moments[0].shape)
    return np.ascontiguousarray(whole.swapaxes(0, 1))
