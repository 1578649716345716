"""What a forecaster and a planner ask of a model, so that another one can stand in the same place.

`WorldModel` answers it, and so does the linear model of the insulin domain: a comparison of the two in the same
planner then compares nothing but the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from foreworld.episodes.schema import Schema
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid


class Believed(Protocol):
    """A model's picture of B subjects at one moment."""

    @property
    def count(self) -> Tensor:
        """[B] int64 moments of history behind it."""

    def __len__(self) -> int:
        """Number of subjects B."""

    def select(self, index: Tensor) -> Self:
        """The picture of some subjects."""


class Ready(Protocol):
    """What of a prediction does not depend on the actions."""

    @property
    def context(self) -> Tensor:
        """[B, C] the state as the predictor reads it; novelty is judged by it (see `familiar`)."""

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""


@runtime_checkable
class Holding(Protocol):
    """What a `Ready` may offer besides, to answer plans of a few amounts each faster."""

    def hold(self, blocks: tuple[int, ...]) -> Ready:
        """Ready for actions [B, S, N, A] that are held over blocks of the grid's intervals.

        Args:
            blocks: Last interval of each of the N blocks, exclusive.
        """


@runtime_checkable
class Looked(Protocol):
    """What a `Ready` offers besides where more must be familiar than what the predictor reads."""

    @property
    def look(self) -> Tensor:
        """[B, L] what was seen, apart from what it means."""


@runtime_checkable
class Present(Protocol):
    """What a model offers besides where it reads quantities out of what it sees, as it does of what it foresees."""

    def read_now(self, prepared: Any) -> dict[str, Tensor]:
        """Quantities of this moment in units, {quantity: [B]}."""


@runtime_checkable
class Recalling(Protocol):
    """What a model offers besides where its belief is made of more frames than the newest."""

    @property
    def stack(self) -> int:
        """How many of the last frames `encode` asks of a history."""


def familiar(prepared: Ready) -> Tensor:
    """[B, C] what novelty is judged by: the state, and what it looked like where that is told."""
    return torch.cat([prepared.context, prepared.look], dim=-1) if isinstance(prepared, Looked) else prepared.context


@runtime_checkable
class Adjusted(Protocol):
    """What a `Ready` offers besides where the model was changed after its calibration."""

    @property
    def calibrated(self) -> Ready:
        """The same of the model as it was calibrated."""


class Sizes(Protocol):
    """What must be known of a model's configuration."""

    @property
    def grid(self) -> HorizonGrid:
        """Steps at which the future is predicted."""

    @property
    def members(self) -> int:
        """Ensemble size E."""


class Imaginer(Protocol):
    """A model that imagines what candidate actions lead to.

    A model is only ever handed back what it gave itself, so beliefs and prepared predictions are `Any` where they go
    in: naming their types would make every planner generic in them.
    """

    @property
    def schema(self) -> Schema:
        """Channels and statistics."""

    @property
    def config(self) -> Sizes:
        """Grid and ensemble size."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """The Q observation channels that are predicted."""

    def eval(self) -> Self:
        """Put into evaluation mode; returns the model."""

    def encode(self, history: History) -> Believed:
        """The belief at the end of each of B histories."""

    def update(
        self, belief: Any, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Believed:
        """The belief one step later; equal to `encode` of the longer history."""

    def normalise_actions(self, belief: Any, actions: Tensor) -> Tensor:
        """Raw actions [B, S, H, A] to the predictor's scale."""

    def normalise_exogenous(self, belief: Any, exogenous: Tensor) -> Tensor:
        """Raw exogenous amounts a step [B, H, X] to the predictor's scale."""

    def prepare(self, belief: Any, exogenous: Tensor | None = None) -> Ready:
        """What does not depend on the actions; `exogenous` [B, H, X] is normalised, None where nothing is known."""

    def respond(self, prepared: Any, actions: Tensor) -> Tensor:
        """Latents [E, B, S, H, D] of normalised candidates [B, S, H, A]."""

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """Predicted quantities in units: latents [..., D] to {quantity: [...]}."""

    def read_scale(self, latents: Tensor) -> dict[str, Tensor]:
        """Predicted standard deviations in units, likewise."""
