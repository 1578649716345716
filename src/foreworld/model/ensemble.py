"""Layers with one set of weights per ensemble member, evaluated together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    """A linear layer per member: [E, N, inputs] to [E, N, outputs] in one batched product.

    Each member starts from its own draw (Lakshminarayanan, Pritzel and Blundell 2017, deep ensembles).
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__()
        bound = gain / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x` [E, N, inputs], or to one input [N, inputs] shared by all members."""
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        return torch.baddbmm(self.bias, x, self.weight)
