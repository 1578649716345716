"""The laws of correctness: known parameters come back from simulated forecasts, and the right law is chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreworld.domains.treatment.error_growth.fit import (
    fit_compounding,
    fit_first_errors,
    fit_floor,
    fit_recoverable,
    fit_sequences,
    interval_weights,
    misfit,
)
from foreworld.errors import InputError

POINTS = np.array((*range(1, 25), 28, 32, 36, 44, 52, 60, 68, 84, 100, 116, 132, 144))
GAPS = np.diff([0, *POINTS])


def chains(a, b, count, seed):
    """[count, H] whether each of so many simulated forecasts is correct at every point."""
    draw = np.random.default_rng(seed)
    state, found = np.ones(count, dtype=bool), []
    for _ in range(POINTS[-1]):
        chance = draw.random(count)
        state = np.where(state, chance >= a, chance < b)
        found.append(state)
    return np.array(found).T[:, POINTS - 1]


def moves_of(correct):
    before = np.concatenate([np.ones((len(correct), 1), dtype=bool), correct[:, :-1]], axis=1)
    return np.array(
        [[[(before[:, g] == was) & (correct[:, g] == now) for now in (False, True)] for was in (False, True)]
         for g in range(len(POINTS))]
    ).sum(-1)  # fmt: skip


@settings(max_examples=12)
@given(st.floats(0.002, 0.05), st.integers(0, 1000))
def test_compounding_errors_give_back_their_rate(e, seed):
    correct = chains(e, 0.0, 20_000, seed)
    law = fit_compounding(POINTS, correct.sum(0), np.full(len(POINTS), 20_000))
    assert law.e == pytest.approx(e, rel=0.05)


@settings(max_examples=12)
@given(st.floats(0.01, 0.08), st.floats(0.01, 0.08), st.integers(0, 1000))
def test_a_chain_gives_back_both_rates(a, b, seed):
    correct = chains(a, b, 20_000, seed)
    pointwise = fit_recoverable(POINTS, correct.sum(0), np.full(len(POINTS), 20_000))
    assert (pointwise.a, pointwise.b) == (pytest.approx(a, rel=0.12), pytest.approx(b, rel=0.12))
    whole = fit_sequences(GAPS, moves_of(correct))
    assert (whole.a, whole.b) == (pytest.approx(a, rel=0.08), pytest.approx(b, rel=0.08))


def test_the_law_that_made_the_forecasts_is_chosen():
    total = np.full(len(POINTS), 3000)
    for a, b, recovers in ((0.02, 0.02, True), (0.02, 0.0, False)):
        right = chains(a, b, 3000, seed=1).sum(0)
        gain = fit_compounding(POINTS, right, total).aic - fit_recoverable(POINTS, right, total).aic
        # Where nothing recovers the chain can only match, and pays two for its other parameter.
        assert gain > 1000 if recovers else gain < 5.0
        law = (fit_recoverable if recovers else fit_compounding)(POINTS, right, total)
        assert misfit(law, POINTS, right, total) < 0.02
    assert misfit(fit_compounding(POINTS, chains(0.02, 0.02, 3000, 1).sum(0), total), POINTS, right, total) > 0.05


def test_the_chain_without_recovery_is_compounding():
    right, total = chains(0.01, 0.0, 5000, seed=2).sum(0), np.full(len(POINTS), 5000)
    one, two = fit_compounding(POINTS, right, total), fit_recoverable(POINTS, right, total)
    assert two.a == pytest.approx(one.e, rel=0.1)
    assert two.log_likelihood >= one.log_likelihood - 1e-3
    assert two.b < 5e-4


def test_first_errors_of_a_chain_look_like_compounding_at_its_rate_of_failing():
    # So "correct at all steps so far" cannot tell the laws apart.
    correct = chains(0.03, 0.05, 20_000, seed=3)
    fine = slice(0, 24)
    so_far = np.logical_and.accumulate(correct, axis=1).sum(0)
    before = np.concatenate([[20_000], so_far[:-1]])
    law = fit_first_errors(GAPS[fine], so_far[fine], (before - so_far)[fine])
    assert law.e == pytest.approx(0.03, rel=0.05)


def test_the_fit_is_the_most_likely_one():
    right, total = chains(0.03, 0.02, 800, seed=4).sum(0), np.full(len(POINTS), 800)
    best = fit_recoverable(POINTS, right, total)

    def likelihood(a, b):
        share = b / (a + b) + a / (a + b) * (1 - a - b) ** POINTS
        return float(np.log(share) @ right + np.log(1 - share) @ (total - right))

    assert likelihood(best.a, best.b) == pytest.approx(best.log_likelihood)
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert likelihood(best.a + da, best.b + db) < best.log_likelihood


def test_what_never_recovers_but_is_right_by_chance_is_told_from_recovery_by_the_floor_alone():
    total, draw = np.full(len(POINTS), 6000), np.random.default_rng(5)
    chance = np.where(POINTS < 40, 0.35, 0.25)
    lost = ~chains(0.02, 0.0, 6000, seed=5)
    # Once wrong it is a guess: better than compounding explains, and by no recovery.
    guessed = (~lost | (draw.random(lost.shape) < chance)).sum(0)
    floor, chain = fit_floor(POINTS, guessed, total, chance), fit_recoverable(POINTS, guessed, total)
    assert floor.e == pytest.approx(0.02, rel=0.1)
    assert fit_compounding(POINTS, guessed, total).aic - chain.aic > 500
    assert floor.aic < chain.aic
    assert misfit(floor, POINTS, guessed, total) < 0.02
    # What is recovered from well above chance is better explained by the chain.
    recovered = chains(0.02, 0.02, 6000, seed=5).sum(0)
    assert fit_floor(POINTS, recovered, total, chance).aic - fit_recoverable(POINTS, recovered, total).aic > 1000


def test_the_chain_is_compounding_with_one_floor_for_all_horizons():
    right, total = chains(0.03, 0.02, 4000, seed=6).sum(0), np.full(len(POINTS), 4000)
    chain = fit_recoverable(POINTS, right, total)
    floor = fit_floor(POINTS, right, total, np.full(len(POINTS), chain.pi))
    assert floor.e == pytest.approx(chain.a + chain.b, rel=1e-4)
    assert floor.log_likelihood == pytest.approx(chain.log_likelihood)
    np.testing.assert_allclose(floor.correct(POINTS), chain.correct(POINTS), atol=1e-5)


def test_without_chance_the_floor_is_compounding_and_between_points_it_is_a_line():
    right, total = chains(0.01, 0.0, 2000, seed=7).sum(0), np.full(len(POINTS), 2000)
    assert fit_floor(POINTS, right, total, np.zeros(len(POINTS))).e == pytest.approx(
        fit_compounding(POINTS, right, total).e
    )
    law = fit_floor([10, 20], [900, 800], [1000, 1000], [0.2, 0.4])
    assert law.correct(np.array([15.0]))[0] == pytest.approx(0.3 + 0.7 * (1 - law.e) ** 15)


def test_a_point_counts_as_much_as_its_interval_is_long():
    weights = interval_weights(POINTS)
    assert weights.sum() == pytest.approx(len(POINTS))
    assert weights[:24].sum() == pytest.approx(len(POINTS) * 24 / 144)
    assert weights[-1] == pytest.approx(12 * weights[0])
    # A weight of 2 is twice the forecasts, one of 0 none.
    right, total, moves = np.array([90, 70, 40]), np.array([100, 100, 100]), np.full((3, 2, 2), 5.0) + np.eye(2) * 20
    more, steps, some = np.array([1, 2, 0]), np.array([1, 12, 36]), slice(0, 2)
    twice = more[some]
    for fit in (fit_compounding, fit_recoverable, lambda *args: fit_floor(*args[:3], [0.3] * len(args[0]), *args[3:])):
        one, other = fit(steps, right, total, more), fit(steps[some], right[some] * twice, total[some] * twice)
        np.testing.assert_allclose(one.correct(steps), other.correct(steps), atol=1e-6)
        assert one.aic == pytest.approx(other.aic)
    one, other = fit_sequences(steps, moves, more), fit_sequences(steps[some], moves[some] * twice[:, None, None])
    assert (one.a, one.b) == (pytest.approx(other.a), pytest.approx(other.b))
    first = fit_first_errors(steps, right, total - right, more)
    assert first.e == pytest.approx(fit_first_errors(steps[some], right[some] * twice, (total - right)[some] * twice).e)
    law = fit_compounding(steps, right, total)
    off = law.correct(steps) - right / total
    assert misfit(law, steps, right, total, more) == pytest.approx(np.sqrt((off[0] ** 2 + 2 * off[1] ** 2) / 3))


@pytest.mark.parametrize("wrong", [([1, 2], [1, 1, 1], [1, 1]), ([1], [2], [1]), ([0], [1], [1]), ([1], [0], [0])])
def test_counts_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        fit_compounding(*wrong)
    with pytest.raises(InputError, match="moves"):
        fit_sequences([1], np.zeros((1, 2, 2)))
    for weights in ([1.0, 1.0], [-1.0]):
        with pytest.raises(InputError, match="weights"):
            fit_compounding([1], [1], [2], weights)
    for chance in ([0.1, 0.2], [1.2]):
        with pytest.raises(InputError, match="chance"):
            fit_floor([1], [1], [2], chance)
