"""`VitEncoder`: a small vision transformer, for those with a graphics processor.

On a CPU it encodes a small fraction of the frames a second that `vision.ConvEncoder` does
(`benchmarks/encoder_speed.py`).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.model.vision import as_float

SMALL = 0.02  # standard deviation of positions at the start


class VitConfig(Options):
    """Sizes of a vision transformer.

    Attributes:
        patch: Side of a patch, px.
        width: Of a token; a multiple of `heads`.
        layers: Blocks of attention and a perceptron.
        heads: Of the attention.
    """

    patch: int = Field(default=8, gt=0)
    width: int = Field(default=128, gt=0)
    layers: int = Field(default=4, gt=0)
    heads: int = Field(default=4, gt=0)


class VitEncoder(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021), pre-norm, with learned positions, the mean over patches pooled.

    Args:
        channels: Colours of a frame times frames in a stack.
        size: Side of a frame; a multiple of the patch.
        width: Width of the vector.
        config: Sizes.

    Raises:
        InputError: Sizes do not fit one another.
    """

    def __init__(self, channels: int, size: int, width: int, config: VitConfig) -> None:
        super().__init__()
        if size % config.patch:
            raise InputError(f"a frame of {size} px does not fit: its side must be a multiple of {config.patch}")
        if config.width % config.heads:
            raise InputError(f"a token of width {config.width} cannot be split over {config.heads} heads")
        self.patches = nn.Conv2d(channels, config.width, config.patch, stride=config.patch)
        self.positions = nn.Parameter(nn.init.trunc_normal_(self.patches.weight.new_empty(
            (size // config.patch) ** 2, config.width), std=SMALL))  # fmt: skip
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, width)

    def scaled(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, C] to what the patches are cut from, [N, C, H, W] within -1 to 1."""
        return as_float(frames)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, C, H, W] pixels to [N, width]."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.out(self.norm(self.blocks(tokens)).mean(1))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each of normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.told = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, P, W] to the same."""
        count, patches, width = tokens.shape
        asked = self.asked(self.first(tokens)).reshape(count, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        told = scaled_dot_product_attention(*asked).transpose(1, 2).reshape(count, patches, width)
        tokens = tokens + self.told(told)
        out: Tensor = tokens + self.narrow(gelu(self.wide(self.second(tokens))))
        return out
