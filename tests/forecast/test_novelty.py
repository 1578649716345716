import math

import numpy as np
import pytest
import torch

from foreworld.agent.calibrate import fit_novelty
from foreworld.forecast.novelty import disagreement, fit_gaussian, mahalanobis


def states(n, seed):
    """Correlated contexts [n, 4] of very different scales, and disagreements [n, 5] that grow with the horizon."""
    r = torch.Generator().manual_seed(seed)
    mix = torch.tensor([[1.0, 0.9, 0, 0], [0, 0.3, 0, 0], [0, 0, 50, 0], [0, 0, 10, 0.01]])
    common = torch.rand(n, 1, generator=r)
    return torch.randn(n, 4, generator=r) @ mix + 3, (common + torch.rand(n, 5, generator=r)) * torch.arange(1.0, 6.0)


def fitted(seed, n=700, rate=0.1):
    return fit_novelty(*states(n, seed), rate)


def alarms(model, contexts, apart):
    return (model.distances(contexts) > 1) | ((apart / model.limits()) > 1).any(-1)


def test_fresh_familiar_states_raise_no_more_alarms_than_stated():
    rates = [float(alarms(fitted(seed), *states(4000, seed + 5000)).float().mean()) for seed in range(12)]
    # Two thresholds at half the rate each: at most 10 %, and not much below, as the two are independent here.
    assert 0.07 < np.mean(rates) < 0.105


def test_strange_states_and_disagreeing_members_raise_alarms():
    model = fitted(0)
    contexts, apart = states(500, 7)
    assert (model.distances(contexts + torch.tensor([0.0, 0, 0, 10.0])) > 1).all()
    assert alarms(model, contexts, 20 * apart).all()


def test_a_nan_context_is_not_familiar():
    context = torch.tensor([[math.nan, 0.0, 0.0, 0.0]])
    assert not (fitted(0).distances(context) <= 1).any()


def test_the_distance_is_that_of_a_gaussian():
    contexts, _ = states(4000, 1)
    mean, precision = fit_gaussian(contexts, ridge=0.0)
    # Squared distances of a Gaussian follow a chi-square law with 4 degrees of freedom: mean 4, variance 8.
    squared = mahalanobis(contexts, mean, precision).square()
    assert float(squared.mean()) == pytest.approx(4.0, abs=0.05)
    assert float(squared.var()) == pytest.approx(8.0, rel=0.2)


def test_few_samples_in_many_dimensions_do_no_harm():
    contexts = torch.randn(10, 40, generator=torch.Generator().manual_seed(0))
    mean, precision = fit_gaussian(contexts)
    assert torch.isfinite(mahalanobis(contexts, mean, precision)).all()


def test_disagreement_is_the_spread_of_members_in_units_of_the_scale():
    means = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert disagreement(means, torch.tensor([2.0, 1.0])).tolist() == [0.5, 0.0]
    assert torch.isfinite(disagreement(means, torch.zeros(2))).all()
