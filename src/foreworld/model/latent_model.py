"""`LatentModel`: a scene learned from frames and actions alone, predicted in the space of its own encoder.

encode(history) -> LatentBelief           update(belief, time, observation, action) -> LatentBelief
predict(belief, actions) -> latents       read(latents) -> {quantity: values in units}, once some frames were labelled

It answers `model.interface.Imaginer`: forecaster, guardrails, planners and agent take it as they take `WorldModel`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.model.among import Among
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.ensemble import EnsembleLinear
from foreworld.model.eyes import Eyes, Seen, video_channel
from foreworld.model.latent_config import LatentConfig
from foreworld.model.pretrained import Pretrained
from foreworld.model.readout import Readout
from foreworld.model.sight import Sight
from foreworld.model.vision import ConvEncoder, PointEncoder, look
from foreworld.model.vit import VitEncoder
from foreworld.model.whitening import fit_whitening, whitened

__all__ = ["LatentBelief", "LatentConfig", "LatentModel", "LatentReady"]


@dataclass(frozen=True)
class LatentBelief:
    """The picture of B scenes at one moment: what the encoder makes of the last frame.

    Attributes:
        latent: [B, D].
        look: [B, L] what the frame looks like, apart from where things are (`vision.look`).
        around: [B, C, H, W] the frame itself, as the predictor sees it; None where it is blind.
        count: [B] int64 moments seen.
        time: [B] float64 stamp.
        recent: The last moments [B, K, *shape] by channel, of which the next latent is made, too; None where it is
            made of one frame.
    """

    latent: Tensor
    look: Tensor
    around: Tensor | None
    count: Tensor
    time: Tensor
    recent: Seen | None = None

    def __len__(self) -> int:
        """Number of scenes B."""
        return len(self.latent)

    def select(self, index: Tensor) -> Self:
        """The picture of some scenes."""
        around = None if self.around is None else self.around[index]
        recent = None if self.recent is None else self.recent[index]
        return type(self)(self.latent[index], self.look[index], around, self.count[index], self.time[index], recent)


@dataclass(frozen=True)
class LatentReady:
    """What of a prediction does not depend on the actions.

    Attributes:
        context: [B, D] latents.
        look: [B, L] what the frames looked like.
        entered: [E, B, hidden] what both latents and what is around them add to the first hidden layer.
        around: [B, C, H, W] what frames show; None where the predictor is blind.
    """

    context: Tensor
    look: Tensor
    entered: Tensor
    around: Tensor | None = None

    def select(self, index: Tensor) -> Self:
        """That of some scenes."""
        around = None if self.around is None else self.around[index]
        return type(self)(self.context[index], self.look[index], self.entered[:, index], around)


class LatentModel(nn.Module):
    """An encoder of frames, predictors of latents, and readouts.

    What is seen are `frames`: of one camera a tensor of uint8, of several channels or moments `Seen`.

    Args:
        schema: Names the channels that are seen, the scalar continuous action channels, and the quantities.
        config: What is seen, and sizes.
        encoder: The pretrained encoder, where the configuration declares one.

    Raises:
        SchemaError: A channel is missing or of another kind.
        InputError: The grid is not equally spaced, or the encoder is missing or not the one declared.
    """

    mean_frame: Tensor
    whitening: Tensor
    centre: Tensor
    reach: Tensor

    def __init__(self, schema: Schema, config: LatentConfig, encoder: Pretrained | None = None) -> None:
        super().__init__()
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
        self._among: Among | None = None
        e, d, h = config.members, config.width, config.hidden
        self.encoder: ConvEncoder | PointEncoder | VitEncoder | Eyes
        self.sight: Sight | None = None
        if config.fused or encoder is not None:
            self.encoder = Eyes(schema, config, encoder)
        else:
            side, _, colours = video_channel(schema, config.cameras[0]).shape
            self.register_buffer("mean_frame", torch.zeros(colours, side, side))
            self.register_buffer("whitening", torch.eye(colours))
            if config.kind == "points":
                self.encoder = PointEncoder(colours, side, d // 2)
            elif config.kind == "vit":
                self.encoder = VitEncoder(colours, side, d, config.vit)
            else:
                self.encoder = ConvEncoder(colours, side, d)
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

    def beside(self, seen: Tensor, counted: Tensor | None = None) -> Self:
        """The same model, weights shared, whose readouts are less sure of latents away from what was seen.

        Arguments and errors as of `Among.of`.
        """
        other = copy.copy(self)
        other._among = Among.of(self.read, seen, counted, self.config.width)
        return other

    # --- the past ----------------------------------------------------------------------------------------------

    @property
    def stack(self) -> int:
        """How many of the last moments go into a latent, K."""
        return self.config.stack

    @torch.no_grad()
    def fit_pixels(self, frames: Tensor | Seen) -> None:
        """Take the mean frame, and how colours vary about it (`fit_whitening`), from frames [N, H, W, C]; first."""
        if isinstance(self.encoder, Eyes):
            self.encoder.fit(self.encoder.wrap(frames))
            return
        mean, whitening = fit_whitening(self.encoder.scaled(_tensor(frames)))
        self.mean_frame.copy_(mean)
        self.whitening.copy_(whitening)

    def embed(self, frames: Tensor | Seen) -> Tensor:
        """[..., D] latents of uint8 frames [..., H, W, C], or of what is seen."""
        if isinstance(self.encoder, Eyes):
            return self.encoder.embed(frames)
        frames = _tensor(frames)
        flat = frames.flatten(0, -4) if frames.dim() > 4 else frames
        return self._latents(self.pixels(flat)).reshape(*frames.shape[:-3], -1)

    def encode(self, history: History) -> LatentBelief:
        """The belief at the end of each history.

        Raises:
            InputError: The history keeps fewer frames than a latent is made of.
        """
        rows, last = torch.arange(len(history)), history.lengths - 1
        stamps = history.times[rows, last]
        if isinstance(self.encoder, Eyes):
            return self._believe(self.encoder, self.encoder.recall(history), history.lengths, stamps)
        frames = history.values[self.config.cameras[0]]
        # A memory keeps the frames of the last moments alone.
        newest = frames[rows, last - (history.times.shape[1] - frames.shape[1])]
        return LatentBelief(*self._embed_known(newest), history.lengths, stamps)

    def update(
        self, belief: LatentBelief, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> LatentBelief:
        """The belief one step later; equal to `encode` of the longer history.

        Raises:
            InputError: The stamp is not later than the belief's.
        """
        if (time <= belief.time).any():
            raise InputError("time goes backwards: an update must be later than the belief it continues")
        if isinstance(self.encoder, Eyes):
            assert belief.recent is not None
            return self._believe(self.encoder, self.encoder.onwards(belief.recent, observation), belief.count + 1, time)
        return LatentBelief(*self._embed_known(observation[self.config.cameras[0]]), belief.count + 1, time)

    # --- the future --------------------------------------------------------------------------------------------

    def around(self, frames: Tensor | Seen) -> Tensor | None:
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

    def predict(
        self, latent: Tensor, actions: Tensor, around: Tensor | None = None, entered: Tensor | None = None
    ) -> Tensor:
        """Latents [E, B, S, H, D] from [B, D] under normalised candidates [B, S, H, A], each held over its interval.

        `entered` [E, B, hidden] is what the latents add to the first hidden layer, if that was worked out before.
        """
        batch, count, horizon, width = actions.shape
        # What actions do to the hidden layer is worked out for all intervals at once.
        held = self.push.weight.reshape(len(self.push.weight), self.block, width, -1).sum(1)
        pushed = torch.baddbmm(
            self.push.bias, actions.permute(2, 0, 1, 3).reshape(1, -1, width).expand(len(held), -1, -1), held
        )
        pushed = pushed.reshape(self.config.members, horizon, batch * count, -1)
        # All candidates start at one place, which is looked at once.
        seen = self._seen(latent, around) if entered is None else entered
        first = (seen[:, :, None] + pushed[:, 0].reshape(len(seen), batch, count, -1)).flatten(1, 2)
        now = latent[:, None].expand(-1, count, -1).reshape(batch * count, -1) + self._change(first)
        path = [now]
        for h in range(1, horizon):
            now = self._advance(now, pushed[:, h], around)
            path.append(now)
        return torch.stack(path, dim=2).reshape(self.config.members, batch, count, horizon, -1)

    def prepare(self, belief: LatentBelief, exogenous: Tensor | None = None) -> LatentReady:
        """What does not depend on the actions."""
        if exogenous is not None and exogenous.shape[-1]:
            raise InputError("a latent model knows no announced amounts")
        return LatentReady(belief.latent, belief.look, self._seen(belief.latent, belief.around), belief.around)

    def respond(self, prepared: LatentReady, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, D] of normalised candidates [B, S, H, A]."""
        return self.predict(prepared.context, actions, prepared.around, prepared.entered)

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Quantities in units: latents [..., D] to {quantity: [...]}; of those that were labelled."""
        found: dict[str, Tensor] = self.readout(latents)
        return found

    def read_now(self, prepared: LatentReady) -> dict[str, Tensor]:
        """Quantities of this moment in units, {quantity: [B]}."""
        return self.read(prepared.context)

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """The readouts' own error in units, likewise; how it grows with the horizon is for calibration to say.

        Of a model `beside` what was seen, more where latents are away from that.
        """
        usual = {name: self.readout.spread(name).expand(latents.shape[:-1]) for name in self.quantities}
        if self._among is None:
            return usual
        away = self._among.away(latents, self.read(latents))
        return {name: usual[name] + away[name] for name in self.quantities}

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

    def pixels(self, frames: Tensor | Seen) -> Tensor:
        """uint8 frames [N, H, W, C] of the only camera about the mean frame, colours whitened, [N, C, H, W]."""
        if isinstance(self.encoder, Eyes):
            raise InputError("the pixels of one camera are asked for, and this model sees more or otherwise")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            return whitened(self.encoder.scaled(_tensor(frames)), self.mean_frame, self.whitening)

    def _latents(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            found: Tensor = self.encoder(pixels)
        return found.float()

    def _believe(self, eyes: Eyes, seen: Seen, count: Tensor, time: Tensor) -> LatentBelief:
        return LatentBelief(eyes(seen), eyes.look(seen), None, count, time, seen)

    def _embed_known(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents [B, D], looks [B, L] and what is around; NaN where a frame is missing, which no guardrail passes."""
        missing = torch.isnan(frames).flatten(1).any(1) if frames.is_floating_point() else None
        pixels = self.pixels(frames if missing is None else torch.nan_to_num(frames).to(torch.uint8))
        latents, looks = self._latents(pixels), look(pixels)
        if missing is not None:
            latents, looks = (torch.where(missing[:, None], torch.nan, part) for part in (latents, looks))
        return latents, looks, None if self.sight is None else pixels.float().contiguous()


def _tensor(frames: Tensor | Seen) -> Tensor:
    if isinstance(frames, Seen):
        raise InputError("this model sees the last frame of one camera: give its frames as a tensor")
    return frames


def _centre(channel: Channel) -> float:
    return 0.5 * (_bound(channel, channel.low) + _bound(channel, channel.high))


def _reach(channel: Channel) -> float:
    return 0.5 * (_bound(channel, channel.high) - _bound(channel, channel.low))


def _bound(channel: Channel, bound: float | None) -> float:
    if bound is None:
        raise SchemaError(f"action {channel.name} has no bound; a latent model scales actions by their bounds")
    return bound
