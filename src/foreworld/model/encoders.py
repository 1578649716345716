"""Encoders: from the normalised tokens of a history to a recurrent state.

Series (regular or irregular, with masks and time gaps), events and statics enter through `TokenEncoder`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenEncoder(nn.Module):
    """A gated recurrent unit on a slow clock: who is this, and how do they respond?

    It reads one token every `stride` moments. A token holds the normalised observations with their masks and ages,
    the previous action, what was announced, the time gap, the phases of the day, the leaky memories and the last
    observations, so irregular sampling and missing values are inputs, not imputations (compare GRU-D, Che et al.
    2018), and nothing between two ticks is lost. What changes faster than the clock reaches the predictor
    directly.

    Args:
        inputs: Width of a token.
        statics: Width of the statics.
        width: Width of the state.
        stride: Moments between two ticks.
    """

    def __init__(self, inputs: int, statics: int, width: int, stride: int) -> None:
        super().__init__()
        self.start = nn.Linear(statics, width) if statics else None
        self.embed = nn.Sequential(nn.Linear(inputs + statics, width), nn.GELU())
        self.cell = nn.GRU(width, width, batch_first=True)
        self.width, self.stride = width, stride

    def initial(self, statics: Tensor) -> Tensor:
        """[B, S] to the first state [B, width]."""
        if self.start is None:
            return statics.new_zeros(len(statics), self.width)
        first: Tensor = torch.tanh(self.start(statics))
        return first

    def forward(self, tokens: Tensor, statics: Tensor, state: Tensor) -> Tensor:
        """Run over ticks: tokens [B, N, I] from a state [B, width]; gives the states after each [B, N, width]."""
        beside = statics[:, None, :].expand(-1, tokens.shape[1], -1)
        states, _ = self.cell(self.embed(torch.cat([tokens, beside], dim=-1)), state[None].contiguous())
        out: Tensor = states
        return out
