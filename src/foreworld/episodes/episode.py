"""One subject's history: what was observed, what was done, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import InputError, SchemaError


@dataclass(frozen=True)
class Episode:
    """Arrays by channel for one subject, with time stamps.

    `action[t]` is chosen after seeing `observation[t]` and `exogenous[t]`, and leads to `observation[t+1]`:
    an episode of N actions has N+1 observations, N+1 exogenous values and N+1 time stamps.

    Attributes:
        subject: Whose it is; splits are by subject.
        times: [N+1] float64, strictly increasing, in the schema's time unit.
        values: By channel: observations and exogenous [N+1, *shape], actions [N, *shape], statics [*shape].
            A missing float value is NaN; `masks` follow from it.
        masks: By channel, True where a value was measured; needed only where the dtype has no NaN.
        info: Small JSON-able facts (source, policy, seed).
    """

    subject: str
    times: np.ndarray
    values: dict[str, np.ndarray]
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of actions N."""
        return len(self.times) - 1

    def mask(self, name: str) -> np.ndarray:
        """True where channel `name` was measured, one flag a time step: [N+1] or [N], or [] for a scalar static.

        Of a static vector without a stored mask it is one flag an entry (`Channel.measured` gives one for all).
        """
        values: np.ndarray = self.values[name]
        given = self.masks.get(name)
        if values.dtype.kind != "f":
            return np.ones(values.shape[:1], dtype=bool) if given is None else given
        present: np.ndarray = ~np.isnan(values)
        if given is not None:
            return np.asarray(given & present.reshape(*given.shape, -1).all(axis=-1))
        return present if present.ndim <= 1 else np.asarray(present.reshape(len(values), -1).all(axis=1))

    def validate(self, schema: Schema) -> None:
        """Check this episode against a schema.

        Raises:
            SchemaError: A channel is missing or not in the schema, or has the wrong shape or length.
            InputError: Time does not increase, or a value is infinite, out of bounds, does not fit the dtype,
                or is missing where it may not be (actions and exogenous values are known by definition).
        """
        where = f"of subject {self.subject}"
        self._validate_times(where)
        missing = [name for name in schema.names() if name not in self.values]
        if missing:
            raise SchemaError(f"channel {missing[0]} {where} is missing; schema {schema.name} needs it")
        extra = sorted(set(self.values) - set(schema.names()))
        if extra:
            raise SchemaError(f"channel {extra[0]} {where} is not in schema {schema.name}")
        strange = sorted(set(self.masks) - set(schema.names()))
        if strange:
            raise SchemaError(f"mask {strange[0]} {where} is not of a channel in schema {schema.name}")
        for channel in schema.channels:
            self._validate_channel(channel, where)

    def _validate_channel(self, channel: Channel, where: str) -> None:
        values = self.values[channel.name]
        lead = self._lead(channel)
        if values.shape != lead + channel.shape:
            raise SchemaError(
                f"channel {channel.name} {where} has shape {values.shape}, expected {lead + channel.shape} "
                f"({len(self)} actions need {len(self) + 1} observations)"
            )
        mask = self.masks.get(channel.name)
        if mask is not None and (mask.shape != lead or mask.dtype != np.bool_):
            raise SchemaError(
                f"mask {channel.name} {where} is {mask.dtype} of shape {mask.shape}, expected bool of shape {lead}"
            )
        # What a mask hides is never read, so it may hold anything.
        shown = values if mask is None else values[mask]
        channel.check(shown, where=where)
        channel.cast(shown, where=where)
        present = channel.measured(values) if mask is None else channel.measured(values) & mask
        if channel.role in (Role.action, Role.exogenous) and not present.all():
            at = int(np.flatnonzero(~present)[0])
            raise InputError(
                f"channel {channel.name} {where}: the value at step {at} (time {self.times[at]:g}) is NaN or masked, "
                f"but {channel.role} values are always known; give 0 {channel.unit} if nothing was done"
            )

    def _lead(self, channel: Channel) -> tuple[int, ...]:
        if channel.role is Role.static:
            return ()
        return (len(self),) if channel.role is Role.action else (len(self.times),)

    def _validate_times(self, where: str) -> None:
        if self.times.ndim != 1 or len(self.times) < 2:
            raise InputError(f"times {where}: at least two time stamps are needed, got shape {self.times.shape}")
        if not np.isfinite(self.times).all():
            raise InputError(f"times {where}: a time stamp is not finite")
        backward = np.flatnonzero(np.diff(self.times) <= 0)
        if backward.size:
            at = int(backward[0])
            raise InputError(
                f"times {where} go backwards or stand still: {self.times[at]:g} then {self.times[at + 1]:g} "
                f"at step {at + 1}; sort the rows and drop doubles"
            )

    def window(self, schema: Schema, start: int, stop: int) -> Episode:
        """The part from observation `start` to observation `stop` inclusive (stop - start actions).

        Args:
            schema: The schema of this episode; the role of a channel says how it is cut.
            start: Index of the first observation.
            stop: Index of the last observation.
        """
        if not 0 <= start < stop <= len(self):
            raise InputError(f"window {start}..{stop} is outside the episode of {len(self)} actions")

        def cut(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            parts = {}
            for name, array in arrays.items():
                role = schema[name].role
                end = stop if role is Role.action else stop + 1
                parts[name] = array if role is Role.static else array[start:end]
            return parts

        return Episode(self.subject, self.times[start : stop + 1], cut(self.values), cut(self.masks), self.info)
