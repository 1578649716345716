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
from pydantic import Field, model_validator
from torch import Tensor, nn

from foreworld.episodes.options import Options
from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.ensemble import EnsembleLinear
from foreworld.model.readout import Readout
from foreworld.model.sight import Sight
from foreworld.model.vision import ConvEncoder, PointEncoder, look

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
        kind: The latent is what a `conv` encoder makes of a frame, or where `width / 2` `points` of attention are.
        sight: How far around each point the predictor sees the frame, in samples two pixels apart; 0 is blind. What
            lasts, such as a wall, then need not be in the latent: it is looked up where it matters.
    """

    grid: HorizonGrid = HorizonGrid(points=tuple(range(4, 41, 4)))
    frames: str = "frame"
    quantities: tuple[str, ...] = ()
    width: int = Field(default=32, gt=0)
    hidden: int = Field(default=256, gt=0)
    members: int = Field(default=1, gt=0)
    readout: int = Field(default=0, ge=0)
    bf16: bool = True
    kind: Literal["conv", "points"] = "conv"
    sight: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _points_have_places(self) -> Self:
        if self.kind == "points" and self.width % 2:
            raise ValueError(f"a latent of points has two numbers for each; width {self.width} is odd")
        if self.sight and self.kind != "points":
            raise ValueError("only a latent of points knows where to look: sight needs kind 'points'")
        return self


@dataclass(frozen=True)
class LatentBelief:
    """The picture of B scenes at one moment: what the encoder makes of the last frame.

    Attributes:
        latent: [B, D].
        look: [B, L] what the frame looks like, apart from where things are (`vision.look`).
        around: [B, C, H, W] the frame itself, as the predictor sees it; None where it is blind.
        count: [B] int64 moments seen.
        time: [B] float64 stamp.
    """

    latent: Tensor
    look: Tensor
    around: Tensor | None
    count: Tensor
    time: Tensor

    def __len__(self) -> int:
        """Number of scenes B."""
        return len(self.latent)

    def select(self, index: Tensor) -> Self:
        """The picture of some scenes."""
        around = None if self.around is None else self.around[index]
        return type(self)(self.latent[index], self.look[index], around, self.count[index], self.time[index])


@dataclass(frozen=True)
class LatentReady:
    """What of a prediction does not depend on the actions: latent, what the frame looked like, what it shows."""

    context: Tensor
    look: Tensor
    around: Tensor | None = None

    def select(self, index: Tensor) -> Self:
        """That of some scenes."""
        return type(self)(self.context[index], self.look[index], None if self.around is None else self.around[index])


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
        e, d, h = config.members, config.width, config.hidden
        pointed = config.kind == "points"
        self.encoder = PointEncoder(colours, side, d // 2) if pointed else ConvEncoder(colours, side, d)
        self.sight = Sight(e, h, d // 2, colours, side, config.sight) if config.sight else None
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

    def around(self, frames: Tensor) -> Tensor | None:
        """[N, C, H, W] of uint8 frames [N, H, W, C], as the predictor sees what is around; None where it is blind."""
        return None if self.sight is None else self.pixels(frames).float().contiguous()

    def step(self, latents: Tensor, actions: Tensor, around: Tensor | None = None) -> Tensor:
        """One interval on: latents [E, N, D], or [N, D] shared by members, under actions [N, block, A] within it.

        `around` [B, C, H, W] is of B scenes; the N follow one another by scene, equally many each.
        """
        return self._advance(latents, self.push(actions.flatten(1)), around)

    def fan(self, latents: Tensor, actions: Tensor, around: Tensor | None = None) -> Tensor:
        """One interval on from each of latents [N, D] under each of actions [S, block, A]: [E, N, S, D]."""
        entered = self._seen(latents, around)[:, :, None] + self.push(actions.flatten(1))[:, None]
        ends: Tensor = latents[:, None] + self._change(entered.flatten(1, 2)).reshape(*entered.shape[:3], -1)
        return ends

    def roll(self, latent: Tensor, actions: Tensor, around: Tensor | None = None) -> Tensor:
        """Open loop: latents [E, B, F, D] from [B, D] under actions [B, F, block, A]."""
        pushed, now, path = self.push(actions.flatten(2).flatten(0, 1)), latent, []
        pushed = pushed.reshape(len(pushed), *actions.shape[:2], -1)
        for f in range(actions.shape[1]):
            now = self._advance(now, pushed[:, :, f], around)
            path.append(now)
        return torch.stack(path, dim=2)

    def predict(self, latent: Tensor, actions: Tensor, around: Tensor | None = None) -> Tensor:
        """Latents [E, B, S, H, D] from [B, D] under normalised candidates [B, S, H, A], each held over its interval."""
        batch, count, horizon, width = actions.shape
        # What actions do to the hidden layer is worked out for all intervals at once.
        held = self.push.weight.reshape(len(self.push.weight), self.block, width, -1).sum(1)
        pushed = torch.baddbmm(
            self.push.bias, actions.permute(2, 0, 1, 3).reshape(1, -1, width).expand(len(held), -1, -1), held
        )
        pushed = pushed.reshape(self.config.members, horizon, batch * count, -1)
        # All candidates start at one place, which is looked at once.
        seen = self._seen(latent, around).repeat_interleave(count, dim=1)
        now = latent.repeat_interleave(count, dim=0) + self._change(seen + pushed[:, 0])
        path = [now]
        for h in range(1, horizon):
            now = self._advance(now, pushed[:, h], around)
            path.append(now)
        return torch.stack(path, dim=2).reshape(self.config.members, batch, count, horizon, -1)

    def prepare(self, belief: LatentBelief, exogenous: Tensor | None = None) -> LatentReady:
        """What does not depend on the actions."""
        if exogenous is not None and exogenous.shape[-1]:
            raise InputError("a latent model knows no announced amounts")
        return LatentReady(belief.latent, belief.look, belief.around)

    def respond(self, prepared: LatentReady, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, D] of normalised candidates [B, S, H, A]."""
        return self.predict(prepared.context, actions, prepared.around)

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

    def _advance(self, latents: Tensor, pushed: Tensor, around: Tensor | None) -> Tensor:
        """A residual step; `pushed` [E, N, hidden] is what the actions add to the first hidden layer."""
        return latents + self._change(self._seen(latents, around) + pushed)

    def _seen(self, latents: Tensor, around: Tensor | None) -> Tensor:
        """[E, N, hidden] what latents and what is around them add to the first hidden layer."""
        entered: Tensor = self.enter(latents)
        if self.sight is None:
            return entered
        if around is None:
            raise InputError("this model sees what is around: give it the frames (`around`)")
        both: Tensor = entered + self.sight(latents, around)
        return both

    def _change(self, entered: Tensor) -> Tensor:
        """[E, N, D] by how much latents change, from the first hidden layer [E, N, hidden]."""
        hidden = nn.functional.gelu(self.between(nn.functional.gelu(entered)))
        change: Tensor = self.leave(hidden if self.sight is None else self.sight.deepen(hidden))
        return change

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 frames [N, H, W, C] about the mean frame, colours whitened, [N, C, H, W]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            return nn.functional.conv2d(self.encoder.scaled(frames) - self.mean_frame, self.whitening[:, :, None, None])

    def _latents(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            found: Tensor = self.encoder(pixels)
        return found.float()

    def _embed_known(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents [B, D], looks [B, L] and what is around; NaN where a frame is missing, which no guardrail passes."""
        missing = torch.isnan(frames).flatten(1).any(1) if frames.is_floating_point() else None
        pixels = self.pixels(frames if missing is None else torch.nan_to_num(frames).to(torch.uint8))
        latents, looks = self._latents(pixels), look(pixels)
        if missing is not None:
            latents, looks = (torch.where(missing[:, None], torch.nan, part) for part in (latents, looks))
        return latents, looks, None if self.sight is None else pixels.float().contiguous()


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
