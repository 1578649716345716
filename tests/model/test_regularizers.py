"""SIGReg and VICReg against plain double-precision references."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from foreworld.model.regularizers import sigreg, vicreg


def samples(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(d: int, slices: int, seed: int) -> Tensor:
    """Those that `sigreg` draws from a generator with this seed."""
    drawn = torch.randn(d, slices, generator=torch.Generator().manual_seed(seed)).double()
    return drawn / drawn.norm(dim=0)


def reference_sigreg(x: Tensor, slices: int, knots: int, span: float, seed: int) -> Tensor:
    """One slice and one knot at a time: N * integral of |phi_N(t) - exp(-t^2/2)|^2 exp(-t^2/2) over [0, span]."""
    statistics = []
    for direction in directions(x.shape[1], slices, seed).T:
        projected = x @ direction
        heights = []
        for k in range(knots):
            t = k * span / (knots - 1)
            empirical = torch.exp(1j * t * projected).mean()
            heights.append((empirical - math.exp(-(t**2) / 2)).abs() ** 2 * math.exp(-(t**2) / 2))
        area = sum((a + b) / 2 * span / (knots - 1) for a, b in pairwise(heights))
        statistics.append(len(x) * area)
    return torch.stack(statistics).mean()


def reference_vicreg(x: Tensor) -> tuple[Tensor, Tensor]:
    n, d = x.shape
    variance, covariance = [], []
    means = [sum(x[:, i]) / n for i in range(d)]
    for i in range(d):
        for j in range(d):
            c = sum((x[k, i] - means[i]) * (x[k, j] - means[j]) for k in range(n)) / (n - 1)
            if i == j:
                variance.append(torch.clamp(1 - torch.sqrt(c + 1e-4), min=0))
            else:
                covariance.append(c**2)
    return sum(variance) / d, sum(covariance) / d


SHAPES = {
    "normal": lambda x: x,
    "shifted": lambda x: x + 0.8,
    "wide": lambda x: 2.5 * x,
    "narrow": lambda x: 0.3 * x,
    "collapsed": lambda x: 0.0 * x + 0.1,
    "on a line": lambda x: x[:, :1].expand_as(x),
    "two peaks": lambda x: torch.sign(x) + 0.1 * x,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("knots", "span"), [(17, 3.0), (9, 3.0), (33, 5.0)])
def test_sigreg_and_its_gradient_equal_the_reference(shape, knots, span):
    x = SHAPES[shape](samples(60, 5)).clone().requires_grad_()
    expected = reference_sigreg(x, 6, knots, span, seed=3)
    (expected_gradient,) = torch.autograd.grad(expected, x)
    y = x.detach().float().requires_grad_()
    found = sigreg(y, slices=6, knots=knots, span=span, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad(found, y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert (gradient - expected_gradient).norm() <= 1e-4 * expected_gradient.norm() + 1e-5


def test_the_trapezoid_is_close_to_the_integral():
    x = samples(200, 4) * 1.5 + 0.2
    coarse, fine = (reference_sigreg(x, 4, knots, 3.0, seed=0).item() for knots in (17, 1001))
    assert coarse == pytest.approx(fine, rel=0.01)


def test_sigreg_is_half_of_the_integral_over_both_signs_of_t():
    x = samples(100, 1) + 0.5
    t = torch.linspace(-3, 3, 33, dtype=torch.float64)
    gauss = torch.exp(-(t**2) / 2)
    error = (torch.exp(1j * t * x).mean(0) - gauss).abs() ** 2 * gauss
    both = 100 * torch.trapezoid(error, t)
    # In one dimension the only directions are +1 and -1, whose statistics are equal.
    assert 2 * sigreg(x, slices=3).item() == pytest.approx(both.item(), rel=1e-4)


def test_the_mean_of_sigreg_under_the_null_is_the_known_one_for_every_n():
    # E N |phi_N - phi|^2 = 1 - exp(-t^2), so the mean is the integral of (1 - exp(-t^2)) exp(-t^2 / 2), whatever N.
    expected = math.sqrt(math.pi / 2) * (1 - 1 / math.sqrt(3))
    for n in (100, 1000):
        values = [sigreg(samples(n, 8, seed), slices=16, generator=torch.Generator()).item() for seed in range(60)]
        assert sum(values) / 60 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("shape", ["shifted", "wide", "narrow", "collapsed", "two peaks"])
def test_sigreg_is_high_for_anything_but_a_standard_normal(shape):
    x = samples(2000, 2)

    def value(y: Tensor) -> float:
        return sigreg(y, slices=64, generator=torch.Generator().manual_seed(0)).item()

    assert value(x) < 2
    assert value(SHAPES[shape](x)) > 50


def test_descending_sigreg_brings_a_collapsed_batch_to_a_standard_normal():
    x = (0.05 * samples(256, 3) + 1.0).float().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        sigreg(x, slices=16, generator=generator).backward()
        optimizer.step()
    torch.testing.assert_close(x.detach().mean(0), torch.zeros(3), atol=0.1, rtol=0)
    torch.testing.assert_close(x.detach().T.cov(), torch.eye(3), atol=0.15, rtol=0)


def test_one_generator_state_gives_one_value_and_the_next_state_another():
    x = samples(50, 6)
    generator = torch.Generator().manual_seed(5)
    first, second = (sigreg(x, slices=8, generator=generator).item() for _ in range(2))
    again = sigreg(x, slices=8, generator=torch.Generator().manual_seed(5)).item()
    assert first == again
    assert first != second


@pytest.mark.parametrize("shape", SHAPES)
def test_vicreg_and_its_gradient_equal_the_reference(shape):
    x = SHAPES[shape](samples(20, 4)).clone().requires_grad_()
    y = x.detach().float().requires_grad_()
    for found, expected in zip(vicreg(y), reference_vicreg(x), strict=True):
        (gradient,) = torch.autograd.grad(found, y, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected, x, retain_graph=True)
        assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
        assert (gradient - expected_gradient).norm() <= 1e-4 * expected_gradient.norm() + 1e-6


def test_vicreg_sees_collapse_and_correlation():
    x = samples(500, 4)
    variance, covariance = vicreg(x)
    assert variance < 0.05
    assert covariance < 0.05
    assert vicreg(SHAPES["collapsed"](x))[0] > 0.9
    assert vicreg(SHAPES["on a line"](x))[1] > 2.0


@pytest.mark.parametrize(
    "regularizer", [lambda x: sigreg(x, slices=8, generator=torch.Generator().manual_seed(0)), vicreg]
)
def test_autocast_does_not_blunt_the_regularisers(regularizer):
    x = samples(300, 8).float()
    plain = regularizer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(regularizer(x), plain, atol=0, rtol=0)
