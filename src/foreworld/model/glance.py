"""`Glance`: what `LatentModel.embed` gives, folded into few operations, for one frame at a time.

glance = Glance(model)
latents = glance(frames)           # uint8 [N, H, W, C] to [N, D]

With a single frame most of the time of an encoder goes into calling operations and into casting weights. Scaling, mean
frame and whitening are affine, and so is the first convolution, whose stride is its width: together they are one matrix
product. It is done in single precision, so that a latent differs from that of `embed` by the rounding of bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreworld.errors import InputError
from foreworld.model.latent_model import LatentModel
from foreworld.model.vision import ConvEncoder


class Glance:
    """A copy of a model's encoder as it is now; what the model learns later is not in it.

    Args:
        model: Its encoder is convolutional.

    Raises:
        InputError: It is not.
    """

    @torch.no_grad()
    def __init__(self, model: LatentModel) -> None:
        if not isinstance(model.encoder, ConvEncoder):
            raise InputError("only a convolutional encoder can be folded; use `embed` of this model")
        first, second, third = (layer for layer in model.encoder.layers if isinstance(layer, nn.Conv2d))
        (self._step, _), self._shape = first.kernel_size, model.mean_frame.shape[1:]
        assert first.stride == first.kernel_size and first.bias is not None
        folded = torch.einsum("ockl,cd->okld", first.weight, model.whitening)  # patches hold colours last
        self._weight = (folded * (2.0 / 255.0)).flatten(1).T.contiguous()
        nothing = nn.functional.conv2d(-1.0 - model.mean_frame, model.whitening[:, :, None, None])
        constant = nn.functional.conv2d(nothing, first.weight, first.bias, stride=first.stride)
        self._constant = constant.flatten(1).T.contiguous()  # [patches, channels]
        self._convolutions = [
            (one.weight.detach().contiguous(memory_format=torch.channels_last), one.bias, one.stride, one.padding)
            for one in (second, third)
        ]
        self._out = model.encoder.out

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Latents [N, D] of uint8 frames [N, H, W, C]."""
        count, height, width, colours = frames.shape
        if (height, width) != tuple(self._shape):
            raise InputError(f"frames are {height} x {width} px, the model's {self._shape[0]} x {self._shape[1]}")
        step = self._step
        patches = frames.reshape(count, height // step, step, width // step, step * colours).transpose(2, 3)
        flat = patches.reshape(count, len(self._constant), -1).float()
        first = self._constant + flat @ self._weight
        hidden = nn.functional.gelu(first).reshape(count, height // step, width // step, -1).permute(0, 3, 1, 2)
        for weight, bias, stride, padding in self._convolutions:
            hidden = nn.functional.gelu(nn.functional.conv2d(hidden, weight, bias, stride, padding))
        return nn.functional.linear(hidden.flatten(1), self._out.weight, self._out.bias)
