"""The sabotage protocol: how soon a broken model is noticed, of all patients and not of those noticed alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from foreworld.domains.treatment import sabotage_protocol as sp
from foreworld.domains.treatment.tables import UNSEEN
from foreworld.evidence.kept import Kept
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import NAMES, Names
from foreworld.evidence.samples import Samples
from foreworld.planning.plan import Reason

PEOPLE, STEPS = UNSEEN[:4], 288
NEVER = -1


def found_of(noticed, steps=STEPS):
    """What a run gave whose model is called unfit from these decisions on (-1: never)."""
    unfit = np.array([np.arange(steps) >= (steps if at < 0 else at) for at in noticed])
    return sp._Found(np.full((len(noticed), steps), 120.0), unfit.copy(), unfit)


def rows_of(kind, *noticed):
    """The figures of one seed for each list of first notices."""
    seeds = tuple(range(len(noticed)))
    samples = Samples(seeds, NAMES | Names(frozenset({sp.ARM}), frozenset(sp.GROUPS), frozenset(sp.METRICS)))
    for seed, decisions in zip(seeds, noticed, strict=True):
        standard = {seed: dict.fromkeys(PEOPLE, np.full(STEPS, 0.5))}
        sp._add(standard, samples, sp._Job(kind, seed, PEOPLE, 1, 0, None), found_of(decisions))
    return {row.metric: row for row in samples.rows() if row.group == "all"}


def test_never_noticed_counts_as_the_length_of_the_run():
    rows = rows_of("frozen", [12, 12, NEVER, NEVER])
    assert rows["minutes_to_notice"].value == pytest.approx((60.0 + 60.0 + 1440.0 + 1440.0) / 4)
    assert rows["minutes_planned_before_notice"].value == rows["minutes_to_notice"].value
    assert rows["noticed"].value == 0.5
    assert rows["minutes_to_notice"].n == len(PEOPLE) and rows["minutes_to_notice"].unit == "min"


def test_a_model_that_is_noticed_less_often_does_not_look_faster():
    often, seldom = [6, 40, 60, 80], [6, NEVER, NEVER, NEVER]
    assert rows_of("frozen", often)["minutes_to_notice"].value < rows_of("frozen", seldom)["minutes_to_notice"].value


@pytest.mark.parametrize("kind", [sp.HEALTHY, "nan"])
def test_the_figure_stays_where_nobody_is_noticed_in_a_seed(kind):
    row = rows_of(kind, [NEVER] * 4, [2] * 4)["minutes_to_notice"]
    assert row.by_seed == pytest.approx((1440.0, 10.0))


def test_the_description_tells_how_never_is_counted():
    assert "never noticed counts as the length of the run" in " ".join(sp.protocol().description.split())


def test_a_model_is_noticed_by_an_hour_without_its_plans_and_not_by_less():
    found = found_of([5, NEVER])
    found.unfit[1, 20:31] = True  # eleven decisions
    assert found.noticed.tolist() == [5, -1]
    found.unfit[1, 31] = True
    assert found.noticed.tolist() == [5, 20]


def test_what_is_noticed_of_a_patient_who_has_failed_came_too_late():
    found = found_of([30, 30])
    found.bg[1, 25:] = 5.0
    assert found.noticed.tolist() == [30, -1]


def test_a_low_counts_only_until_the_notice():
    samples = Samples((0,), NAMES | Names(frozenset({sp.ARM}), frozenset(sp.GROUPS), frozenset(sp.METRICS)))
    found = found_of([100] * 4)
    found.bg[0, 99], found.bg[1, 100] = 53.0, 53.0
    standard = {0: dict.fromkeys(PEOPLE, np.full(STEPS, 0.5))}
    sp._add(standard, samples, sp._Job("frozen", 0, PEOPLE, 1, 0, None), found)
    rows = {row.metric: row.value for row in samples.rows() if row.group == "all"}
    assert rows["low_before_notice"] == 0.25 and rows["minutes_planned_before_notice"] == 500.0
    assert set(rows) == set(sp.METRICS) - {"false_refusals"}


def test_all_is_counted_from_the_onset(monkeypatch):
    def run(agent, simulator, *, watch):
        for t in range(4):
            watch(t, simulator, SimpleNamespace(reasons=(None, Reason.novel_state if t == 3 else None)))
        return SimpleNamespace(bg=np.arange(8.0).reshape(2, 4))

    monkeypatch.setattr(sp, "run_agent", run)
    monkeypatch.setattr(sp, "load_forecaster", lambda folder: None)
    monkeypatch.setattr(sp, "insulin_agent", lambda forecaster, seed: None)
    found = sp._run(sp._Job(sp.HEALTHY, 0, PEOPLE[:2], 1, 2, None))
    assert found.bg.tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert found.unfit.tolist() == found.refused.tolist() == [[False, False], [False, True]]


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    asked = []

    def run(job):
        asked.append(job.kind)
        return found_of([50] * len(job.subjects))

    monkeypatch.setattr(sp, "prepare_all", lambda request: {0: SimpleNamespace(model=tmp_path / "model")})
    monkeypatch.setattr(sp, "_run", run)
    monkeypatch.setattr(sp, "_fallback", lambda seed, subjects, days: dict.fromkeys(subjects, np.full(STEPS, 0.5)))
    request = Request(seeds=(0,), quick=True, kept=Kept(tmp_path / "runs"))
    first = sp.protocol().evaluate(request)
    assert asked == [sp.HEALTHY, "sign_flipped", "nan"]
    (next((tmp_path / "runs").glob("*.json"))).unlink()
    assert sp.protocol().evaluate(request).rows == first.rows
    assert len(asked) == 4
