"""When the model does not know: disagreement of the ensemble, and distance from what it was trained on."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class NoveltyModel(BaseModel):
    """A Gaussian over contexts of the calibration data, and thresholds at a stated false-alarm rate.

    Attributes:
        mean: Mean of the contexts.
        precision: Inverse covariance of the contexts, row by row.
        distance: Threshold on the Mahalanobis distance (Lee et al. 2018).
        disagreement: [H] threshold on the spread of the members' means in units of the predicted scale.
        false_alarm: Rate at which familiar states exceed either threshold, at most.
    """

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    distance: float
    disagreement: tuple[float, ...]
    false_alarm: float

    def distances(self, context: Tensor) -> Tensor:
        """[B] distance of contexts [B, C] in units of the threshold: above 1 is novel."""
        return mahalanobis(context, *self.gaussian()) / self.distance

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean [C] and precision [C, C]; made anew at each call, so keep them where time matters."""
        return torch.tensor(self.mean), torch.tensor(self.precision)

    def limits(self) -> Tensor:
        """[H] the thresholds on disagreement."""
        return torch.tensor(self.disagreement)


def fit_gaussian(contexts: Tensor, ridge: float = 0.05) -> tuple[Tensor, Tensor]:
    """Mean and inverse covariance of [n, C], shrunk towards its diagonal so that few samples do no harm.

    Shrinking the correlations instead of the covariances treats a dimension alike whatever its size.
    """
    x = contexts.double()
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / max(len(x) - 1, 1)
    size = covariance.diagonal().sqrt()
    size = size.clamp(min=1e-6 * float(size.max()) + 1e-12)
    units = torch.outer(size, size)
    shrunk = (1 - ridge) * covariance / units + (ridge + 1e-6) * torch.eye(len(mean), dtype=torch.float64)
    return mean.to(contexts.dtype), (torch.linalg.inv(shrunk) / units).to(contexts.dtype)


def mahalanobis(contexts: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """[n] distances of [n, C]."""
    centred = contexts - mean
    return torch.sqrt(torch.clamp(torch.einsum("nc,cd,nd->n", centred, precision, centred), min=0.0))


def disagreement(means: Tensor, scale: Tensor) -> Tensor:
    """Spread of the members' means [E, ...] in units of the predicted scale [...]."""
    # Written out: torch's own reduction over the first dimension takes five times as long.
    apart = means - means.mean(dim=0)
    return torch.sqrt((apart * apart).mean(dim=0)) / torch.clamp(scale, min=1e-6)
