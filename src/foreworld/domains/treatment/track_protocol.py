"""The closed-loop tracks as protocols: `foreworld evaluate treatment/t1d-announced` and its siblings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foreworld.domains.treatment.closed_loop import Job, Run, add_samples, groups_of, run_job, subjects_of
from foreworld.domains.treatment.figure_track import pictures
from foreworld.domains.treatment.identity import run_identity
from foreworld.domains.treatment.metrics import UNITS
from foreworld.domains.treatment.oref0_bridge import oref0_versions, require_oref0
from foreworld.domains.treatment.policies.made import POLICY_ARMS
from foreworld.domains.treatment.policies.offline_rl import require_offline_rl
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import DATA_ARMS, GROUPS, MODEL_ARMS, prepare_all, recipe_of
from foreworld.domains.treatment.tracks import TRACKS, Track
from foreworld.errors import MissingDataError
from foreworld.evidence.kept import folder_digest
from foreworld.evidence.protocol import Protocol, Request
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.sampled import run_sampled
from foreworld.evidence.samples import Samples

ARMS = tuple(dict.fromkeys(arm for track in TRACKS for arm in track.arms))
VERSION = 2
ABOVE = tuple(f"time_in_range_above_{arm}" for arm in ARMS if arm != "foreworld")
# Of each patient's mean over seeds: the worst, and the 5th percentile towards the worse side.
TAILS = tuple(f"{metric}_{tail}" for metric in ("time_in_range", "time_below_54") for tail in ("worst", "p5"))
# Of the way in time in range from the standard of care that can be had to the filter, which knows the equations.
FROM, TO = ("bb_error", "pid"), "filter"
GAP = "gap_closed"
OREF0 = ("oref0", "oref0_smb")
# Arms that are others' software, and what says how to get it.
PEERS: tuple[tuple[tuple[str, ...], Callable[[], object]], ...] = (
    (OREF0, require_oref0),
    (("offline_rl",), require_offline_rl),
)
REFUSED = ("refusals", "refusals_per_day", "refusals_unfaulted", "interventions_per_day")
LOOP_METRICS = (*UNITS, "cpu_ms_per_decision", *REFUSED, "train_cpu_seconds", *ABOVE, GAP, *TAILS)


def protocol_of(track: Track) -> Protocol:
    """A track as a protocol."""
    return Protocol(
        name=f"treatment/{track.name}",
        version=VERSION,
        description=track.description,
        settings={"loop": track.config.model_dump(mode="json"), "recipe": FULL.model_dump(mode="json")},
        arms=track.arms,
        metrics=LOOP_METRICS,
        run=_runner(track),
        groups=GROUPS,
        pictures=pictures,
        keeps=True,
    )


def _runner(track: Track) -> Callable[[Request], Sequence[Row]]:
    def run(request: Request) -> Sequence[Row]:
        arms = request.arms or available(track.arms)
        samples = run_loop(track, replace(request, arms=arms))
        return [*samples.rows(), *differences(samples, arms), *gap_closed(samples, arms), *tails(samples, arms)]

    return run


def available(arms: Sequence[str]) -> tuple[str, ...]:
    """The arms that can run here; one whose peer is not installed is left out with a warning that says how to get it.

    An arm that is asked for by name is never left out: it fails with the same words.
    """
    left = tuple(arms)
    for of_peer, require in PEERS:
        if not set(of_peer) & set(left):
            continue
        try:
            require()
        except MissingDataError as error:
            warnings.warn(f"without {' and '.join(of_peer)}, which are left out: {error}", stacklevel=2)
            left = tuple(arm for arm in left if arm not in of_peer)
    return left


def run_loop(
    track: Track,
    request: Request,
    *,
    taken: Callable[[Job, Run], None] = lambda job, run: None,
    report: Callable[[str], None] | None = None,
) -> Samples:
    """Run the arms of a closed-loop protocol.

    Args:
        track: What happens to whom.
        request: Arms, seeds, subjects.
        taken: Called with every job and what it gave, in order.
        report: Takes a line at each stage; that of the request if None.
    """
    arms, config, report = request.arms or track.arms, track.config, report or request.tell
    if request.quick:
        config = config.model_copy(update={"days": 1, "burn_in": 0, "episodes": 1})
    subjects = subjects_of(request.subjects if request.subjects else 4 if request.quick else None, config.groups)
    samples = Samples(request.seeds, NAMES | Names(frozenset(ARMS), frozenset(GROUPS), frozenset(LOOP_METRICS)))
    announced, calibrate = config.scenario.announced, recipe_of(request).calibrate
    calibrate = calibrate if announced else calibrate.silent()
    learning = {*MODEL_ARMS, *DATA_ARMS, *POLICY_ARMS} & set(arms)
    request = replace(request, arms=tuple(arms))
    jobs, parts = [], prepare_all(request, report, announced=announced) if learning else {}
    costs: dict[str, list[float]] = {}
    for seed in request.seeds:
        made = parts.get(seed)
        for arm in arms:
            model, data = (made.model, made.data) if made else (None, None)
            policy, spent = made.policies.get(arm, (None, np.nan)) if made else (None, np.nan)
            jobs.append(Job(arm, seed, subjects, config, model, data, calibrate=calibrate, policy=policy))
            costs.setdefault(arm, []).append(made.cpu_seconds if made and arm == "foreworld" else spent)
    for arm, spent_by_seed in costs.items():
        if not np.isfinite(spent_by_seed).all():
            continue  # an interrupted preparation does not know what it took: a cost is told of all seeds or of none
        for seed, spent in zip(request.seeds, spent_by_seed, strict=True):
            cost = np.full(len(subjects), spent)
            samples.add(arm, "train_cpu_seconds", seed, subjects, cost, groups_of(subjects), unit="s", how="max")
    report(f"{track.name}: {len(jobs)} runs of {len(subjects)} patients, {config.days} days each")
    for job, done in run_sampled(
        run_job, jobs, add_samples, samples, identity=lambda job: _identity(track, job), kept=request.kept,
        workers=1 if request.quick else None, report=report,
    ):  # fmt: skip
        taken(job, done)
        share = float(((done.bg >= 70.0) & (done.bg <= 180.0)).mean())
        report(f"{job.arm}, seed {job.seed}: time in range {share:.1%}, {done.cpu_seconds:.0f} CPU s")
    return samples


def _identity(track: Track, job: Job) -> dict[str, Any]:
    """Everything that shapes what a job gives, but the source."""
    learned = job.arm in MODEL_ARMS or job.arm in DATA_ARMS or job.arm in POLICY_ARMS
    model = job.model if job.arm in MODEL_ARMS else None
    return {
        **run_identity(f"treatment/{track.name} v{VERSION}", job.seed, job.subjects, model),
        "loop": job.config.model_dump(mode="json"),
        "data": folder_digest(job.data) if job.arm in DATA_ARMS else None,
        "policy": folder_digest(job.policy),
        "calibrate": job.calibrate.model_dump(mode="json") if learned and job.calibrate is not None else None,
        **({"peer": oref0_versions()} if job.arm in OREF0 else {}),
    }


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


def gap_closed(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """How much of the way from `bb_error` (where nothing is announced, `pid`) to `filter` foreworld goes."""
    baseline = next((arm for arm in FROM if arm in arms), None)
    if baseline is None or not {"foreworld", TO} <= set(arms):
        return []
    rows = []
    for group in ("all", "unseen"):
        if not samples.subjects("foreworld", group):
            continue
        found = samples.share_of_gap("foreworld", baseline, TO, "time_in_range", group)
        own, best = (samples.differences_by_seed(arm, baseline, "time_in_range", group) for arm in ("foreworld", TO))
        by_seed = tuple(one / whole if whole else 0.0 for one, whole in zip(own, best, strict=True))
        n = len(samples.subjects("foreworld", group))
        rows.append(
            Row(
                arm="foreworld", group=group, metric=GAP, value=found.value, low=found.low, high=found.high, n=n,
                unit="share", by_seed=by_seed,
            )
        )  # fmt: skip
    return rows


def tails(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """The worst patient and the 5th percentile of patients, which a mean hides; without an interval."""
    rows = []
    for group in ("all", "unseen"):
        for arm in arms:
            for metric, worse in (("time_in_range", 5.0), ("time_below_54", 95.0)):
                by_seed = samples.by_subject(arm, metric, group)
                if not by_seed.size:
                    continue
                extreme = 0.0 if worse < 50.0 else 100.0
                for tail, share in (("worst", extreme), ("p5", worse)):
                    rows.append(
                        Row(
                            arm=arm,
                            group=group,
                            metric=f"{metric}_{tail}",
                            value=float(np.percentile(by_seed.mean(0), share)),
                            low=None,
                            high=None,
                            n=by_seed.shape[1],
                            unit="share",
                            by_seed=tuple(float(np.percentile(one, share)) for one in by_seed),
                        )
                    )
    return rows
