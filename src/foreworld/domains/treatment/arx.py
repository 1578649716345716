"""The linear model (ARX): what a world model must beat, with the same interface, in the same planner.

    model = fit_linear(schema, [history], LinearConfig(grid=grid))
    forecaster = Forecaster(model)

One ridge regression for each horizon point predicts the change of glucose directly from the last readings, past
insulin and carbohydrate, the profile, and the insulin (and carbohydrate, where known) still to come. The coefficients
are used as estimated: that of insulin may come out positive, where therapy gave insulin because glucose was about to
rise, and that is what ARX is. With `signed` it is told what a world model is told: insulin still to come never raises
glucose, and carbohydrate still to come never lowers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.windows import (
    Window,
    WindowConfig,
    future_amounts,
    future_readings,
    interval_steps,
    past_inputs,
    windows_at,
)
from foreworld.episodes.schema import Schema
from foreworld.errors import InputError, MissingExtraError
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid


class LinearConfig(BaseModel):
    """What the regression reads and how it is fitted.

    Attributes:
        grid: Steps at which the future is predicted.
        members: Ensemble size E; above 1 the members are a Bayesian bootstrap over subjects (Rubin 1981).
        window: How much of the past is read.
        stride: Steps between two moments that are fitted.
        warmup: No moment earlier than this many steps into a record.
        ridge: Penalties to choose from, on standardised inputs and the mean squared error, for each horizon point.
        folds: Parts for that choice; a part is predicted by a fit on the others.
        held_out: What a part is: other subjects, or another stretch of time of the same ones.
        seed: Of the bootstrap.
        signed: Whether what is still to come may act in its known direction alone (least squares with bounds).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: HorizonGrid
    members: int = Field(default=1, ge=1)
    window: WindowConfig = WindowConfig()
    stride: int = Field(default=3, ge=1)
    warmup: int = Field(default=72, ge=1)
    ridge: tuple[float, ...] = Field(default=(1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), min_length=1)
    folds: int = Field(default=4, ge=2)
    held_out: Literal["subject", "time"] = "subject"
    seed: int = 0
    signed: bool = False


@dataclass(frozen=True)
class LinearPrepared:
    """What of a linear forecast does not depend on the insulin to come.

    Attributes:
        context: [B, F] standardised inputs from the past.
        baseline: [E, B, H] glucose in mg/dL without any insulin to come.
    """

    context: Tensor
    baseline: Tensor

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, context=self.context[index], baseline=self.baseline[:, index])


@dataclass(frozen=True)
class Coefficients:
    """A fitted regression; lower-triangular where it meets the future: no input later than the point predicted.

    Attributes:
        intercept: [E, H] mg/dL.
        past: [E, H, F] mg/dL per unit of `past_inputs`.
        insulin: [E, H, H] mg/dL per hour of basal delivered in each interval to come.
        carbs: [E, H, H] mg/dL per g/kg entered in each interval to come.
        scale: [H] mg/dL, root mean square error on held-out parts.
        ridge: [H] penalty chosen.
        centre: [F] mean of the inputs from the past.
        spread: [F] standard deviation of them, 1 where constant.
    """

    intercept: Tensor
    past: Tensor
    insulin: Tensor
    carbs: Tensor
    scale: Tensor
    ridge: Tensor
    centre: Tensor
    spread: Tensor


class LinearModel:
    """A fitted ARX as an `Imaginer`: it goes where a `WorldModel` goes.

    Args:
        schema: The treatment schema; normalisation is in relative units, so no statistics are needed.
        config: Sizes.
        coefficients: From `fit_linear`.
    """

    quantities = ("cgm",)

    def __init__(self, schema: Schema, config: LinearConfig, coefficients: Coefficients) -> None:
        self.schema, self.config, self.coefficients = schema, config, coefficients
        self._steps = interval_steps(config.grid)

    def eval(self) -> Self:
        """Nothing to switch; there for the interface."""
        return self

    def encode(self, history: History) -> Window:
        """The windows at the end of B histories; InputError where they are not sampled every step."""
        return windows_at(history, (history.lengths - 1)[:, None], self.config.window)

    def encode_at(self, history: History, at: Tensor) -> Window:
        """The windows at moments [B, N], as one batch of B * N."""
        return windows_at(history, at, self.config.window)

    def update(
        self, belief: Window, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Window:
        """The windows one step later; equal to `encode` of the longer history."""
        return belief.after(time, observation, action)

    def normalise_actions(self, belief: Window, actions: Tensor) -> Tensor:
        """Insulin [B, S, H, 1] in U a step to hours of basal a step."""
        return actions.double() / belief.basal[:, None, None, None]

    def normalise_exogenous(self, belief: Window, exogenous: Tensor) -> Tensor:
        """Carbohydrate [B, H, 1] in g a step to g/kg a step."""
        return exogenous.double() / belief.weight[:, None, None]

    def prepare(self, belief: Window, exogenous: Tensor | None = None) -> LinearPrepared:
        """The part of the forecast that the past and known carbohydrate decide; None is none to come."""
        c, inputs = self.coefficients, past_inputs(belief, self.config.window)
        baseline = c.intercept[:, None] + torch.einsum("ehf,bf->ebh", c.past, inputs) + belief.cgm[:, -1, None]
        if exogenous is not None:
            baseline = baseline + torch.einsum("ehj,bj->ebh", c.carbs, exogenous[..., 0].double() * self._steps)
        return LinearPrepared(((inputs - c.centre) / c.spread).float(), baseline)

    def respond(self, prepared: LinearPrepared, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, 2]: glucose in mg/dL and the log of its standard deviation."""
        effect = torch.einsum("ehj,bsj->ebsh", self.coefficients.insulin, actions[..., 0].double() * self._steps)
        mean = prepared.baseline[:, :, None] + effect
        return torch.stack([mean, self.coefficients.scale.log().expand_as(mean)], dim=-1).float()

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Glucose in mg/dL, clamped to the channel's bounds."""
        channel = self.schema["cgm"]
        return {"cgm": torch.clamp(latents[..., 0], min=channel.low, max=channel.high)}

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """Standard deviation in mg/dL."""
        return {"cgm": latents[..., 1].exp()}


def fit_linear(schema: Schema, histories: Sequence[History], config: LinearConfig) -> LinearModel:
    """Fit the regression to logged records.

    Only sums of products are kept, so memory does not grow with the data. Moments with a missing reading among their
    targets are left out.

    Args:
        schema: The treatment schema.
        histories: Records in batches; each subject in one row.
        config: What is read, and how the penalty is chosen.

    Raises:
        InputError: No moment can be fitted, or there are fewer subjects than folds.
    """
    generator = torch.Generator().manual_seed(config.seed)
    size = 1 + config.window.size + 3 * len(config.grid)
    parts = torch.zeros(config.folds, size, size, dtype=torch.float64)
    members = torch.zeros(config.members, size, size, dtype=torch.float64)
    subject = 0
    for history in histories:
        for row in range(len(history)):
            weight = torch.ones(config.members, dtype=torch.float64)
            if config.members > 1:
                weight = torch.empty(config.members, dtype=torch.float64).exponential_(generator=generator)
            for block, design in enumerate(_designs(history, row, config)):
                products = design.T @ design
                parts[subject % config.folds if config.held_out == "subject" else block] += products
                members += weight[:, None, None] * products
            subject += 1
    counts = parts[:, 0, 0]
    if bool((counts < 2).any()):
        raise InputError(
            f"{int(counts.sum())} moments of {subject} subjects cannot be split into {config.folds} parts by "
            f"{config.held_out}; give longer records, more subjects, or fewer folds"
        )
    return LinearModel(schema, config, _solve(parts, members, config))


def _designs(history: History, row: int, config: LinearConfig) -> list[Tensor]:
    """One subject's moments in `folds` blocks of time: [n, 1 + F + 3 H] constant, past, insulin, carbs, targets."""
    last = int(history.lengths[row]) - config.grid.last
    if last <= config.warmup:
        return []
    at = torch.arange(config.warmup, last, config.stride)
    values = {name: value[row : row + 1] for name, value in history.values.items()}
    one = History(history.times[row : row + 1], values, history.lengths[row : row + 1])
    window = windows_at(one, at[None], config.window)
    insulin, carbs = future_amounts(one, at[None], config.grid)
    steps = interval_steps(config.grid)
    change = future_readings(one, at[None], config.grid)[0] - window.cgm[:, -1:]
    parts = [
        torch.ones(len(at), 1, dtype=torch.float64),
        past_inputs(window, config.window),
        insulin[0] * steps / window.basal[:, None],
        carbs[0] * steps / window.weight[:, None],
        change,
    ]
    design = torch.cat(parts, dim=1)
    return [block[~torch.isnan(block).any(1)] for block in design.tensor_split(config.folds)]


def _solve(parts: Tensor, members: Tensor, config: LinearConfig) -> Coefficients:
    """Coefficients from sums of products: `parts` [K, D, D] choose the penalty, `members` [E, D, D] are fitted."""
    past, points = config.window.size, len(config.grid)
    total = parts.sum(0)
    vectors = torch.zeros(config.members, points, total.shape[0], dtype=torch.float64)
    scale, ridge = torch.zeros(points, dtype=torch.float64), torch.zeros(points, dtype=torch.float64)
    for h in range(points):
        inputs = torch.cat(
            [torch.arange(1, 1 + past), 1 + past + torch.arange(h + 1), 1 + past + points + torch.arange(h + 1)]
        )
        target = 1 + past + 2 * points + h
        errors = torch.stack(
            [
                torch.stack([_error(part, _ridge(total - part, inputs, target, penalty)) for part in parts]).sum()
                for penalty in config.ridge
            ]
        )
        best = int(errors.argmin())
        penalty, least = config.ridge[best], errors[best]
        sign = None
        if config.signed:
            sign = torch.zeros(len(inputs), dtype=torch.float64)
            sign[past : past + h + 1], sign[past + h + 1 :] = -1.0, 1.0
            least = torch.stack([_error(part, _ridge(total - part, inputs, target, penalty, sign)) for part in parts])
            least = least.sum()
        ridge[h] = penalty
        scale[h] = torch.sqrt(least / total[0, 0])
        for e in range(config.members):
            vectors[e, h] = -_ridge(members[e], inputs, target, penalty, sign)
    mean = total[0, 1 : 1 + past] / total[0, 0]
    variance = total.diagonal()[1 : 1 + past] / total[0, 0] - mean**2
    insulin = vectors[..., 1 + past : 1 + past + points]
    carbs = vectors[..., 1 + past + points : 1 + past + 2 * points]
    spread = torch.where(variance > 1e-9, variance.clamp(min=1e-9).sqrt(), torch.ones_like(variance))
    return Coefficients(
        vectors[..., 0], vectors[..., 1 : 1 + past], insulin, carbs, scale.clamp(min=0.1), ridge, mean, spread
    )


def _ridge(products: Tensor, inputs: Tensor, target: int, penalty: float, sign: Tensor | None = None) -> Tensor:
    """[D] vector v such that `design @ v` is the error target - prediction of the ridge fit.

    With `sign` [inputs], coefficients are at least 0 where it is 1 and at most 0 where it is -1.
    """
    count = products[0, 0]
    mean_x, mean_y = products[0, inputs] / count, products[0, target] / count
    covariance = products[inputs][:, inputs] / count - mean_x[:, None] * mean_x
    variance = covariance.diagonal()
    # A constant input gets no weight: infinite spread makes its standardised column zero.
    spread = torch.where(variance > 1e-9, variance.clamp(min=1e-9).sqrt(), torch.full_like(variance, torch.inf))
    matrix = covariance / spread[:, None] / spread + penalty * torch.eye(len(inputs), dtype=torch.float64)
    right = (products[inputs, target] / count - mean_x * mean_y) / spread
    slope = (torch.linalg.solve(matrix, right) if sign is None else _bounded(matrix, right, sign)) / spread
    vector = torch.zeros(len(products), dtype=torch.float64)
    vector[0], vector[inputs], vector[target] = mean_x @ slope - mean_y, -slope, 1.0
    return vector


def _bounded(matrix: Tensor, right: Tensor, sign: Tensor) -> Tensor:
    """The minimiser of x'Mx / 2 - x'r whose entries have the signs given (0: any)."""
    try:
        from scipy.optimize import lsq_linear
    except ModuleNotFoundError as error:
        raise MissingExtraError("scipy", "treatment") from error
    root = torch.linalg.cholesky(matrix)
    moved = torch.linalg.solve_triangular(root, right[:, None], upper=False)[:, 0]
    low = torch.where(sign > 0, 0.0, -torch.inf).numpy()
    high = torch.where(sign < 0, 0.0, torch.inf).numpy()
    return torch.from_numpy(lsq_linear(root.T.numpy(), moved.numpy(), (low, high), method="bvls").x)


def _error(products: Tensor, vector: Tensor) -> Tensor:
    """Sum of squared errors of a fit on the rows behind `products`."""
    return (vector @ products @ vector).clamp(min=0.0)
