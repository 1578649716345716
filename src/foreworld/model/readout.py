"""Quantities that are read out of latents, once some frames were labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foreworld.episodes.schema import Schema
from foreworld.errors import InputError


class Readout(nn.Module):
    """From latents to quantities: ridge regression on the latents and, if wanted, random features of them.

    Args:
        schema: Knows bounds.
        quantities: Names.
        width: Of the latents.
        features: How many random features (Rahimi and Recht 2007).
    """

    weight: Tensor
    error: Tensor
    low: Tensor
    high: Tensor
    directions: Tensor
    phases: Tensor

    def __init__(self, schema: Schema, quantities: tuple[str, ...], width: int, features: int) -> None:
        super().__init__()
        self.schema, self.quantities = schema, quantities
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("directions", torch.randn(width, features, generator=generator) / width**0.5)
        self.register_buffer("phases", 2.0 * torch.pi * torch.rand(features, generator=generator))
        self.register_buffer("weight", torch.zeros(1 + width + features, len(quantities)))
        bounds = [(schema[name].low, schema[name].high) for name in quantities]
        low = [-math.inf if bound is None else bound for bound, _ in bounds]
        high = [math.inf if bound is None else bound for _, bound in bounds]
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        self.register_buffer("error", torch.full((len(quantities),), torch.inf))

    def features(self, latents: Tensor) -> Tensor:
        """[..., 1 + D + features]."""
        parts = [torch.ones_like(latents[..., :1]), latents]
        if self.directions.shape[1]:
            parts.append(self.waves(latents))
        return torch.cat(parts, dim=-1)

    def waves(self, latents: Tensor) -> Tensor:
        """[..., features] random features."""
        return torch.cos(latents @ self.directions + self.phases)

    @torch.no_grad()
    def fit(self, latents: Tensor, labels: Mapping[str, Tensor], *, penalty: float = 1e-3) -> dict[str, float]:
        """Fit on labelled latents [N, D]; the error is that of five-fold cross-validation.

        Returns:
            By quantity: the share of its variance that is read right where it was not fitted (R2).

        Raises:
            InputError: Fewer than ten labels of a quantity.
        """
        shares = {}
        for k, name in enumerate(self.quantities):
            known = ~torch.isnan(labels[name])
            if int(known.sum()) < 10:
                raise InputError(f"{int(known.sum())} frames have a label of {name}; a readout needs at least ten")
            x, y = self.features(latents[known]).double(), labels[name][known].double()
            fold = torch.arange(len(y)) % 5
            missed = torch.empty_like(y)
            for one in range(5):
                missed[fold == one] = y[fold == one] - x[fold == one] @ _ridge(x[fold != one], y[fold != one], penalty)
            self.weight[:, k] = _ridge(x, y, penalty).float()
            self.error[k] = missed.pow(2).mean().sqrt()
            shares[name] = float(1.0 - missed.pow(2).sum() / (y - y.mean()).pow(2).sum())
        return shares

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """By quantity, within its channel's bounds."""
        if not self.quantities:
            return {}
        known, weight = latents.shape[-1] + 1, self.weight
        values = torch.addmm(weight[0], latents.reshape(-1, known - 1), weight[1:known])
        if self.directions.shape[1]:
            values = values + self.waves(latents).reshape(len(values), -1) @ weight[known:]
        values = torch.clamp(values, self.low, self.high).reshape(*latents.shape[:-1], -1)
        return dict(zip(self.quantities, values.unbind(-1), strict=True))

    def spread(self, name: str) -> Tensor:
        """Error of a quantity where it was not fitted; infinite before it was."""
        return self.error[self.quantities.index(name)]


def _ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    solved: Tensor = torch.linalg.solve(gram, x.T @ y)
    return solved
