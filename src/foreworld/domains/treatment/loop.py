"""The closed loop: an agent in the simulator, and what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from foreworld.agent.agent import ACTORS, Agent, Step
from foreworld.agent.check import Checker
from foreworld.agent.configurator import Configurator
from foreworld.agent.record import Recorder
from foreworld.domains.treatment.collect import statics_of
from foreworld.domains.treatment.limits import InsulinLimits
from foreworld.domains.treatment.pack import floor, held, insulin_limits
from foreworld.domains.treatment.rules import insulin_rules
from foreworld.domains.treatment.simulator import Simulator
from foreworld.domains.treatment.task import PROFILES, InsulinTask, dose_rail, dose_rails, guardrails
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.planning.guardrail import Guardrail
from foreworld.planning.pack import Pack
from foreworld.planning.planners.base import Planner
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.profile import Profile


def insulin_agent(
    forecaster: Forecaster,
    *,
    profile: Profile = PROFILES["standard"],
    planner: Planner | None = None,
    limits: InsulinLimits | None = None,
    pack: Pack | None = None,
    recorder: Recorder | None = None,
    seed: int = 0,
    guarded: bool = True,
) -> Agent:
    """The agent of this domain with its checker.

    Args:
        forecaster: Calibrated.
        profile: Preference profile; ranks safe plans, never loosens a guardrail.
        planner: Search; iCEM with 48 candidates and 3 iterations if None.
        limits: Numbers of their own instead of a pack's, for planner and checker alike, for experiments; recorded by
            the checker's digest alone.
        pack: Guardrails and limits together, from `pack.load_pack`; the built-in ones if None. Its hash goes into every
            decision.
        recorder: Of the audit log.
        seed: Of the candidates.
        guarded: False leaves nothing but the dose limit, to show what the guardrails and the checker are worth.

    Raises:
        InputError: Both limits and a pack are given, the pack is weaker than the floor without a reason, or the model
            was not calibrated for its guardrails.
    """
    if pack is not None and limits is not None:
        raise InputError("give limits or a pack, not both: a pack holds its own limits")
    if limits is None:
        pack = floor() if pack is None else held(pack, forecaster.calibration)
        limits = insulin_limits(pack)
    return Agent(
        forecaster,
        InsulinTask(limits, rails=_rails(limits, pack) if guarded else (dose_rail(limits),)),
        planner or CEMPlanner(CEMConfig.icem(samples=48, iterations=3)),
        configurator=Configurator(profile),
        checker=Checker(insulin_rules(limits)) if guarded else None,
        recorder=recorder,
        seed=seed,
        pack=pack if guarded else None,
    )


def _rails(limits: InsulinLimits, pack: Pack | None) -> tuple[Guardrail, ...]:
    return guardrails(limits) if pack is None else (*pack.guardrails, *dose_rails(limits))


@dataclass
class Loop:
    """What happened to B patients in a closed loop.

    Attributes:
        bg: [B, N] true glucose at each decision, mg/dL.
        cgm: [B, N + 1] mg/dL, NaN where dropped.
        announced: [B, N + 1] g.
        insulin: [B, N] U.
        actors: [B, N] index into `ACTORS`.
        margins: [B, N, G] of the chosen or nearest plan.
        guardrails: Names of the G guardrails.
        alive: [B].
        refusals: Reason to number of decisions.
        cpu_seconds: Spent on deciding, encoding included.
        intervened: [B, N] whether the independent checker refused what was proposed; None where nobody checked.
        forecasts: By step: mean, lower and upper [B, H] of what was chosen, for pictures.
    """

    bg: np.ndarray
    cgm: np.ndarray
    announced: np.ndarray
    insulin: np.ndarray
    actors: np.ndarray
    margins: np.ndarray
    guardrails: tuple[str, ...]
    alive: np.ndarray
    refusals: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    forecasts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    intervened: np.ndarray | None = None


Watcher = Callable[[int, Simulator, Step], None]


def run_agent(
    agent: Agent,
    simulator: Simulator,
    *,
    steps: int | None = None,
    keep_forecasts: int = 0,
    watch: Watcher | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Loop:
    """Close the loop.

    Args:
        agent: Started here with the simulator's patients.
        simulator: Reset here.
        steps: Decisions; the whole scenario if None.
        keep_forecasts: Keep the forecast of every so many steps; 0 keeps none.
        watch: Called with the step's index, the simulator before the action, and the decision.
        progress: Called with steps done and steps in all.
    """
    seen, patients = simulator.reset(), simulator.patients
    total = simulator.steps if steps is None else steps
    agent.start(patients.names, statics_of(patients))
    size = len(patients)
    cgm, announced = np.full((size, total + 1), np.nan), np.zeros((size, total + 1))
    insulin, actors = np.zeros((size, total)), np.zeros((size, total), dtype=np.int8)
    margins = np.zeros((size, total, len(agent.task.guardrails)), dtype=np.float32)
    bg, intervened = np.zeros((size, total)), np.zeros((size, total), dtype=bool)
    spent = 0.0
    refusals: dict[str, int] = {}
    kept = {}
    for t in range(total):
        cgm[:, t], announced[:, t], bg[:, t] = seen.cgm, seen.announced, simulator.bg
        started = time.process_time()
        step = agent.decide(float(seen.minute), {"cgm": seen.cgm, "carbs": seen.announced})
        spent += time.process_time() - started
        for reason in step.reasons:
            if reason is not None:
                refusals[str(reason)] = refusals.get(str(reason), 0) + 1
        if watch is not None:
            watch(t, simulator, step)
        if keep_forecasts and t % keep_forecasts == 0:
            f = step.decisions.chosen.forecast
            kept[t] = (f.mean["cgm"][:, 0].numpy(), f.lower["cgm"][:, 0].numpy(), f.upper["cgm"][:, 0].numpy())
        intervened[:, t] = [verdict is not None and not verdict.accepted for verdict in step.verdicts]
        insulin[:, t], actors[:, t], margins[:, t] = step.actions[:, 0], step.actors, step.margins
        seen = simulator.step(step.actions[:, 0])
        if progress is not None:
            progress(t + 1, total)
    cgm[:, total], announced[:, total] = seen.cgm, seen.announced
    names = tuple(guardrail.name for guardrail in agent.task.guardrails)
    return Loop(bg, cgm, announced, insulin, actors, margins, names, simulator.alive, refusals, spent, kept, intervened)


def planner_share(loop: Loop, first: int = 0) -> np.ndarray:
    """[B] share of decisions from step `first` on that the planner itself took."""
    share: np.ndarray = (loop.actors[:, first:] == ACTORS.index(ACTORS[0])).mean(1)
    return share
