"""A learned temporal distance: how many blocks it takes to get from one scene to another.

    distance = fit_temporal(paths, TemporalConfig())        # latents [N, T, D] of whole episodes
    objective = GoalObjective(profile, goals, distance)

A quasimetric (Wang, Torralba, Isola and Zhang 2023): pairs of a layout are pushed apart as far as they will go while
what somebody did in one block stays one block long. As the triangle inequality is built in, what is left is the length
of the shortest way that was walked in parts. Bootstrapped distances were tried and leak through walls: the shorter of
several ways, which they lean towards, is that of the network's own error (`docs/rooms.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foreworld.episodes.options import Options
from foreworld.errors import FormatError, InputError
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.progress import Mode

FILE = "temporal.safetensors"
HEADS = 8
SOFT = 0.1  # how gently what is far enough stops being pushed


class TemporalConfig(Options):
    """How a temporal distance is learned.

    Attributes:
        block: Steps a block; a distance is in blocks.
        hidden: Width of the network.
        width: Numbers that each of eight heads compares.
        far: Blocks beyond which two moments need not be pushed farther apart.
        hold: Weight of the squared excess of one block over one.
        batch: Pairs a step.
        fit: Optimisation.
    """

    block: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, gt=0)
    width: int = Field(default=16, gt=0)
    far: float = Field(default=30.0, gt=0)
    hold: float = Field(default=100.0, gt=0)
    batch: int = Field(default=512, gt=0)
    fit: FitConfig = FitConfig(steps=2000, lr=2e-3, warmup=50, floor=0.02, weight_decay=1e-4)


class TemporalDistance(nn.Module):
    """Blocks from latents to goals: a metric residual network (Liu, Feng, Abbeel and Stone 2022).

    Args:
        inputs: Width of the latents, D.
        hidden: Of the network.
        width: As in `TemporalConfig`.
    """

    mean: Tensor
    scale: Tensor
    pace: Tensor

    def __init__(self, inputs: int, hidden: int = 128, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("pace", torch.ones(()))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 2 * HEADS * width),
        )

    def place(self, latents: Tensor) -> Tensor:
        """[..., 2, HEADS, width] where latents [..., D] lie."""
        found: Tensor = self.layers((latents - self.mean) / self.scale)
        return found.reshape(*latents.shape[:-1], 2, HEADS, self.width)

    def between(self, start: Tensor, goal: Tensor) -> Tensor:
        """[...] blocks between places."""
        apart = start - goal
        both_ways = (apart[..., 0, :, :].pow(2).sum(-1) + 1e-8).sqrt()
        one_way = apart[..., 1, :, :].clamp(min=0.0).amax(-1)
        return (both_ways + one_way).mean(-1) / self.pace

    def forward(self, latents: Tensor, goals: Tensor) -> Tensor:
        """[E, B, S, H, G] blocks from latents [E, B, S, H, D] to goals [B, G, D]."""
        start, goal = self.place(latents), self.place(goals)
        found = [self.between(start, goal[None, :, None, None, g]) for g in range(goals.shape[1])]
        return torch.stack(found, dim=-1)

    def save(self, folder: str | Path) -> None:
        """Write `temporal.safetensors` into a folder."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: str | Path) -> TemporalDistance:
        """Read what `save` wrote.

        Raises:
            FormatError: There is no such file, or it holds something else.
        """
        path = Path(folder) / FILE
        try:
            found = load_file(path)
            hidden, inputs = found["layers.0.weight"].shape
            distance = cls(inputs, hidden, len(found["layers.4.weight"]) // (2 * HEADS))
            distance.load_state_dict(found)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise FormatError(f"{path} holds no temporal distance: {error}; learn it again") from error
        return distance.eval().requires_grad_(False)


@dataclass(frozen=True)
class Pairs:
    """Moments, what came one block later, and any moment of the same layout.

    Attributes:
        now: [N, D].
        later: [N, D].
        other: [N, D].
    """

    now: Tensor
    later: Tensor
    other: Tensor

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.now)


class PairStream:
    """Random pairs without end.

    Args:
        paths: [N, T, D].
        layouts: [N] int64.
        block: Steps a block.
        batch: Pairs a batch.
        seed: Of the draw.
    """

    def __init__(self, paths: Tensor, layouts: Tensor, block: int, batch: int, seed: int) -> None:
        self._paths, self._block, self._batch = paths, block, batch
        self._order = layouts.argsort(stable=True)
        same = layouts[self._order]
        self._first = torch.searchsorted(same, layouts)
        self._count = torch.searchsorted(same, layouts, right=True) - self._first
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> Pairs:
        """The next batch."""
        n, (episodes, moments) = self._batch, self._paths.shape[:2]
        row = self._integers(torch.full((n,), episodes))
        at = self._integers(torch.full((n,), moments - self._block))
        other = self._order[self._first[row] + self._integers(self._count[row])]
        when = self._integers(torch.full((n,), moments))
        return Pairs(self._paths[row, at], self._paths[row, at + self._block], self._paths[other, when])

    def _integers(self, below: Tensor) -> Tensor:
        drawn = torch.rand(below.shape, generator=self._generator, dtype=torch.float64)
        return (drawn * below).long().clamp(max=below - 1)

    def state_dict(self) -> dict[str, Any]:
        """State of the draw."""
        return {"random": self._generator.get_state().tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the draw."""
        self._generator.set_state(torch.tensor(state["random"], dtype=torch.uint8))


def fit_temporal(
    paths: Tensor,
    config: TemporalConfig | None = None,
    *,
    layouts: Tensor | None = None,
    run: str | Path | None = None,
    progress: Mode = "none",
) -> TemporalDistance:
    """Learn a distance from latents of whole episodes.

    Args:
        paths: [N, T, D], a latent each step.
        config: How.
        layouts: [N] int64, the same number for episodes of the same layout; all of one if None.
        run: As in `learning.fit.fit`.
        progress: As there.

    Raises:
        InputError: Episodes are no longer than a block, or `layouts` are not one an episode.
    """
    config = config or TemporalConfig()
    if paths.dim() != 3 or paths.shape[1] <= config.block:
        raise InputError(
            f"paths have shape {tuple(paths.shape)}; give [episodes, moments, D] with more than {config.block} moments"
        )
    layouts = torch.zeros(len(paths), dtype=torch.int64) if layouts is None else layouts
    if layouts.shape != (len(paths),):
        raise InputError(f"{len(paths)} episodes need as many layouts, got shape {tuple(layouts.shape)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        distance = TemporalDistance(paths.shape[2], config.hidden, config.width)
    flat = paths.flatten(0, 1)
    distance.mean.copy_(flat.mean(0))
    distance.scale.copy_(flat.std(0).clamp(min=1e-6))
    draws = PairStream(paths, layouts, config.block, config.batch, config.fit.seed)

    def loss(module: TemporalDistance, drawn: Pairs, generator: torch.Generator) -> dict[str, Tensor]:
        now = module.place(drawn.now)
        step = module.between(now, module.place(drawn.later))
        away = module.between(now, module.place(drawn.other))
        excess = (step - 1.0).clamp(min=0.0).pow(2).mean()
        pushed = nn.functional.softplus(config.far - away, beta=SOFT).mean()
        return {"loss": pushed + config.hold * excess, "excess": excess, "away": away.mean()}

    fit(distance, draws, loss, config.fit, run, progress=progress)
    distance.eval().requires_grad_(False)
    drawn = draws.next()
    # The pull stretches a block a little: what somebody usually covers in one is one.
    usual = distance.between(distance.place(drawn.now), distance.place(drawn.later)).quantile(0.75)
    distance.pace.copy_(usual.clamp(min=1e-6))
    return distance
