"""`rooms/fast-mode`: a policy distilled from the deliberate planner, under the same guardrails. What is it worth?"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from foreworld.domains.rooms.fast import DistilConfig, Fast, distil
from foreworld.domains.rooms.floors import FLOORS, UNLEARNED
from foreworld.domains.rooms.loop import SEARCH, TOGETHER, By, Outcome, Planned, Player, joined, run_pairs
from foreworld.domains.rooms.making import runs
from foreworld.domains.rooms.pairs import Pairs, drawn
from foreworld.domains.rooms.prepare import Prepared
from foreworld.domains.rooms.running import Experiment, ExperimentConfig, Job, add_outcome, begin
from foreworld.domains.rooms.scene import RoomsConfig
from foreworld.evidence.rows import Row
from foreworld.evidence.samples import Samples
from foreworld.evidence.statistics import Interval, ratio_bootstrap
from foreworld.planning.planners.base import Best, Decisions, Planner
from foreworld.planning.planners.cem import CEMPlanner
from foreworld.planning.planners.judged import Problem

NAME, VERSION = "rooms/fast-mode", 1
MODES = ("foreworld", "foreworld_fast")
ARMS = (*MODES, *FLOORS)
RATIOS = {"success_share": "success", "planning_share": "planning_ms_one_scene"}
METRICS = (
    "success", "solved_at_start", "steps_to_goal", "refusals", "searched", "cpu_ms_per_decision", "cpu_ms_one_scene",
    "planning_ms_one_scene", "train_cpu_seconds", "distil_cpu_seconds", *RATIOS,
)  # fmt: skip
WARM_UP = 3  # decisions in which threads and caches come up


class FastConfig(ExperimentConfig):
    """What is compared.

    Attributes:
        rooms: What scenes are like.
        distil: Of the policy.
        count: Starts a seed.
        budget: Actions an episode has at most.
        by: How far a goal is.
        horizon: Blocks that are planned ahead.
        timed: Scenes of a seed that are run once more, each alone, to see what a decision about one scene takes.
    """

    rooms: RoomsConfig = RoomsConfig()
    distil: DistilConfig = DistilConfig()
    count: int = 400
    budget: int = 100
    by: By = "temporal"
    horizon: int = 3
    timed: int = 20

    def quick(self) -> Self:
        """A smoke run."""
        few = self.distil.model_copy(
            update={"scenes": 20, "budget": 40, "rounds": 2, "fit": self.distil.fit.model_copy(update={"steps": 300})}
        )
        return super().quick().model_copy(update={"distil": few, "timed": 2})


@dataclass
class Timed(Planner):
    """A planner that counts the CPU seconds of its plans."""

    planner: Planner
    spent: float = 0.0

    def plan(self, problem: Problem) -> Decisions:
        """As the planner."""
        began = time.process_time()
        found = self.planner.plan(problem)
        self.spent += time.process_time() - began
        return found

    def search(self, problem: Problem, best: Best) -> None:
        """The planner's."""
        self.planner.search(problem, best)


@dataclass(frozen=True)
class Alone:
    """An episode whose scene was alone: decisions, and CPU ms of each in the mean, in all and without encoding."""

    decisions: int
    whole: float
    planning: float


@dataclass(frozen=True)
class Found:
    """What an arm gave in a seed.

    Attributes:
        outcome: Of all scenes.
        alone: Of those that were run one at a time.
        searched: Decisions in which the policy's plan might not be done.
        distilled: CPU seconds of the policy; NaN where there is none, or nobody knows.
    """

    outcome: Outcome
    alone: tuple[Alone, ...] = ()
    searched: int = 0
    distilled: float = field(default=float("nan"))


def run_job(job: Job[FastConfig]) -> Found:
    """One arm in the scenes of one seed."""
    config, pairs = job.config, drawn(job.config.rooms, job.seed, job.count)
    prepared = begin(job)
    if not isinstance(prepared, Prepared):
        return Found(run_pairs(prepared, config.rooms, pairs, config.budget))
    planner = Timed(CEMPlanner(SEARCH))
    slow = Planned(prepared, horizon=config.horizon, planner=planner, by=config.by, seed=job.seed)
    if job.arm == "foreworld":
        done, _ = episodes(slow, config, pairs)
        return Found(done, tuple(alone(slow, config, pairs, n) for n in range(min(config.timed, len(pairs)))))
    text = f"{config.recipe.key(job.seed)} {config.distil.model_dump_json()} {config.by} {config.horizon}"
    name = f"{config.recipe.name}-fast-{job.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    policy, spent = distil(
        prepared, config.recipe, config.distil, runs() / f"rooms-{name}", by=config.by, horizon=config.horizon,
        seed=job.seed,
    )  # fmt: skip
    fast = Fast(slow, policy)
    done, searched = episodes(fast, config, pairs)
    return Found(
        done, tuple(alone(fast, config, pairs, n) for n in range(min(config.timed, len(pairs)))), searched, spent
    )


def episodes(player: Player, config: FastConfig, pairs: Pairs) -> tuple[Outcome, int]:
    """All episodes, many side by side; and for how many decisions a fast player asked the deliberate one."""
    parts, searched = [], 0
    for first in range(0, len(pairs), TOGETHER):
        parts.append(run_pairs(player, config.rooms, pairs.part(slice(first, first + TOGETHER)), config.budget))
        searched += getattr(player, "searched", 0)
    return joined(parts), searched


def alone(player: Planned | Fast, config: FastConfig, pairs: Pairs, n: int) -> Alone:
    """What decisions about scene n take when it is alone; what is looked at at the start is counted."""
    one = pairs.part(slice(n, n + 1))
    if n == 0:
        run_pairs(player, config.rooms, one, WARM_UP)
    timer = player.planner if isinstance(player, Planned) else None
    before = timer.spent if isinstance(timer, Timed) else 0.0
    done = run_pairs(player, config.rooms, one, config.budget)
    planning = timer.spent - before if isinstance(timer, Timed) else getattr(player, "planning", 0.0)
    count = max(done.decisions, 1)
    return Alone(done.decisions, 1000.0 * done.cpu_seconds / count, 1000.0 * planning / count)


def add_samples(samples: Samples, job: Job[Any], found: Found) -> None:
    """What an arm gave in a seed."""
    add_outcome(samples, job, found.outcome)
    if found.alone:
        names = [f"{job.seed}/{n}" for n in range(len(found.alone))]
        weights = [max(one.decisions, 1) for one in found.alone]
        for metric, values in (
            ("cpu_ms_one_scene", [one.whole for one in found.alone]),
            ("planning_ms_one_scene", [one.planning for one in found.alone]),
        ):
            samples.add(job.arm, metric, job.seed, names, values, unit="ms", weights=weights)
    if job.arm == "foreworld_fast":
        share = found.searched / max(found.outcome.decisions, 1)
        samples.add(job.arm, "searched", job.seed, [f"{job.seed}/all"], [share])
        if np.isfinite(found.distilled):
            spent = [found.distilled]
            samples.add(job.arm, "distil_cpu_seconds", job.seed, ["policy"], spent, unit="s", how="max")


def shares(samples: Samples, arms: Sequence[str]) -> list[Row]:
    """Success and planning time of the fast mode as shares of the deliberate one's, paired by scene."""
    if not set(MODES) <= set(arms):
        return []
    rows = []
    for metric, of in RATIOS.items():
        slow, fast = (samples.values(arm, of) for arm in MODES)
        keys = [key for key in fast if key in slow]

        def ratio(
            chosen: Sequence[tuple[int, str]], mine: dict[Any, float] = fast, its: dict[Any, float] = slow
        ) -> Interval:
            values = [mine[key] for key in chosen], [its[key] for key in chosen]
            return ratio_bootstrap(*values, [subject for _, subject in chosen])

        if not sum(slow[key] for key in keys):
            continue  # who never gets there has no share to be compared with
        found = ratio(keys)
        by_seed = tuple(ratio([key for key in keys if key[0] == seed]).value for seed in samples.seeds)
        rows.append(
            Row(
                arm="foreworld_fast", group="all", metric=metric, value=100.0 * found.value, low=100.0 * found.low,
                high=100.0 * found.high, n=len(keys), unit="%", by_seed=tuple(100.0 * one for one in by_seed),
            )
        )  # fmt: skip
    return rows


FAST_MODE = Experiment(
    NAME,
    VERSION,
    "The two rooms, start and goal in different ones: a policy distilled from the deliberate planner on scenes of the "
    "training, under the same guardrails, beside the planner; success, and CPU time of a decision about one scene.",
    ARMS,
    METRICS,
    run_job,
    add_samples,
    unlearned=UNLEARNED,
    costed=MODES,
    few=16,
    told=lambda found: f"{found.outcome.reached[~found.outcome.solved].mean():.1%}",
    pairs=shares,
)
