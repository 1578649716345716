"""What is seen by several channels, and one latent made of it.

`Eyes` takes several cameras, depth beside them, frame stacks and series such as a pose. Each channel of frames has an
encoder, what they find is put together with the series, and a small perceptron mixes it into the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreworld.episodes.schema import Channel, Kind, Role, Schema
from foreworld.errors import InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.features import normalised
from foreworld.model.latent_config import LatentConfig
from foreworld.model.pretrained import Pretrained, PretrainedEncoder, require
from foreworld.model.vision import ConvEncoder, as_float, look
from foreworld.model.vit import VitEncoder
from foreworld.model.whitening import fit_whitening, whitened


@dataclass(frozen=True)
class Seen:
    """What was seen at some moments, each with those just before it.

    Attributes:
        values: By channel [..., K, *shape]: the last K moments, the newest last, in the channel's unit; NaN is missing.
    """

    values: dict[str, Tensor]

    def __len__(self) -> int:
        """Length of the first axis."""
        return len(next(iter(self.values.values())))

    def __getitem__(self, index: int | slice | Tensor | tuple[int | slice, ...]) -> Seen:
        """Some of the moments: an index into the axes before K."""
        return self.each(lambda value: value[index])

    def flatten(self, start: int, end: int) -> Seen:
        """With axes before K made one."""
        return self.each(lambda value: value.flatten(start, end))

    def each(self, change: Callable[[Tensor], Tensor]) -> Seen:
        """With every channel changed alike."""
        return Seen({name: change(value) for name, value in self.values.items()})


def video_channel(schema: Schema, name: str) -> Channel:
    """A video channel with square frames.

    Raises:
        SchemaError: There is none.
    """
    if name not in schema or len(schema[name].shape) != 3:
        raise SchemaError(f"schema {schema.name} has no video channel {name!r} of shape [height, width, colours]")
    channel = schema[name]
    if channel.shape[0] != channel.shape[1]:
        raise SchemaError(f"frames of {name} are {channel.shape[0]} x {channel.shape[1]} px; give square ones")
    return channel


class VideoEye(nn.Module):
    """Frames of one camera, about their mean frame and with whitened colours.

    Args:
        channel: uint8 frames [H, W, C].
    """

    mean_frame: Tensor
    whitening: Tensor

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.side, _, self.colours = channel.shape
        self.register_buffer("mean_frame", torch.zeros(self.colours, self.side, self.side))
        self.register_buffer("whitening", torch.eye(self.colours))

    def fit(self, values: Tensor) -> None:
        """Take mean frame and colours from frames [N, K, H, W, C]."""
        mean, whitening = fit_whitening(as_float(values))
        self.mean_frame.copy_(mean)
        self.whitening.copy_(whitening)

    def pixels(self, values: Tensor) -> Tensor:
        """[N, K C, H, W] of frames [N, K, H, W, C]."""
        flat = whitened(as_float(values), self.mean_frame, self.whitening)
        return flat.reshape(len(values), -1, *flat.shape[2:]).contiguous(memory_format=torch.channels_last)


class DepthEye(nn.Module):
    """Depth within -1 to 1 over the channel's bounds, with a mask beside it: zero where nothing was measured.

    Args:
        channel: Depth maps [H, W] or [H, W, 1]; what is not finite and above 0 is no measurement: nothing came
            back to the camera, or it saw into the open.

    Raises:
        SchemaError: It is no square depth map, or has no bounds to be scaled by.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        shape = channel.shape[:2]
        if channel.kind is not Kind.depth or len(shape) != 2 or shape[0] != shape[1] or channel.size != shape[0] ** 2:
            raise SchemaError(f"{channel.name} of shape {channel.shape} is no square depth map of kind depth")
        if channel.low is None or channel.high is None:
            raise SchemaError(f"depth channel {channel.name} has no bounds; depth is scaled by them, so give both")
        self.side, self.colours, self.low, self.high = shape[0], 2, channel.low, channel.high

    def fit(self, values: Tensor) -> None:
        """There is nothing to take from the data."""

    def pixels(self, values: Tensor) -> Tensor:
        """[N, 2 K, H, W] of depth maps [N, K, H, W] in the channel's unit: depth and mask of each."""
        raw = values.float().reshape(len(values), -1, self.side, self.side)
        known = (raw > 0) & torch.isfinite(raw)
        scaled = (raw - self.low) * (2.0 / (self.high - self.low)) - 1.0
        return torch.stack([torch.where(known, scaled, 0.0), known.float()], dim=2).flatten(1, 2)


class Eyes(nn.Module):
    """One latent of all that is seen.

    Args:
        schema: Names the channels; series need its statistics.
        config: Which, and sizes.
        given: The encoder, where a pretrained one is declared.

    Raises:
        SchemaError: A channel is missing or does not fit.
        InputError: A frame does not fit an encoder, or the encoder is not the one declared.
    """

    def __init__(self, schema: Schema, config: LatentConfig, given: Pretrained | None = None) -> None:
        super().__init__()
        self.config, self.names = config, (*config.cameras, *config.depth)
        eyes: list[VideoEye | DepthEye] = [VideoEye(video_channel(schema, name)) for name in config.cameras]
        eyes += [DepthEye(schema[name]) for name in config.depth]
        self.eyes = nn.ModuleList(eyes)
        self.series = tuple(_series(schema, name) for name in config.series)
        self.schema, self.shapes = schema, {name: schema[name].shape for name in config.channels}
        if config.kind == "pretrained":
            given = require(config.pretrained, given)
        elif given is not None:
            raise InputError(f"an encoder was given to a model of kind {config.kind!r}; it takes none")
        self.encoders, self._which = nn.ModuleList(), list[int]()
        places: dict[tuple[int, int], int] = {}
        for eye in eyes:
            alike = (eye.side, eye.colours)
            if not (config.shared and isinstance(eye, VideoEye) and alike in places):
                places[alike] = len(self.encoders)
                self.encoders.append(_encoder(eye, config, given))
            self._which.append(places[alike])
        told = 2 * config.stack * sum(channel.size for channel in self.series)
        self.mix = nn.Sequential(
            nn.Linear(len(self.eyes) * config.width + told, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.width),
        )

    # --- what is seen ------------------------------------------------------------------------------------------

    def wrap(self, frames: Tensor | Seen) -> Seen:
        """Frames [..., *shape] of the only channel, where there is one, as what is seen; what is, as it is.

        Raises:
            InputError: More than a frame goes into a latent, or a channel is missing.
        """
        if isinstance(frames, Seen):
            missing = [name for name in self.shapes if name not in frames.values]
            if missing:
                raise InputError(f"this model also sees {missing[0]}, which is not among what was seen")
            return frames
        if len(self.shapes) > 1 or self.config.stack > 1:
            raise InputError(
                f"a latent of this model is made of {', '.join(self.shapes)}, {self.config.stack} moments of each; "
                "give them all (`Seen`)"
            )
        ((name, shape),) = self.shapes.items()
        return Seen({name: frames.unsqueeze(frames.dim() - len(shape))})

    def recall(self, history: History) -> Seen:
        """The last K moments [B, K, *shape] of each history; before the first, the first counts again.

        Raises:
            InputError: Of frames fewer are kept than a latent is made of.
        """
        rows, back = torch.arange(len(history))[:, None], torch.arange(1 - self.config.stack, 1)
        moments = (history.lengths[:, None] - 1 + back).clamp(min=0)
        found = {}
        for name in self.shapes:
            value = history.values[name]
            at = moments - (history.times.shape[1] - value.shape[1])  # a memory keeps the newest frames alone
            if (at < 0).any():
                raise InputError(
                    f"a latent is made of {self.config.stack} moments of {name} and {value.shape[1]} are kept; keep "
                    f"more: Memory(..., frames={self.config.stack})"
                )
            found[name] = value[rows, at]
        return Seen(found)

    def onwards(self, past: Seen, observation: Mapping[str, Tensor]) -> Seen:
        """The last K moments [B, K, *shape] after one more observation [B, *shape] by channel."""
        return Seen({
            name: torch.cat([past.values[name][:, 1:], observation[name][:, None]], dim=1) for name in self.shapes
        })  # fmt: skip

    def missing(self, seen: Seen) -> Tensor:
        """[N] whether a camera's frame is missing from what is seen [N, K, ...]."""
        gone = torch.zeros(len(seen), dtype=torch.bool)
        for name in self.config.cameras:
            if seen.values[name].is_floating_point():
                gone |= torch.isnan(seen.values[name]).flatten(1).any(1)
        return gone

    # --- what is made of it ------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, seen: Seen) -> None:
        """Take mean frames and colours from what is seen [N, K, ...]."""
        for name, eye, _ in self._each():
            eye.fit(seen.values[name])

    def embed(self, frames: Tensor | Seen) -> Tensor:
        """[..., D] latents of what is seen [..., K, *shape]."""
        seen = self.wrap(frames)
        name, shape = next(iter(self.shapes.items()))
        lead = seen.values[name].shape[: -1 - len(shape)]
        flat = {n: value.reshape(-1, *value.shape[len(lead) :]) for n, value in seen.values.items()}
        latents: Tensor = self(Seen(flat))
        return latents.reshape(*lead, -1)

    def forward(self, seen: Seen) -> Tensor:
        """[N, D] latents of what is seen [N, K, *shape]; NaN where a camera's frame is missing."""
        gone = self.missing(seen)
        found = []
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            for name, eye, encoder in self._each():
                values = _bytes(seen.values[name], eye)
                if isinstance(encoder, PretrainedEncoder):
                    frames = values.movedim(-1, 2).float() / 255.0
                    found.append(encoder(frames))
                else:
                    found.append(encoder(eye.pixels(values)))
        # Not under autocast: a pose is wanted to more than three digits.
        with torch.autocast("cpu", enabled=False):
            latents: Tensor = self.mix(torch.cat([*(part.float() for part in found), *self.told(seen)], dim=-1))
        return torch.where(gone[:, None], torch.nan, latents)

    def look(self, seen: Seen) -> Tensor:
        """[N, L] what the newest moment looks like, wherever things are; novelty is judged by it, too."""
        newest = seen.each(lambda value: value[:, -1:])
        found = [look(eye.pixels(_bytes(newest.values[name], eye)).float()) for name, eye, _ in self._each()]
        return torch.where(self.missing(newest)[:, None], torch.nan, torch.cat([*found, *self.told(newest)], dim=-1))

    def _each(self) -> Iterator[tuple[str, VideoEye | DepthEye, nn.Module]]:
        """By channel of frames: its name, its eye and its encoder."""
        for name, eye, which in zip(self.names, self.eyes, self._which, strict=True):
            assert isinstance(eye, VideoEye | DepthEye)
            yield name, eye, self.encoders[which]

    def told(self, seen: Seen) -> list[Tensor]:
        """By series [N, 2 K size]: normalised values, zero where missing, and masks."""
        parts = []
        for channel in self.series:
            value = normalised(self.schema, channel, seen.values[channel.name]).flatten(1)
            parts.append(torch.cat([torch.nan_to_num(value), (~torch.isnan(value)).float()], dim=-1))
        return parts


def _bytes(values: Tensor, eye: nn.Module) -> Tensor:
    """Frames of a camera as uint8 again where missing ones made them floats; what is missing is left out later."""
    if isinstance(eye, VideoEye) and values.is_floating_point():
        return torch.nan_to_num(values).to(torch.uint8)
    return values


def _encoder(eye: VideoEye | DepthEye, config: LatentConfig, given: Pretrained | None) -> nn.Module:
    if given is not None and isinstance(eye, VideoEye):
        return PretrainedEncoder(given, eye.colours, config.stack, config.width)
    if config.kind == "vit":
        return VitEncoder(eye.colours * config.stack, eye.side, config.width, config.vit)
    return ConvEncoder(eye.colours * config.stack, eye.side, config.width)


def _series(schema: Schema, name: str) -> Channel:
    channel = schema[name]
    if channel.framed or channel.discrete or channel.role is not Role.observation or channel.per is not None:
        raise SchemaError(f"series {name!r} is not a continuous observation channel without `per`")
    if name not in schema.statistics:
        raise SchemaError(
            f"schema {schema.name} has no statistics for channel {name}, by which series are normalised; fit them on "
            "the part that is learned from: store.set_statistics(fit_statistics(store.schema, episodes))"
        )
    return channel
