"""The demo: collect, train, calibrate, evaluate on unseen patients beside standard therapy, write a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from foreworld import __version__
from foreworld.agent.agent import ACTORS
from foreworld.domains.treatment.closed_loop import STEPS_A_DAY, Job, Run, add_samples, run_job, subjects_of
from foreworld.domains.treatment.figures import DayExample, DayForecast, HorizonErrors
from foreworld.domains.treatment.forecast_arms import ForecasterArm, Persistence
from foreworld.domains.treatment.forecasting import Arm, ForecastConfig, record_therapy, score
from foreworld.domains.treatment.pages import ReportData, write_report
from foreworld.domains.treatment.prepare import DEMO, Recipe, prepare
from foreworld.domains.treatment.prepared import GROUPS
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.settings import MODEL
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.task import guardrails
from foreworld.domains.treatment.track_protocol import LOOP_METRICS
from foreworld.domains.treatment.tracks import LoopConfig
from foreworld.evidence.parallel import cores, run_all
from foreworld.evidence.protocol import machine
from foreworld.evidence.rows import NAMES, Names
from foreworld.evidence.samples import Samples
from foreworld.forecast.forecaster import Forecaster
from foreworld.learning.progress import Mode
from foreworld.planning.guardrail import StateGuardrail

DEMO_ARMS = ("foreworld", "bb_error", "bb_cap", "pid")
DEMO_LOOP = LoopConfig(days=2, burn_in=1)
KEEP = 24  # steps between two forecasts drawn in the picture of one day: two hours


def demo(
    folder: str | Path,
    *,
    seed: int = 0,
    subjects: int | None = None,
    recipe: Recipe = DEMO,
    progress: Mode = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run everything once, small, and write `report.html` with its pictures.

    Args:
        folder: Of this run: data, model, report.
        seed: Of everything.
        subjects: How many patients are evaluated; the 21 unseen if None.
        recipe: How much is collected and trained.
        progress: Of training.
        report: Takes a line at each stage.

    Returns:
        Path of the report.
    """
    place, began = Path(folder), time.monotonic()
    forecaster, spent = prepare(place, recipe, seed=seed, progress=progress, report=report)
    trained = time.monotonic() - began
    names = subjects_of(subjects or 21)
    report(f"closing the loop with {len(names)} patients that nothing was trained on, {DEMO_LOOP.days} days")
    jobs = _jobs(names, seed, place, cores())
    done = list(run_all(run_job, jobs))
    runs = {arm: _joined([run for job, run in zip(jobs, done, strict=True) if job.arm == arm]) for arm in DEMO_ARMS}
    samples = Samples((seed,), NAMES | Names(frozenset(DEMO_ARMS), frozenset(GROUPS), frozenset(LOOP_METRICS)))
    for arm, run in runs.items():
        add_samples(samples, Job(arm, seed, names, DEMO_LOOP), run)
    report("scoring forecasts on logged therapy of the same patients")
    errors = _forecast_errors(forecaster, names, seed)
    own = [run for job, run in zip(jobs, done, strict=True) if job.arm == "foreworld"]
    rows = [row.model_dump() for row in samples.rows() if row.group == "all"]
    data = ReportData(
        title="foreworld demo: insulin planned inside guardrails",
        traces={arm: run.bg for arm, run in runs.items()},
        patients=names,
        rows=rows,
        day=_day(own[0], jobs[0]),
        errors=errors,
        facts={
            "patients": f"{len(names)} virtual patients of UVA/Padova 2008 (simglucose), none of them trained on",
            "days": f"{DEMO_LOOP.days} after {DEMO_LOOP.burn_in} of burn-in, one seed ({seed})",
            "learned from": f"{recipe.collect.subjects} other virtual people, {recipe.collect.days} days each",
            "training": f"{recipe.steps} steps{_cost(trained, spent)}",
            "version": __version__,
            "machine": machine(),
        },
        commands=(
            "foreworld demo",
            "foreworld evaluate treatment/t1d-announced --seeds 0,1",
            "foreworld evaluate treatment/forecast --seeds 0,1",
        ),
        limits=(
            "One seed, two days and a short training: a demonstration, not the evidence. `foreworld evaluate` is that.",
            "Virtual patients of one simulator; nothing here was shown on people.",
        ),
        step_minutes=float(STEP_MINUTES),
    )
    return write_report(place, data)


def _cost(seconds: float, spent: float) -> str:
    """What data, training and calibration took, where that is known: not of parts that an earlier call had made."""
    return (
        "" if np.isnan(spent) else f"; {seconds:.0f} s in this call with data and calibration, {spent:.0f} CPU s in all"
    )


def _jobs(names: tuple[str, ...], seed: int, place: Path, cores: int) -> list[Job]:
    """The planning arm split over the cores, then the quick arms."""
    chunks = [chunk for chunk in np.array_split(np.array(names), cores) if len(chunk)]
    jobs = [
        Job("foreworld", seed, tuple(map(str, chunk)), DEMO_LOOP, place / "model", place / "data", KEEP)
        for chunk in chunks
    ]
    return jobs + [Job(arm, seed, names, DEMO_LOOP) for arm in DEMO_ARMS if arm != "foreworld"]


def _joined(runs: list[Run]) -> Run:
    """Runs of parts of the patients as one."""
    planned = [run.planned for run in runs if run.planned is not None]
    return Run(
        np.concatenate([run.bg for run in runs]),
        np.concatenate([run.insulin for run in runs]),
        float(np.average([run.cpu_ms for run in runs], weights=[len(run.bg) for run in runs])),
        sum(run.cpu_seconds for run in runs),
        np.concatenate(planned) if planned else None,
    )


def _forecast_errors(forecaster: Forecaster, names: tuple[str, ...], seed: int) -> HorizonErrors:
    config = ForecastConfig(days=5, fit_days=2, scenario=ScenarioConfig(), stride=6)
    record = record_therapy(load_patients(names), config, seed + 3000)
    arms: dict[str, Arm] = {"foreworld": ForecasterArm(forecaster), "persistence": Persistence()}
    found = score(record, arms, MODEL.grid, config)
    return HorizonErrors(
        minutes=np.array(MODEL.grid.points) * STEP_MINUTES,
        coverage=found["foreworld"].covered.mean(0),
        rmse={name: np.sqrt(scores.squared.mean(0)) for name, scores in found.items()},
    )


def _day(run: Run, job: Job) -> DayExample:
    """The last day of the patient whose time in range is the median of this job's."""
    loop = run.loop
    assert loop is not None
    share = ((run.bg >= 70.0) & (run.bg <= 180.0)).mean(1)
    i = int(np.argsort(share)[len(share) // 2])
    first = loop.insulin.shape[1] - STEPS_A_DAY
    last = first + STEPS_A_DAY
    patient = load_patients(job.subjects[i : i + 1])
    points = np.array(MODEL.grid.points)
    near = points <= KEEP + 12
    forecasts = tuple(
        DayForecast(t - first, points[near], mean[i][near], lower[i][near], upper[i][near])
        for t, (mean, lower, upper) in loop.forecasts.items()
        if first <= t < last
    )
    margins = loop.margins[i, first:last]
    finite = np.where(np.isnan(margins), -np.inf, margins)
    bounds = {rail.name: rail.bound for rail in guardrails() if isinstance(rail, StateGuardrail)}
    active = {}
    for k, name in enumerate(loop.guardrails):
        # Margins have several units: what is left is judged as a share of the bound, or of the dose's limit.
        limit = bounds.get(name, loop.insulin[i, first:last] + finite[:, k])
        # 0 inactive, 1 within a tenth of its bound, 2 refused: the codes of `DayExample`.
        active[name] = np.where(finite[:, k] < 0, 2, np.where(finite[:, k] <= 0.1 * limit, 1, 0))
    return DayExample(
        patient=job.subjects[i],
        step_minutes=float(STEP_MINUTES),
        start_minute=0.0,
        cgm=loop.cgm[i, first : last + 1],
        bg=loop.bg[i, first:last],
        insulin=loop.insulin[i, first:last],
        basal=float(patient.basal[0]),
        announced=loop.announced[i, first : last + 1],
        forecasts=forecasts,
        guardrails=active,
        acted=tuple(str(ACTORS[int(a)]).replace(" ", "_") for a in loop.actors[i, first:last]),
    )
