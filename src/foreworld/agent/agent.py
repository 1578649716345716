"""`Agent`: perceive, propose, imagine, judge, act, record. The deliberate mode.

agent = Agent(forecaster, task, CEMPlanner(), checker=Checker(rules))
agent.start(subjects, statics)
step = agent.decide(time, {"cgm": ..., "carbs": ...})      # step.actions is what to do now
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

from foreworld.agent.check import Checker, Measured, Verdict
from foreworld.agent.configurator import Configurator
from foreworld.agent.memory import Memory, Remembered
from foreworld.agent.monitor import Monitor
from foreworld.agent.record import Recorder, keys_of
from foreworld.episodes.schema import Role
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecaster
from foreworld.model.interface import Believed, Recalling
from foreworld.planning.pack import Pack
from foreworld.planning.plan import Plan, Reason, Refusal, amounts
from foreworld.planning.planners.base import Decisions, Planner
from foreworld.planning.planners.judged import Problem
from foreworld.planning.task import Task


class Actor(StrEnum):
    """Who chose what is done."""

    planner = "planner"
    recovery = "recovery"
    fallback = "fallback"
    last_resort = "last resort"


ACTORS = tuple(Actor)


@dataclass(frozen=True)
class Step:
    """One decision about B subjects.

    Attributes:
        actions: [B, A] what to do now, raw units.
        actors: [B] index into `ACTORS`: who chose it.
        reasons: [B] why there was no plan, None where there was one.
        verdicts: [B] of the independent checker on what was proposed first; where it refused, the next in the chain
            of fallback and last resort acts. None without a checker.
        decisions: What the planner answered.
        guardrails: Names, in the order of `margins`.
        margins: [B, G] of what was chosen or came nearest.
        measured: [B] what the checker looked at.
        head: Hash of the audit log's last record, or "".
    """

    actions: np.ndarray
    actors: np.ndarray
    reasons: tuple[Reason | None, ...]
    verdicts: tuple[Verdict | None, ...]
    decisions: Decisions
    guardrails: tuple[str, ...]
    margins: np.ndarray
    measured: tuple[Measured, ...]
    head: str = ""

    def answer(self, i: int) -> Plan | Refusal:
        """The plan of subject `i`, or the refusal with what acts instead."""
        answer = self.decisions[i]
        reason = self.reasons[i]
        if reason is None:
            return answer
        actor = ACTORS[int(self.actors[i])]
        problem = self.decisions.problem
        units = problem.forecaster.model.schema.units
        acted = f"the {actor} does {amounts(problem.space.channels, self.actions[i], units)}"
        same = isinstance(answer, Refusal) and answer.reason == reason
        why = answer.detail if isinstance(answer, Refusal) and same else self._why(i, reason)
        verdict = self.verdicts[i]
        if verdict is not None and not verdict.accepted:
            # Only a plan that the planner vouched for was refused for nothing but this.
            checked = f"The checker: {verdict.explain()}."
            why = checked if isinstance(answer, Plan) and reason is Reason.no_safe_plan else f"{why} {checked}"
        nearest = answer.nearest if isinstance(answer, Refusal) else answer.actions
        return Refusal(
            reason, why, nearest, answer.channels, answer.margins, acted, answer.provenance, answer.guardrails
        )

    def _why(self, i: int, reason: Reason) -> str:
        if reason is not Reason.stale_data:
            return _DETAILS[reason]
        problem = self.decisions.problem
        told = []
        for name in problem.forecaster.model.quantities:
            measured = np.flatnonzero(~np.isnan(problem.history.values[name][i].numpy()))
            if not len(measured):
                told.append(f"{name} was never measured")
                continue
            times = problem.history.times[i]
            age = float(times[-1] - times[int(measured[-1])])
            told.append(f"the last {name} is {age:g} {problem.forecaster.model.schema.time_unit} old")
        return f"Data are too old or too few: {', '.join(told)}."


_DETAILS = {
    Reason.no_safe_plan: "No candidate meets every guardrail.",
    Reason.novel_state: "This state is unlike what the model was trained on.",
    Reason.model_invalid: "What came disagrees with what the model foresaw, or its answer to actions has a wrong sign.",
}


class Agent:
    """Decides for a batch of subjects, step by step.

    Args:
        forecaster: Imagines; calibrated (`agent.calibrate`).
        task: Objective, guardrails, space, fallback.
        planner: Searches.
        configurator: Profile and settings of each moment.
        checker: The independent last gate; None only for experiments without one.
        recorder: Writes the audit log, or None.
        seed: Of the planner's candidates.
        pack: Where the task's guardrails and the checker's numbers come from; goes into every decision. None where
            they come from no pack.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        task: Task,
        planner: Planner,
        *,
        configurator: Configurator,
        checker: Checker | None,
        recorder: Recorder | None = None,
        seed: int = 0,
        pack: Pack | None = None,
    ) -> None:
        self.forecaster, self.task, self.planner = forecaster, task, planner
        self.configurator, self.checker, self.recorder, self.seed = configurator, checker, recorder, seed
        self.pack = pack
        self.memory: Memory | None = None
        self.belief: Believed | None = None
        self.monitor: Monitor | None = None
        self._previous: torch.Tensor | None = None

    def start(self, subjects: Sequence[str], statics: Mapping[str, np.ndarray]) -> None:
        """Forget everything and serve these subjects.

        Raises:
            SchemaError: A static is missing.
            InputError: A static is out of its bounds.
        """
        model = self.forecaster.model
        frames = model.stack if isinstance(model, Recalling) else 1
        self.memory = Memory(model.schema, subjects, statics, frames=frames)
        self.monitor = Monitor(len(self.memory.subjects), self.forecaster.calibration.monitor)
        self.belief, self._previous = None, None

    def keep(self, subjects: Sequence[str]) -> None:
        """Serve only these from now on, in this order; what comes is theirs alone. Of the others all is forgotten.

        Raises:
            InputError: One of them is not served, or is given twice, or there is none.
        """
        memory = self._memory()
        unknown = [name for name in subjects if name not in memory.subjects]
        if unknown or not subjects or len(set(subjects)) != len(subjects):
            what = f"{unknown[0]} is not served" if unknown else "give at least one subject, each once"
            raise InputError(f"{what}; served are {', '.join(memory.subjects)}")
        rows = np.array([memory.subjects.index(name) for name in subjects], dtype=np.int64)
        memory.keep(rows)
        if self.monitor is not None:
            self.monitor.keep(rows)
        if self.belief is not None:
            self.belief = self.belief.select(torch.from_numpy(rows))
        if self._previous is not None:
            self._previous = self._previous[torch.from_numpy(rows)]

    @torch.no_grad()
    def decide(self, time: float, values: Mapping[str, np.ndarray]) -> Step:
        """Perceive what is observed and announced at `time` (by channel [B]) and choose what to do now.

        If this raises, the agent is as before and nothing counts as done: the caller may ask again.

        Raises:
            InputError: Time does not increase, or a value is wrong.
            SchemaError: A channel is missing.
            AuditError: The decision could not be recorded.
        """
        memory, before = self._memory(), (self.belief, self._previous, copy.copy(self.monitor))
        memory.see(time, values)
        try:
            self._perceive()
            problem, barred = self._pose(time)
            past = memory.arrays()
            step = self.resolve(problem, barred, tuple(Measured.each(self.forecaster.model.schema, *past)))
            if self.recorder is not None:
                step = replace(step, head=self.recorder.append(time, self, problem, barred, past, step))
            memory.act(step.actions)
        except BaseException:
            memory.forget()
            self.belief, self._previous, self.monitor = before
            raise
        self._previous = step.decisions.chosen.blocks[:, 0]
        self._remember(time, problem.imagined.belief, step)
        return step

    @torch.no_grad()
    def resolve(self, problem: Problem, barred: Sequence[Reason | None], measured: Sequence[Measured]) -> Step:
        """Plan, recover or fall back, and pass the checker: a function of what it is given, so it can be replayed.

        Args:
            problem: Of B subjects.
            barred: [B] why no plan may be made whatever the planner finds: stale data or an invalid model; or None.
            measured: [B] what the checker looks at. It comes from the memory's own arrays and not from the problem's
                history, so that an error in making a history for the model cannot blind the checker, too.
        """
        decisions = self.planner.plan(problem)
        if self.pack is not None:
            decisions = replace(decisions, provenance={**decisions.provenance, "pack": self.pack.note()})
        proposed = decisions.first.double().numpy().copy()
        fallback = self.task.fallback(problem.history).double().numpy()
        last = self.task.last_resort(problem.history).double().numpy()
        planned = decisions.planned.numpy()
        reasons: list[Reason | None] = []
        actors = np.zeros(len(problem), dtype=np.int64)
        for i in range(len(problem)):
            reason = barred[i] or (None if planned[i] else decisions.reason(i))
            reasons.append(reason)
            if reason is Reason.no_safe_plan:
                # The nearest candidate meets every action guardrail and violates the others least; the fallback's
                # action is among the candidates and could be judged, so it is never worse than that by the model's
                # own forecast.
                actors[i] = ACTORS.index(Actor.recovery)
            elif reason is not None:
                actors[i], proposed[i] = ACTORS.index(Actor.fallback), fallback[i]
        verdicts = self._gate(measured, proposed, actors, reasons, fallback, last)
        margins = torch.stack([decisions.chosen.margins[g.name][:, 0] for g in problem.guardrails], dim=1)
        names = tuple(g.name for g in problem.guardrails)
        found = margins.double().numpy()
        return Step(proposed, actors, tuple(reasons), tuple(verdicts), decisions, names, found, tuple(measured))

    # --- parts -------------------------------------------------------------------------------------------------

    def _pose(self, time: float) -> tuple[Problem, list[Reason | None]]:
        """The planning problem of this moment, and [B] why no plan may be made."""
        memory, belief = self._memory(), self.belief
        assert belief is not None
        history = memory.history()
        settings = self.configurator.configure(self.task, memory)
        space = self.task.space(self.forecaster.model.config.grid, history)
        suggestions = self.task.suggestions(space, history)
        if self._previous is not None:
            shifted = torch.cat([self._previous[:, 1:2], self._previous[:, 1:]], dim=1)
            suggestions = torch.cat([suggestions, self._previous[:, None], shifted[:, None]], dim=1)
        problem = Problem(
            self.forecaster,
            self.forecaster.begin(belief),
            self.task.objective(settings.profile),
            tuple(self.task.guardrails),
            space,
            history,
            keys_of(memory.subjects, self.seed, time),
            suggestions,
        )
        invalid = self._watch(problem)
        pairs = zip(settings.stale, invalid, strict=True)
        return problem, [Reason.stale_data if old else Reason.model_invalid if wrong else None for old, wrong in pairs]

    def _watch(self, problem: Problem) -> np.ndarray:
        """[B] whether the monitor calls the model wrong."""
        monitor = self.monitor
        assert monitor is not None
        return monitor.look(self.forecaster, self._memory(), problem.imagined, problem.space)

    def _memory(self) -> Memory:
        if self.memory is None:
            raise InputError("start the agent with its subjects first: agent.start(subjects, statics)")
        return self.memory

    def _perceive(self) -> None:
        memory, model = self._memory(), self.forecaster.model
        if self.belief is None:
            self.belief = model.encode(memory.history())
            return
        time, observed = memory.now()
        stamps = torch.full((len(memory.subjects),), time, dtype=torch.float64)
        self.belief = model.update(self.belief, stamps, observed, memory.last_action())

    def _gate(
        self,
        measured: Sequence[Measured],
        proposed: np.ndarray,
        actors: np.ndarray,
        reasons: list[Reason | None],
        fallback: np.ndarray,
        last: np.ndarray,
    ) -> list[Verdict | None]:
        """Pass everything through the checker; what it refuses is replaced, in place, never changed."""
        checker, channels = self.checker, self.forecaster.model.schema.names(Role.action)
        if checker is None:
            return [None] * len(proposed)
        verdicts: list[Verdict | None] = []
        for i, known in zip(range(len(proposed)), measured, strict=True):  # nobody goes unchecked
            verdict = checker.check(known, dict(zip(channels, map(float, proposed[i]), strict=True)))
            verdicts.append(verdict)
            if verdict.accepted:
                continue
            reasons[i] = reasons[i] or Reason.no_safe_plan
            if actors[i] != ACTORS.index(Actor.fallback):
                actors[i], proposed[i] = ACTORS.index(Actor.fallback), fallback[i]
                if checker.check(known, dict(zip(channels, map(float, proposed[i]), strict=True))).accepted:
                    continue
            actors[i], proposed[i] = ACTORS.index(Actor.last_resort), last[i]
        return verdicts

    def _remember(self, time: float, belief: Believed, step: Step) -> None:
        chosen = step.decisions.chosen
        predicted = {name: mean[:, 0].numpy() for name, mean in chosen.forecast.mean.items()}
        margins = {name: step.margins[:, k].copy() for k, name in enumerate(step.guardrails)}
        self._memory().decisions.append(
            Remembered(time, belief, step.actions.copy(), predicted, margins, chosen.cost[:, 0].numpy())
        )
