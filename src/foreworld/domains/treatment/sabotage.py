"""World models that were broken on purpose: what the agent must notice before a patient does.

    broken = sabotage(forecaster, "overconfident", onset=288)     # same interface, same calibration, wrong answers

Each wraps a healthy forecaster and lies in one way, from a moment on: a model that breaks at once meets an agent that
knows nobody yet and refuses anyway. The calibration stays that of the healthy model: whoever breaks a model does not
calibrate it again.
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
from foreworld.model.interface import Believed, Imaginer, Sizes

DELAY = 12  # steps: an hour
TOO_SURE = 5.0


@dataclass(frozen=True)
class Lying:
    """What of a prediction does not depend on the actions, and whether the model lies about it.

    Attributes:
        ready: Of the healthy model.
        lies: Whether it is later than the onset.
    """

    ready: Any
    lies: bool

    @property
    def context(self) -> Tensor:
        """[B, C] as of the healthy model."""
        found: Tensor = self.ready.context
        return found

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, ready=self.ready.select(index))

    def hold(self, blocks: tuple[int, ...]) -> Lying:
        """For actions that are held over blocks, as `Holding`."""
        return replace(self, ready=self.ready.hold(blocks))


class Broken:
    """Answers as a healthy model does; subclasses lie in one place.

    Latents are the healthy model's readings themselves, [..., Q, 2]: mean and scale of every quantity in units.

    Args:
        healthy: The model that is broken; its `Ready` must offer `hold`.
        onset: Moments of history up to which it is healthy.
    """

    def __init__(self, healthy: Imaginer, onset: int = 0) -> None:
        self.healthy, self.onset = healthy, onset
        self.schema, self.quantities = healthy.schema, healthy.quantities

    def lies_about(self, belief: Any) -> bool:
        """Whether a belief is later than the onset; its subjects are met at one time."""
        return bool((belief.count > self.onset).all())

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

    def prepare(self, belief: Any, exogenous: Tensor | None = None) -> Lying:
        """As healthy."""
        return Lying(self.healthy.prepare(belief, exogenous), self.lies_about(belief))

    def respond(self, prepared: Lying, actions: Tensor) -> Tensor:
        """[E, B, S, H, Q, 2] readings."""
        readings = self.sound(prepared, actions)
        return self.lie(readings, prepared, actions) if prepared.lies else readings

    def sound(self, prepared: Lying, actions: Tensor) -> Tensor:
        """[E, B, S, H, Q, 2] readings of the healthy model."""
        latents = self.healthy.respond(prepared.ready, actions)
        means, scales = self.healthy.read(latents), self.healthy.read_scale(latents)
        return torch.stack([torch.stack([means[name], scales[name]], dim=-1) for name in self.quantities], dim=-2)

    def lie(self, readings: Tensor, prepared: Lying, actions: Tensor) -> Tensor:
        """What it says instead."""
        return readings

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

    def lie(self, readings: Tensor, prepared: Lying, actions: Tensor) -> Tensor:
        """Mirrored about the response to no action."""
        none = self.sound(prepared, torch.zeros_like(actions))
        return torch.stack([2.0 * none[..., 0] - readings[..., 0], readings[..., 1]], dim=-1)


class OverConfident(Broken):
    """Claims a fifth of its uncertainty.

    Its members agree five times as well, too: of scales alone that were divided, disagreement would tell at once.
    """

    def lie(self, readings: Tensor, prepared: Lying, actions: Tensor) -> Tensor:
        """The mean over members as healthy, what lies about it and the scales divided."""
        centre = readings[..., 0].mean(0)
        means = centre + (readings[..., 0] - centre) / TOO_SURE
        return torch.stack([means, readings[..., 1] / TOO_SURE], dim=-1)


class NotANumber(Broken):
    """Gives NaN."""

    def lie(self, readings: Tensor, prepared: Lying, actions: Tensor) -> Tensor:
        """NaN."""
        return torch.full_like(readings, torch.nan)


class Frozen(Broken):
    """Never learns anything after the onset."""

    def update(
        self, belief: Any, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Believed:
        """The belief as it was."""
        if belief.count.max() > self.onset:
            return belief  # type: ignore[no-any-return]
        return self.healthy.update(belief, time, observation, action)


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
        return self.healthy.normalise_actions(belief.queue[-1], actions)

    def normalise_exogenous(self, belief: Late, exogenous: Tensor) -> Tensor:
        """As healthy."""
        return self.healthy.normalise_exogenous(belief.queue[-1], exogenous)

    def prepare(self, belief: Late, exogenous: Tensor | None = None) -> Lying:
        """That of the oldest belief, as if it were of now."""
        lies = self.lies_about(belief)
        return Lying(self.healthy.prepare(belief.queue[0 if lies else -1], exogenous), lies)


KINDS: dict[str, Callable[[Imaginer, int], Broken]] = {
    "sign_flipped": SignFlipped,
    "frozen": Frozen,
    "nan": NotANumber,
    "delayed": Delayed,
    "overconfident": OverConfident,
}


def sabotage(forecaster: Forecaster, kind: str, onset: int = 0) -> Forecaster:
    """The forecaster with its model broken in one way and its calibration as it was.

    Args:
        forecaster: A healthy one.
        kind: One of `KINDS`.
        onset: Moments of history up to which it stays healthy.

    Raises:
        InputError: The kind is unknown, or the onset is negative.
    """
    if kind not in KINDS:
        raise InputError(f"sabotage {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if onset < 0:
        raise InputError(f"onset {onset} lies before the first moment; give 0 or more")
    return Forecaster(KINDS[kind](forecaster.model, onset), forecaster.calibration)
