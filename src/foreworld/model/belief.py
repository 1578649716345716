"""What goes into a model (`History`) and what it keeps of it (`Belief`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from foreworld.episodes.episode import Episode
from foreworld.episodes.schema import Role, Schema
from foreworld.errors import InputError, SchemaError


@dataclass(frozen=True)
class History:
    """Histories of B subjects, right-padded to the same length, in raw units.

    Attributes:
        times: [B, T] float64 stamps; padding repeats the last one.
        values: By channel: observations, exogenous [B, T, *shape]; actions [B, T - 1, *shape]; statics [B, *shape].
            A missing value is NaN.
        lengths: [B] int64, how many of the T stamps are real.
    """

    times: Tensor
    values: dict[str, Tensor]
    lengths: Tensor

    def __len__(self) -> int:
        """Number of subjects B."""
        return len(self.times)

    def extended(self, schema: Schema, steps: int) -> Self:
        """With so many more moments of padding at the end, all zeros; the lengths stay."""
        times = torch.cat([self.times, self.times[:, -1:].expand(-1, steps)], dim=1)
        values = dict(self.values)
        for channel in schema.channels:
            if channel.role is not Role.static:
                value = values[channel.name]
                values[channel.name] = torch.cat([value, value.new_zeros(len(value), steps, *channel.shape)], dim=1)
        return replace(self, times=times, values=values)

    def until(self, schema: Schema, moments: int) -> Self:
        """The first so many moments."""
        values = dict(self.values)
        for channel in schema.channels:
            if channel.role is not Role.static:
                values[channel.name] = values[channel.name][:, : moments - (channel.role is Role.action)]
        return replace(self, times=self.times[:, :moments], values=values, lengths=self.lengths.clamp(max=moments))

    def select(self, index: Tensor) -> Self:
        """The histories of some subjects."""
        values = {name: value[index] for name, value in self.values.items()}
        return replace(self, times=self.times[index], values=values, lengths=self.lengths[index])

    @classmethod
    def from_episodes(cls, schema: Schema, episodes: Sequence[Episode]) -> History:
        """Stack whole episodes, each validated against the schema."""
        if not episodes:
            raise InputError("a history needs at least one episode")
        for episode in episodes:
            episode.validate(schema)
        steps = max(len(episode) for episode in episodes)
        values: dict[str, Tensor] = {}
        for channel in schema.channels:
            arrays = [_shown(e.values[channel.name], e.masks.get(channel.name)) for e in episodes]
            if channel.role is not Role.static:
                length = steps if channel.role is Role.action else steps + 1
                arrays = [_padded(array, length) for array in arrays]
            values[channel.name] = torch.from_numpy(np.stack(arrays))
        times = torch.from_numpy(np.stack([_padded(e.times, steps + 1, edge=True) for e in episodes]))
        lengths = torch.tensor([len(episode) + 1 for episode in episodes], dtype=torch.int64)
        return cls(times, values, lengths)

    @classmethod
    def from_arrays(
        cls,
        schema: Schema,
        times: np.ndarray,
        values: Mapping[str, np.ndarray],
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> History:
        """Wrap arrays of equal length, as a window reader or a simulator gives them.

        Args:
            schema: The schema of the channels.
            times: [B, T].
            values: By channel, as in the class docstring.
            masks: By channel, True where measured, [B, T], [B, T - 1] or [B]; what they hide counts as missing.
        """
        missing = [name for name in schema.names() if name not in values]
        if missing:
            raise SchemaError(f"channel {missing[0]} is missing from the history; schema {schema.name} needs it")
        shown = {c.name: _shown(values[c.name], (masks or {}).get(c.name)) for c in schema.channels}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in shown.items()}
        stamps = torch.from_numpy(np.ascontiguousarray(times, dtype=np.float64))
        return cls(stamps, tensors, torch.full((len(times),), stamps.shape[1], dtype=torch.int64))


def _shown(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The values with NaN where the mask hides one; of a dtype without NaN in double precision."""
    if mask is None or np.all(mask):
        return values
    kept = values if values.dtype.kind == "f" else values.astype(np.float64)
    return np.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), kept, np.asarray(np.nan, kept.dtype))


def _padded(array: np.ndarray, length: int, *, edge: bool = False) -> np.ndarray:
    if len(array) == length:
        return array
    rest = length - len(array)
    fill = np.repeat(array[-1:], rest, axis=0) if edge else np.zeros((rest, *array.shape[1:]), array.dtype)
    return np.concatenate([array, fill])


@dataclass(frozen=True)
class Belief:
    """The model's internal picture of B subjects at one moment.

    Everything in it is a function of the past alone, and `WorldModel.update` advances it by one step.

    Attributes:
        state: [B, N] recurrent state.
        memory: [B, M] leaky sums of what was measured, done and announced.
        recent: [B, R, C] the last R normalised observations and their masks.
        last: [B, Q] the last measured value of each predicted quantity, normalised; 0 where none was.
        age: [B, O] steps since each observation was measured; large where it never was.
        count: [B] int64, moments seen; the slow clock of the encoder ticks by it.
        token: [B, I] the normalised input of this moment.
        statics: [B, S] normalised statics.
        time: [B] float64 stamp.
    """

    state: Tensor
    memory: Tensor
    recent: Tensor
    last: Tensor
    age: Tensor
    count: Tensor
    token: Tensor
    statics: Tensor
    time: Tensor

    def __len__(self) -> int:
        """Number of subjects B."""
        return len(self.state)

    def select(self, index: Tensor | Sequence[int] | slice) -> Self:
        """The belief of some subjects."""
        key = torch.as_tensor(index) if not isinstance(index, slice) else index
        return replace(self, **{f.name: getattr(self, f.name)[key] for f in fields(self)})

    def detach(self) -> Self:
        """A copy without gradients."""
        return replace(self, **{f.name: getattr(self, f.name).detach() for f in fields(self)})
