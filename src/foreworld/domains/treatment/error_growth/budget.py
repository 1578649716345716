"""Training for a given CPU time: so that models of different kinds can be given the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
WARM_UP = 0.03  # share of the budget over which the learning rate rises


class Cost(NamedTuple):
    """What training took.

    Attributes:
        steps: Optimiser steps.
        cpu_seconds: CPU time of this process.
    """

    steps: int
    cpu_seconds: float


def seeded(make: Callable[[], Network], seed: int) -> Network:
    """A network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def descend(network: nn.Module, loss: Callable[[], Tensor], seconds: float, lr: float, decay: float = 1e-2) -> Cost:
    """AdamW with a cosine schedule over CPU seconds of this process instead of over steps; the last step may overrun.

    Two runs take a slightly different number of steps, so results repeat closely and not bit for bit.

    Args:
        network: Trained in place.
        loss: Draws a batch and gives its loss.
        seconds: CPU time to spend.
        lr: Peak learning rate.
        decay: Of the weights.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=decay, betas=(0.9, 0.98))
    network.train()
    began, steps, spent = time.process_time(), 0, 0.0
    while spent < seconds:
        share = spent / seconds
        optimiser.param_groups[0]["lr"] = (
            lr * min(1.0, (share + 1e-3) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * share))
        )
        value = loss()
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps, spent = steps + 1, time.process_time() - began
    network.eval()
    return Cost(steps, spent)
