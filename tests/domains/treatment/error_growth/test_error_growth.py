"""What is scored, the laws as rows, and the figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.error_growth import protocol
from foreworld.domains.treatment.error_growth.figure import growth_figure, pictures
from foreworld.domains.treatment.error_growth.fit import fit_floor, fit_recoverable, interval_weights, misfit
from foreworld.domains.treatment.error_growth.growth import grow, half_width, tolerance
from foreworld.domains.treatment.error_growth.laws import UNITS, law_rows, laws
from foreworld.domains.treatment.error_growth.protocol import (
    ARMS,
    MINUTES,
    QUICK_GROWTH,
    RECENT,
    GrowthConfig,
    Job,
    Measured,
    error_growth,
    measure,
    rows_of,
)
from foreworld.domains.treatment.error_growth.statements import skill
from foreworld.domains.treatment.forecast_arms import Persistence
from foreworld.domains.treatment.forecasting import ForecastConfig, Prediction
from foreworld.domains.treatment.prepared import Prepared
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.windows import future_readings
from foreworld.errors import InputError
from foreworld.evidence.rows import Evidence
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

GRID = HorizonGrid(points=(1, 2, 4, 6))
H = len(GRID)


class Exact:
    """Forecasts the reading itself, plus an error for each point."""

    def __init__(self, error):
        self.error = torch.as_tensor(error, dtype=torch.float64)

    def predict(self, record, at, grid, fit_moments):
        mean = torch.nan_to_num(future_readings(record.history, at, grid), nan=100.0) + self.error
        return Prediction(mean, mean, mean)


def scored(record, error, at=None, half=10.0):
    at = torch.arange(600, 800, 20).expand(3, -1) if at is None else at
    return grow(record, Exact(error).predict(record, at, GRID, 0), torch.full((H,), half), at, GRID)


def test_a_perfect_forecast_is_correct_covered_and_true_between_the_points(record):
    found = scored(record, 0.0)
    assert (found.squared == 0.0).all() and (found.covered == 1.0).all()
    assert (found.correct == found.count).all() and (found.so_far == found.count).all()
    assert (found.erred == 0.0).all()
    # Points 3 and 5 are not on the grid, so even the perfect forecast may miss an excursion between them.
    assert (found.truth[:, :2] == 1.0).all()


def test_correct_is_15_mg_below_100_and_15_per_cent_above():
    torch.testing.assert_close(tolerance(torch.tensor([60.0, 100.0, 200.0])), torch.tensor([15.0, 15.0, 30.0]))


def test_an_error_that_is_recovered_from_counts_as_such(record):
    found = scored(record, [0.0, 200.0, 0.0, 0.0])
    n = found.count[0, 0]
    assert found.correct[0].tolist() == [n, 0, n, n]
    assert found.so_far[0].tolist() == [n, 0, 0, 0]
    assert found.erred[0] == found.recovered[0] == n
    # From correct to wrong over the second gap, back over the third.
    assert found.moves[0, 1].tolist() == [[0, 0], [n, 0]]
    assert found.moves[0, 2].tolist() == [[0, n], [0, 0]]
    lasting = scored(record, [0.0, 200.0, 200.0, 200.0])
    assert lasting.erred[0] == n and lasting.recovered[0] == 0
    # Wrong at the last point only: there is no later one to be correct at.
    assert scored(record, [0.0, 0.0, 0.0, 200.0]).erred[0] == 0


def test_the_statement_is_judged_on_every_reading_and_on_the_whole_way(record):
    at = torch.tensor([[700]])
    one = History(
        record.history.times[:1],
        {name: value[:1].clone() for name, value in record.history.values.items()},
        record.history.lengths[:1],
    )
    one.values["cgm"][0, 700:710] = 120.0
    one.values["cgm"][0, 703] = 200.0  # between the points 2 and 4
    lone = replace(record, history=one, patients=record.patients.select(np.array([0])))
    level = torch.full((1, 1, H), 120.0, dtype=torch.float64)
    found = grow(lone, Prediction(level, level, level), torch.ones(H), at, GRID)
    assert found.truth[0].tolist() == [1.0, 1.0, 0.0, 0.0]
    above = torch.tensor([[[120.0, 120.0, 190.0, 120.0]]], dtype=torch.float64)
    assert grow(lone, Prediction(above, above, above), torch.ones(H), at, GRID).truth[0].tolist() == [1.0] * 4


def test_who_has_futures_states_by_most_of_them(record):
    at = torch.full((3, 1), 600)
    level = torch.full((3, 1, H), 120.0, dtype=torch.float64)
    stays = torch.tensor([0.9, 0.51, 0.5, 0.1], dtype=torch.float64).expand(3, 1, H)
    by_mean, by_futures = (
        grow(record, Prediction(level, level, level, share), torch.ones(H), at, GRID) for share in (None, stays)
    )
    assert by_mean.truth.tolist() == by_mean.stays.tolist()
    assert by_futures.truth[:, :2].tolist() == by_futures.stays[:, :2].tolist()
    assert by_futures.truth[:, 2:].tolist() == (1.0 - by_futures.stays[:, 2:]).tolist()


def test_skill_is_what_is_added_to_the_best_constant_statement():
    names, stays = [("a", "b"), ("a", "b", "c")], [np.array([0.8, 0.4]), np.array([0.9, 0.7, 0.6])]

    def of(change, stays=stays):
        return skill("token", "truth_skill_60", names, [change(one) for one in stays], stays)

    # "Stays" is right in 0.68 of all, so it is the constant, in each seed alone as well.
    assert of(lambda one: one).value == pytest.approx(0.0) == pytest.approx(of(lambda one: one).high)
    assert of(np.ones_like).value == pytest.approx(1.0) == pytest.approx(of(np.ones_like).low)
    assert of(lambda one: 1.0 - one).value == pytest.approx((0.32 - 0.68) / 0.32)
    half = of(lambda one: (1.0 + one) / 2.0)
    assert half.value == pytest.approx(0.5) and half.by_seed == pytest.approx((0.5, 0.5)) and half.n == 3
    # Where glucose seldom stays, the constant is the other statement.
    seldom = [1.0 - one for one in stays]
    assert of(lambda one: 1.0 - one, seldom).value == pytest.approx(0.0)
    assert of(lambda one: one, seldom).value < 0.0
    mixed = skill("token", "truth_skill_60", names, [np.array([0.9, 0.4]), np.array([1.0, 0.6, 0.6])], stays)
    assert mixed.low < mixed.value < mixed.high
    # Nothing is left to know where the constant is always right.
    assert of(np.ones_like, [np.ones(2), np.ones(3)]) is None


def test_chance_is_what_other_moments_forecasts_would_get_right(record):
    at = torch.tensor([[600, 610, 620]]).expand(3, -1)
    mean = future_readings(record.history, at, GRID)
    found = grow(record, Prediction(mean, mean, mean), torch.ones(H), at, GRID)
    for row, column in ((0, 0), (1, 2), (2, 3)):
        own = mean[row, :, column]
        right = [bool((own[i] - own[j]).abs() <= tolerance(own[j])) for i in range(3) for j in range(3) if i != j]
        assert found.by_chance[row, column] == pytest.approx(sum(right) / 2)
    level = torch.full_like(mean, 120.0)
    same = grow(record, Prediction(level, level, level), torch.ones(H), at, GRID)
    # One forecast for all moments knows nothing of any: it is right by chance alone.
    np.testing.assert_allclose(same.by_chance, same.correct)
    assert (grow(record, Prediction(*[mean[:, :1]] * 3), torch.ones(H), at[:, :1], GRID).by_chance == 0.0).all()


def test_a_missing_reading_is_not_judged(record):
    values = {name: value.clone() for name, value in record.history.values.items()}
    values["cgm"][0, 604] = float("nan")
    gap = replace(record, history=History(record.history.times, values, record.history.lengths))
    whole, found = scored(record, 0.0), scored(gap, 0.0)
    assert found.count[0, 2] == whole.count[0, 2] - 1
    assert found.moves[0, 3].sum() == whole.moves[0, 3].sum() - 1
    assert (found.erred == 0.0).all() and (found.squared == 0.0).all()


def test_the_band_covers_nine_in_ten_of_those_it_was_made_on_and_is_refused_from_too_few(record):
    at = torch.arange(600, 800, 5).expand(3, -1)
    with pytest.raises(InputError, match="too few"):
        half_width(Exact(0.0), record, at, GRID, 0)
    twelve = replace(record, history=record.history.select(torch.arange(3).repeat(4)))
    half = half_width(Exact([1.0, 2.0, 3.0, 4.0]), twelve, at.repeat(4, 1), GRID, 0)
    torch.testing.assert_close(half, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))


def made_up(names, pi, seed, points=MODEL.grid.points, guessed=0.1):
    """Scores whose correctness falls to pi, as an arm might have given them; nobody was forecast."""
    from foreworld.domains.treatment.error_growth.growth import Growth

    draw, count, steps = np.random.default_rng(seed), 60, np.array(points)
    shape, gaps = (len(names), len(points)), np.diff([0, *points])
    correct, so_far = np.zeros(shape), np.zeros(shape)
    moves, erred, recovered = np.zeros((*shape, 2, 2)), np.zeros(len(names)), np.zeros(len(names))
    for row in range(len(names)):
        state, ever = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
        back = np.zeros(count, dtype=bool)
        for h, gap in enumerate(gaps):
            left = 0.97**gap
            chance = np.where(state, pi + (1 - pi) * left, pi * (1 - left))
            now = draw.random(count) < chance
            for was in (0, 1):
                for is_ in (0, 1):
                    moves[row, h, was, is_] = ((state == was) & (now == is_)).sum()
            back |= ever & now
            if h == len(gaps) - 1:
                erred[row] = ever.sum()
            ever |= ~now
            correct[row, h], so_far[row, h], state = now.sum(), (now & ~ever).sum(), now
        recovered[row] = back.sum()
    share = correct / count
    return Growth(
        tuple(names), 40.0**2 * (1 - share) + steps, np.full(shape, 0.9), 20 + steps + 0 * share, 0.5 + share / 2,
        np.full(shape, 0.6), correct, np.full(shape, guessed * count), so_far, np.full(shape, float(count)), moves,
        erred, recovered,
    )  # fmt: skip


def test_the_laws_tell_arms_that_recover_from_those_that_do_not():
    names = [f"p{i}" for i in range(12)]
    recovers, compounds = (laws([made_up(names, pi, 1)], MODEL.grid.points) for pi in (0.4, 0.0))
    assert recovers["aic_gain"] > 1.0 > 0.1 > compounds["aic_gain"]
    assert recovers["pi"] == pytest.approx(0.4, abs=0.05) and compounds["pi"] < 0.02
    assert recovers["recovered"] > 0.5 and compounds["recovered"] == 0.0
    assert recovers["misfit_compounding"] > 0.05 > recovers["misfit_recoverable"]
    assert recovers["aic_gain_floor"] > 0.1 and recovers["misfit_floor"] > 0.05
    # As good by chance: the chain explains no more than compounding with that floor.
    guesses = laws([made_up(names, 0.4, 1, guessed=0.4)], MODEL.grid.points)
    assert guesses["aic_gain"] > 1.0 and guesses["aic_gain_floor"] < 0.01
    assert guesses["e_floor"] == pytest.approx(guesses["a"] + guesses["b"], rel=0.1)
    assert compounds["e"] == pytest.approx(0.03, rel=0.1) == pytest.approx(compounds["e_first"], rel=0.1)
    assert recovers["a_sequence"] == pytest.approx(recovers["a"], rel=0.2)


def test_laws_weigh_points_by_their_intervals():
    one, points = made_up(["a", "b"], 0.4, 1), MODEL.grid.points
    correct, count, weights = one.correct.sum(0), one.count.sum(0), interval_weights(points)
    fitted = laws([one], points)
    chain = fit_recoverable(points, correct, count, weights)
    floor = fit_floor(points, correct, count, one.by_chance.sum(0) / count, weights)
    assert fitted["a"] == chain.a != fit_recoverable(points, correct, count).a
    assert fitted["aic_floor"] == pytest.approx(floor.aic)
    assert fitted["misfit_recoverable"] == pytest.approx(misfit(chain, points, correct, count, weights))


def test_intervals_come_from_patients_and_hold_all_their_seeds():
    names = ["a", "b", "c"]
    two = {0: made_up(names, 0.4, 1), 1: made_up(names[:2], 0.4, 2)}
    rows = {row.metric: row for row in law_rows("token", two, MODEL.grid.points, repeats=20)}
    assert set(rows) == set(UNITS)
    assert rows["a"].n == 3 and len(rows["a"].by_seed) == 2
    assert rows["a"].low < rows["a"].value < rows["a"].high
    assert rows["aic_recoverable"].low is None and rows["aic_floor"].low is None
    assert rows["aic_gain_floor"].low < rows["aic_gain_floor"].value < rows["aic_gain_floor"].high
    weighted = laws(list(two.values()), MODEL.grid.points, np.array([2.0, 0, 0, 0, 0]))
    assert weighted["e"] == pytest.approx(laws([two[0].of(np.array([0]))], MODEL.grid.points)["e"])


TRAINED = ("foreworld", "token", "recursive", "two_rate")


@pytest.fixture(scope="module")
def found():
    names = [f"p{i}" for i in range(6)]
    return {
        seed: {
            arm: Measured(
                made_up(names, pi, 10 * seed + i),
                ("p8", "p9") if seed == 3 else ("p9",),
                100.0 * (arm in TRAINED),
                50.0 * (arm in TRAINED),
            )
            for i, (arm, pi) in enumerate(zip(ARMS, (0.7, 0.5, 0.4, 0.4, 0.1, 0.5, 0.2), strict=True))
        }
        for seed in (3, 4)
    }


@pytest.fixture(scope="module")
def evidence(found):
    asked = error_growth()
    return Evidence(
        protocol=asked.name, version=asked.version, hash=asked.hash, seeds=(3, 4), machine="none",
        cpu_seconds=0.0, rows=tuple(rows_of(found, QUICK_GROWTH)), names=asked.names,
    )  # fmt: skip


def test_rows_hold_every_arm_and_metric(evidence):
    assert all(minutes // STEP_MINUTES in MODEL.grid.points for minutes in MINUTES)
    for arm in ARMS:
        for metric in error_growth().metrics:
            if arm in TRAINED or not metric.startswith("fit_"):
                evidence.row(arm, metric)


def test_who_did_not_live_to_be_scored_is_counted(evidence):
    row = evidence.row("token", "scored")
    # Six of eight in one seed, of seven in the other; who was asked for is a subject of the interval, too.
    assert row.value == pytest.approx(12 / 15) and row.by_seed == pytest.approx((6 / 8, 6 / 7))
    assert row.n == 8 and row.low < row.value < 1.0
    assert evidence.row("token", "rmse_60").n == 6


def test_who_fails_under_the_therapy_is_named_beside_the_scores(monkeypatch, tmp_path):
    harsh = ForecastConfig(days=2, fit_days=1, stride=40, basal_low=1.5, basal_high=2.0)
    config = GrowthConfig(forecast=harsh, bands=20, bands_stride=100)
    monkeypatch.setattr(protocol, "_makers", lambda job: {"persistence": lambda: (Persistence(), 0.0, 0.0)})
    names = ("adult#001", "child#008", "adult#004")
    job = Job(("persistence",), 0, names, Prepared(tmp_path, tmp_path, float("nan")), tmp_path, config)
    one = measure(job, load_patients(names))["persistence"]
    assert one.failed == ("child#008",) and one.growth.subjects == ("adult#001", "adult#004")


def test_a_cost_that_is_unknown_in_one_seed_is_reported_for_none(found):
    unknown = {seed: dict(by_arm) for seed, by_arm in found.items()}
    unknown[4]["foreworld"] = replace(unknown[4]["foreworld"], cpu_seconds=float("nan"))
    rows = {(row.arm, row.metric) for row in rows_of(unknown, QUICK_GROWTH)}
    assert ("foreworld", "fit_cpu_seconds") not in rows and ("token", "fit_cpu_seconds") in rows


def test_above_chance_is_what_is_correct_beyond_it(evidence):
    above = evidence.row("token", "above_chance_720")
    assert above.unit == "points" and above.low < above.value < above.high
    assert above.value == pytest.approx(100.0 * (evidence.row("token", "correct_720").value - 0.1))
    assert evidence.row("token", "correct_by_chance_720").value == pytest.approx(0.1)


def test_the_figure_shows_three_comparisons_and_the_laws_of_each_arm(evidence):
    pytest.importorskip("matplotlib")
    figure = growth_figure(evidence)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 9 and "recursive" in titles and "foreworld, 12 h known" in titles
    (picture,) = pictures(evidence)
    assert picture.content.startswith(b"\x89PNG")
    alone = evidence.model_copy(update={"rows": tuple(row for row in evidence.rows if row.arm == "token")})
    assert len(growth_figure(alone).axes) == 4
    with pytest.raises(InputError, match="none of the arms"):
        growth_figure(evidence.model_copy(update={"rows": ()}))


def test_the_cut_arms_know_as_much_of_the_past_as_those_they_stand_beside():
    arms = QUICK_GROWTH.arms
    assert RECENT["foreworld_12h"] == arms.gpt.context
    assert RECENT["foreworld_8h"] == arms.step.past
