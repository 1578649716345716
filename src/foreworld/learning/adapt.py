"""A few gradient steps on one subject's own past: fits an adapter and leaves the weights of the model as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import huber_loss

from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.model.belief import Belief, History
from foreworld.model.dynamics import ADAPTABLE
from foreworld.model.ensemble import EnsembleLinear
from foreworld.model.loss import beliefs_at, future_of
from foreworld.model.low_rank import Adapter
from foreworld.model.world_model import WorldModel

DECAY = (0.9, 0.99)  # of the moments of Adam (Kingma and Ba 2015)
# Errors above so many predicted standard deviations weigh by their size, not its square (Huber 1964): a faulty sensor
# or a meal that nobody entered says little about the person.
OUTLYING = 2.0


class AdapterConfig(Options):
    """How an adapter is fitted.

    Attributes:
        layers: What is changed, of `ADAPTABLE`; by default how strongly and how fast actions act.
        rank: Of the change.
        steps: Gradient steps, each on all of the moments.
        lr: Step size of Adam.
        stride: Steps between two moments that are forecast from.
        warmup: The first moment that is forecast from; before it little is known of what was done.
        seed: Of the start of the adapter, the same for every subject.
    """

    layers: tuple[str, ...] = ("gains", "mixture")
    rank: int = Field(default=4, ge=1)
    steps: int = Field(default=30, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    stride: int = Field(default=12, ge=1)
    warmup: int = Field(default=72, ge=0)
    seed: int = 0


@dataclass(frozen=True)
class Past:
    """What came after N moments of one subject.

    Attributes:
        belief: At each of the moments, from what came before it alone.
        actions: [N, H, A] normalised amounts a step that followed.
        exogenous: [N, H, X] likewise, or None where nothing is announced.
        targets: [N, H, Q] normalised quantities, 0 where not measured.
        known: [N, H, Q] 1 where measured within the history, 0 elsewhere.
    """

    belief: Belief
    actions: Tensor
    exogenous: Tensor | None
    targets: Tensor
    known: Tensor


@torch.no_grad()
def past_of(model: WorldModel, history: History, first: int, stride: int) -> Past:
    """What came after every so many moments of one history, from moment `first` on and up to its end, not beyond.

    Raises:
        InputError: It is not the history of one subject, or ends before two moments after `first`.
    """
    moments = history.times.shape[1]
    if len(history) != 1 or int(history.lengths[0]) != moments:
        raise InputError(f"give the history of one subject without padding; got {len(history)}")
    if moments < first + 2:
        raise InputError(f"a history of {moments} moments says nothing about what comes after moment {first}")
    at = torch.arange(first, moments - 1, stride)[None]
    beliefs = beliefs_at(model.encode_all(history), at)
    actions, exogenous, targets, known = future_of(model, history.extended(model.schema, model.config.grid.last), at)
    return Past(beliefs, actions[0], None if exogenous is None else exogenous[0], targets[0], known[0])


def adaptable(model: WorldModel, names: tuple[str, ...]) -> dict[str, EnsembleLinear]:
    """The layers of these names.

    Raises:
        InputError: There is no such layer, or the model predicts categories, which no adapter is fitted to.
    """
    if model.n_categories:
        raise InputError("a model that predicts categories cannot be adapted; only quantities can")
    layers = {}
    for name in names:
        layer = getattr(model.dynamics, name) if name in ADAPTABLE else None
        if not isinstance(layer, EnsembleLinear):
            raise InputError(f"there is no layer {name!r} to adapt; choose from {', '.join(ADAPTABLE)}")
        layers[name] = layer
    return layers


def fit_adapter(model: WorldModel, past: Past, config: AdapterConfig) -> Adapter:
    """Gradient steps on an adapter of one subject, with scales, bands and weights held.

    What is minimised is the error in units of the predicted scale, of each member by itself, over all horizons. All of
    the moments go into every step, so that nothing but the start of the adapter is random.

    Args:
        model: In evaluation mode; its weights are read and never written.
        past: Of one subject.
        config: How.

    Returns:
        An adapter of one subject; not finite where the data were not.

    Raises:
        InputError: As `adaptable`.
    """
    generator = torch.Generator().manual_seed(config.seed)
    adapter = Adapter.start(adaptable(model, config.layers), config.rank, generator)
    adjusted = [part.requires_grad_() for part in (*adapter.down.values(), *adapter.up.values())]
    optimizer = torch.optim.Adam(adjusted, lr=config.lr, betas=DECAY)
    q, total = len(model.quantities), past.known.sum().clamp(min=1)
    with torch.no_grad():
        prepared = model.prepare(past.belief, past.exogenous)
    for _ in range(config.steps):
        with torch.enable_grad():
            changed = model.dynamics.adapted(prepared, past.exogenous, adapter)
            latents = model.respond(changed, past.actions[:, None])[:, :, 0]
            scale = torch.clamp(latents[..., q : 2 * q], -6.0, 3.0).exp()
            error = (latents[..., :q] - past.targets) / scale * past.known
            loss = huber_loss(error, torch.zeros_like(error), reduction="sum", delta=OUTLYING) / (total * len(error))
            # Only of the adapter: `backward` would leave gradients on the weights of the model.
            gradients = torch.autograd.grad(loss, adjusted)
        for part, gradient in zip(adjusted, gradients, strict=True):
            part.grad = gradient
        optimizer.step()
    return Adapter(
        {name: value.detach() for name, value in adapter.down.items()},
        {name: value.detach() for name, value in adapter.up.items()},
    )
