"""The protocols of this domain: what `foreworld evaluate treatment/...` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from foreworld.domains.treatment import forecast_protocol, guardrail_protocol
from foreworld.domains.treatment.closed_loop import (
    ARMS,
    PLANNING_ARMS,
    Job,
    LoopConfig,
    Run,
    add_samples,
    groups_of,
    run_job,
    subjects_of,
)
from foreworld.domains.treatment.metrics import UNITS
from foreworld.domains.treatment.parallel import run_all
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import GROUPS, prepare_all, recipe_of
from foreworld.domains.treatment.scenario import ScenarioConfig
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples

ABOVE = tuple(f"time_in_range_above_{arm}" for arm in ARMS if arm != "foreworld")
LOOP_METRICS = (*UNITS, "cpu_ms_per_decision", "refusals", "train_cpu_seconds", *ABOVE)


def differences(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """How many percentage points of time in range foreworld has above every other arm, paired by patient and seed."""
    rows = []
    for group in ("all", "unseen"):
        for arm in arms:
            if arm == "foreworld" or "foreworld" not in arms or not samples.subjects("foreworld", group):
                continue
            found = samples.difference("foreworld", arm, "time_in_range", group)
            rows.append(
                Row(
                    arm="foreworld",
                    group=group,
                    metric=f"time_in_range_above_{arm}",
                    value=100.0 * found.value,
                    low=100.0 * found.low,
                    high=100.0 * found.high,
                    n=len(samples.subjects("foreworld", group)),
                    unit="points",
                    by_seed=tuple(
                        100.0 * value for value in samples.differences_by_seed("foreworld", arm, "time_in_range", group)
                    ),
                )
            )
    return rows


def _closed_loop(name: str, config: LoopConfig) -> Callable[[Request], Sequence[Row]]:
    def run(request: Request) -> Sequence[Row]:
        samples = run_loop(name, config, request)
        return [*samples.rows(), *differences(samples, request.arms or ARMS)]

    return run


def run_loop(
    name: str,
    config: LoopConfig,
    request: Request,
    *,
    taken: Callable[[Job, Run], None] = lambda job, run: None,
    report: Callable[[str], None] = lambda line: None,
) -> Samples:
    """Run the arms of a closed-loop protocol.

    Args:
        name: Of the protocol.
        config: Of the protocol.
        request: Arms, seeds, subjects.
        taken: Called with every job and what it gave, in order.
        report: Takes a line at each stage.
    """
    arms = request.arms or ARMS
    if request.quick:
        config = config.model_copy(update={"days": 1, "burn_in": 0})
    subjects = subjects_of(request.subjects if request.subjects else 4 if request.quick else None)
    samples = Samples(request.seeds, NAMES | Names(frozenset(ARMS), frozenset(GROUPS), frozenset(LOOP_METRICS)))
    jobs, parts = [], prepare_all(request, report) if set(PLANNING_ARMS) & set(arms) else {}
    for seed in request.seeds:
        made = parts.get(seed)
        for arm in arms:
            model, data = (made.model, made.data) if made else (None, None)
            jobs.append(Job(arm, seed, subjects, config, model, data, calibrate=recipe_of(request).calibrate))
            if arm == "foreworld" and made is not None and np.isfinite(made.cpu_seconds):
                cost = np.full(len(subjects), made.cpu_seconds)
                samples.add(arm, "train_cpu_seconds", seed, subjects, cost, groups_of(subjects), unit="s", how="max")
    report(f"{name}: {len(jobs)} runs of {len(subjects)} patients, {config.days} days each")
    for job, done in zip(jobs, run_all(run_job, jobs, workers=1 if request.quick else None), strict=True):
        add_samples(samples, job, done)
        taken(job, done)
        share = float(((done.bg >= 70.0) & (done.bg <= 180.0)).mean())
        report(f"{job.arm}, seed {job.seed}: time in range {share:.1%}, {done.cpu_seconds:.0f} CPU s")
    return samples


ANNOUNCED = LoopConfig(scenario=ScenarioConfig())

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="treatment/t1d-announced",
            version=1,
            description=(
                "Track A: meals announced with 30 % carb error at the first decision after the first bite; 14 days "
                "after one of burn-in; scored on true glucose."
            ),
            settings={"loop": ANNOUNCED.model_dump(mode="json"), "recipe": FULL.model_dump(mode="json")},
            arms=ARMS,
            metrics=LOOP_METRICS,
            run=_closed_loop("treatment/t1d-announced", ANNOUNCED),
            groups=GROUPS,
        ),
        Protocol(
            name="treatment/guardrails",
            version=1,
            description=(
                "Claimed risk of the guardrails against what plans chosen in closed loop really led to, carried out "
                "open-loop; unseen patients."
            ),
            settings=guardrail_protocol.SETTINGS | {"recipe": FULL.model_dump(mode="json")},
            arms=("foreworld",),
            metrics=guardrail_protocol.METRICS,
            run=guardrail_protocol.run,
            groups=GROUPS,
        ),
        *forecast_protocol.protocols(),
    )
}
