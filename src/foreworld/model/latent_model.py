"""`LatentModel`: a scene learned from frames and actions alone, predicted in the space of its own encoder.

encode(history) -> LatentBelief           update(belief, time, observation, action) -> LatentBelief
predict(belief, actions) -> latents       read(latents) -> {quantity: values in units}, once some frames were labelled

It answers `model.interface.Imaginer`: forecaster, guardrails, planners and agent take it as they take `WorldModel`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from foreworld.episodes.options import Options
from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.ensemble import EnsembleLinear
from foreworld.model.vision import ConvEncoder, look

LEAST_SPREAD = 1e-3  # of pixels within -1 to 1: a scene in which nothing moves is not blown up
LEAST_SHARE = 1e-3  # of the largest variance: colours that hardly differ are not blown up, either


class LatentConfig(Options):
    """Sizes of a latent model; the defaults suit one core.

    Attributes:
        grid: Steps at which the future is predicted, equally spaced: the predictor takes one interval at a time.
        frames: The video channel.
        quantities: Scalar observation channels that are read out of the latents; each needs labelled moments.
        width: Width D of the latent.
        hidden: Hidden width of the predictor.
        members: Predictors that share the encoder, E.
        readout: Random features of the readout; 0 is linear.
        bf16: Encode in bfloat16, where the processor multiplies it in hardware.
    """

    grid: HorizonGrid = HorizonGrid(points=tuple(range(4, 41, 4)))
    frames: str = "frame"
    quantities: tuple[str, ...] = ()
    width: int = Field(default=32, gt=0)
    hidden: int = Field(default=256, gt=0)
    members: int = Field(default=1, gt=0)
    readout: int = Field(default=0, ge=0)
    bf16: bool = True
    kind: Literal["conv"] = "conv"


@dataclass(frozen=True)
class LatentBelief:
    """The picture of B scenes at one moment: what the encoder makes of the last frame.

    Attributes:
        latent: [B, D].
        look: [B, L] what the frame looks like, apart from where things are (`vision.look`).
        count: [B] int64 moments seen.
        time: [B] float64 stamp.
    """

    latent: Tensor
    look: Tensor
    count: Tensor
    time: Tensor

    def __len__(self) -> int:
        """Number of scenes B."""
        return len(self.latent)

    def select(self, index: Tensor) -> Self:
        """The picture of some scenes."""
        return type(self)(self.latent[index], self.look[index], self.count[index], self.time[index])


@dataclass(frozen=True)
class LatentReady:
    """What of a prediction does not depend on the actions: the latent itself; and what the frame looked like."""

    context: Tensor
    look: Tensor

    def select(self, index: Tensor) -> Self:
        """That of some scenes."""
        return type(self)(self.context[index], self.look[index])


class LatentModel(nn.Module):
    """An encoder of frames, predictors of latents, and readouts.

    Args:
        schema: Names the video channel, the scalar continuous action channels, and the quantities.
        config: Sizes.

    Raises:
        SchemaError: A channel is missing or of another kind.
        InputError: The grid is not equally spaced.
    """

    mean_frame: Tensor
    whitening: Tensor
    centre: Tensor
    reach: Tensor

    def __init__(self, schema: Schema, config: LatentConfig) -> None:
        super().__init__()
        frames = _video(schema, config.frames)
        actions = schema.by_role(Role.action)
        if not actions or any(channel.discrete or channel.shape != () for channel in actions):
            raise SchemaError(f"schema {schema.name}: a latent model needs scalar continuous actions")
        points = config.grid.points
        self.block = points[0]
        if points != tuple(range(self.block, self.block * len(points) + 1, self.block)):
            raise InputError(f"a latent model predicts at equally spaced points, got {points}")
        for name in config.quantities:
            if schema[name].shape != () or schema[name].discrete or schema[name].role is not Role.observation:
                raise SchemaError(f"quantity {name!r} is not a continuous scalar observation channel")
        self.schema, self.config, self.quantities = schema, config, config.quantities
        height, side, colours = frames.shape
        if height != side:
            raise SchemaError(f"frames of {config.frames} are {height} x {side} px; give square ones")
        self.register_buffer("mean_frame", torch.zeros(colours, height, side))
        self.register_buffer("whitening", torch.eye(colours))
        self.encoder = ConvEncoder(colours, side, config.width)
        e, d, h = config.members, config.width, config.hidden
        self.enter = EnsembleLinear(e, d, h)
        self.push = EnsembleLinear(e, self.block * len(actions), h)
        self.between = EnsembleLinear(e, h, h)
        self.leave = EnsembleLinear(e, h, d, gain=0.1)
        self.readout = Readout(schema, config.quantities, d, config.readout)
        centre = torch.tensor([_centre(channel) for channel in actions])
        reach = torch.tensor([_reach(channel) for channel in actions])
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("reach", reach, persistent=False)

    def with_horizon(self, points: int) -> Self:
        """The same model, weights shared, that looks fewer points ahead.

        Raises:
            InputError: It does not look so far.
        """
        if not 1 <= points <= len(self.config.grid):
            raise InputError(f"the model looks 1 to {len(self.config.grid)} points ahead, not {points}")
        other = copy.copy(self)
        other.config = self.config.model_copy(update={"grid": HorizonGrid(points=self.config.grid.points[:points])})
        return other

    # --- the past ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_pixels(self, frames: Tensor) -> None:
        """Take the mean frame, and how colours vary about it, from uint8 frames [N, H, W, C]; before training.

        What never changes in a scene is then nothing, and every direction of colour in which something does is of one
        size (Krizhevsky 2009, whitening): where walls differ between episodes, they are most of what differs, and a
        small agent of another colour would be learned late, if at all.
        """
        scaled = self.encoder.scaled(frames)
        self.mean_frame.copy_(scaled.mean(0))
        apart = (scaled - self.mean_frame).movedim(1, -1).flatten(0, -2).double()
        values, vectors = torch.linalg.eigh(apart.T @ apart / len(apart))
        least = max(LEAST_SPREAD**2, LEAST_SHARE * float(values.max()))
        self.whitening.copy_((vectors * values.clamp(min=least).rsqrt()) @ vectors.T)

    def embed(self, frames: Tensor) -> Tensor:
        """[..., D] latents of uint8 frames [..., H, W, C]."""
        flat = frames.flatten(0, -4) if frames.dim() > 4 else frames
        return self._latents(self.pixels(flat)).reshape(*frames.shape[:-3], -1)

    def encode(self, history: History) -> LatentBelief:
        """The belief at the end of each history."""
        rows, last = torch.arange(len(history)), history.lengths - 1
        frames = history.values[self.config.frames]
        # A memory keeps the frames of the last moments alone.
        newest = frames[rows, last - (history.times.shape[1] - frames.shape[1])]
        return LatentBelief(*self._embed_known(newest), history.lengths, history.times[rows, last])

    def update(
        self, belief: LatentBelief, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> LatentBelief:
        """The belief one step later; equal to `encode` of the longer history.

        Raises:
            InputError: The stamp is not later than the belief's.
        """
        if (time <= belief.time).any():
            raise InputError("time goes backwards: an update must be later than the belief it continues")
        return LatentBelief(*self._embed_known(observation[self.config.frames]), belief.count + 1, time)

    # --- the future --------------------------------------------------------------------------------------------

    def step(self, latents: Tensor, actions: Tensor) -> Tensor:
        """One interval on: latents [E, N, D], or [N, D] shared by members, under actions [N, block, A] within it."""
        return self._advance(latents, self.push(actions.flatten(1)))

    def roll(self, latent: Tensor, actions: Tensor) -> Tensor:
        """Open loop: latents [E, B, F, D] from [B, D] under actions [B, F, block, A]."""
        pushed, now, path = self.push(actions.flatten(2).flatten(0, 1)), latent, []
        pushed = pushed.reshape(len(pushed), *actions.shape[:2], -1)
        for f in range(actions.shape[1]):
            now = self._advance(now, pushed[:, :, f])
            path.append(now)
        return torch.stack(path, dim=2)

    def predict(self, latent: Tensor, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, D] from [B, D] under normalised candidates [B, S, H, A], each held over its interval."""
        batch, count, horizon, width = actions.shape
        # What actions do to the hidden layer is worked out for all intervals at once.
        held = self.push.weight.reshape(len(self.push.weight), self.block, width, -1).sum(1)
        pushed = torch.baddbmm(
            self.push.bias, actions.permute(2, 0, 1, 3).reshape(1, -1, width).expand(len(held), -1, -1), held
        )
        pushed = pushed.reshape(self.config.members, horizon, batch * count, -1)
        now = latent[:, None].expand(-1, count, -1).reshape(batch * count, -1)
        path: list[Tensor] = []
        for h in range(horizon):
            now = self._advance(now, pushed[:, h])
            path.append(now)
        return torch.stack(path, dim=2).reshape(self.config.members, batch, count, horizon, -1)

    def prepare(self, belief: LatentBelief, exogenous: Tensor | None = None) -> LatentReady:
        """What does not depend on the actions."""
        if exogenous is not None and exogenous.shape[-1]:
            raise InputError("a latent model knows no announced amounts")
        return LatentReady(belief.latent, belief.look)

    def respond(self, prepared: LatentReady, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, D] of normalised candidates [B, S, H, A]."""
        return self.predict(prepared.context, actions)

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Quantities in units: latents [..., D] to {quantity: [...]}; of those that were labelled."""
        found: dict[str, Tensor] = self.readout(latents)
        return found

    def read_now(self, prepared: LatentReady) -> dict[str, Tensor]:
        """Quantities of this moment in units, {quantity: [B]}."""
        return self.read(prepared.context)

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """The readouts' own error in units, likewise; how it grows with the horizon is for calibration to say."""
        return {name: self.readout.spread(name).expand(latents.shape[:-1]) for name in self.quantities}

    def normalise_actions(self, belief: LatentBelief, actions: Tensor) -> Tensor:
        """Raw actions [B, S, H, A] to -1 to 1 over the channels' bounds."""
        return (actions - self.centre) / self.reach

    def normalise_exogenous(self, belief: LatentBelief, exogenous: Tensor) -> Tensor:
        """There is nothing to normalise."""
        return exogenous

    # --- parts -------------------------------------------------------------------------------------------------

    def _advance(self, latents: Tensor, pushed: Tensor) -> Tensor:
        """A residual step; `pushed` [E, N, hidden] is what the actions add to the first hidden layer."""
        hidden = nn.functional.gelu(self.enter(latents) + pushed)
        change: Tensor = self.leave(nn.functional.gelu(self.between(hidden)))
        return latents + change

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 frames [N, H, W, C] about the mean frame, colours whitened, [N, C, H, W]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            return nn.functional.conv2d(self.encoder.scaled(frames) - self.mean_frame, self.whitening[:, :, None, None])

    def _latents(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            found: Tensor = self.encoder(pixels)
        return found.float()

    def _embed_known(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, D] and looks [B, L]; NaN where a frame is missing, which no guardrail lets pass."""
        missing = torch.isnan(frames).flatten(1).any(1) if frames.is_floating_point() else None
        pixels = self.pixels(frames if missing is None else torch.nan_to_num(frames).to(torch.uint8))
        found = self._latents(pixels), look(pixels)
        if missing is None:
            return found
        return tuple(torch.where(missing[:, None], torch.nan, part) for part in found)  # type: ignore[return-value]


class Readout(nn.Module):
    """From latents to quantities: ridge regression on the latents and, if wanted, random features of them.

    Args:
        schema: Knows bounds.
        quantities: Names.
        width: Of the latents.
        features: How many random features (Rahimi and Recht 2007).
    """

    weight: Tensor
    error: Tensor
    directions: Tensor
    phases: Tensor

    def __init__(self, schema: Schema, quantities: tuple[str, ...], width: int, features: int) -> None:
        super().__init__()
        self.schema, self.quantities = schema, quantities
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("directions", torch.randn(width, features, generator=generator) / width**0.5)
        self.register_buffer("phases", 2.0 * torch.pi * torch.rand(features, generator=generator))
        self.register_buffer("weight", torch.zeros(1 + width + features, len(quantities)))
        self.register_buffer("error", torch.full((len(quantities),), torch.inf))

    def features(self, latents: Tensor) -> Tensor:
        """[..., 1 + D + features]."""
        parts = [torch.ones_like(latents[..., :1]), latents]
        if self.directions.shape[1]:
            parts.append(torch.cos(latents @ self.directions + self.phases))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def fit(self, latents: Tensor, labels: Mapping[str, Tensor], *, penalty: float = 1e-3) -> dict[str, float]:
        """Fit on labelled latents [N, D]; the error is that of five-fold cross-validation.

        Returns:
            By quantity: the share of its variance that is read right where it was not fitted (R2).

        Raises:
            InputError: Fewer than ten labels of a quantity.
        """
        shares = {}
        for k, name in enumerate(self.quantities):
            known = ~torch.isnan(labels[name])
            if int(known.sum()) < 10:
                raise InputError(f"{int(known.sum())} frames have a label of {name}; a readout needs at least ten")
            x, y = self.features(latents[known]).double(), labels[name][known].double()
            fold = torch.arange(len(y)) % 5
            missed = torch.empty_like(y)
            for one in range(5):
                missed[fold == one] = y[fold == one] - x[fold == one] @ _ridge(x[fold != one], y[fold != one], penalty)
            self.weight[:, k] = _ridge(x, y, penalty).float()
            self.error[k] = missed.pow(2).mean().sqrt()
            shares[name] = float(1.0 - missed.pow(2).sum() / (y - y.mean()).pow(2).sum())
        return shares

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """By quantity, within its channel's bounds."""
        if not self.quantities:
            return {}
        values = self.features(latents) @ self.weight
        found = {}
        for k, name in enumerate(self.quantities):
            channel = self.schema[name]
            bounded = channel.low is not None or channel.high is not None
            found[name] = values[..., k].clamp(channel.low, channel.high) if bounded else values[..., k]
        return found

    def spread(self, name: str) -> Tensor:
        """Error of a quantity where it was not fitted; infinite before it was."""
        return self.error[self.quantities.index(name)]


def _ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    solved: Tensor = torch.linalg.solve(gram, x.T @ y)
    return solved


def _video(schema: Schema, name: str) -> Channel:
    if name not in schema or len(schema[name].shape) != 3:
        raise SchemaError(f"schema {schema.name} has no video channel {name!r} of shape [height, width, colours]")
    return schema[name]


def _centre(channel: Channel) -> float:
    return 0.5 * (_bound(channel, channel.low) + _bound(channel, channel.high))


def _reach(channel: Channel) -> float:
    return 0.5 * (_bound(channel, channel.high) - _bound(channel, channel.low))


def _bound(channel: Channel, bound: float | None) -> float:
    if bound is None:
        raise SchemaError(f"action {channel.name} has no bound; a latent model scales actions by their bounds")
    return bound
