"""World models that were broken on purpose: what the agent must notice before a patient does.

    broken = sabotage(forecaster, "overconfident")     # same interface, same calibration, wrong answers

Each wraps a healthy forecaster and lies in one way. The calibration stays that of the healthy model: whoever breaks a
model does not calibrate it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.belief import History
from foreworld.model.interface import Believed, Imaginer, Ready, Sizes

DELAY = 12  # steps: an hour
TOO_SURE = 5.0


class Broken:
    """Answers as a healthy model does; subclasses lie in one place.

    Latents are the healthy model's readings themselves, [..., Q, 2]: mean and scale of every quantity in units.

    Args:
        healthy: The model that is broken.
    """

    def __init__(self, healthy: Imaginer) -> None:
        self.healthy = healthy
        self.schema, self.quantities = healthy.schema, healthy.quantities

    @property
    def config(self) -> Sizes:
        """Grid and ensemble size."""
        return self.healthy.config

    def eval(self) -> Self:
        """Into evaluation mode."""
        self.healthy.eval()
        return self

    def encode(self, history: History) -> Believed:
        """As healthy."""
        return self.healthy.encode(history)

    def update(
        self, belief: Any, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Believed:
        """As healthy."""
        return self.healthy.update(belief, time, observation, action)

    def normalise_actions(self, belief: Any, actions: Tensor) -> Tensor:
        """As healthy."""
        return self.healthy.normalise_actions(belief, actions)

    def normalise_exogenous(self, belief: Any, exogenous: Tensor) -> Tensor:
        """As healthy."""
        return self.healthy.normalise_exogenous(belief, exogenous)

    def prepare(self, belief: Any, exogenous: Tensor | None = None) -> Ready:
        """As healthy."""
        return self.healthy.prepare(belief, exogenous)

    def respond(self, prepared: Any, actions: Tensor) -> Tensor:
        """[E, B, S, H, Q, 2] readings."""
        latents = self.healthy.respond(prepared, actions)
        means, scales = self.healthy.read(latents), self.healthy.read_scale(latents)
        return torch.stack([torch.stack([means[name], scales[name]], dim=-1) for name in self.quantities], dim=-2)

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Means, within the bounds of their channels."""
        found = {}
        for i, name in enumerate(self.quantities):
            channel, values = self.schema[name], latents[..., i, 0]
            bounded = channel.low is not None or channel.high is not None
            found[name] = torch.clamp(values, min=channel.low, max=channel.high) if bounded else values
        return found

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """Standard deviations."""
        return {name: latents[..., i, 1] for i, name in enumerate(self.quantities)}


class SignFlipped(Broken):
    """Thinks that insulin raises glucose by as much as it lowers it."""

    def respond(self, prepared: Any, actions: Tensor) -> Tensor:
        """Mirrored about the response to no action."""
        right, none = super().respond(prepared, actions), super().respond(prepared, torch.zeros_like(actions))
        mean = 2.0 * none[..., 0] - right[..., 0]
        return torch.stack([mean, right[..., 1]], dim=-1)


class OverConfident(Broken):
    """Claims a fifth of its uncertainty."""

    def respond(self, prepared: Any, actions: Tensor) -> Tensor:
        """Means as healthy, scales divided."""
        return super().respond(prepared, actions) / torch.tensor([1.0, TOO_SURE])


class NotANumber(Broken):
    """Gives NaN."""

    def respond(self, prepared: Any, actions: Tensor) -> Tensor:
        """NaN."""
        return torch.full_like(super().respond(prepared, actions), torch.nan)


class Frozen(Broken):
    """Never learns anything after the first moment."""

    def update(
        self, belief: Any, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Believed:
        """The belief as it was."""
        return belief  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Late:
    """A belief and those that led to it, the oldest first.

    Attributes:
        queue: At most `DELAY` + 1 beliefs.
    """

    queue: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.queue[-1])

    @property
    def count(self) -> Tensor:
        """[B] moments of history behind it."""
        found: Tensor = self.queue[-1].count
        return found

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, queue=tuple(belief.select(index) for belief in self.queue))


class Delayed(Broken):
    """Believes what was true an hour ago."""

    def encode(self, history: History) -> Late:
        """The belief of now; it grows old from here."""
        return Late((self.healthy.encode(history),))

    def update(
        self, belief: Late, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Late:
        """One belief more, the oldest forgotten."""
        queue = deque(belief.queue, maxlen=DELAY + 1)
        queue.append(self.healthy.update(belief.queue[-1], time, observation, action))
        return Late(tuple(queue))

    def normalise_actions(self, belief: Late, actions: Tensor) -> Tensor:
        """As healthy."""
        return self.healthy.normalise_actions(belief.queue[0], actions)

    def normalise_exogenous(self, belief: Late, exogenous: Tensor) -> Tensor:
        """As healthy."""
        return self.healthy.normalise_exogenous(belief.queue[0], exogenous)

    def prepare(self, belief: Late, exogenous: Tensor | None = None) -> Ready:
        """That of the oldest belief, as if it were of now."""
        return self.healthy.prepare(belief.queue[0], exogenous)


KINDS: dict[str, Callable[[Imaginer], Broken]] = {
    "sign_flipped": SignFlipped,
    "frozen": Frozen,
    "nan": NotANumber,
    "delayed": Delayed,
    "overconfident": OverConfident,
}


def sabotage(forecaster: Forecaster, kind: str) -> Forecaster:
    """The forecaster with its model broken in one way and its calibration as it was.

    Raises:
        InputError: The kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"sabotage {kind!r} is unknown; use one of {', '.join(KINDS)}")
    return Forecaster(KINDS[kind](forecaster.model), forecaster.calibration)
