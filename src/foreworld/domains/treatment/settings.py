"""Sizes and training settings of the insulin domain's world model, and its smaller version for the demo."""

from __future__ import annotations

from foreworld.learning.fit import FitConfig
from foreworld.learning.train import TrainConfig
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.loss import LossConfig
from foreworld.model.world_model import WorldModelConfig

# Five-minute steps to two hours, coarser to twelve: a shorter horizon misses the tail of slow patients' insulin.
MODEL = WorldModelConfig(
    grid=HorizonGrid.geometric(fine=24, last=144),
    scales=(2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)


def training(steps: int = 10000, seed: int = 0, threads: int | None = None, window: int = 2016) -> TrainConfig:
    """Training settings of the domain; 10,000 steps are about eleven CPU minutes.

    Args:
        steps: Optimiser steps.
        seed: Of weights and batches.
        threads: CPU threads.
        window: Steps a window. A week teaches the model to learn a person's response from days of history; half of it
            trains faster. A batch holds the same number of steps and moments either way.
    """
    windows = max(1, 16 * 1008 // window)
    return TrainConfig(
        model=MODEL,
        loss=LossConfig(anchors=256 // windows, points=12),
        fit=FitConfig(steps=steps, lr=2e-3, seed=seed, threads=threads, ema=0.998),
        window=window,
        windows=windows,
    )
