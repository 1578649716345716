"""The predictor: from a belief and a whole action prefix to every horizon at once.

It separates what happens anyway from what the actions change: a baseline per horizon, which does not see the
actions, plus responses to them. A response is a positive mixture of impulse responses of many time scales,
passed through a concave curve and scaled by a gain that depends on belief and horizon. Where the schema says that
an action can only lower (or raise) a quantity, the signs are built in, so a dose that the data never showed
cannot be predicted to act the wrong way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from foreworld.errors import SchemaError
from foreworld.model.ensemble import EnsembleLinear
from foreworld.model.held import Held, summed
from foreworld.model.joint import JointResponse
from foreworld.model.low_rank import Adapter

# Start of the response weights: a dose of one standard deviation first moves a quantity by about a tenth of its own.
RESPONSE_SCALE = 0.03
# Brings the summed responses to announced events to about the size of the other inputs.
EXOGENOUS_SCALE = 0.1
# Where saturating response curves level off at first, in normalised units; training moves them.
SATURATION = (1.0, 4.0)
# Layers that an adapter may change. Every response passes a softplus after them and has its sign from the schema, so no
# value of their weights can turn one round.
ADAPTABLE = ("from_context", "from_exogenous", "hidden", "baseline", "gains", "mixture")


class HorizonGrid(BaseModel):
    """The steps at which the future is predicted: fine at first, coarser far ahead.

    Interval `j` runs from point `j - 1` to point `j`; a plan holds one action value for each interval (an amount a
    step).
    """

    model_config = ConfigDict(frozen=True)

    points: tuple[int, ...]

    @classmethod
    def geometric(cls, fine: int, last: int, per_doubling: int = 8) -> HorizonGrid:
        """Every step up to `fine`, then points whose spacing doubles with the distance, up to `last`."""
        points = list(range(1, fine + 1))
        while points[-1] < last:
            stride = max(1, int(2 ** math.ceil(math.log2(points[-1] / per_doubling))))
            points.append(min(points[-1] + stride, last))
        return cls(points=tuple(points))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def last(self) -> int:
        """The farthest step."""
        return self.points[-1]

    def averaging(self) -> Tensor:
        """[H, last]: means of a step-by-step sequence over the intervals; worked out once, so not to be changed."""
        return _averaging(self.points)

    def expand(self) -> Tensor:
        """[last] index of the interval that each step lies in."""
        index = torch.zeros(self.last, dtype=torch.int64)
        start = 0
        for j, stop in enumerate(self.points):
            index[start:stop] = j
            start = stop
        return index


@lru_cache(maxsize=32)
def _averaging(points: tuple[int, ...]) -> Tensor:
    matrix = torch.zeros(len(points), points[-1])
    start = 0
    for j, stop in enumerate(points):
        matrix[j, start:stop] = 1.0 / (stop - start)
        start = stop
    return matrix


def impulse_responses(grid: HorizonGrid, scales: tuple[float, ...]) -> Tensor:
    """Responses at every grid point to a unit amount a step in every interval.

    Args:
        grid: The horizon grid.
        scales: Time constants in steps. Each gives a hump (lag / tau) exp(1 - lag / tau) and a rise
            1 - exp(-lag / tau) that stays.

    Returns:
        [2 * scales, H, H]; entry [k, h, j] is the response at point h to interval j, zero for later intervals.
        Every kernel has a peak of one, so that weights compare.
    """
    lags = torch.arange(0, grid.last + 1, dtype=torch.float64)
    interval = grid.expand()
    kernels = []
    for tau in scales:
        hump = (lags / tau) * torch.exp(1.0 - lags / tau)
        rise = 1.0 - torch.exp(-lags / tau)
        kernels += [hump, rise]
    matrix = torch.zeros(len(kernels), len(grid), len(grid), dtype=torch.float64)
    for h, point in enumerate(grid.points):
        steps = torch.arange(point)
        for k, kernel in enumerate(kernels):
            matrix[k, h].index_add_(0, interval[:point], kernel[point - steps])
    return matrix.float()


@dataclass(frozen=True)
class Prepared:
    """What of a prediction does not depend on the actions.

    Attributes:
        context: [B, C].
        baseline: [E, B, P, 2 Q + F], or without the end of the last block, where nobody reads it.
        gains: [E, B, P, Q, A * J] of the response curves, with their signs.
        weights: [E, B, A, K, J] mixture of the impulse responses.
        responses: [K, P, H] impulse responses at the points asked for; [K, P, N] to N blocks once `hold` was called.
        levels: [E, L] where the saturating curves level off.
        sizes: [P, Q] typical changes that the quantities are predicted in, added by the world model.
        last: [B, Q] last measured values, likewise.
        joint: [E, B, P, W] hidden layer of the joint response before any action; None where there is none.
        present: [B] last observed category, added by the world model; None where nothing starts from it.
        held: All of it multiplied out; None before `hold`, and where more than the quantities is predicted.
    """

    context: Tensor
    baseline: Tensor
    gains: Tensor
    weights: Tensor
    responses: Tensor
    levels: Tensor
    sizes: Tensor
    last: Tensor
    joint: Tensor | None = None
    present: Tensor | None = None
    held: Held | None = None

    def select(self, index: Tensor) -> Prepared:
        """Some of the subjects."""
        return Prepared(
            self.context[index],
            self.baseline[:, index],
            self.gains[:, index],
            self.weights[:, index],
            self.responses,
            self.levels,
            self.sizes,
            self.last[index],
            None if self.joint is None else self.joint[:, index],
            None if self.present is None else self.present[index],
            None if self.held is None else self.held.select(index),
        )

    def readable(self, width: int) -> Prepared:
        """The first `width` outputs: without the self-supervised block, which nobody reads while planning."""
        return replace(self, baseline=self.baseline[..., :width].contiguous())

    def hold(self, blocks: tuple[int, ...]) -> Prepared:
        """The same for candidates that hold one amount over each block of intervals: [B, S, N, A] instead of H.

        Args:
            blocks: Last interval of each of the N blocks, exclusive.
        """
        responses = summed(self.responses, blocks)
        held = None
        if self.joint is None and self.baseline.shape[-1] == 2 * self.gains.shape[3]:
            held = Held.fold(
                self.baseline, self.gains, self.weights, responses, self.levels, sizes=self.sizes, last=self.last
            )
        return replace(self, responses=responses, held=held)


class ResponseDynamics(nn.Module):
    """An ensemble of direct multi-horizon predictors over one context.

    Args:
        context: Width of the context vector that the belief gives.
        quantities: Q, predicted quantities.
        latent: F, width of the self-supervised block.
        actions: A, width of the normalised actions.
        exogenous: X, width of the normalised exogenous values.
        grid: Horizon grid with H points.
        signs: [Q, A] -1, +1, or 0 where the sign of the response is not known.
        members: E.
        width: Hidden width.
        curves: Response curves per quantity; half of them linear, half saturating.
        scales: Time constants of the impulse responses, in steps.
        joint: Width of the joint response; 0 for none.
        categories: K, logits of predicted categories; they stand before the self-supervised block.
    """

    responses: Tensor
    signs: Tensor

    def __init__(
        self,
        *,
        context: int,
        quantities: int,
        latent: int,
        actions: int,
        exogenous: int,
        grid: HorizonGrid,
        signs: Tensor,
        members: int,
        width: int,
        curves: int,
        scales: tuple[float, ...],
        joint: int = 0,
        categories: int = 0,
    ) -> None:
        super().__init__()
        if joint and bool((signs != 0).any()):
            raise SchemaError("a joint response keeps no sign: set joint=0, or leave out lowers and raises")
        self.grid, self.members, self.curves = grid, members, curves
        self.quantities, self.latent, self.actions, self.exogenous = quantities, latent, actions, exogenous
        self.register_buffer("responses", impulse_responses(grid, scales), persistent=False)
        self.register_buffer("signs", signs.float(), persistent=False)
        kernels = len(self.responses)
        self.kernels = kernels
        self.horizon = nn.Parameter(torch.randn(members, len(grid), width) * 0.3)
        self.from_context = EnsembleLinear(members, context, width)
        self.from_exogenous = EnsembleLinear(members, exogenous * kernels, width) if exogenous else None
        self.hidden = EnsembleLinear(members, width, width)
        self.categories, beside = categories, categories + latent
        self.baseline = EnsembleLinear(members, width, 2 * quantities + beside, gain=0.3)
        self.gains = EnsembleLinear(members, width, quantities * actions * curves, gain=0.3)
        self.mixture = EnsembleLinear(members, context, actions * kernels * curves, gain=0.3)
        levels = torch.linspace(math.log(SATURATION[0]), math.log(SATURATION[1]), curves - (curves + 1) // 2)
        self.levels = nn.Parameter(levels.expand(members, -1).clone())
        self.to_latent = nn.Parameter(torch.randn(members, actions * curves, beside) * 0.02)
        self.joint = (
            JointResponse(
                context=context,
                outputs=quantities + categories,
                effects=actions * kernels,
                horizon=len(grid),
                members=members,
                width=joint,
            )
            if joint
            else None
        )

    @torch.no_grad()
    def silence_categories(self) -> None:
        """Start the logits at zero, for what adds to a better start."""
        q, k = self.quantities, self.categories
        self.baseline.weight[..., 2 * q : 2 * q + k] = 0.0
        self.to_latent[..., :k] = 0.0
        if self.joint is not None:
            self.joint.out.weight[..., q:] = 0.0

    def prepare(self, context: Tensor, exogenous: Tensor | None, points: Tensor | None = None) -> Prepared:
        """What does not depend on the actions.

        Args:
            context: [B, C].
            exogenous: [B, H, X] normalised amounts a step, or None where nothing is announced.
            points: [P] indices of the horizon points to predict; all H if None.
        """
        chosen = slice(None) if points is None else points
        hidden = self._hidden(context, exogenous, chosen)
        return Prepared(
            context=context,
            baseline=self._split(self.baseline(hidden), len(context)),
            gains=self._signed(self.gains(hidden), len(context)),
            weights=self._mixed(self.mixture(context)),
            responses=self.responses[:, chosen],
            levels=self.levels.exp(),
            sizes=context.new_ones(self.responses[:, chosen].shape[1], self.quantities),
            last=context.new_zeros(len(context), self.quantities),
            joint=None if self.joint is None else self.joint.prepare(context, chosen),
        )

    def adapted(self, prepared: Prepared, exogenous: Tensor | None, adapter: Adapter) -> Prepared:
        """The same with adapted layers: other quantities and responses, of the same signs; all else as it was.

        Log scales stay those of the model itself, for what is calibrated is calibrated in units of them.

        Args:
            prepared: At all H points, before `hold`.
            exogenous: As given to `prepare`.
            adapter: Of B subjects, or of one for all rows; its layers are among `ADAPTABLE`.
        """
        context, q = prepared.context, self.quantities
        hidden = self._hidden(context, exogenous, slice(None), adapter)
        baseline = self._split(adapter.apply("baseline", self.baseline, hidden), len(context))
        return replace(
            prepared,
            baseline=torch.cat([baseline[..., :q], prepared.baseline[..., q:]], dim=-1),
            gains=self._signed(adapter.apply("gains", self.gains, hidden), len(context)),
            weights=self._mixed(adapter.apply("mixture", self.mixture, context)),
        )

    def _hidden(
        self, context: Tensor, exogenous: Tensor | None, chosen: Tensor | slice, adapter: Adapter | None = None
    ) -> Tensor:
        """[E, B * P, width] what baseline and gains are read from."""

        def through(name: str, layer: EnsembleLinear, x: Tensor) -> Tensor:
            out: Tensor = layer(x) if adapter is None else adapter.apply(name, layer, x)
            return out

        embedding, responses = self.horizon[:, chosen], self.responses[:, chosen]
        members, batch, horizon = self.members, len(context), responses.shape[1]
        hidden = through("from_context", self.from_context, context)[:, :, None, :] + embedding[:, None, :, :]
        if exogenous is not None and self.from_exogenous is not None:
            effect = torch.einsum("khj,bjx->bhxk", responses, exogenous).flatten(-2) * EXOGENOUS_SCALE
            shift = through("from_exogenous", self.from_exogenous, effect.reshape(batch * horizon, -1))
            hidden = hidden + (shift - self.from_exogenous.bias).reshape(members, batch, horizon, -1)
        hidden = gelu(hidden).reshape(members, batch * horizon, -1)
        return hidden + gelu(through("hidden", self.hidden, hidden))

    def _split(self, rows: Tensor, batch: int) -> Tensor:
        """[E, B * P, ...] by subject: [E, B, P, ...]."""
        return rows.reshape(self.members, batch, rows.shape[1] // max(batch, 1), rows.shape[-1])

    def _signed(self, gains: Tensor, batch: int) -> Tensor:
        """[E, B, P, Q, A * J] gains with their signs, where the schema gives one."""
        gains = self._split(gains, batch)
        gains = gains.reshape(*gains.shape[:-1], self.quantities, self.actions * self.curves)
        sign = self.signs[:, :, None].expand(-1, -1, self.curves).flatten(1)
        return torch.where(sign != 0, sign * softplus(gains - 1.0), gains)

    def _mixed(self, weights: Tensor) -> Tensor:
        """[E, B, A, K, J] mixture of the impulse responses; of no sign of its own where one is given."""
        weights = weights.reshape(*weights.shape[:-1], self.actions, self.kernels, self.curves)
        known = (self.signs != 0).any(0)[:, None, None]
        return RESPONSE_SCALE * torch.where(known, softplus(weights), weights)

    def respond(self, prepared: Prepared, actions: Tensor) -> Tensor:
        """Add the responses to candidate actions.

        Args:
            prepared: From `prepare`.
            actions: [B, S, H, A] normalised amounts a step, one for each interval, or for each block after `hold`.

        Returns:
            [E, B, S, P, 2 Q + F]: changes of the quantities in units of their typical size, their log scales, and
            as much of the block after them as `prepared` has (`Prepared.readable`).
        """
        (batch, samples), members = actions.shape[:2], self.members
        responses, curves, q = prepared.responses, self.curves, self.quantities
        horizon = responses.shape[1]
        kernel = responses.permute(2, 1, 0).reshape(-1, horizon * self.kernels)
        effect = actions.permute(0, 3, 1, 2).reshape(-1, len(kernel)) @ kernel
        effect = effect.reshape(batch, self.actions, samples * horizon, self.kernels)
        # Member by member: one product for all would first copy the effects for each of them.
        drive = torch.stack([torch.matmul(effect, weights) for weights in prepared.weights])
        half = (curves + 1) // 2
        level = prepared.levels[:, None, None, None, :]
        drive = torch.cat([drive[..., :half], level * torch.tanh(drive[..., half:] / level)], dim=-1)
        drive = drive.reshape(members, batch, self.actions, samples, horizon, curves)
        changed = drive.permute(0, 1, 3, 4, 2, 5).flatten(-2)
        moved = torch.matmul(changed.transpose(2, 3), prepared.gains.transpose(-1, -2)).transpose(2, 3)
        baseline = prepared.baseline[:, :, None].expand(-1, -1, samples, -1, -1)
        parts = [baseline[..., :q] + moved, baseline[..., q : 2 * q]]
        if beside := baseline.shape[-1] - 2 * q:
            shift = torch.einsum("ebshc,ecf->ebshf", changed, self.to_latent[..., :beside])
            parts.append(baseline[..., 2 * q :] + shift)
        if self.joint is not None and prepared.joint is not None:
            together = effect.reshape(batch, self.actions, samples, horizon, self.kernels).permute(0, 2, 3, 1, 4)
            jointly = self.joint(prepared.joint, together.flatten(-2))
            parts[0] = parts[0] + jointly[..., :q]
            if jointly.shape[-1] > q:
                logits = parts[2][..., : jointly.shape[-1] - q] + jointly[..., q:]
                parts[2:] = [logits, parts[2][..., jointly.shape[-1] - q :]]
        return torch.cat(parts, dim=-1)
