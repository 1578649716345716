"""What usually follows a category after each action: where the network of a predicted category starts from.

As quantities are predicted as changes of their last value, categories are predicted as changes of these frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreworld.episodes.schema import Role, Schema
from foreworld.errors import SchemaError

# Weight of the overall frequencies against a category's own, in observations, and the least log probability.
OVERALL, LEAST = 1.0, -20.0


class Follows(nn.Module):
    """Log frequencies of the next category by category and action, shrunk to those of the category alone.

    The mean of a Dirichlet posterior whose prior is what follows the category whatever is done (Gelman et al. 2013,
    Bayesian Data Analysis, ch. 3), so an action that was seldom taken is held to do what is usual there.

    Args:
        categories: K.
        actions: A.
        strength: Weight of the prior, in observations.
    """

    table: Tensor

    def __init__(self, categories: int, actions: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("table", torch.zeros(categories, actions, categories))

    @classmethod
    def of(cls, schema: Schema, channel: str, strength: float) -> Follows:
        """For a schema.

        Raises:
            SchemaError: There is not exactly one action channel, discrete and scalar.
        """
        actions = schema.by_role(Role.action)
        if len(actions) != 1 or not actions[0].discrete or actions[0].shape != ():
            raise SchemaError("frequencies of what follows need one discrete scalar action channel: set follows=0")
        return cls(len(schema[channel].categories), len(actions[0].categories), strength)

    @torch.no_grad()
    def count(self, before: Tensor, action: Tensor, after: Tensor) -> None:
        """Fit to N transitions of the training subjects, indices [N] each."""
        k, a, _ = self.table.shape
        at = (before.long() * a + action.long()) * k + after.long()
        counts = torch.bincount(at, minlength=k * a * k).reshape(k, a, k).float()
        overall = counts.sum((0, 1))
        overall = overall / overall.sum().clamp(min=1.0)
        usual = counts.sum(1) + OVERALL * overall
        usual = usual / usual.sum(1, keepdim=True).clamp(min=1e-9)
        mean = (counts + self.strength * usual[:, None]) / (counts.sum(2, keepdim=True) + self.strength)
        self.table.copy_(torch.log(mean).clamp(min=LEAST))

    def forward(self, present: Tensor, actions: Tensor) -> Tensor:
        """Log frequencies [B, S, K] after categories [B] and one-hot actions [B, S, A]."""
        logs: Tensor = self.table[present[:, None], actions.argmax(-1)]
        return logs
