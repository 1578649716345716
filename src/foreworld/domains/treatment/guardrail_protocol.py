"""`treatment/guardrails`: do the guardrails hold their claimed risk on the plans that the planner chooses?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foreworld.agent.calibrate import Visits
from foreworld.domains.treatment.calibrate import load_forecaster, visits
from foreworld.domains.treatment.closed_loop import groups_of, subjects_of
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.parallel import run_all
from foreworld.domains.treatment.prepared import GROUPS, prepare_all
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.domains.treatment.tables import load_patients
from foreworld.domains.treatment.task import guardrails
from foreworld.evidence.protocol import Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples
from foreworld.planning.guardrail import StateGuardrail

LEVELS = (0.01, 0.05, 0.1, 0.2)
RAILS = tuple(g for g in guardrails() if isinstance(g, StateGuardrail))
SETTINGS = {"days": 4, "every": 7, "levels": list(LEVELS), "scenario": ScenarioConfig().model_dump(mode="json")}


def metric_of(guardrail: StateGuardrail, risk: float) -> str:
    """Name of the share of plans that fell short of the margin claimed at a risk, in per cent."""
    return f"short_{guardrail.name}_{risk * 100:g}"


METRICS = (*(metric_of(g, risk) for g in RAILS for risk in LEVELS), "violations", "plans")


@dataclass(frozen=True)
class _Job:
    model: Path
    seed: int
    subjects: tuple[str, ...]
    steps: int
    every: int


def _visit(job: _Job) -> Visits:
    torch.set_num_threads(1)
    agent = insulin_agent(load_forecaster(job.model), seed=job.seed)
    return visits(
        agent, load_patients(job.subjects), ScenarioConfig(), steps=job.steps, every=job.every, seed=job.seed + 7000
    )


def run(request: Request, report: Callable[[str], None] = lambda line: None) -> Sequence[Row]:
    """Plans chosen in closed loop on table patients, carried out open-loop in branches of the simulator.

    Metrics: `short_<guardrail>_<risk>`, the share of chosen plans whose true least distance from the bound fell short
    of the distance claimed at that risk (to be at most, and near, the risk); `violations`, the share of chosen plans
    under which a bound was truly crossed within its horizon; `plans`, how many a patient.
    """
    subjects = subjects_of(request.subjects if request.subjects else 3 if request.quick else 21)
    steps = 150 if request.quick else SETTINGS["days"] * 288  # type: ignore[operator]
    every = int(SETTINGS["every"])  # type: ignore[call-overload]
    samples = Samples(request.seeds, NAMES | Names(groups=frozenset(GROUPS), metrics=frozenset(METRICS)))
    made = prepare_all(request, report)
    jobs = [_Job(made[seed].model, seed, subjects, steps, every) for seed in request.seeds]
    for job, found in zip(jobs, run_all(_visit, jobs, workers=1 if request.quick else None), strict=True):
        calibration = load_forecaster(job.model).calibration
        for number, subject in enumerate(subjects):
            of = found.subject == number
            if not of.any():
                continue
            count = float(of.sum())
            groups = groups_of((subject,))

            def add(
                metric: str, hit: np.ndarray, of: np.ndarray = of, subject: str = subject, count: float = count,
                groups: list[tuple[str, ...]] = groups, seed: int = job.seed,
            ) -> None:  # fmt: skip
                samples.add("foreworld", metric, seed, (subject,), [hit[of].mean()], groups, weights=[count])

            crossed = np.zeros(len(found), dtype=bool)
            for guardrail in RAILS:
                crossed |= found.true[guardrail.name] < 0
                for risk in LEVELS:
                    add(metric_of(guardrail, risk), found.exceeded(calibration, guardrail, risk))
            add("violations", crossed)
            samples.add("foreworld", "plans", job.seed, (subject,), [count], groups, unit="plans")
    return samples.rows()
