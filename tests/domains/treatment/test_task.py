"""The planner's dose limit against the independent checker."""

import numpy as np
import pytest
import torch

from foreworld.agent.check import Checker, Measured
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.remembered import remembered
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.task import DoseLimit, InsulinTask, action_space, dose_limit
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid

STATICS = ("weight", "basal", "cr", "cf")


def random_history(r, steps, count):
    """Histories of one length with everything that the rules look at: meals, boluses, lows, gaps, codes, repetition."""
    daily = r.uniform(12.0, 75.0, count)
    values = {
        "weight": r.uniform(20.0, 115.0, count),
        "basal": daily / r.uniform(36.0, 70.0, count),
        "cr": r.uniform(350.0, 550.0, count) / daily,
        "cf": r.uniform(1200.0, 2000.0, count) / daily,
    }
    for i in np.flatnonzero(r.random(count) < 0.1):
        values[str(r.choice(STATICS))][i] *= r.choice([0.05, 0.2, 5.0, 20.0])
    n = steps + 1
    drift = r.normal(0, 1.0, (count, 1))
    cgm = r.uniform(60.0, 300.0, (count, 1)) + np.cumsum(drift + r.normal(0, 3.0, (count, n)), axis=1)
    cgm = np.clip(np.where(r.random((count, 1)) < 0.5, np.round(cgm), cgm), 39.0, 600.0)
    for i in range(count):
        tail = int(r.integers(1, 14))
        way = r.choice(["fine", "gone", "late", "flat", "flat with gaps", "code", "one code", "level"])
        if way in ("gone", "flat with gaps"):
            cgm[i, r.random(n) < r.uniform(0.1, 0.9)] = np.nan
        if way == "late":
            cgm[i, -tail:] = np.nan
        elif way.startswith("flat"):
            cgm[i, -tail:] = np.where(np.isnan(cgm[i, -tail:]), np.nan, 150.0)
        elif way == "code":
            cgm[i, -min(tail, 5) :] = r.choice([38.0, 10.0, 5.0, 37.0, 20.0])
        elif way == "one code":
            cgm[i, -min(int(r.integers(1, 6)), n)] = r.choice([38.0, 10.0, 601.0])
        elif way == "level":
            cgm[i, -tail:] = r.choice([70.0, 71.0, 69.0])
    carbs = np.where(r.random((count, n)) < 0.03, r.uniform(5, 150, (count, n)), 0.0)
    carbs[:, -1] = np.where(r.random(count) < 0.3, r.uniform(5, 160, count), carbs[:, -1])
    insulin = values["basal"][:, None] / 12 * r.choice([0.0, 1.0, 1.0, 3.0, 8.0], (count, steps))
    insulin = insulin + carbs[:, :-1] / values["cr"][:, None] * r.uniform(0.0, 1.2, (count, 1))
    times = r.uniform(0, 1e4, (count, 1)) + 5.0 * np.arange(n)
    return times, {**values, "cgm": cgm, "insulin": insulin, "carbs": carbs, "age_group": np.zeros(count, np.int32)}


def as_history(times, values):
    kept = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in values.items()}
    return History.from_arrays(SCHEMA, times, kept)


def measured(history, i):
    def of(*names):
        length = int(history.lengths[i])
        cut = {"insulin": length - 1}
        return {name: history.values[name][i].numpy()[: cut.get(name, length)] for name in names}

    statics = {name: float(history.values[name][i]) for name in STATICS}
    times = history.times[i].numpy()[: int(history.lengths[i])]
    return Measured(times, of("cgm"), of("insulin"), of("carbs"), statics)


def greatest_accepted(checker, past):
    """The greatest dose that the checker accepts; every rule is monotone in the dose."""
    low, high = 0.0, 30.0
    for _ in range(40):
        middle = (low + high) / 2
        accepted = checker.check(past, {"insulin": middle}).accepted
        low, high = (middle, high) if accepted else (low, middle)
    return low


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 14, 40, 300])
def test_no_dose_within_the_limit_is_refused_by_the_checker_and_no_dose_above_is_accepted(steps):
    r = np.random.default_rng(steps)
    limits = InsulinLimits()
    checker = Checker(insulin_rules(limits))
    history = as_history(*random_history(r, steps, 250))
    allowed = dose_limit(history, limits)
    # What the planner proposes is rounded to float32.
    proposed = torch.from_numpy(allowed).float().double().numpy()
    # Exactly on the threshold a rounding error decides; the limit then stops, whatever the checker does.
    grazing = (history.values["cgm"][:, -7:] == limits.threshold).any(1)
    tight = 0
    for i in range(len(history)):
        past = measured(history, i)
        for dose in (proposed[i], 0.7 * proposed[i]):
            verdict = checker.check(past, {"insulin": float(dose)})
            assert verdict.accepted, f"{dose} U: {verdict.explain()}"
        if i % 3:
            continue
        greatest = greatest_accepted(checker, past)
        # The checker's tolerance of 1e-6 is relative to sums of up to 100 U.
        tight += not grazing[i] and greatest > allowed[i] + 2e-4
    # Not needlessly tight either: the two accounts agree, but where a line through whole numbers meets the threshold.
    assert tight <= 1


def test_histories_of_other_limits_agree_with_the_checker_too():
    r = np.random.default_rng(77)
    limits = InsulinLimits(current_basal_safety_multiplier=1.5, min_bg=110.0, flat_minutes=20.0, dia=360.0)
    checker = Checker(insulin_rules(limits))
    history = as_history(*random_history(r, 60, 300))
    allowed = dose_limit(history, limits)
    for i in range(len(history)):
        assert checker.check(measured(history, i), {"insulin": float(np.float32(allowed[i]))}).accepted


def test_padding_and_irregular_steps_are_judged_as_the_checker_judges_them():
    r = np.random.default_rng(5)
    limits = InsulinLimits()
    checker = Checker(insulin_rules(limits))
    times, values = random_history(r, 50, 300)
    times = times + np.cumsum(r.uniform(-3.5, 3.0, times.shape), axis=1)
    lengths = torch.from_numpy(r.integers(1, 52, 300))
    whole = as_history(times, values)
    history = History(whole.times, whole.values, lengths)
    allowed = dose_limit(history, limits)
    assert (allowed > 0).mean() > 0.2
    for i in range(len(history)):
        verdict = checker.check(measured(history, i), {"insulin": float(np.float32(allowed[i]))})
        assert verdict.accepted, verdict.explain()


def test_a_patient_does_not_change_the_limit_of_another():
    history = as_history(*random_history(np.random.default_rng(6), 30, 40))
    together = dose_limit(history, InsulinLimits())
    for i in range(0, 40, 7):
        alone = History(
            history.times[i : i + 1], {k: v[i : i + 1] for k, v in history.values.items()}, history.lengths[i : i + 1]
        )
        np.testing.assert_allclose(dose_limit(alone, InsulinLimits()), together[i : i + 1], rtol=1e-12)


def test_the_space_and_the_guardrail_keep_the_first_dose_within_the_limit():
    history = as_history(*random_history(np.random.default_rng(7), 30, 50))
    limits, grid = InsulinLimits(), HorizonGrid.geometric(fine=8, last=48)
    space = action_space(grid, history, limits)
    allowed = torch.from_numpy(dose_limit(history, limits)).float()
    torch.testing.assert_close(space.upper[:, 0, 0], allowed)
    guardrail = DoseLimit(name="dose_limit", unit="U", source="test", limits=limits)
    at = space.expand(space.upper[:, None])
    assert (guardrail.margin(None, at, history) >= 0).all()
    assert (guardrail.margin(None, at + 1e-3, history) < 0).all()
    assert (guardrail.margin(None, torch.full_like(at, torch.nan), history) >= 0).sum() == 0


def test_the_last_resort_and_suggestions_are_finite_in_every_state():
    history = as_history(*random_history(np.random.default_rng(8), 30, 50))
    task = InsulinTask()
    space = task.space(HorizonGrid.geometric(fine=8, last=48), history)
    assert torch.isfinite(task.suggestions(space, history)).all()
    assert (task.last_resort(history) == 0).all()


def test_an_answer_is_remembered_for_one_history_and_its_limits():
    asked = []

    @remembered
    def answer(history, limits):
        asked.append(history)
        return np.zeros(len(history))

    records = (random_history(np.random.default_rng(seed), 12, 3) for seed in range(2))
    first, second = (History.from_arrays(SCHEMA, *record) for record in records)
    for history in (first, first, second, second):
        answer(history, InsulinLimits())
    answer(second, InsulinLimits(dia=360.0))
    assert [id(history) for history in asked] == [id(first), id(second), id(second)]
