"""What a world model is trained on: all horizons from random moments of long windows.

Supervised prediction of the quantities (a likelihood with learned scales), prediction of the encoder's own future
in representation space, and a regulariser that keeps that representation from collapsing.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from foreworld.errors import InputError
from foreworld.model.belief import Belief, History
from foreworld.model.regularizers import sigreg
from foreworld.model.world_model import WorldModel


class LossConfig(BaseModel):
    """Weights of the loss.

    Attributes:
        anchors: Moments per window from which the future is predicted.
        points: Horizon points predicted from each, drawn anew for every batch.
        warmup: No moment earlier than this many steps into a window.
        latent: Weight of prediction in representation space.
        regularizer: Weight of SIGReg.
        beta: Exponent of the beta likelihood (Seitzer et al. 2022): 0 is the plain Gaussian likelihood, which
            neglects what is hard; 1 is squared error.
        slices: Random directions of SIGReg.
        futures: Of the points, those whose representation is a target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    anchors: int = 16
    points: int = 12
    warmup: int = 6
    latent: float = 0.1
    regularizer: float = 0.02
    beta: float = 0.5
    slices: int = 64
    futures: int = 3


def future_of(model: WorldModel, history: History, anchors: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Actions, announcements and targets after each anchor.

    Args:
        model: Gives schema, grid and normalisation.
        history: Windows of B subjects.
        anchors: [B, N] indices of moments; each needs `grid.last` steps after it.

    Returns:
        Normalised actions [B, N, H, A], exogenous [B, N, H, X] or None, targets [B, N, H, Q] (zero where missing)
        and their mask.
    """
    f, grid = model.features, model.config.grid
    if int(anchors.max()) + grid.last >= history.times.shape[1]:
        raise InputError(
            f"a window of {history.times.shape[1]} moments is too short: {grid.last} must follow an anchor"
        )
    observed, mask, acted, announced = f.signals(history)
    rows = torch.arange(len(history))[:, None, None]
    after = anchors[:, :, None] + torch.arange(1, grid.last + 1)
    averaging = grid.averaging()
    # signals() gives the action that led to each moment, so the actions after an anchor stand at anchor + 1, ...
    actions = torch.einsum("hk,bnka->bnha", averaging, acted[rows, after])
    exogenous = torch.einsum("hk,bnkx->bnhx", averaging, announced[rows, after]) if f.n_exogenous else None
    at = anchors[:, :, None] + torch.tensor(grid.points)
    index = model.quantity_index
    return actions, exogenous, observed[rows, at][..., index], mask[rows, at][..., index]


def beliefs_at(beliefs: dict[str, Tensor], at: Tensor) -> Belief:
    """The beliefs of `WorldModel.encode_all` at moments [B, N], as one batch of B * N."""
    rows = torch.arange(len(at))[:, None]
    chosen = {
        name: value[:, None].expand(-1, at.shape[1], *value.shape[1:]) if name == "statics" else value[rows, at]
        for name, value in beliefs.items()
    }
    return Belief(**{name: value.flatten(0, 1) for name, value in chosen.items()})


def prediction_loss(
    model: WorldModel, history: History, config: LossConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """The loss on a batch of windows; `loss` is what is minimised, the rest is for the log."""
    grid, q = model.config.grid, len(model.quantities)
    batch, moments = history.times.shape
    room = moments - grid.last - config.warmup
    if room < 1:
        raise InputError(f"windows of {moments} moments are too short for {config.warmup} + {grid.last} steps")
    anchors = config.warmup + torch.randint(room, (batch, config.anchors), generator=generator)
    beliefs = model.encode_all(history)
    belief = beliefs_at(beliefs, anchors)
    actions, exogenous, targets, mask = future_of(model, history, anchors)
    points = torch.randperm(len(grid), generator=generator)[: config.points].sort().values
    targets, mask = targets[:, :, points], mask[:, :, points]
    latents = model.predict(
        belief, actions.flatten(0, 1)[:, None], None if exogenous is None else exogenous.flatten(0, 1), points
    )[:, :, 0]
    members = latents.shape[0]
    # Each member sees its own random weighting of the subjects: the Bayesian bootstrap (Rubin 1981).
    weights = torch.empty(members, batch, 1, 1, 1).exponential_(generator=generator)
    weights = weights.expand(-1, -1, config.anchors, -1, -1).flatten(1, 2) * mask.flatten(0, 1)
    error = latents[..., :q] - targets.flatten(0, 1)
    log_scale = torch.clamp(latents[..., q : 2 * q], -6.0, 3.0)
    likelihood = 0.5 * (error / log_scale.exp()) ** 2 + log_scale
    supervised = (likelihood * (2 * config.beta * log_scale.detach()).exp() * weights).sum() / weights.sum().clamp(
        min=1
    )
    parts = {"supervised": supervised, "rmse": _rmse(error.detach(), mask.flatten(0, 1))}
    loss = supervised
    if model.config.latent and config.latent:
        parts["latent"], parts["sigreg"] = _latent_terms(
            model, beliefs, anchors, points, latents[..., 2 * q :], config, generator
        )
        loss = loss + config.latent * parts["latent"] + config.regularizer * parts["sigreg"]
    return {"loss": loss, **parts}


def _latent_terms(
    model: WorldModel,
    beliefs: dict[str, Tensor],
    anchors: Tensor,
    points: Tensor,
    predicted: Tensor,
    config: LossConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Prediction of the encoder's own view of the future, and SIGReg of its view of the present."""
    some = torch.randperm(len(points), generator=generator)[: config.futures]
    steps = torch.tensor(model.config.grid.points)[points[some]]
    at = torch.cat([anchors[:, :, None], anchors[:, :, None] + steps], dim=-1)
    views = model.project(model.context(beliefs_at(beliefs, at.flatten(1)))).reshape(*at.shape, -1)
    target = views[:, :, 1:].flatten(0, 1)
    return ((predicted[:, :, some] - target) ** 2).mean(), sigreg(
        views[:, :, 0].flatten(0, 1), slices=config.slices, generator=generator
    )


def _rmse(error: Tensor, mask: Tensor) -> Tensor:
    return torch.sqrt((error.mean(0) ** 2 * mask).sum() / mask.sum().clamp(min=1))
