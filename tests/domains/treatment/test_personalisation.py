"""`treatment/personalisation`: what each part may know, where its windows lie, and what its rows say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreworld.domains.treatment.calibrate import CalibrateConfig
from foreworld.domains.treatment.dosing import basal_step
from foreworld.domains.treatment.forecasting import DAY, ForecastConfig, record_therapy
from foreworld.domains.treatment.loop import Loop, insulin_agent, run_agent
from foreworld.domains.treatment.personalisation import protocol as protocol_module
from foreworld.domains.treatment.personalisation import step_change as step_module
from foreworld.domains.treatment.personalisation.figure import pictures
from foreworld.domains.treatment.personalisation.known import adapted_by_days, scores_by_days
from foreworld.domains.treatment.personalisation.protocol import (
    CONFIG,
    METRICS,
    _add,
    _Job,
    _Step,
    above_population,
    protocol,
    ratios,
)
from foreworld.domains.treatment.personalisation.settings import (
    ADAPTED,
    ARMS,
    QUICK,
    KnownConfig,
    RecoveredConfig,
    StepConfig,
    forecaster_of,
)
from foreworld.domains.treatment.personalisation.step_change import (
    WINDOWS,
    StepScores,
    beliefs,
    changed,
    in_range_by_window,
    multipliers,
    recovered,
    score_step,
    window_of,
)
from foreworld.domains.treatment.scenario import Scenario
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.tables import load_patients
from foreworld.episodes.schema import Role, Statistics
from foreworld.errors import InputError
from foreworld.evidence.kept import Kept
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import Evidence
from foreworld.evidence.samples import Samples
from foreworld.forecast.adapter import adapt
from foreworld.forecast.adaptive import AdaptiveBands, AdaptiveConfig
from foreworld.forecast.forecaster import Forecaster
from foreworld.forecast.recent import Forgetful
from foreworld.forecast.renewing import RenewConfig, Renewing
from foreworld.model.belief import History
from foreworld.model.checkpoint import save
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.world_model import WorldModel, WorldModelConfig

GRID = HorizonGrid(points=(1, 3, 6, 12, 24))
NAMES = ("adult#001", "child#002")
THERAPY = ForecastConfig(days=3, fit_days=2, stride=31)
STEP = StepConfig(before=24, window=6, burn_in=6, stride=7)
RENEW = RenewConfig(ahead=12, young=2)


@pytest.fixture(scope="module")
def record():
    return record_therapy(load_patients(NAMES), THERAPY, seed=0)


def untrained(config):
    statistics = {
        c.name: Statistics(mean=1.0, std=1.0, count=10)
        for c in SCHEMA.channels
        if c.role is not Role.observation and not c.discrete
    }
    statistics["cgm"] = Statistics(mean=140.0, std=50.0, count=10, changes=((1, 5.0), (24, 40.0)))
    torch.manual_seed(0)
    return WorldModel(SCHEMA.with_statistics(statistics), config).eval()


@pytest.fixture(scope="module")
def forecaster():
    return Forecaster(untrained(WorldModelConfig(grid=GRID, width=16, hidden=8, members=2)))


def raised(history, first, until):
    """The history with readings 60 mg/dL higher for a while."""
    values = {name: value.clone() for name, value in history.values.items()}
    values["cgm"][:, first:until] += 60.0
    return History(history.times, values, history.lengths)


def test_only_what_is_known_of_a_person_differs_between_days_of_history(record, forecaster):
    config = KnownConfig(forecast=THERAPY, days=(0, 1))
    found = scores_by_days(forecaster, record, config)
    assert [scores.count.tolist() for scores in found.values()] == [found[0].count.tolist()] * 2
    earlier = replace(record, history=raised(record.history, DAY // 2, DAY))
    other = scores_by_days(forecaster, earlier, config)
    # The day before yesterday is known to nobody who knows six hours, and to those who know a day.
    np.testing.assert_array_equal(other[0].squared, found[0].squared)
    assert (other[1].squared != found[1].squared).all()
    with pytest.raises(InputError, match="before the first scored moment"):
        scores_by_days(forecaster, record, KnownConfig(forecast=THERAPY, days=(2,)))


def test_an_adapter_is_fitted_on_the_days_before_the_first_scored_moment(record, forecaster):
    config, adapting = KnownConfig(forecast=THERAPY, days=(0, 1)), QUICK.adapt
    found = adapted_by_days(forecaster, record, config, adapting)
    assert [*found] == [1]
    assert found[1].accepted.shape == (len(NAMES),)
    kept = scores_by_days(forecaster, record, config)[1]
    np.testing.assert_array_equal(found[1].scores.count, kept.count)
    for row, accepted in enumerate(found[1].accepted):
        assert (found[1].scores.squared[row] == kept.squared[row]).all() != bool(accepted)
    # An update that gains this much there is none: all keep the model, to the last bit.
    strict = adapted_by_days(forecaster, record, config, adapting.model_copy(update={"better": 0.99}))
    assert not strict[1].accepted.any()
    np.testing.assert_array_equal(strict[1].scores.squared, kept.squared)
    # What is scored is never fitted on.
    scored = replace(record, history=raised(record.history, 2 * DAY + 1, 3 * DAY))
    np.testing.assert_array_equal(adapted_by_days(forecaster, scored, config, adapting)[1].accepted, found[1].accepted)


def test_an_agent_plans_with_an_adapted_model_as_with_any_other(record, forecaster):
    small = untrained(MODEL.model_copy(update={"width": 8, "hidden": 8, "members": 2, "latent": 2}))
    settings = QUICK.adapt.model_copy(update={"better": 0.99})
    loops = []
    for one in (Forecaster(small), adapt(Forecaster(small), record.history, settings).forecaster):
        patients = load_patients(NAMES)
        simulator = Simulator(patients, Scenario.draw(patients, THERAPY.scenario.model_copy(update={"days": 1}), 0))
        loops.append(run_agent(insulin_agent(one), simulator, steps=8))
    # Both were rejected, so it is the same model, asked twice.
    np.testing.assert_allclose(loops[0].insulin, loops[1].insulin, atol=1e-6)


def test_sensitivity_drops_at_the_hour_and_stays():
    patients = load_patients(NAMES)
    scenario = changed(patients, STEP, 0, 144)
    assert (scenario.sensitivity[:, :24] == 1).all()
    assert (scenario.sensitivity[:, 24:] == 0.6).all()
    assert scenario.steps >= (24 + 4 * 6 + 12) * 12


def test_windows_are_told_apart_by_when_the_reading_comes():
    hours = torch.tensor([11.9, 12.0, 23.9, 24.0, 29.9, 30.0, 36.0, 42.0, 47.9, 48.0])
    assert window_of(torch.round(hours * 12), STEP).tolist() == [-1, 0, 0, 1, 1, 2, 3, 4, 4, -1]
    bg = np.full((1, 48 * 12), 100.0)
    bg[:, 24 * 12 : 27 * 12] = 200.0
    np.testing.assert_allclose(in_range_by_window(bg, STEP), [[1.0, 0.5, 1.0, 1.0, 1.0]])


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: Forgetful(m, 72), lambda m: Renewing(m, RENEW)])
def test_no_arm_knows_what_comes_after_a_moment(record, forecaster, wrap):
    of = Forecaster(wrap(forecaster.model))
    at = torch.tensor([[100, 250, 300]]).expand(len(NAMES), -1)
    later = raised(record.history, 301, 700)
    torch.testing.assert_close(beliefs(of, record.history, at).recent, beliefs(of, later, at).recent, rtol=0, atol=0)
    torch.testing.assert_close(beliefs(of, record.history, at).state, beliefs(of, later, at).state, rtol=0, atol=1e-6)


def test_a_multiplier_is_made_of_readings_before_its_forecast(record):
    bands = AdaptiveBands(GRID.points, config=AdaptiveConfig(rate=0.1))
    at = torch.arange(50, 200, 7).expand(len(NAMES), -1)
    mean = torch.full((len(NAMES), at.shape[1], len(GRID)), 140.0, dtype=torch.float64)
    half, since = torch.full_like(mean, 20.0), torch.zeros_like(at)
    one, other = (
        multipliers(bands, history, at, mean, half, since)
        for history in (record.history, raised(record.history, 150, 400))
    )
    before = at[0] < 150
    torch.testing.assert_close(one[:, before], other[:, before], rtol=0, atol=0)
    assert (one[:, -1] != other[:, -1]).any()
    # Where another picture takes over, the multiplier goes back towards 1 for whom it does.
    since = torch.where(at >= 148, at.new_tensor([[90], [0]]), since)
    renewed = multipliers(bands, record.history, at, mean, half, since)
    place = at[0].tolist().index(148)
    torch.testing.assert_close(renewed[:, :place], one[:, :place], rtol=0, atol=0)
    torch.testing.assert_close(renewed[0, place], one[0, place] ** bands.config.keep)
    torch.testing.assert_close(renewed[1], one[1], rtol=0, atol=0)


def test_bands_that_follow_a_person_come_nearer_to_the_stated_coverage(record, forecaster):
    fixed = score_step(forecaster, record.history, STEP)
    follow = score_step(forecaster, record.history, STEP, AdaptiveConfig(rate=0.1))
    last = [np.abs(found.covered["60"][:, 1:].mean() - 0.9) for found in (fixed, follow)]
    assert last[1] < last[0]
    np.testing.assert_array_equal(fixed.squared["all"], follow.squared["all"])
    assert {*fixed.covered} == {"60", "120", "all"}  # the grid of this model ends there


def test_control_is_compared_by_patient_and_seed():
    samples = Samples((0, 1), protocol().names)
    for seed in (0, 1):
        for arm, shares in (("foreworld", (0.9, 0.8)), ("population", (0.85, 0.78))):
            samples.add(arm, "time_in_range", seed, NAMES, shares, [("adult",), ("child",)])
    rows = {row.group: row for row in above_population(samples, ("foreworld", "population"))}
    assert rows["all"].value == pytest.approx(3.5)
    assert (rows["all"].low, rows["all"].high, rows["all"].n) == (pytest.approx(2.0), pytest.approx(5.0), 2)
    assert rows["adult"].value == pytest.approx(5.0)


def test_whoever_knows_a_day_is_a_baseline_of_its_own():
    samples = Samples((0,), protocol().names)
    for arm, shares in (("foreworld", (0.9, 0.8)), ("population", (0.8, 0.8)), ("population_day", (0.88, 0.8))):
        samples.add(arm, "time_in_range", 0, NAMES, shares, [("adult",), ("child",)])
    rows = {(row.arm, row.metric): row for row in above_population(samples, ARMS) if row.group == "all"}
    assert rows["foreworld", "time_in_range_above_population"].value == pytest.approx(5.0)
    assert rows["foreworld", "time_in_range_above_population_day"].value == pytest.approx(1.0)
    assert rows["population_day", "time_in_range_above_population"].value == pytest.approx(4.0)
    assert len(rows) == 3


def test_whoever_remembers_a_day_is_held_to_the_margins_of_a_day_known(record, forecaster, tmp_path):
    save(forecaster.model, tmp_path / "model", extra={"training": {}})
    known = [
        int(forecaster_of(arm, tmp_path / "model", CONFIG).model.encode(record.history).count[0])
        for arm in ("population", "population_day", "foreworld_fixed")
    ]
    assert known == [CONFIG.memory + 1, DAY + 1, 3 * DAY + 1]
    first, second = CalibrateConfig().stages[:2]
    assert known[0] < first <= known[1] < second


def test_those_who_failed_are_counted_as_not_scored(record, forecaster, tmp_path):
    config, samples = KnownConfig(forecast=THERAPY, days=(0, 1)), Samples((0,), protocol().names)
    lost = "adult#003"
    job = _Job("known", "foreworld_fixed", 0, (*NAMES, lost), tmp_path, QUICK)
    _add(samples, job, scores_by_days(forecaster, record, config))
    in_range = np.ones((3, len(WINDOWS)))
    _add(samples, job, _Step(NAMES, in_range, {"foreworld": score_step(forecaster, record.history, STEP)}))
    rows = {(row.arm, row.metric): row for row in samples.rows() if row.group == "all"}
    for arm, metric in (("foreworld_fixed", "scored_known"), ("foreworld", "scored_step")):
        assert rows[arm, metric].value == pytest.approx(2 / 3)
        assert samples.values(arm, metric)[0, lost] == 0.0
    assert rows["foreworld_fixed", "rmse_60_after_1d"].n == 2
    assert rows["foreworld_fixed", "time_in_range_before"].n == 3


def test_who_has_recovered_meets_all_three_conditions():
    start = {"covered": 0.92, "width": 50.0, "squared": 100.0}
    after = {
        "covered": [0.9, 0.79, 0.99, 0.9, 0.9],
        "width": [60, 60, 60, 63, 60],
        "squared": [220, 220, 220, 220, 230],
    }
    parts = {}
    for name, value in start.items():
        table = np.full((5, len(WINDOWS)), np.nan)
        table[:, 0], table[:, WINDOWS.index("48_72h")] = value, after[name]
        parts[name] = {"all": table}
    np.testing.assert_array_equal(recovered(StepScores(**parts), RecoveredConfig()), [1, 0, 0, 0, 0])


def made_rows():
    before = np.array([[100.0, 400.0, 225.0, 121.0, 100.0], [300.0, 400.0, 375.0, 363.0, 300.0]])
    samples = Samples((0,), protocol().names)
    for what, how in (("rmse", "rms"), ("width", "mean")):
        for window, values in zip(WINDOWS, before.T, strict=True):
            samples.add("foreworld", f"{what}_all_{window}", 0, NAMES, values, [("adult",), ("child",)], how=how)
    return ratios(samples, ("foreworld",))


def test_ratios_are_of_pooled_widths_and_of_pooled_squared_errors():
    rows = {row.key: row for row in made_rows()}
    assert rows["foreworld", "all", "width_ratio_all_0_24h"].value == pytest.approx(2.0)
    assert rows["foreworld", "all", "rmse_ratio_all_0_24h"].value == pytest.approx(2.0**0.5)
    row = rows["foreworld", "all", "rmse_ratio_all_48_72h"]
    assert row.value == pytest.approx(1.1)
    assert row.low <= row.value <= row.high
    assert row.unit == "ratio"


def test_the_picture_is_drawn_from_whatever_rows_there_are():
    pytest.importorskip("matplotlib")
    of = protocol()
    for rows in ((), tuple(made_rows())):
        evidence = Evidence(
            protocol=of.name,
            version=of.version,
            hash=of.hash,
            seeds=(0,),
            machine="",
            cpu_seconds=0,
            rows=rows,
            names=of.names,
        )
        (picture,) = pictures(evidence)
        assert picture.content[:4] == b"\x89PNG"


def hasty(agent, simulator):
    """A loop in which the agent decides the first steps, and basal insulin is given all day."""
    first = run_agent(agent, simulator, steps=8)
    assert first.cgm.shape == (len(simulator), 9)
    simulator.reset()
    ran = simulator.run(lambda seen: basal_step(simulator.patients))
    done = np.zeros(ran.insulin.shape, dtype=np.int8)
    return Loop(
        ran.bg[:, :-1], ran.cgm, ran.announced, ran.insulin, done, np.zeros((*done.shape, 0)), (), ran.alive[:, -1]
    )


def test_the_protocol_gives_every_metric_of_every_part(tmp_path, monkeypatch):
    small = MODEL.model_copy(update={"width": 8, "hidden": 8, "members": 2, "latent": 2})
    save(untrained(small), tmp_path / "model", extra={"training": {}})
    known = KnownConfig(forecast=ForecastConfig(days=3, fit_days=2, stride=29), days=(0, 1))
    tiny = QUICK.model_copy(update={"known": known, "step": StepConfig(before=14, window=1, burn_in=1)})
    monkeypatch.setattr(protocol_module, "QUICK", tiny)
    for module in (protocol_module, step_module):
        monkeypatch.setattr(module, "run_agent", hasty)
    request = Request(seeds=(0,), subjects=2, quick=True, model=tmp_path / "model", kept=Kept(tmp_path / "runs"))
    evidence = protocol().evaluate(request)
    of_all = {row.metric for row in evidence.rows if row.group == "all"}
    late = {f"{w}_after_{d}d" for w in ("rmse_60", "rmse_120", "coverage_90", "accepted") for d in (2, 3, 5, 7, 10)}
    assert of_all == set(METRICS) - late - {f"time_in_range_day_{day}" for day in range(2, 15)}
    assert {row.arm for row in evidence.rows if row.metric == "coverage_90_all_48_72h"} == set(ARMS)
    assert {row.group for row in evidence.rows} >= {"all", "unseen"}
    # Gradient steps are scored beside what they were taken from, where the days suffice for them, and nowhere else.
    adapted = {row.metric for row in evidence.rows if row.arm == ADAPTED}
    assert adapted == {
        *(f"{what}_after_1d" for what in ("rmse_60", "rmse_120", "coverage_90", "accepted")),
        "scored_known",
    }
    # One log and one set of weights: before anything is renewed the two forecast alike, and the bands alone differ.
    errors = {arm: evidence.row(arm, "rmse_60_before").value for arm in ARMS}
    assert errors["foreworld"] == pytest.approx(errors["foreworld_fixed"], rel=1e-4)
    # An interrupted evaluation goes on where it was: of what was kept nothing runs again.
    monkeypatch.setattr(protocol_module, "_work", None)
    assert protocol().evaluate(request).rows == evidence.rows
