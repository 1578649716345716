"""`treatment/guardrails`: do the guardrails hold their claimed risk on the plans that the planner chooses?

Two groups answer. `unseen` are the 21 table patients that nothing was trained on: the people who count, and too few
to tell a claim of 20 % from 23 %. `virtual` are fresh people of the cohort `visit`, drawn like those that the claim
was calibrated on: as many as it takes to hold the claim to 1.5 points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.agent.calibrate import Visits
from foreworld.domains.treatment.calibrate import CalibrateConfig, load_forecaster, visits
from foreworld.domains.treatment.closed_loop import groups_of, subjects_of
from foreworld.domains.treatment.collect import cohort
from foreworld.domains.treatment.figure_reliability import reliability_pictures
from foreworld.domains.treatment.identity import run_identity
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import GROUPS, prepare_all
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.domains.treatment.tables import Patients, load_patients
from foreworld.domains.treatment.task import PROFILES, guardrails
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import NAMES, Evidence, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples
from foreworld.planning.guardrail import StateGuardrail

ARM = "foreworld"
LEVELS = (0.01, 0.05, 0.1, 0.2)
RAILS = tuple(g for g in guardrails() if isinstance(g, StateGuardrail))
DAYS, EVERY = 4, 7
# On the table patients one person's share at 20 % had a standard deviation of 7 points over two seeds of four days.
# With three days, which reach every stage of being known, about 10: (1.96 x 10 / 1.5)^2 = 170 people for 1.5 points.
VIRTUAL, VIRTUAL_DAYS, BATCH = 176, 3, 44


def metric_of(guardrail: StateGuardrail, risk: float) -> str:
    """Name of the share of plans that fell short of the margin claimed at a risk, in per cent."""
    return f"short_{guardrail.name}_{risk * 100:g}"


# The guardrails count from this moment on: sooner an action changes little.
LATER = f"violations_from_{min(g.start for g in RAILS) * STEP_MINUTES}min"
METRICS = (*(metric_of(g, risk) for g in RAILS for risk in LEVELS), "violations", LATER, "plans")


@dataclass(frozen=True)
class _Job:
    """Some people of one seed.

    Attributes:
        model: Checkpoint folder.
        seed: Of people and their days.
        names: Table patients; none where the people are virtual.
        batch: Of the virtual people: which batch, of how many people in all.
        steps: Decisions.
        announced: Whether they announce what they eat.
        arm: Always `foreworld`.
    """

    model: Path
    seed: int
    names: tuple[str, ...]
    batch: tuple[int, int]
    steps: int
    announced: bool
    arm: str = ARM


def looped(announced: bool) -> CalibrateConfig:
    """How a claim was calibrated, and so who the virtual people are."""
    return FULL.calibrate if announced else FULL.calibrate.silent()


def _people(job: _Job) -> tuple[Patients, ScenarioConfig]:
    if job.names:
        return load_patients(job.names), ScenarioConfig(announced=job.announced)
    who, (number, count) = looped(job.announced).looped, job.batch
    everyone = cohort("visit", count, job.seed, who.spread, who.records, who.groups)
    return everyone.select(np.arange(number * BATCH, min((number + 1) * BATCH, count))), who.scenario


def _visit(job: _Job) -> tuple[Patients, Visits]:
    torch.set_num_threads(1)
    patients, scenario = _people(job)
    profile = PROFILES[looped(job.announced).profile]
    agent = insulin_agent(load_forecaster(job.model), profile=profile, seed=job.seed)
    # Every batch has days of its own; those of the table patients are what they were before there were others.
    seed = job.seed + 7000 if job.names else [job.seed, 7000, job.batch[0]]
    days = seed if isinstance(seed, int) else int(np.random.SeedSequence(seed).generate_state(1)[0])
    return patients, visits(agent, patients, scenario, steps=job.steps, every=EVERY, seed=days)


def _jobs(request: Request, model: Path, seed: int, announced: bool) -> list[_Job]:
    names = subjects_of(request.subjects if request.subjects else 3 if request.quick else 21)
    count = 4 if request.quick else min(VIRTUAL, request.subjects or VIRTUAL)
    table, fresh = (150, 150) if request.quick else (DAYS * 288, VIRTUAL_DAYS * 288)
    batches = range(-(-count // BATCH))
    return [
        _Job(model, seed, names, (0, 0), table, announced),
        *(_Job(model, seed, (), (number, count), fresh, announced) for number in batches),
    ]


def _identity(job: _Job) -> dict[str, Any]:
    """Everything that shapes what a job gives, but the source."""
    return {
        **run_identity(f"{name_of(job.announced)} v{version_of(job.announced)}", job.seed, job.names, job.model),
        "batch": list(job.batch),
        "steps": job.steps,
        "settings": settings_of(job.announced),
    }


def _add(samples: Samples, job: _Job, given: tuple[Patients, Visits]) -> None:
    """One value a person and metric: shares of their plans, which weigh by their number."""
    (patients, found), calibration = given, load_forecaster(job.model).calibration
    for number, subject in enumerate(patients.names):
        of = found.subject == number
        if not of.any():
            continue
        groups = groups_of((subject,)) if job.names else [("virtual",)]
        count = float(of.sum())

        def add(
            metric: str, value: float, unit: str = "share", weight: float | None = count, subject: str = subject,
            groups: Sequence[Sequence[str]] = groups,
        ) -> None:  # fmt: skip
            weights = None if weight is None else [weight]
            samples.add(job.arm, metric, job.seed, (subject,), [value], groups, unit=unit, weights=weights)

        crossed, later = np.zeros((2, len(found)), dtype=bool)
        for guardrail in RAILS:
            crossed |= found.whole[guardrail.name] < 0
            later |= found.true[guardrail.name] < 0
            for risk in LEVELS:
                short = found.exceeded(calibration, guardrail, risk)
                add(metric_of(guardrail, risk), float(short[of].mean()))
        add("violations", float(crossed[of].mean()))
        add(LATER, float(later[of].mean()))
        add("plans", count, "plans", None)


def _runner(announced: bool) -> Callable[[Request], Sequence[Row]]:
    def run(request: Request) -> Sequence[Row]:
        """Plans chosen in closed loop, carried out open-loop in branches of the simulator.

        Metrics: `short_<guardrail>_<risk>`, the share of chosen plans whose true least distance from the bound fell
        short of the distance claimed at that risk (to be at most, and near, the risk); `violations`, the share of
        chosen plans under which true glucose crossed a guardrail's bound anywhere from the first step after the
        decision to the end of its horizon; `violations_from_60min`, the same from the step on from which the guardrail
        counts and its risk is claimed; `plans`, how many a person.
        """
        samples = Samples(
            request.seeds, NAMES | Names(groups=frozenset((*GROUPS, "virtual")), metrics=frozenset(METRICS))
        )
        made = prepare_all(request, announced=announced)
        jobs = [job for seed in request.seeds for job in _jobs(request, made[seed].model, seed, announced)]
        for job, _ in run_sampled(
            _visit, jobs, _add, samples, identity=_identity, kept=request.kept, workers=1 if request.quick else None,
            report=request.tell,
        ):  # fmt: skip
            who = "table patients" if job.names else f"batch {job.batch[0] + 1} of {job.batch[1]} virtual people"
            request.tell(f"seed {job.seed}: {who} done")
        # Table patients and virtual people together stand for nobody.
        return [row for row in samples.rows() if row.group != "all"]

    return run


def _pictures(evidence: Evidence) -> list[Picture]:
    rails = {g.name: f"{g.quantity} stays {g.sense.replace('_', ' ')} {g.bound:g} {g.unit}" for g in RAILS}
    claims = {metric_of(g, risk): (g.name, risk) for g in RAILS for risk in LEVELS}
    return reliability_pictures(evidence, claims, rails)


def name_of(announced: bool) -> str:
    """Name of the protocol for people who announce what they eat, or for those who announce nothing."""
    return "treatment/guardrails" if announced else "treatment/guardrails-unannounced"


def version_of(announced: bool) -> int:
    """Version of that protocol."""
    return 3 if announced else 2


def settings_of(announced: bool) -> dict[str, Any]:
    """Settings of that protocol."""
    who = looped(announced)
    return {
        "days": DAYS,
        "every": EVERY,
        "levels": list(LEVELS),
        "scenario": ScenarioConfig(announced=announced).model_dump(mode="json"),
        "profile": who.profile,
        "virtual": {
            "people": VIRTUAL,
            "days": VIRTUAL_DAYS,
            "batch": BATCH,
            "who": who.looped.model_dump(mode="json"),
        },
        "recipe": FULL.model_dump(mode="json"),
    }


def protocols() -> tuple[Protocol, ...]:
    """For people who announce what they eat, and for people who announce nothing."""
    found = []
    for announced in (True, False):
        found.append(
            Protocol(
                name=name_of(announced),
                version=version_of(announced),
                description=(
                    "Claimed risk of the guardrails against what plans chosen in closed loop really led to, carried "
                    "out open-loop; unseen patients, and fresh virtual people like those of the calibration"
                    + ("." if announced else "; nothing is announced.")
                ),
                settings=settings_of(announced),
                arms=(ARM,),
                metrics=METRICS,
                run=_runner(announced),
                groups=(*GROUPS, "virtual"),
                pictures=_pictures,
                keeps=True,
            )
        )
    return tuple(found)
