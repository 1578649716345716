"""Encoders of pictures: from uint8 frames to a vector.

A small convolutional network with strides of 4 and 2 is the default: on a CPU it trains on some fifteen times as many
frames a second as the small transformer of `vit` (`benchmarks/encoder_speed.py`). `PointEncoder` says where its points
of attention are, and nothing else. Frames stay uint8 until they are inside.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreworld.errors import InputError

SPREAD = 2.0  # a point's place within -1 to 1 times this is its latent, of about unit variance
SHARP = 8.0  # how much sharper attention is than a freshly drawn network's; without it all points stay in the middle


def as_float(frames: Tensor) -> Tensor:
    """uint8 frames [..., H, W, C] to float [N, C, H, W] within -1 to 1, channels last in memory."""
    flat = frames.flatten(0, -4) if frames.dim() > 4 else frames
    if flat.dim() != 4:
        raise InputError(f"frames have shape {tuple(frames.shape)}, expected [..., height, width, colours]")
    return flat.permute(0, 3, 1, 2).float().mul_(2.0 / 255.0).sub_(1.0)


def look(pixels: Tensor) -> Tensor:
    """[N, 5 C] what pixels [N, C, H, W] look like wherever things are: mean, spread, both ends and skew of each colour.

    An encoder learns to leave out what never changed in its data, such as a colour; so familiarity is judged by this,
    too.
    """
    flat = pixels.flatten(2)
    mean = flat.mean(-1, keepdim=True)
    apart = flat - mean
    square = apart * apart
    spread = square.mean(-1)
    skew = (square * apart).mean(-1)
    return torch.cat([mean[..., 0], spread, skew, flat.amax(-1), flat.amin(-1)], dim=-1)


class ConvEncoder(nn.Module):
    """Three convolutions, the first with a stride of 4, and a linear layer.

    Args:
        channels: Colours of a frame times frames in a stack.
        size: Side of a frame; a multiple of 16.
        width: Width of the vector.
        widths: Channels of the three convolutions.
    """

    def __init__(self, channels: int, size: int, width: int, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        if size % 16:
            raise InputError(f"a frame of {size} px does not fit: its side must be a multiple of 16")
        first, second, third = widths
        self.layers = nn.Sequential(
            nn.Conv2d(channels, first, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(second, third, 4, stride=2, padding=1),
            nn.GELU(),
        )
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.out = nn.Linear(third * (size // 16) ** 2, width)

    def scaled(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, C] to what the layers read, [N, C, H, W] within -1 to 1."""
        return as_float(frames)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, C, H, W] pixels to [N, width]."""
        hidden: Tensor = self.layers(pixels)
        out: Tensor = self.out(hidden.flatten(1))
        return out


class PointEncoder(nn.Module):
    """Where P points of attention are: convolutions and a spatial softmax (Levine et al. 2016; Finn et al. 2016).

    Args:
        channels: Colours of a frame times frames in a stack.
        size: Side of a frame; a multiple of 4.
        points: P.
        width: Channels of the convolutions.
    """

    cells: Tensor

    def __init__(self, channels: int, size: int, points: int, width: int = 32) -> None:
        super().__init__()
        if size % 4:
            raise InputError(f"a frame of {size} px does not fit: its side must be a multiple of 4")
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, points, 3, padding=1),
        )
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        line = (torch.arange(size // 4) + 0.5) * (8.0 / size) - 1.0
        cells = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("cells", cells, persistent=False)

    def scaled(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, C] to what the layers read, [N, C, H, W] within -1 to 1."""
        return as_float(frames)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, C, H, W] pixels to [N, 2 P]: x and y of each point, about -2 to 2 over the frame."""
        attention = torch.softmax(SHARP * self.layers(pixels).float().flatten(2), dim=-1)
        # Not under autocast: a place is wanted to a hundredth of a pixel.
        with torch.autocast("cpu", enabled=False):
            return SPREAD * (attention @ self.cells).flatten(1)
