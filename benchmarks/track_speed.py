"""What one arm of a closed-loop track costs, and where its time goes; the bar is 20 CPU minutes, the goal 10.

    python benchmarks/track_speed.py [--model runs/models/full-0-.../model] [--days 2]

Thirty virtual people of the cohort `tune` in the track's days, all decided for at once on one thread: CPU time, so that
a busy machine does not show. First without timers, the default planner and two with fewer candidates taking turns every
few hours of simulated time; then the default once more with timers, for the shares. An arm of track A is 30 patients x
14 days x 5 seeds, 604,800 decisions. Without `--model` a model of the smoke recipe is made, which costs as much a
decision as any other of the same size. Prints figures last; writes results/track_speed.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.agent.agent import ACTORS, Agent
from foreworld.agent.memory import Memory
from foreworld.agent.monitor import Monitor
from foreworld.domains.treatment.calibrate import load_forecaster
from foreworld.domains.treatment.collect import cohort, statics_of
from foreworld.domains.treatment.loop import insulin_agent
from foreworld.domains.treatment.prepared import prepare_all
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.task import InsulinTask
from foreworld.evidence.heap import keep_heap
from foreworld.evidence.protocol import Request, machine
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.world_model import WorldModel
from foreworld.planning.planners import base, cem
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner

RESULT = Path(__file__).parent / "results" / "track_speed.json"
PATIENTS, DECISIONS = 30, 30 * 14 * 288 * 5
BAR, GOAL = 20.0, 10.0  # CPU minutes an arm
TURN = 24  # decisions before another planner has its turn
WARM_UP = 288  # decisions that are not counted: a day, as the track's burn-in; memory and the jit fill up
PLANNERS = {"48x3": (48, 3), "24x3": (24, 3), "32x2": (32, 2)}  # samples and iterations; the first is the default

# Where time is spent, the first match from the inside out; what is under `whole` counts as one with all it calls.
PARTS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("simulate", Simulator, ("step",)),
    ("perceive and update", Agent, ("_perceive",)),
    ("prepare", Forecaster, ("begin",)),
    ("propose", CEMPlanner, ("plan",)),
    ("respond", WorldModel, ("respond", "normalise_actions")),
    ("read the forecast", Forecaster, ("forecast",)),
    ("margins, objective and rank", base, ("judge",)),
    ("margins, objective and rank", cem, ("judge",)),
    ("space and dose limits", InsulinTask, ("space", "suggestions")),
    ("fallback", InsulinTask, ("fallback",)),
    ("memory", Memory, ("see", "act", "history")),
    ("memory", Agent, ("_remember",)),
    ("monitor", Monitor, ("look",)),
    ("checker", Agent, ("_gate",)),
    ("the rest", Agent, ("decide",)),
)
WHOLE = ("monitor", "checker")


class Clock:
    """CPU time by part; what a part calls counts as the part called, apart from `WHOLE`."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count what a function or method takes as this part."""
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._running and self._running[-1] in WHOLE:
                return inner(*args, **kwargs)
            self._turn()
            self._running.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        setattr(owner, name, timed)

    def _turn(self) -> None:
        now = time.process_time()
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now


class Course:
    """One planner in a closed loop of its own."""

    def __init__(self, forecaster: Forecaster, planner: CEMPlanner | None, days: int) -> None:
        people = cohort("tune", PATIENTS, seed=1)
        self.simulator = Simulator(people, Scenario.draw(people, ScenarioConfig(days=days), seed=0))
        self.agent, self.seen = insulin_agent(forecaster, planner=planner), self.simulator.reset()
        self.agent.start(people.names, statics_of(people))
        self.planned: list[float] = []

    def go_on(self, decisions: int) -> float:
        """CPU milliseconds a decision and patient, simulation included, over so many more decisions."""
        began = time.process_time()
        for _ in range(decisions):
            step = self.agent.decide(float(self.seen.minute), {"cgm": self.seen.cgm, "carbs": self.seen.announced})
            self.planned.append(float((step.actors == ACTORS.index(ACTORS[0])).mean()))
            self.seen = self.simulator.step(step.actions[:, 0])
        return 1000.0 * (time.process_time() - began) / decisions / PATIENTS


def compare(forecaster: Forecaster, days: int) -> dict[str, dict[str, float | int]]:
    """Cost of each planner, in turns."""
    courses = {
        name: Course(forecaster, CEMPlanner(CEMConfig.icem(samples, iterations)), 1 + days)
        for name, (samples, iterations) in PLANNERS.items()
    }
    costs: dict[str, list[float]] = {name: [] for name in courses}
    for turn in range((1 + days) * 288 // TURN):
        names = list(courses)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            costs[name].append(courses[name].go_on(TURN))
    rows: dict[str, dict[str, float | int]] = {}
    for name, every in costs.items():
        counted = np.array(every[WARM_UP // TURN :])
        rows[name] = {
            "cpu_ms_per_decision": float(counted.mean()),
            "cpu_ms_per_decision_5th": float(np.percentile(counted, 5)),
            "cpu_ms_per_decision_95th": float(np.percentile(counted, 95)),
            "arm_cpu_minutes": float(counted.mean()) * DECISIONS / 60000.0,
            "planned_share": float(np.mean(courses[name].planned[WARM_UP:])),
            "n": len(counted) * TURN * PATIENTS,
        }
    return rows


def breakdown(forecaster: Forecaster, days: int) -> dict[str, float]:
    """CPU milliseconds a decision and patient by part, the greatest first."""
    course, clock = Course(forecaster, None, 1 + days), Clock()
    course.go_on(WARM_UP)
    for part, owner, names in PARTS:
        for name in names:
            clock.watch(owner, name, part)
    course.go_on(days * 288)
    ordered = sorted(clock.spent.items(), key=lambda item: -item[1])
    return {part: 1000.0 * spent / (days * 288 * PATIENTS) for part, spent in ordered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--days", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_heap()  # as `foreworld evaluate` does
    folder = options.model or prepare_all(Request(arms=("foreworld",), seeds=(0,), quick=True))[0].model
    forecaster = load_forecaster(folder)
    rows = compare(forecaster, options.days)
    parts = breakdown(forecaster, options.days)
    report = {
        "format": 1,
        "unit": "CPU ms a decision of one patient, 30 at once, simulation included; minutes for 604,800 decisions",
        "required": {"arm_cpu_minutes": BAR, "goal": GOAL},
        "machine": machine(),
        "planners": rows,
        "parts_ms": parts,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{machine()}; {options.days} days after one of warm-up, {PATIENTS} people at once")
    whole = sum(parts.values())
    for part, spent in parts.items():
        print(f"  {part:28} {spent:.4f} ms  {spent / whole:5.1%}")
    print(f"  {'with timers':28} {whole:.4f} ms")
    for name, row in rows.items():
        print(
            f"{name}: {row['cpu_ms_per_decision']:.3f} CPU ms a decision (5th to 95th percentile of turns "
            f"{row['cpu_ms_per_decision_5th']:.3f} to {row['cpu_ms_per_decision_95th']:.3f}), "
            f"{row['arm_cpu_minutes']:.1f} min an arm, planned {row['planned_share']:.1%}, n={row['n']}"
        )
    minutes = rows["48x3"]["arm_cpu_minutes"]
    print(f"{'meets' if minutes <= BAR else 'MISSES'} the bar of {BAR:g} CPU minutes an arm (goal {GOAL:g})")


if __name__ == "__main__":
    main()
