"""What if: actions of one's own choice, imagined and judged from the state of one decision. Nothing is done.

Every action is put through what a decision goes through: the calibrated forecast, every guardrail, novelty, and the
independent checker. So the answer says what would come of it, and whether it would be refused and by what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foreworld.agent.agent import ACTORS, Step
from foreworld.agent.check import Checker
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast, check_finite
from foreworld.planning.guardrail import Guardrail
from foreworld.planning.plan import Reason, amounts, weakened
from foreworld.planning.planners.judged import Judged, Problem, judge

_NO_PLAN = (Reason.stale_data, Reason.model_invalid)
"""Reasons that bar every plan in a state, whatever the action."""


_BY = {
    "guardrail": "guardrail ",
    "checker": "the checker",
    "novelty": "novelty",
    "forecast": "the forecast",
    "state": "the state",
}


@dataclass(frozen=True)
class Course:
    """One quantity at a few times ahead, all [n]: what is predicted, or how that differs from another option.

    Attributes:
        quantity: Name.
        unit: Of the values.
        times: Ahead, in the schema's time unit.
        mean: Predicted, or the mean difference over the scenarios.
        lower: Lower end of the calibrated band, or the least difference among the scenarios.
        upper: Upper end, or the greatest difference.
    """

    quantity: str
    unit: str
    times: tuple[float, ...]
    mean: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def explain(self, time_unit: str, signed: bool = False) -> str:
        """One line: value (from to) at every time."""
        form = "+.3g" if signed else ".3g"
        parts = [
            f"{_told(mean, form)} ({_told(low, form)} to {_told(high, form)}) in {time:g} {time_unit}"
            for time, mean, low, high in zip(self.times, self.mean, self.lower, self.upper, strict=True)
        ]
        return f"{self.quantity}, {self.unit}: {'; '.join(parts)}"


@dataclass(frozen=True)
class Objection:
    """Who would refuse an action, and why.

    Attributes:
        by: `guardrail`, `checker`, `novelty`, `forecast` or `state`.
        name: Of the guardrail or rule; for a state, the reason of the refusal; "" otherwise.
        words: With value, bound and unit where there are any.
    """

    by: str
    name: str
    words: str


@dataclass(frozen=True)
class Option:
    """One action and what would come of it.

    Attributes:
        action: By channel, raw units.
        courses: One for each predicted quantity, with the calibrated band.
        margins: By guardrail, in its unit; NaN where it cannot be told.
        novelty: Above 1 is novel.
        objections: None if the action would pass.
        against: Its courses minus those of the first option; none for the first.
    """

    action: Mapping[str, float]
    courses: tuple[Course, ...]
    margins: Mapping[str, float]
    novelty: float
    objections: tuple[Objection, ...]
    against: tuple[Course, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether anything would refuse it."""
        return bool(self.objections)


@dataclass(frozen=True)
class WhatIf:
    """Options of one subject at one moment.

    Attributes:
        options: As they were asked for.
        forecast: Of all of them (B = 1, S options), whole.
        guardrails: That judged them.
        units: By action channel.
        then: What follows the coming step, in words.
        proposed: By channel: what the agent itself would do now ...
        actor: ... and who of its chain.
        provenance: As in `Plan`.
        time_unit: Of the times.
        step: Length of a step, in `time_unit`.
    """

    options: tuple[Option, ...]
    forecast: Forecast
    guardrails: tuple[Guardrail, ...]
    units: Mapping[str, str]
    then: str
    proposed: Mapping[str, float]
    actor: str
    provenance: Mapping[str, Any]
    time_unit: str
    step: float

    @property
    def scenarios(self) -> int:
        """How many scenarios a difference is spread over."""
        return len(next(iter(self.forecast.samples.values())))

    def explain(self) -> str:
        """Plain sentences from the figures."""
        lines = [*weakened(self.provenance)]
        for number, option in enumerate(self.options, 1):
            lines.append(f"({number}) {self.told(option.action)} now, {self.then}.")
            share = f"{self.forecast.calibration.coverage:.0%} band"
            lines += [f"    Expected {course.explain(self.time_unit)} ({share})." for course in option.courses]
            lines += [f"    Guardrails: {self._margins(option)}.", f"    {_fate(option)}"]
            told = f"    Compared with (1), in the mean and range of {self.scenarios} scenarios: "
            lines += [f"{told}{course.explain(self.time_unit, signed=True)}." for course in option.against]
        lines.append(f"The agent itself would do {self.told(self.proposed)} ({self.actor}).")
        lines.append("Research software, not a medical device.")
        return "\n".join(lines)

    def told(self, action: Mapping[str, float]) -> str:
        """An action in words."""
        return amounts(tuple(action), action.values(), self.units)

    def _margins(self, option: Option) -> str:
        units = {guardrail.name: guardrail.unit for guardrail in self.guardrails}
        return "; ".join(f"{name} {_margin(value, units[name])}" for name, value in option.margins.items())


@torch.no_grad()
def compare_actions(
    step: Step, checker: Checker | None, actions: np.ndarray, rest: np.ndarray, *, at: Sequence[float], then: str
) -> WhatIf:
    """Imagine and judge actions from the state of one decision.

    Args:
        step: A decision about one subject.
        checker: The agent's, or None.
        actions: [S, A] of the coming step, raw units.
        rest: [A] of every step after it.
        at: Times ahead, in the schema's time unit; those beyond the model's horizon are left out.
        then: What `rest` is, in words.

    Raises:
        InputError: The decision is about several subjects, or the model's grid does not begin with a single step.
    """
    problem, schema = step.decisions.problem, step.decisions.problem.forecaster.model.schema
    space = problem.space
    if len(problem) != 1:
        raise InputError(f"the decision is about {len(problem)} subjects; ask what if about one at a time")
    if space.grid.points[0] != 1 or space.blocks[0] != 1:
        raise InputError("the model's horizon does not begin with a single step, which is what an action here lasts")
    blocks = torch.from_numpy(np.tile(rest, (1, len(actions), len(space.blocks), 1))).float()
    blocks[0, :, 0] = torch.from_numpy(actions).float()
    judged = judge(problem, blocks)
    points = judged.forecast.points.double().numpy() * schema.step
    times = tuple(float(time) for time in at if points[0] <= time <= points[-1])
    options = tuple(
        _option(step, problem, checker, judged, actions[i], i, (points, times)) for i in range(len(actions))
    )
    return WhatIf(
        options=options,
        forecast=judged.forecast,
        guardrails=tuple(problem.guardrails),
        units={name: schema[name].unit for name in space.channels},
        then=then,
        proposed=dict(zip(space.channels, map(float, step.actions[0]), strict=True)),
        actor=str(ACTORS[int(step.actors[0])]),
        provenance=step.decisions.provenance,
        time_unit=schema.time_unit,
        step=schema.step,
    )


Times = tuple[np.ndarray, tuple[float, ...]]
"""[H] times of the grid, and those that are asked for."""


def _option(
    step: Step, problem: Problem, checker: Checker | None, judged: Judged, action: np.ndarray, i: int, times: Times
) -> Option:
    forecast, schema = judged.forecast, problem.forecaster.model.schema
    courses, against = [], []
    for name in problem.forecaster.model.quantities:
        parts = (part[name][0, i] for part in (forecast.mean, forecast.lower, forecast.upper))
        courses.append(_course(name, schema[name].unit, times, *parts))
        apart = forecast.samples[name][:, 0, i] - forecast.samples[name][:, 0, 0]
        against.append(_course(name, schema[name].unit, times, apart.mean(0), apart.amin(0), apart.amax(0)))
    named = dict(zip(problem.space.channels, map(float, action), strict=True))
    margins = {guardrail.name: float(judged.margins[guardrail.name][0, i]) for guardrail in problem.guardrails}
    novelty = float(forecast.novelty[0, i])
    found = _objections(step, problem, judged, margins, i)
    if checker is not None:
        verdict = checker.check(step.measured[0], named)
        found += [Objection("checker", reason.rule, reason.sentence) for reason in verdict.reasons]
    return Option(named, tuple(courses), margins, novelty, tuple(found), tuple(against) if i else ())


def _objections(step: Step, problem: Problem, judged: Judged, margins: Mapping[str, float], i: int) -> list[Objection]:
    """What the agent's own judgement has against a candidate, the checker aside."""
    found = []
    reason, novelty = step.reasons[0], float(judged.forecast.novelty[0, i])
    if reason in _NO_PLAN:
        found.append(Objection("state", str(reason), f"no plan is made in this state: {reason}"))
    if not bool(check_finite(judged.forecast)[0, i]):
        found.append(Objection("forecast", "", "the model's forecast is not finite"))
    elif not novelty <= 1.0:
        found.append(Objection("novelty", "", f"unlike what the model was trained on: novelty {novelty:.2f}, limit 1"))
    for guardrail in problem.guardrails:
        margin = margins[guardrail.name]
        if not margin >= 0:
            found.append(Objection("guardrail", guardrail.name, _margin(margin, guardrail.unit)))
    return found


def _course(
    quantity: str, unit: str, times: Times, mean: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> Course:
    points, at = times
    read = (tuple(np.interp(at, points, part.double().numpy()).tolist()) for part in (mean, lower, upper))
    return Course(quantity, unit, at, *read)


def _margin(value: float, unit: str) -> str:
    if math.isnan(value):
        return "cannot be judged"
    return f"holds with {value:.3g} {unit} to spare" if value >= 0 else f"misses by {-value:.3g} {unit}"


def _fate(option: Option) -> str:
    if not option.refused:
        return "It would pass every guardrail and the checker."
    told = [f"{_BY[o.by]}{o.name if o.by == 'guardrail' else ''} ({o.words})" for o in option.objections]
    return f"It would be refused by {'; by '.join(told)}."


def _told(value: float, form: str) -> str:
    if math.isnan(value):
        return "unknown"
    wide = "+.0f" if form.startswith("+") else ".0f"
    return f"{value:{wide if abs(value) >= 100 else form}}"
