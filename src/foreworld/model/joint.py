"""A response to all actions together, where two of them need not add up."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from foreworld.model.ensemble import EnsembleLinear


class JointResponse(nn.Module):
    """A response to all actions together, from the state, the horizon and the impulse responses; zero without actions.

    What two actions do together need not be the sum of what each does. Unlike the response curves it keeps no sign.
    """

    def __init__(self, *, context: int, outputs: int, effects: int, horizon: int, members: int, width: int) -> None:
        super().__init__()
        self.horizon = nn.Parameter(torch.randn(members, horizon, width) * 0.3)
        self.from_context = EnsembleLinear(members, context, width)
        self.from_effects = EnsembleLinear(members, effects, width)
        self.hidden = EnsembleLinear(members, width, width)
        self.out = EnsembleLinear(members, width, outputs, gain=0.3)

    def prepare(self, context: Tensor, points: Tensor | slice) -> Tensor:
        """[E, B, P, W] the hidden layer before any action: context [B, C]."""
        before: Tensor = self.from_context(context)[:, :, None, :] + self.horizon[:, None, points]
        return before

    def forward(self, before: Tensor, effects: Tensor) -> Tensor:
        """[E, B, S, P, outputs] from [E, B, P, W] and effects [B, S, P, actions * kernels]."""
        members, width = before.shape[0], before.shape[-1]
        shift = self.from_effects(effects.reshape(-1, effects.shape[-1])) - self.from_effects.bias
        acted = before[:, :, None] + shift.reshape(members, *effects.shape[:3], width)
        change = self._value(acted.reshape(members, -1, width)).reshape(*acted.shape[:-1], -1)
        nothing = self._value(before.reshape(members, -1, width)).reshape(*before.shape[:-1], -1)
        return change - nothing[:, :, None]

    def _value(self, hidden: Tensor) -> Tensor:
        hidden = gelu(hidden)
        out: Tensor = self.out(hidden + gelu(self.hidden(hidden)))
        return out
