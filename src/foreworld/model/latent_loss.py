"""The loss of a latent model: predict the next latents, and keep them from collapsing onto what is easy to predict.

    learner = LatentLearner(model, LatentLossConfig())
    parts = learner.loss(batch, generator)      # {"loss": ..., "one": ..., "ahead": ..., "regular": ...}

Latents are predicted one block ahead from true ones and open-loop over the whole clip, without stopped gradients or
a moving average of the encoder; SIGReg (Balestriero and LeCun 2025) keeps them from collapsing. Where episodes differ
in something that is easier to predict than the agent (a layout, a drifting disc), that can take over the latent while
every part of the loss looks perfect. Two remedies against it: half of the latent is regularised *within* episodes, so
that it must tell apart what differs within one, and a head must tell from two neighbouring latents what was done
between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.model.eyes import Seen
from foreworld.model.latent_model import LatentModel
from foreworld.model.regularizers import sigreg, vicreg


class LatentLossConfig(Options):
    """Weights of the loss.

    Attributes:
        ahead: Of the open-loop error over the clip, beside the one-block error of weight one.
        regular: Of the regulariser.
        regulariser: `sigreg`, `vicreg`, or `none`.
        within: Share of the latent's dimensions that are regularised within episodes besides; 0 leaves it out, and
            with 1 they are regularised within episodes alone.
        move: Of by how much the standard deviation within an episode falls short of `moving`, of the dimensions
            regularised within episodes (the variance term of VICReg, Bardes, Ponce and LeCun 2022): a point of
            attention that stands still there has found nothing.
        moving: That standard deviation. It should be less than what moves has: what asks for more stretches places.
        slow: Of how much the other dimensions vary within an episode: they are left for what lasts, such as where a
            door is. That matters seldom, and without this it is left out for more of what moves.
        inverse: Of the head that tells actions from latents; 0 leaves it out.
        reconstruct: Of a decoder that paints the frame again; 0 leaves it out.
        paint: Side of what it paints, px; a frame that is made smaller is enough to keep what matters seldom, such as
            a door, from being left out. None paints the whole frame.
        slices: Random directions of SIGReg.
        noise: Standard deviation of what is added to latents before they are predicted from: an imagined latent is
            not quite one that a frame gave (Sanchez-Gonzalez et al. 2020).
        present: Of telling places of this scene from those of others, where the model sees what is around.
    """

    ahead: float = Field(default=1.0, ge=0)
    regular: float = Field(default=0.18, ge=0)
    regulariser: Literal["sigreg", "vicreg", "none"] = "sigreg"
    within: float = Field(default=0.0, ge=0, le=1)
    move: float = Field(default=0.0, ge=0)
    moving: float = Field(default=0.2, gt=0)
    slow: float = Field(default=0.0, ge=0)
    inverse: float = Field(default=0.0, ge=0)
    reconstruct: float = Field(default=0.0, ge=0)
    paint: int | None = Field(default=None, gt=0)
    slices: int = Field(default=128, gt=0)
    noise: float = Field(default=0.0, ge=0)
    present: float = Field(default=0.1, ge=0)


@dataclass(frozen=True)
class Clips:
    """Clips of B places; those of one episode follow one another.

    Attributes:
        frames: [B, F, H, W, C] uint8, one block apart, or what several channels saw.
        actions: [B, F - 1, block, A] normalised.
    """

    frames: Tensor | Seen
    actions: Tensor

    def __len__(self) -> int:
        """Number of clips B."""
        return len(self.frames)


class LatentLearner(nn.Module):
    """A latent model with what only its training needs.

    Args:
        model: Trained in place.
        config: Weights.
        group: How many clips of a batch are of one episode.
    """

    def __init__(self, model: LatentModel, config: LatentLossConfig, group: int = 1) -> None:
        super().__init__()
        self.model, self.config, self.group = model, config, group
        width, hidden = model.config.width, model.config.hidden
        self.inverse: nn.Module | None = None
        if config.inverse:
            layers = nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, len(model.centre))
            self.inverse = nn.Sequential(*layers)
        self.decoder: nn.Module | None = None
        if config.reconstruct:
            if model.config.fused:
                raise InputError("only the last frame of one camera can be painted again; leave `reconstruct` at 0")
            colours, side = model.mean_frame.shape[:2]
            if config.paint is None:
                self.decoder = Decoder(width, colours, side)
            else:
                layers = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, colours * config.paint**2)
                self.decoder = nn.Sequential(*layers, nn.Unflatten(1, (colours, config.paint, config.paint)))

    def loss(self, clips: Clips, generator: torch.Generator) -> dict[str, Tensor]:
        """Parts of the loss of a batch, `loss` their weighted sum.

        Raises:
            InputError: Within episodes something is to be regularised, and each is there once.
        """
        config, model = self.config, self.model
        latents = model.embed(clips.frames)
        actions = clips.actions
        steps, width = latents.shape[1:]
        around = model.around(clips.frames[:, 0])
        noisy = latents
        if config.noise:
            noisy = latents + config.noise * torch.randn(latents.shape, generator=generator)
        foreseen = model.step(noisy[:, :-1].reshape(-1, width), actions.flatten(0, 1), around)
        one = (foreseen - latents[:, 1:].reshape(-1, width)).pow(2).mean()
        parts = {"one": one}
        total = one
        if config.ahead and steps > 2:
            open_loop = model.roll(noisy[:, 0], actions, around)
            parts["ahead"] = (open_loop - latents[:, 1:]).pow(2).mean()
            total = total + config.ahead * parts["ahead"]
        if config.regulariser != "none":
            parts["regular"] = self._regular(latents, self.group, generator)
            total = total + config.regular * parts["regular"]
        if model.sight is not None and config.present:
            assert around is not None
            parts["present"] = self._present(latents.detach(), around, generator)
            total = total + config.present * parts["present"]
        if config.move:
            inside = self._episodes(latents[..., : round(config.within * width)])
            spread = (inside.var((1, 2)).mean(0) + 1e-6).sqrt()
            parts["move"] = nn.functional.relu(config.moving - spread).mean()
            total = total + config.move * parts["move"]
        if config.slow:
            lasting = self._episodes(latents[..., round(config.within * width) :])
            parts["slow"] = (lasting - lasting.mean((1, 2), keepdim=True)).pow(2).mean()
            total = total + config.slow * parts["slow"]
        if self.inverse is not None:
            pairs = torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)
            parts["inverse"] = (self.inverse(pairs) - actions.mean(2)).pow(2).mean()
            total = total + config.inverse * parts["inverse"]
        if self.decoder is not None:
            painted = self.decoder(latents.flatten(0, 1))
            pixels = model.pixels(clips.frames.flatten(0, 1)).float()
            if config.paint is not None:
                pixels = nn.functional.adaptive_avg_pool2d(pixels, config.paint)
            parts["reconstruct"] = (painted - pixels).pow(2).mean()
            total = total + config.reconstruct * parts["reconstruct"]
        return {"loss": total, **parts}

    def _regular(self, latents: Tensor, group: int, generator: torch.Generator) -> Tensor:
        """The regulariser at each step of the clips, and within episodes where that is wanted."""
        config = self.config
        found = []
        if config.within < 1:
            found = [self._one(latents[:, f], generator) for f in range(latents.shape[1])]
        if config.within:
            inside = latents[..., : round(config.within * latents.shape[-1])]
            episodes = self._episodes(inside)
            # What is left of an episode's own samples after its mean has less spread than they by (n - 1) / n.
            n = group * latents.shape[1]
            own = (episodes - episodes.mean((1, 2), keepdim=True)) * (n / (n - 1)) ** 0.5
            found.append(self._one(own.reshape(-1, inside.shape[-1])[: len(latents)], generator))
        return torch.stack(found).mean()

    def _present(self, latents: Tensor, around: Tensor, generator: torch.Generator) -> Tensor:
        """Tell places [B, F, D] of an episode from those of another, by a frame of neither moment."""
        sight = self.model.sight
        assert sight is not None
        episodes = self._episodes(latents)
        if len(episodes) < 2:
            raise InputError("to tell scenes apart a batch needs clips of several episodes")
        # By a frame of another moment: the agent itself must not give its place away.
        shown = around.reshape(*episodes.shape[:2], *around.shape[1:]).roll(1, 1).flatten(0, 1)
        shift = int(torch.randint(1, len(episodes), (), generator=generator))
        own, others = (x.reshape(-1, latents.shape[-1]) for x in (episodes, episodes.roll(shift, 0)))
        softplus = nn.functional.softplus
        found: Tensor = softplus(-sight.present(own, shown)).mean() + softplus(sight.present(others, shown)).mean()
        return found

    def _episodes(self, latents: Tensor) -> Tensor:
        """[B, F, D] by episode, [B / group, group, F, D]."""
        if self.group < 2:
            raise InputError("to compare moments within episodes a batch needs several clips of each; raise `group`")
        return latents.reshape(-1, self.group, *latents.shape[1:])

    def _one(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.regulariser == "vicreg":
            variance, covariance = vicreg(x)
            return variance + 0.1 * covariance
        return sigreg(x, slices=self.config.slices, generator=generator)


class Decoder(nn.Module):
    """From latents back to frames; for the ablation alone."""

    def __init__(self, width: int, colours: int, side: int) -> None:
        super().__init__()
        self.start = nn.Linear(width, 64 * (side // 16) ** 2)
        self.side = side // 16
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(16, colours, 4, stride=4),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """[N, D] to [N, C, H, W]."""
        out: Tensor = self.layers(self.start(latents).reshape(-1, 64, self.side, self.side))
        return out
