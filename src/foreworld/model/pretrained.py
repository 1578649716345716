"""Encoders that others trained (DINOv2, DINOv3, V-JEPA 2, or any module that gives features), behind a small head.

    dino = Pretrained(module, "dinov2_vits14", size=224, ask=lambda m, x: m.forward_features(x)["x_norm_patchtokens"])
    model = LatentModel(schema, LatentConfig(kind="pretrained", pretrained=dino.declared()), encoder=dino)

A checkpoint holds no code. So it holds the head, and of the encoder a name and a hash; whoever loads it brings the
module (`checkpoint.load_as(..., encoder=dino)`), and another one is refused.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from foreworld.episodes.options import Options
from foreworld.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AT_ONCE = 64  # frames that the encoder is given together: it may be large
EACH = 16  # numbers that the head keeps of each patch
AGREE = 0.02  # of the largest feature: how far another machine's rounding may take a feature

Ask = Callable[[nn.Module, Tensor], Tensor]


class PretrainedConfig(Options):
    """What a pretrained encoder is, as a checkpoint keeps it.

    Attributes:
        name: For people.
        sha256: Of its weights and buffers (`weights_hash`); of a trainable one, as it was given.
        size: Side of the frames that it reads, px.
        mean: Of each colour, within 0 to 1, that is taken off.
        std: By which each colour is then divided.
        video: It reads a stack of frames [N, T, C, H, W] at once, not frame by frame.
        frozen: Its weights stay as they are and are not in the checkpoint.
    """

    name: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(gt=0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    video: bool = False
    frozen: bool = True

    def __str__(self) -> str:
        """In a line."""
        return f"{self.name} ({self.size} px, {'frozen' if self.frozen else 'trained further'}, sha256 {self.sha256})"


def plainly(module: nn.Module, pixels: Tensor) -> Tensor:
    """What the module itself gives."""
    features: Tensor = module(pixels)
    return features


@dataclass(frozen=True)
class Pretrained:
    """A module that gives features of pictures, and what it wants to be given.

    Attributes:
        module: Anything; it is used in evaluation mode, and where it is frozen it is not copied.
        name: For people and error messages.
        size: Side of the frames that it reads, px; frames of another size are resized.
        mean: Of each colour, within 0 to 1.
        std: Likewise.
        ask: From the module and pixels [N, C, size, size] (or [N, T, C, size, size] of a `video` encoder) to features
            of patches [N, P, D] or of the whole [N, D]. It is code, so it is not stored; that it asks for the same
            features is checked on loading, on one picture.
        video: It reads a stack of frames at once.
        frozen: Its weights stay as they are.
    """

    module: nn.Module
    name: str
    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    ask: Ask = plainly
    video: bool = False
    frozen: bool = True

    def declared(self) -> PretrainedConfig:
        """What a configuration and a checkpoint say of it."""
        return PretrainedConfig(
            name=self.name, sha256=weights_hash(self.module), size=self.size, mean=self.mean, std=self.std,
            video=self.video, frozen=self.frozen,
        )  # fmt: skip


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bits of a module's weights and stored buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require(config: PretrainedConfig | None, given: Pretrained | None) -> Pretrained:
    """The encoder that a configuration declares.

    Raises:
        InputError: None is given, or another one.
    """
    assert config is not None
    if given is None:
        raise InputError(
            f"this model sees through an encoder that is not stored with it: {config}. Load that encoder yourself "
            "and give it: load_as(LatentModel, folder, encoder=Pretrained(module, ...))"
        )
    found = given.declared()
    own, its = config.model_dump(), found.model_dump()
    # What was trained further is overwritten by what the checkpoint holds.
    passed = {"name"} if config.frozen else {"name", "sha256"}
    wrong = [key for key in own if key not in passed and own[key] != its[key]]
    if wrong:
        told = "; ".join(f"{key} is {its[key]}, expected {own[key]}" for key in wrong)
        raise InputError(
            f"the encoder {given.name!r} is not the one that this model was trained with ({config}): {told}"
        )
    return given


class PretrainedEncoder(nn.Module):
    """A pretrained encoder and the head that is trained on it; only the head is in its state where it is frozen.

    Args:
        given: The encoder.
        colours: Of a frame.
        stack: Frames that go into a vector, K.
        width: Of the vector.

    Raises:
        InputError: It does not give features [N, P, D] or [N, D].
    """

    probe: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, given: Pretrained, colours: int, stack: int, width: int) -> None:
        super().__init__()
        if colours != len(given.mean):
            raise InputError(f"encoder {given.name!r} reads {len(given.mean)} colours; the frames have {colours}")
        self.given, self.stack = given, stack
        # Not registered where it is frozen: neither a state, nor an optimiser, nor `train` is to reach it.
        self._frozen: tuple[nn.Module, ...] = (given.module.eval().requires_grad_(False),) if given.frozen else ()
        self.module = None if given.frozen else copy.deepcopy(given.module)
        self.register_buffer("mean", torch.tensor(given.mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(given.std).reshape(-1, 1, 1), persistent=False)
        shown = self._shown()
        patches, size = shown.shape
        self.register_buffer("probe", _summary(shown))
        each = EACH if patches > 1 else width
        self.head = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, each), nn.GELU(), nn.Flatten(1), nn.Linear(patches * each, width)
        )

    @torch.no_grad()
    def _shown(self) -> Tensor:
        """[P, D] features of one picture."""
        return self.features(_picture(len(self.mean), self.given.size).expand(1, self.stack, -1, -1, -1))[0]

    def features(self, frames: Tensor) -> Tensor:
        """[N, P, D] of frames [N, K, C, H, W] within 0 to 1; P is 1 where it gives one vector a frame."""
        return torch.cat([self._features(part) for part in torch.split(frames, AT_ONCE)])

    def forward(self, frames: Tensor) -> Tensor:
        """[N, width] of frames [N, K, C, H, W] within 0 to 1."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.given.frozen):
            features = self.features(frames)
        out: Tensor = self.head(features)
        return out

    def _features(self, frames: Tensor) -> Tensor:
        size, count, flat = self.given.size, len(frames), frames.flatten(0, 1)
        if flat.shape[-2:] != (size, size):
            flat = nn.functional.interpolate(flat, (size, size), mode="bilinear", antialias=True, align_corners=False)
        pixels = (flat.reshape(count, -1, *flat.shape[1:]) - self.mean) / self.std
        module = self._frozen[0] if self.module is None else self.module
        given = pixels if self.given.video else pixels.flatten(0, 1)
        found = self.given.ask(module, given)
        if not isinstance(found, Tensor) or found.dim() not in (2, 3) or len(found) != len(given):
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
            raise InputError(
                f"encoder {self.given.name!r} gives features of {what} for {len(given)} inputs; let `ask` pick those "
                "of patches [N, P, D] or of the whole [N, D] (of a map [N, D, h, w]: .flatten(2).transpose(1, 2))"
            )
        found = found.float().reshape(len(found), -1, found.shape[-1])
        return found.reshape(count, -1, found.shape[-1])

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Also sees that the features of one picture are those that were asked for in training."""
        probe = state.get(f"{prefix}probe")
        if self.given.frozen and probe is not None:
            now = _summary(self._shown())
            if now.shape != probe.shape or not torch.allclose(
                now, probe, rtol=0, atol=AGREE * float(probe.abs().max())
            ):
                raise InputError(
                    f"encoder {self.given.name!r} has the right weights and gives other features than in training: "
                    "`ask` picks something else (patches or the whole, another layer), or the module's code has changed"
                )
        super()._load_from_state_dict(state, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Also moves the frozen module."""
        for module in self._frozen:
            module._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


def _picture(colours: int, size: int) -> Tensor:
    """[C, size, size] within 0 to 1: a picture with something to see in it, the same everywhere."""
    line = torch.arange(size) / size
    waves = [torch.sin((5 + 4 * c) * line[:, None] + (9 - 3 * c) * line**2) for c in range(colours)]
    return 0.5 + 0.5 * torch.stack(waves)


def _summary(features: Tensor) -> Tensor:
    """[P + D] of features [P, D]: means of each patch and of each number."""
    return torch.cat([features.mean(1), features.mean(0)])
