"""The protocols of claimed risk: who is asked, and the reliability diagram."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foreworld.agent.calibrate import Visits
from foreworld.domains.treatment import guardrail_protocol as gp
from foreworld.domains.treatment.collect import cohort
from foreworld.domains.treatment.figure_reliability import reliability_figure, reliability_pictures
from foreworld.domains.treatment.tables import UNSEEN, load_patients
from foreworld.errors import InputError
from foreworld.evidence.kept import Kept
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import Evidence, Row
from foreworld.evidence.samples import Samples
from foreworld.forecast.forecaster import Calibration

ANNOUNCED, SILENT = gp.protocols()


def rows(risk_of=lambda risk: risk):
    return tuple(
        Row(
            arm="foreworld", group=group, metric=gp.metric_of(rail, risk), value=risk_of(risk),
            low=max(risk_of(risk) - width, 0.0), high=risk_of(risk) + width, n=n, unit="share", by_seed=(risk,),
        )
        for rail in gp.RAILS for risk in gp.LEVELS for group, width, n in (("unseen", 0.03, 21), ("virtual", 0.01, 176))
    )  # fmt: skip


def evidence(found):
    return Evidence(
        protocol=ANNOUNCED.name, version=3, hash="0", seeds=(0,), machine="test", cpu_seconds=0.0, rows=found,
        names=ANNOUNCED.names,
    )  # fmt: skip


def people(job):
    patients, scenario = gp._people(job)
    return patients.names, scenario


def test_the_virtual_people_are_nobody_s_batch_twice_and_of_no_other_cohort():
    jobs = gp._jobs(Request(seeds=(3,), subjects=60), None, 3, True)
    table, *fresh = jobs
    assert set(table.names) >= set(UNSEEN)
    names = [name for job in fresh for name in people(job)[0]]
    assert len(names) == len(set(names)) == 60
    assert all(name.startswith("visit3-") for name in names)
    others = cohort("calibrate", 60, 3, gp.looped(True).looped.spread, gp.looped(True).looped.records)
    ours = cohort("visit", 60, 3, gp.looped(True).looped.spread, gp.looped(True).looped.records)
    assert not {tuple(row) for row in others.params} & {tuple(row) for row in ours.params}


def test_enough_people_are_asked_by_default_and_those_of_the_table_as_before():
    table, *fresh = gp._jobs(Request(seeds=(0,)), None, 0, True)
    assert table.names and set(table.names) == set(UNSEEN) and table.steps == 4 * 288
    assert sum(min(gp.BATCH, gp.VIRTUAL - number * gp.BATCH) for number in range(len(fresh))) == gp.VIRTUAL


@pytest.mark.parametrize("announced", [True, False])
def test_nobody_announces_anything_where_nothing_is_announced(announced):
    for job in gp._jobs(Request(seeds=(0,), quick=True), None, 0, announced):
        assert people(job)[1].announced is announced


def test_the_settings_of_the_two_protocols_differ_and_name_the_virtual_people():
    assert ANNOUNCED.hash != SILENT.hash
    assert ANNOUNCED.settings["virtual"]["people"] == gp.VIRTUAL
    assert {"unseen", "virtual"} <= set(ANNOUNCED.groups)


def crossed():
    """Four plans of as many people, of which two cross a bound, one of them before the guardrails count."""
    n, rail = 4, gp.RAILS[0].name
    clear = {one.name: np.full(n, 20.0) for one in gp.RAILS}
    true, whole = clear | {rail: np.array([-1.0, 5.0, 5.0, 5.0])}, clear | {rail: np.array([-2.0, -1.0, 5.0, 5.0])}
    ones = {one.name: np.ones(n) for one in gp.RAILS}
    rest = torch.zeros(n, 2), torch.zeros(n, 2), np.zeros(n, dtype=int), np.arange(n), np.zeros((n, 2)), np.zeros(n)
    return Visits(clear, ones, true, whole, clear, *rest)


@pytest.fixture
def calibrated(monkeypatch):
    bounds = {one.name: {f"{risk:g}": 0.0 for risk in gp.LEVELS} for one in gp.RAILS}
    made = SimpleNamespace(calibration=Calibration(trajectory=bounds))
    monkeypatch.setattr(gp, "load_forecaster", lambda folder: made)


def test_a_bound_that_is_crossed_before_the_guardrails_count_is_a_violation_all_the_same(calibrated):
    samples = Samples((0,), ANNOUNCED.names)
    job = gp._Job(None, 0, UNSEEN[:1], (0, 0), 0, True)
    gp._add(samples, job, (load_patients(UNSEEN[:1]), crossed()))
    rows = {row.metric: row.value for row in samples.rows() if row.group == "unseen"}
    assert rows["violations"] == 0.5 and rows["violations_from_60min"] == 0.25
    assert set(rows) == set(ANNOUNCED.metrics)


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch, calibrated):
    (tmp_path / "model").mkdir()
    asked = []

    def visit(job):
        asked.append(job.names)
        return gp._people(job)[0], crossed()

    monkeypatch.setattr(gp, "prepare_all", lambda request, announced: {0: SimpleNamespace(model=tmp_path / "model")})
    monkeypatch.setattr(gp, "_visit", visit)
    for protocol in (ANNOUNCED, SILENT):
        request = Request(seeds=(0,), quick=True, kept=Kept(tmp_path / "runs"))
        first = protocol.evaluate(request)
        assert len(asked) == 2 and {row.group for row in first.rows} >= {"unseen", "virtual"}
        assert protocol.evaluate(request).rows == first.rows
        assert len(asked) == 2
        asked.clear()


def test_the_diagram_shows_claim_and_interval_of_both_groups():
    found = rows()
    by = {}
    for row in found:
        rail, risk = next((g.name, r) for g in gp.RAILS for r in gp.LEVELS if gp.metric_of(g, r) == row.metric)
        by.setdefault(f"{rail}/{row.group}", {})[risk] = row
    figure = reliability_figure(by, {rail.name: rail.name for rail in gp.RAILS})
    assert len(figure.axes) == len(gp.RAILS)
    for axes in figure.axes:
        line = next(line for line in axes.lines if line.get_label() == "virtual, n = 176")
        assert line.get_ydata() == pytest.approx([1.0, 5.0, 10.0, 20.0])
    with pytest.raises(InputError):
        reliability_figure({}, {})


def test_a_page_of_the_protocol_has_the_diagram_in_words_too():
    (picture,) = ANNOUNCED.pictures(evidence(rows(lambda risk: 2 * risk)))
    assert picture.content.startswith(b"\x89PNG")
    assert "predicted_low of virtual: 1 % claimed 2.0 %, 5 % claimed 10.0 %" in picture.alt
    assert "dashed line" in picture.caption
    claims = {gp.metric_of(g, r): (g.name, r) for g in gp.RAILS for r in gp.LEVELS}
    assert reliability_pictures(evidence(()), claims, {}) == []
