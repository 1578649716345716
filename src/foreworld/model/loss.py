"""What a world model is trained on: all horizons from random moments of long windows.

Supervised prediction of the quantities (a likelihood with learned scales), prediction of the encoder's own future
in representation space, and a regulariser that keeps that representation from collapsing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.model.belief import Belief, History
from foreworld.model.regularizers import sigreg
from foreworld.model.world_model import WorldModel

# Of a share: a prediction or a change by a factor of 150 counts as no more than that.
LARGEST_EXPONENT = 5.0


class LossConfig(Options):
    """Weights of the loss.

    Attributes:
        anchors: Moments per window from which the future is predicted.
        points: Horizon points predicted from each, drawn anew for every batch.
        warmup: No moment earlier than this many steps into a window.
        categories: Weight of the cross-entropy of predicted categories.
        latent: Weight of prediction in representation space.
        regularizer: Weight of SIGReg.
        beta: Exponent of the beta likelihood (Seitzer et al. 2022): 0 is the plain Gaussian likelihood, which
            neglects what is hard; 1 is squared error.
        slices: Random directions of SIGReg.
        futures: Of the points, those whose representation is a target.
        partial: Take moments up to the last but one, and leave out of each what lies after its end. Without it every
            moment has a whole future, which short episodes never give, and which one that ended early has not.
    """

    later = frozenset({"categories", "partial"})

    anchors: int = 16
    points: int = 12
    warmup: int = 6
    categories: float = 1.0
    latent: float = 0.1
    regularizer: float = 0.02
    beta: float = 0.5
    slices: int = 64
    futures: int = 3
    partial: bool = False


def future_of(model: WorldModel, history: History, anchors: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Actions, announcements and targets after each anchor.

    Args:
        model: Gives schema, grid and normalisation.
        history: Windows of B subjects.
        anchors: [B, N] indices of moments; each needs `grid.last` steps after it.

    Returns:
        Normalised actions [B, N, H, A], exogenous [B, N, H, X] or None, targets [B, N, H, Q] (zero where missing)
        and their mask, zero after the end of a history.
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
    known = mask[rows, at][..., index] * (at < history.lengths[:, None, None])[..., None]
    return actions, exogenous, observed[rows, at][..., index], known


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
    batch = len(history)
    anchors = _anchors(history, grid.last, config, generator)
    if config.partial:
        history = history.extended(model.schema, grid.last)
    represented = bool(model.config.latent and config.latent)
    # What comes after the last anchor is looked at only where its representation is a target.
    past = history if represented else history.until(model.schema, int(anchors.max()) + 1)
    beliefs = model.encode_all(past)
    belief = beliefs_at(beliefs, anchors)
    actions, exogenous, targets, mask = future_of(model, history, anchors)
    points = torch.randperm(len(grid), generator=generator)[: config.points].sort().values
    targets, mask = targets[:, :, points], mask[:, :, points]
    latents = model.predict(
        belief, actions.flatten(0, 1)[:, None], None if exogenous is None else exogenous.flatten(0, 1), points
    )[:, :, 0]
    members = latents.shape[0]
    # Each member sees its own random weighting of the subjects: the Bayesian bootstrap (Rubin 1981).
    share = torch.empty(members, batch, 1, 1, 1).exponential_(generator=generator)
    share = share.expand(-1, -1, config.anchors, -1, -1).flatten(1, 2)
    weights = share * mask.flatten(0, 1)
    total = weights.sum().clamp(min=1)
    error, size = _error(model, latents[..., :q], targets.flatten(0, 1), belief.last)
    log_scale = torch.clamp(latents[..., q : 2 * q], -6.0, 3.0)
    likelihood = 0.5 * (error / log_scale.exp()) ** 2 + log_scale
    weights = weights * (2 * config.beta * (log_scale.detach() + size)).exp()
    supervised = (likelihood * weights).sum() / total
    parts = {"supervised": supervised, "rmse": _rmse(error.detach(), mask.flatten(0, 1))}
    loss = supervised
    if model.n_categories:
        at = anchors[:, :, None] + torch.tensor(grid.points)[points]
        parts["categories"] = _category_term(model, history, at, latents, share[..., 0])
        loss = loss + config.categories * parts["categories"]
    if represented:
        parts["latent"], parts["sigreg"] = _latent_terms(
            model, beliefs, anchors, points, latents[..., 2 * q + model.n_categories :], history.lengths,
            config, generator,
        )  # fmt: skip
        loss = loss + config.latent * parts["latent"] + config.regularizer * parts["sigreg"]
    return {"loss": loss, **parts}


def _category_term(model: WorldModel, history: History, at: Tensor, latents: Tensor, share: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the categories that were observed.

    Args:
        model: Gives the channels.
        history: Windows of B subjects.
        at: [B, N, P] moments that are predicted.
        latents: [E, B * N, P, D].
        share: [E, B * N, 1] weight of each subject for each member.
    """
    rows = torch.arange(len(history))[:, None, None]
    inside = (at < history.lengths[:, None, None]).flatten(0, 1)
    total = latents.new_zeros(())
    for name, logits in model.category_logits(latents).items():
        seen = history.values[name][rows, at].double().flatten(0, 1)
        weight = share * (inside & ~torch.isnan(seen))
        index = torch.nan_to_num(seen).long().expand(len(latents), -1, -1)
        surprise = -torch.log_softmax(logits, dim=-1).gather(-1, index[..., None])[..., 0]
        total = total + (surprise * weight).sum() / weight.sum().clamp(min=1)
    return total


def _latent_terms(
    model: WorldModel,
    beliefs: dict[str, Tensor],
    anchors: Tensor,
    points: Tensor,
    predicted: Tensor,
    lengths: Tensor,
    config: LossConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Prediction of the encoder's own view of the future, and SIGReg of its view of the present."""
    some = torch.randperm(len(points), generator=generator)[: config.futures]
    steps = torch.tensor(model.config.grid.points)[points[some]]
    at = torch.cat([anchors[:, :, None], anchors[:, :, None] + steps], dim=-1)
    views = model.project(model.context(beliefs_at(beliefs, at.flatten(1)))).reshape(*at.shape, -1)
    target = views[:, :, 1:].flatten(0, 1)
    known = (at[:, :, 1:] < lengths[:, None, None]).flatten(0, 1)[..., None].to(target.dtype).expand_as(target)
    missed = ((predicted[:, :, some] - target) ** 2 * known).sum() / (len(predicted) * known.sum()).clamp(min=1)
    return missed, sigreg(views[:, :, 0].flatten(0, 1), slices=config.slices, generator=generator)


def _anchors(history: History, last: int, config: LossConfig, generator: torch.Generator) -> Tensor:
    """[B, N] moments to predict from."""
    size = (len(history), config.anchors)
    if config.partial:
        room = history.lengths - 1 - config.warmup
        if int(room.min()) < 1:
            raise InputError(f"a history of {int(history.lengths.min())} moments is too short for {config.warmup} + 1")
        return config.warmup + (torch.rand(size, generator=generator) * room[:, None]).long()
    moments = history.times.shape[1]
    whole = moments - last - config.warmup
    if whole < 1:
        raise InputError(f"windows of {moments} moments are too short for {config.warmup} + {last} steps")
    return config.warmup + torch.randint(whole, size, generator=generator)


def _error(model: WorldModel, predicted: Tensor, target: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Errors in units of a quantity's size, and the logarithm of that size beside the last value's.

    A `log` quantity is predicted on the logarithmic scale, where what acts in proportion adds up, and judged on its
    own: the mean of a volume is wanted, not the mean of its logarithm, and one that vanishes is an error of its size
    and not an infinite one. So its error is a share of what is predicted, and (with `beta` = 1) every error counts as
    a share of the last value.

    Args:
        model: Gives the quantities.
        predicted: [E, N, P, Q] normalised.
        target: [N, P, Q] normalised.
        last: [N, Q] last values before the prediction, normalised.
    """
    stats = [(model.schema[name].log, model.schema.statistics[name].std) for name in model.quantities]
    if not any(log for log, _ in stats):
        return predicted - target, predicted.new_zeros(())
    std, log = torch.tensor([std for _, std in stats]), torch.tensor([log for log, _ in stats])
    # Bounded, as a start far off would overflow.
    share = torch.clamp((target - predicted) * std, max=LARGEST_EXPONENT)
    grown = torch.clamp((predicted.detach() - last[:, None]) * std, max=LARGEST_EXPONENT)
    size = torch.where(log, grown, torch.zeros_like(grown))
    return torch.where(log, -torch.expm1(share) / std, predicted - target), size


def _rmse(error: Tensor, mask: Tensor) -> Tensor:
    return torch.sqrt((error.mean(0) ** 2 * mask).sum() / mask.sum().clamp(min=1))
