"""Split conformal calibration: bands for display, one score per trajectory for guardrails, adaptation for streams."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreworld.errors import InputError


def conformal_quantile(scores: Tensor, risk: float, dim: int = 0) -> Tensor:
    """The smallest bound that a fresh exchangeable score exceeds with probability at most `risk`.

    It is the ceil((n + 1)(1 - risk))-th smallest of n scores (Vovk, Gammerman and Shafer 2005; Lei et al. 2018);
    infinite where n is too small for the risk.

    Args:
        scores: Scores along `dim`; NaN is not allowed.
        risk: In (0, 1).
        dim: The dimension of the n scores.
    """
    if not 0.0 < risk < 1.0:
        raise InputError(f"risk is {risk}; it must lie between 0 and 1")
    n = scores.shape[dim]
    if n == 0 or torch.isnan(scores).any():
        raise InputError("calibration scores are empty or NaN; check the calibration data")
    rank = math.ceil((n + 1) * (1.0 - risk) - 1e-9)
    if rank > n:
        return torch.full_like(scores.select(dim, 0), math.inf)
    return scores.kthvalue(max(rank, 1), dim=dim).values


def subject_quantile(scores: Tensor, subject: Tensor, risk: float) -> Tensor:
    """The smallest bound that a score of a fresh *subject* exceeds with probability at most `risk`.

    Scores of one subject are not exchangeable with those of another, so it is subjects that are counted: K of them
    share K / (K + 1) of the weight evenly whatever the number of their scores, and the rest stands for the fresh one
    (Lee, Barber and Willett 2023, Distribution-free inference with hierarchical data, eq. for HCP). With one score a
    subject it is `conformal_quantile`; infinite where there are too few subjects for the risk.

    Args:
        scores: [n]; NaN is not allowed.
        subject: [n] index of the subject that each belongs to.
        risk: In (0, 1).
    """
    if not 0.0 < risk < 1.0:
        raise InputError(f"risk is {risk}; it must lie between 0 and 1")
    if not len(scores) or torch.isnan(scores).any():
        raise InputError("calibration scores are empty or NaN; check the calibration data")
    _, owner, count = torch.unique(subject, return_inverse=True, return_counts=True)
    order = torch.argsort(scores)
    weight = torch.cumsum((1.0 / count.double())[owner][order], dim=0)
    needed = (1.0 - risk) * (len(count) + 1)
    at = int((weight < needed - 1e-9).sum())
    return scores[order[at]] if at < len(scores) else scores.new_tensor(math.inf)


def masked_quantiles(scores: Tensor, mask: Tensor, subject: Tensor, risk: float) -> Tensor:
    """`subject_quantile` of each column of [n, H], over its measured rows only.

    Raises:
        InputError: A column has too few subjects for the risk.
    """
    columns = []
    for h in range(scores.shape[1]):
        measured = mask[:, h]
        bound = subject_quantile(scores[measured, h], subject[measured], risk)
        if torch.isinf(bound):
            raise InputError(
                f"too few calibration subjects at horizon index {h} for a risk of {risk:g}; give more of them"
            )
        columns.append(bound)
    return torch.stack(columns)


class AdaptiveConformal:
    """Keeps the coverage of a stream at its target although the stream drifts.

    After each outcome the working risk moves by `rate` times the difference between the target and the miss
    (Gibbs and Candes 2021), so the long-run miss rate tends to the target for any stream.

    Args:
        risk: Target miss rate.
        rate: Step size; larger adapts faster and wobbles more.
    """

    def __init__(self, risk: float, rate: float = 0.01) -> None:
        if not 0.0 < risk < 1.0 or not rate > 0.0:
            raise InputError(f"adaptive conformal needs 0 < risk < 1 and rate > 0, got {risk} and {rate}")
        self.risk, self.rate = risk, rate
        self.working_risk = risk
        self._scores: list[float] = []

    def bound(self, window: int = 1000) -> float:
        """The current bound on scores: infinite while the working risk is not above 0, minus infinity from 1 on."""
        if self.working_risk <= 0.0 or not self._scores:
            return math.inf
        if self.working_risk >= 1.0:
            return -math.inf
        recent = torch.tensor(self._scores[-window:], dtype=torch.float64)
        return float(conformal_quantile(recent, self.working_risk))

    def update(self, score: float, window: int = 1000) -> bool:
        """Take the next score; returns whether it was within the bound before it.

        Raises:
            InputError: The score is NaN; skip outcomes that were not measured.
        """
        if math.isnan(score):
            raise InputError("the score is NaN; skip outcomes that were not measured")
        covered = score <= self.bound(window)
        self.working_risk += self.rate * (self.risk - (0.0 if covered else 1.0))
        self._scores.append(score)
        del self._scores[:-window]
        return covered
