"""Frames about their mean, with every direction of colour of one size."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SPREAD = 1e-3  # of pixels within -1 to 1: a scene in which nothing moves is not blown up
LEAST_SHARE = 1e-3  # of the largest variance: colours that hardly differ are not blown up, either


def fit_whitening(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """The mean frame [C, H, W], and the matrix [C, C] that whitens colours about it, of pixels [N, C, H, W].

    What never changes in a scene is then nothing, and every direction of colour in which something does is of one
    size (Krizhevsky 2009, whitening): where walls differ between episodes, they are most of what differs, and a
    small agent of another colour would be learned late, if at all.
    """
    mean = scaled.mean(0)
    apart = (scaled - mean).movedim(1, -1).flatten(0, -2).double()
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(apart))
    least = max(LEAST_SPREAD**2, LEAST_SHARE * float(values.max()))
    return mean, (vectors * values.clamp(min=least).rsqrt()) @ vectors.T


def whitened(scaled: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Pixels [N, C, H, W] about the mean frame, colours whitened."""
    return torch.nn.functional.conv2d(scaled - mean, whitening[:, :, None, None])
