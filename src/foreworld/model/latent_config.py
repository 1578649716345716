"""`LatentConfig`: what a latent model sees, and its sizes."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from foreworld.episodes.options import Options
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.pretrained import PretrainedConfig
from foreworld.model.vit import VitConfig


class LatentConfig(Options):
    """What a latent model sees, and its sizes; the defaults suit one core.

    Attributes:
        grid: Steps at which the future is predicted, equally spaced: the predictor takes one interval at a time.
        frames: The video channel, or several: one a camera.
        quantities: Scalar observation channels that are read out of the latents; each needs labelled moments.
        width: Width D of the latent.
        hidden: Hidden width of the predictor.
        members: Predictors that share the encoder, E.
        readout: Random features of the readout; 0 is linear.
        bf16: Encode in bfloat16, where the processor multiplies it in hardware.
        kind: The latent is what a `conv` encoder, a vision transformer (`vit`) or a `pretrained` encoder makes of a
            frame, or where `width / 2` `points` of attention are.
        sight: How far around each point the predictor sees the frame, in samples two pixels apart; 0 is blind. What
            lasts, such as a wall, then need not be in the latent: it is looked up where it matters.
        depth: Depth channels, each with bounds: 0 and NaN are masked, pixel by pixel.
        series: Continuous observation channels beside the frames, such as a pose or joint angles; normalised by the
            schema's statistics, and masked where missing.
        stack: How many of the last moments of all of these a latent is made of; more than one shows how things move.
        shared: Cameras with frames of one size share an encoder; each has its own mean frame.
        vit: Sizes of the vision transformer.
        pretrained: What the pretrained encoder is (`Pretrained.declared`).
    """

    later: ClassVar[frozenset[str]] = frozenset({"depth", "series", "stack", "shared", "vit", "pretrained"})

    grid: HorizonGrid = HorizonGrid(points=tuple(range(4, 41, 4)))
    frames: str | tuple[str, ...] = "frame"
    quantities: tuple[str, ...] = ()
    width: int = Field(default=32, gt=0)
    hidden: int = Field(default=256, gt=0)
    members: int = Field(default=1, gt=0)
    readout: int = Field(default=0, ge=0)
    bf16: bool = True
    kind: Literal["conv", "points", "vit", "pretrained"] = "conv"
    sight: int = Field(default=0, ge=0)
    depth: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    stack: int = Field(default=1, ge=1)
    shared: bool = False
    vit: VitConfig = VitConfig()
    pretrained: PretrainedConfig | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "points" and self.width % 2:
            raise ValueError(f"a latent of points has two numbers for each; width {self.width} is odd")
        if self.sight and self.kind != "points":
            raise ValueError("only a latent of points knows where to look: sight needs kind 'points'")
        if self.kind == "points" and self.fused:
            raise ValueError(
                "a latent of points is where they are in the frames of one camera: give one, and no depth, series or "
                "stack; or take kind 'conv' or 'vit'"
            )
        if (self.kind == "pretrained") != (self.pretrained is not None):
            raise ValueError("kind 'pretrained' and `pretrained`, which says what the encoder is, need each other")
        seen = self.channels
        if len(set(seen)) < len(seen) or not (self.cameras or self.depth):
            raise ValueError(f"a latent model sees each channel once, at least one of them frames; got {seen}")
        return self

    @property
    def cameras(self) -> tuple[str, ...]:
        """The video channels."""
        return (self.frames,) if isinstance(self.frames, str) else self.frames

    @property
    def channels(self) -> tuple[str, ...]:
        """All that is seen: cameras, depth, series."""
        return (*self.cameras, *self.depth, *self.series)

    @property
    def fused(self) -> bool:
        """Whether more than the last frame of one camera goes into a latent, or it goes through a foreign encoder."""
        return len(self.channels) > 1 or not self.cameras or self.stack > 1 or self.kind == "pretrained"
