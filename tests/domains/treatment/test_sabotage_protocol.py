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
NEVER = np.nan


def minutes_to_notice(kind, *noticed):
    """The figure of one seed for each list of first notices."""
    seeds = tuple(range(len(noticed)))
    samples = Samples(seeds, NAMES | Names(groups=frozenset(sp.GROUPS), metrics=frozenset(sp.METRICS)))
    for seed, minutes in zip(seeds, noticed, strict=True):
        job = sp._Job(kind, seed, PEOPLE, 1, None)
        bg, none = np.full((len(PEOPLE), STEPS), 120.0), np.zeros(len(PEOPLE))
        sp._add({seed: dict.fromkeys(PEOPLE, 0.5)}, samples, job, sp._Found(bg, np.array(minutes), none, none))
    return {row.metric: row for row in samples.rows() if row.group == "all"}["minutes_to_notice"]


def test_never_noticed_counts_as_the_length_of_the_run():
    row = minutes_to_notice("frozen", [60.0, 60.0, NEVER, NEVER])
    assert row.value == pytest.approx((60.0 + 60.0 + 1440.0 + 1440.0) / 4)
    assert row.n == len(PEOPLE) and row.unit == "min"


def test_a_model_that_is_noticed_less_often_does_not_look_faster():
    often, seldom = [30.0, 200.0, 300.0, 400.0], [30.0, NEVER, NEVER, NEVER]
    assert minutes_to_notice("frozen", often).value < minutes_to_notice("frozen", seldom).value


@pytest.mark.parametrize("kind", [sp.HEALTHY, "nan"])
def test_the_figure_stays_where_nobody_is_noticed_in_a_seed(kind):
    row = minutes_to_notice(kind, [NEVER] * 4, [10.0] * 4)
    assert row.by_seed == pytest.approx((1440.0, 10.0))


def test_the_description_tells_how_never_is_counted():
    assert "never noticed counts as the length of the run" in sp.protocol().description


def test_what_is_noticed_of_a_patient_who_has_failed_came_too_late(monkeypatch):
    def run(agent, simulator, *, watch):
        for t, alive in enumerate([[True, True], [True, False]]):
            reasons = [None if t == 0 else Reason.model_invalid] * 2
            watch(t, SimpleNamespace(alive=np.array(alive)), SimpleNamespace(reasons=reasons))
        return SimpleNamespace(bg=np.full((2, 2), 120.0))

    monkeypatch.setattr(sp, "run_agent", run)
    monkeypatch.setattr(sp, "load_forecaster", lambda folder: None)
    monkeypatch.setattr(sp, "insulin_agent", lambda forecaster, seed: None)
    found = sp._run(sp._Job(sp.HEALTHY, 0, PEOPLE[:2], 1, None))
    assert found.noticed[0] == 5.0 and np.isnan(found.noticed[1])


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    asked = []

    def run(job):
        asked.append(job.kind)
        values = np.full(len(job.subjects), 0.25)
        return sp._Found(np.full((len(job.subjects), STEPS), 120.0), 100 * values, values, values)

    monkeypatch.setattr(sp, "prepare_all", lambda request: {0: SimpleNamespace(model=tmp_path / "model")})
    monkeypatch.setattr(sp, "_run", run)
    monkeypatch.setattr(sp, "_fallback", lambda seed, subjects, days: dict.fromkeys(subjects, 0.5))
    request = Request(seeds=(0,), quick=True, kept=Kept(tmp_path / "runs"))
    first = sp.protocol().evaluate(request)
    assert asked == [sp.HEALTHY, "sign_flipped", "nan"]
    (next((tmp_path / "runs").glob("*.json"))).unlink()
    assert sp.protocol().evaluate(request).rows == first.rows
    assert len(asked) == 4
