"""Regularisers that keep a latent from collapsing: SIGReg and VICReg."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Samples of all ranks in order of rank.

    Backward sums over ranks what every rank's loss says about this rank's samples, so that the mean of the ranks'
    gradients is the gradient of one process on the whole batch. (torch.distributed.nn's own all_gather does the
    same but is deprecated since torch 2.13.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]


def _gathered(x: Tensor) -> Tensor:
    """Samples of all ranks [N * ranks, D]; every rank must hold the same number N."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    whole: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return whole


def _single(x: Tensor) -> AbstractContextManager[Any]:
    """Single precision inside autocast: a phase or a covariance in bf16 has an error of the size of the statistic."""
    return torch.autocast(x.device.type, enabled=False)


def sigreg(
    x: Tensor, *, slices: int = 128, knots: int = 17, span: float = 3.0, generator: torch.Generator | None = None
) -> Tensor:
    """Sketched isotropic Gaussian regularisation: how far random projections of `x` are from N(0, 1).

    For each random direction, N times the integral over [0, span] of |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2),
    where phi_N is the empirical characteristic function of the N projected samples: the statistic of Epps and Pulley
    (1983, A test for normality based on the empirical characteristic function, Biometrika 70(3), 723-726) against
    the standard normal, without their standardising, as a collapse must show; averaged over directions as in
    Balestriero and LeCun (2025, LeJEPA, arXiv:2511.08544). The integrand is even in t, so this is half of the
    integral over [-span, span] that LeJEPA's code gives: a weight of theirs counts twice here.

    The trapezoid rule runs over `knots` equal points; its term at t = 0 is zero, as both functions are one there.
    Cosines and sines of the multiples t_k = k dt come from one cosine and one sine by the Chebyshev recurrence.
    Across ranks the statistic is that of all samples together.

    Args:
        x: [N, D] samples.
        slices: Number of random directions.
        knots: Points of the integral.
        span: Upper end of the integral.
        generator: Source of the directions, on the CPU; in the same state on all ranks.

    Returns:
        Scalar; 0 for a perfect match, larger for a mismatch.
    """
    with _single(x):
        return _sigreg(_gathered(x).float(), slices, knots, span, generator)


def _sigreg(x: Tensor, slices: int, knots: int, span: float, generator: torch.Generator | None) -> Tensor:
    directions = torch.randn(x.shape[1], slices, generator=generator, dtype=x.dtype, device="cpu").to(x.device)
    directions = directions / directions.norm(dim=0, keepdim=True)
    step = span / (knots - 1)
    angle = (x @ directions) * step
    cosine, sine = torch.cos(angle), torch.sin(angle)
    before_cos, before_sin = torch.ones_like(cosine), torch.zeros_like(sine)
    now_cos, now_sin = cosine, sine
    twice = 2.0 * cosine
    total = x.new_zeros(())
    for k in range(1, knots):
        t = torch.tensor(k * step, dtype=x.dtype, device=x.device)
        gauss = torch.exp(-0.5 * t * t)
        weight = (0.5 if k == knots - 1 else 1.0) * step * gauss
        error = (now_cos.mean(0) - gauss) ** 2 + now_sin.mean(0) ** 2
        total = total + weight * error.mean()
        if k < knots - 1:
            now_cos, before_cos = twice * now_cos - before_cos, now_cos
            now_sin, before_sin = twice * now_sin - before_sin, now_sin
    return total * len(x)


def vicreg(x: Tensor, *, epsilon: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of VICReg (Bardes, Ponce and LeCun 2022).

    Args:
        x: [N, D] samples; those of all ranks count together.
        epsilon: Added to the variance under the root.

    Returns:
        The mean over dimensions of max(0, 1 - standard deviation), and the squares of the off-diagonal covariances,
        summed over pairs and divided by D; unbiased estimates, both.
    """
    with _single(x):
        x = _gathered(x).float()
        centred = x - x.mean(0)
        deviation = torch.sqrt(centred.pow(2).sum(0) / (len(x) - 1) + epsilon)
        variance = torch.relu(1.0 - deviation).mean()
        covariance = centred.T @ centred / (len(x) - 1)
        off_diagonal = covariance - torch.diag(torch.diag(covariance))
        return variance, off_diagonal.pow(2).sum() / x.shape[1]
