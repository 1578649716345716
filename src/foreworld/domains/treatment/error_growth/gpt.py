"""A small causal transformer that foresees glucose token by token, as a language model writes: the autoregressive arm.

    network = seeded(lambda: GPT(GPTConfig()), seed=0)
    train_gpt(network, log, seconds=900.0)
    Autoregressive(network).predict(record, at, grid, fit_moments)     # an `Arm` of the forecast protocol

Every 5-minute step is one position: its tokens of glucose, insulin, carbohydrate and time of day are embedded side by
side, which costs a third of writing them one after the other and hides nothing. The next glucose token is drawn, fed
back, and so on for 144 steps; the forecast is the mean of several such futures. Architecture as GPT-2 (Radford et
al. 2019), written after nanoGPT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from foreworld.domains.treatment.error_growth.budget import Cost, descend
from foreworld.domains.treatment.error_growth.logs import Log
from foreworld.domains.treatment.error_growth.statements import IN_RANGE
from foreworld.domains.treatment.error_growth.tokens import Bins
from foreworld.domains.treatment.forecast_arms import share_within
from foreworld.domains.treatment.forecasting import Prediction, Record
from foreworld.errors import InputError
from foreworld.model.dynamics import HorizonGrid


class GPTConfig(BaseModel):
    """Sizes and training.

    Attributes:
        bins: The tokens.
        context: Steps of the past that are read.
        horizon: Steps that are written; trained on windows of both together.
        width: Of the embeddings.
        heads: Of attention.
        layers: Blocks.
        batch: Windows a step.
        lr: Peak learning rate.
        samples: Futures drawn of each moment, in antithetic pairs.
        chunk: Moments written at a time; bounds memory.
        seed: Of weights, batches and draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bins: Bins = Bins()
    context: int = Field(default=144, ge=1)
    horizon: int = Field(default=144, ge=1)
    width: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=3, ge=1)
    batch: int = Field(default=16, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    samples: int = Field(default=32, ge=2, multiple_of=2)
    chunk: int = Field(default=16, ge=1)
    seed: int = 0


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [..., heads, T, width / heads] of [..., T, width]."""
        parts = self.attend(self.before(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in parts)
        return query, key, value

    def finish(self, x: Tensor, read: Tensor) -> Tensor:
        """The block's output, from its input and what was read [..., heads, T, width / heads]."""
        x = x + self.mix(read.transpose(-2, -3).flatten(-2))
        result: Tensor = x + self.feed(self.between(x))
        return result

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output, keys and values of [B, T, width]; no position reads a later one."""
        query, key, value = self.split(x)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.finish(x, read), key, value


class GPT(nn.Module):
    """Logits of the next glucose token after every position."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config, bins, width = config, config.bins, config.width
        self.glucose, self.insulin = nn.Embedding(bins.readings + 1, width), nn.Embedding(bins.insulin, width)
        self.carbs, self.clock = nn.Embedding(bins.carbs, width), nn.Embedding(bins.clock, width)
        self.profile = nn.Linear(7, width)
        self.position = nn.Parameter(torch.zeros(config.context + config.horizon, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.last, self.bias = nn.LayerNorm(width), nn.Parameter(torch.zeros(bins.readings))
        for embedding in (self.insulin, self.carbs, self.clock):
            nn.init.normal_(embedding.weight, std=0.1)
        # Neighbouring bins start as neighbours; from scratch much of the time would go into learning that.
        level = torch.arange(bins.readings + 1) / bins.readings
        wave = level[:, None] * torch.logspace(-0.5, 1.0, 16) * torch.pi
        start = torch.cat([torch.sin(wave), torch.cos(wave)], dim=1) @ torch.randn(32, width)
        self.glucose.weight.data.copy_(0.1 * start / start.std())

    def embed(self, glucose: Tensor, known: Tensor, first: int = 0) -> Tensor:
        """[..., T, width] of glucose tokens [..., T] and `known` [..., T, width], from position `first` on."""
        place = self.position[first : first + glucose.shape[-1]]
        return cast(Tensor, self.glucose(glucose)) + known + place

    def known(self, log: Log, rows: Tensor, when: Tensor) -> Tensor:
        """[N, T, width] of what is known of a step whatever glucose does, at moments `when` [N, T] of `rows` [N]."""
        insulin, carbs, day = (part[rows[:, None], when] for part in (log.insulin, log.carbs, log.day))
        bins = self.config.bins
        amounts = self.insulin(bins.doses(insulin)) + self.carbs(bins.entries(carbs))
        return cast(Tensor, amounts + self.clock(bins.times(day)) + self.profile(log.profile[rows])[:, None])

    def forward(self, glucose: Tensor, known: Tensor) -> Tensor:
        """[B, T, readings] logits of the reading that follows each of [B, T] tokens, given `known` [B, T, width]."""
        x = self.embed(glucose, known)
        for block in self.blocks:
            x, _, _ = block(x)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """[..., readings] from the last block's output; the weights are those of the embedding, as in GPT-2."""
        weight = self.glucose.weight[: self.config.bins.readings]
        return functional.linear(self.last(x), weight, self.bias)

    @torch.no_grad()
    def write(self, glucose: Tensor, known: Tensor, uniform: Tensor, steps: int) -> Tensor:
        """Futures drawn token by token.

        Args:
            glucose: [N, C] tokens of the past, the present included.
            known: [N, C + steps, width].
            uniform: [N, S, steps] in 0..1: where in its distribution each token is drawn.
            steps: How many.

        Returns:
            [N, S, steps] int64 tokens.
        """
        past, draws = glucose.shape[1], uniform.shape[1]
        x, prefix = self.embed(glucose, known[:, :past]), []
        for block in self.blocks:
            x, key, value = block(x)
            prefix.append((key, value))
        logits = self.logits(x[:, -1:]).expand(-1, draws, -1)
        size = (len(glucose), self.config.heads, draws, steps, self.config.width // self.config.heads)
        own = [(x.new_zeros(size), x.new_zeros(size)) for _ in self.blocks]
        found = []
        for k in range(steps):
            token = _draw(logits, uniform[..., k])
            found.append(token)
            if k == steps - 1:
                break
            x = self.embed(token[..., None], known[:, None, past + k : past + k + 1], past + k)
            for block, (key, value), (keys, values) in zip(self.blocks, prefix, own, strict=True):
                x = _write_step(cast(Block, block), x, key, value, keys, values, k)
            logits = self.logits(x[..., 0, :])
        return torch.stack(found, dim=-1)


def _write_step(block: Block, x: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, k: int) -> Tensor:
    """One block at one new step [N, S, 1, width]: it reads the past, which all futures share, and its own steps."""
    query, new_key, new_value = block.split(x)  # [N, S, heads, 1, d]
    keys[..., k, :], values[..., k, :] = new_key[..., 0, :].transpose(1, 2), new_value[..., 0, :].transpose(1, 2)
    asked = query[..., 0, :].transpose(1, 2)  # [N, heads, S, d]
    mine, my = keys[..., : k + 1, :], values[..., : k + 1, :]
    scores = torch.cat([asked @ key.transpose(-1, -2), (mine @ asked[..., None])[..., 0]], dim=-1)
    weight = torch.softmax(scores * asked.shape[-1] ** -0.5, dim=-1)
    past = key.shape[-2]
    read = weight[..., :past] @ value + (weight[..., None, past:] @ my)[..., 0, :]
    return block.finish(x, read.transpose(1, 2)[..., None, :])


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """[N, S] tokens at these places [N, S] of their distributions, from logits [N, S, readings]."""
    below = torch.softmax(logits, dim=-1).cumsum(-1)
    token = (below < uniform[..., None]).sum(-1)
    return token.clamp(max=logits.shape[-1] - 1)


class Autoregressive:
    """The arm: mean, 5th and 95th percentile of futures drawn token by token, and the share that stays in range."""

    def __init__(self, network: GPT) -> None:
        self.network = network

    @torch.no_grad()
    def predict(self, record: Record, at: Tensor, grid: HorizonGrid, fit_moments: int) -> Prediction:
        """See `Arm`; nothing is fitted.

        Raises:
            InputError: A moment has too short a past, or the grid is longer than what the network was trained on.
        """
        config, bins = self.network.config, self.network.config.bins
        if int(at.min()) + 1 < config.context or grid.last > config.horizon:
            raise InputError(
                f"the transformer reads {config.context} moments and writes {config.horizon}; a moment has "
                f"{int(at.min()) + 1} and the grid asks for {grid.last}"
            )
        log = Log.of([record.history])
        steps, points = grid.last, torch.tensor(grid.points) - 1
        row = torch.arange(len(at)).repeat_interleave(at.shape[1])
        parts = []
        for index in torch.split(torch.arange(at.numel()), config.chunk):
            rows, moment = row[index], at.flatten()[index]
            when = moment[:, None] + torch.arange(1 - config.context, steps)
            known = self.network.known(log, rows, when)
            tokens = bins.glucose(log.glucose[rows[:, None], when[:, : config.context]])
            names = [record.patients.names[i] for i in rows.tolist()]
            uniform = self.places(names, moment.tolist())[..., :steps]
            written = self.network.write(tokens, known, uniform, steps)[..., points]
            parts.append(bins.glucose_value(written))
        futures = torch.cat(parts).reshape(*at.shape, config.samples, -1)
        ends = torch.quantile(futures, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=2)
        return Prediction(futures.mean(2), ends[0], ends[1], share_within(futures.movedim(2, 0), IN_RANGE))

    def places(self, names: Sequence[str], moments: Sequence[int]) -> Tensor:
        """[N, samples, horizon] in 0..1, where in its distribution each token is drawn; the second half is mirrored.

        A moment has draws of its own, so that the error of having few does not repeat from one to the next, and they
        hang on the seed, the subject and the moment alone: not on what else is in its batch.
        """
        config, found = self.network.config, []
        for name, moment in zip(names, moments, strict=True):
            draw = np.random.default_rng([config.seed, moment, *name.encode()])
            found.append(draw.random((config.samples // 2, config.horizon), dtype=np.float32))
        half = torch.from_numpy(np.stack(found))
        return torch.cat([half, 1.0 - half], dim=1)


def train_gpt(network: GPT, log: Log, seconds: float) -> Cost:
    """Teacher-forced cross-entropy of the next glucose token on random windows; trains in place.

    Args:
        network: What to train.
        log: What to learn from.
        seconds: CPU time to spend.

    Raises:
        InputError: No record is long enough for a window.
    """
    return descend(network, _loss_of(network, log), seconds, network.config.lr)


def _loss_of(network: GPT, log: Log) -> Callable[[], Tensor]:
    config, length = network.config, network.config.context + network.config.horizon
    generator = torch.Generator().manual_seed(config.seed)
    # The reading after the last position is a target.
    long = torch.nonzero(log.lengths > length)[:, 0]
    if not len(long):
        raise InputError(f"no record has the {length + 1} moments that a window of the transformer needs")
    tokens = config.bins.glucose(log.glucose)

    def loss() -> Tensor:
        rows = long[torch.randint(len(long), (config.batch,), generator=generator)]
        room = (log.lengths[rows] - length).double()
        first = (torch.rand(config.batch, generator=generator, dtype=torch.float64) * room).long()
        when = first[:, None] + torch.arange(length)
        known = network.known(log, rows, when)
        logits = network(tokens[rows[:, None], when], known)
        target = tokens[rows[:, None], when + 1]
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=config.bins.readings)

    return loss
