"""What a planner answers: a `Plan` that meets every guardrail, or a `Refusal` that says why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from foreworld.forecast.forecaster import Forecast
from foreworld.planning.guardrail import Guardrail


class Reason(StrEnum):
    """Why there is no plan."""

    no_safe_plan = "no safe plan"
    novel_state = "novel state"
    stale_data = "stale or missing data"
    model_invalid = "model invalid"


@dataclass(frozen=True)
class Alternative:
    """A candidate that cost less than the plan and was rejected.

    Attributes:
        actions: [H, A] raw units.
        cost: What it would have cost.
        guardrail: The guardrail that rejected it by the widest margin.
        margin: That margin; negative or NaN.
    """

    actions: Tensor
    cost: float
    guardrail: str
    margin: float


@dataclass(frozen=True)
class Plan:
    """The best feasible candidate of one subject.

    Attributes:
        actions: [H, A] raw units, one value for each interval of the horizon grid; the first is to be done now.
        channels: Names of the A actions.
        forecast: What is expected under it (B = S = 1).
        margins: By guardrail, in its unit.
        cost: Of the objective under the profile.
        rejected: Cheaper candidates that a guardrail rejected, the cheapest first.
        provenance: Profile, hashes, seeds and counts.
        guardrails: Those that were checked.
        step: Length of a step, in `time_unit`.
        time_unit: Of explanations.
        units: By action and quantity, for explanations.
    """

    actions: Tensor
    channels: tuple[str, ...]
    forecast: Forecast
    margins: Mapping[str, float]
    cost: float
    rejected: tuple[Alternative, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    guardrails: tuple[Guardrail, ...] = ()
    step: float = 1.0
    time_unit: str = "steps"
    units: Mapping[str, str] = field(default_factory=dict)

    def explain(self) -> str:
        """Plain sentences from the figures of this plan."""
        lines = [
            f"Proposed now: {amounts(self.channels, self.actions[0], self.units)}.", *weakened(self.provenance),
            *_course(self.forecast, self.step, self.time_unit, self.units),
        ]  # fmt: skip
        units = {g.name: g.unit for g in self.guardrails}
        spare = (f"{name} with {value:.3g} {units.get(name, '')}".rstrip() for name, value in self.margins.items())
        lines.append(f"All {len(self.margins)} guardrails hold: {', '.join(spare)} to spare.")
        if self.rejected:
            best = self.rejected[0]
            lines.append(
                f"A cheaper plan starting with {amounts(self.channels, best.actions[0], self.units)} was rejected by "
                f"{best.guardrail} ({best.margin:.3g} {units.get(best.guardrail, '')})."
            )
        lines.append("Research software, not a medical device.")
        return "\n".join(lines)


@dataclass(frozen=True)
class Refusal:
    """No plan for one subject, and why.

    Attributes:
        reason: The kind of refusal.
        detail: One sentence.
        nearest: The candidate that came nearest to feasible [H, A], or None.
        channels: Names of the A actions.
        margins: Its margins by guardrail; NaN where they could not be told.
        acted: What acts instead, once the agent knows it.
        provenance: As in `Plan`.
        guardrails: Those that were checked.
    """

    reason: Reason
    detail: str
    nearest: Tensor | None
    channels: tuple[str, ...]
    margins: Mapping[str, float]
    acted: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    guardrails: tuple[Guardrail, ...] = ()

    def explain(self) -> str:
        """Plain sentences from the figures of this refusal."""
        lines = [f"Refused: {self.reason}. {self.detail}", *weakened(self.provenance)]
        units = {g.name: g.unit for g in self.guardrails}
        broken = {name: value for name, value in self.margins.items() if not value >= 0}
        for name, value in broken.items():
            known = f"misses its bound by {-value:.3g} {units.get(name, '')}" if value == value else "cannot be judged"
            lines.append(f"Guardrail {name} {known} even on the nearest plan.")
        if self.acted:
            lines.append(f"Instead: {self.acted}.")
        lines.append("Research software, not a medical device.")
        return "\n".join(lines)


def amounts(channels: Sequence[str], values: Iterable[Any], units: Mapping[str, str]) -> str:
    """What is done, in words: each action with its amount and unit."""
    pairs = zip(channels, values, strict=True)
    return ", ".join(f"{name} {float(value):.3g} {units.get(name, '')}".rstrip() for name, value in pairs)


def weakened(provenance: Mapping[str, Any]) -> list[str]:
    """The sentence that a weakened guardrail pack (`planning.pack`) owes every explanation; nothing for any other."""
    pack = provenance.get("pack")
    if not pack or not pack["override"]:
        return []
    return [
        f"Made with a weakened guardrail pack, {pack['name']} {pack['version']} ({pack['hash'][:12]}). "
        f"Reason given: {pack['override']}. Weaker than the built-in floor: {'; '.join(pack['weaker'])}."
    ]


def _course(forecast: Forecast, step: float, unit: str, units: Mapping[str, str]) -> list[str]:
    lines = []
    share = f"{forecast.calibration.coverage:.0%}"
    for name, mean in forecast.mean.items():
        path, low, high = mean[0, 0], forecast.lower[name][0, 0], forecast.upper[name][0, 0]
        picks = sorted({0, len(path) // 3, 2 * len(path) // 3, len(path) - 1})
        parts = [
            f"{_figure(path[i])} ({_figure(low[i])} to {_figure(high[i])}) in {int(forecast.points[i]) * step:g} {unit}"
            for i in picks
        ]
        lowest = int(torch.argmin(path))
        lines.append(
            f"Expected {', '.join(filter(None, (name, units.get(name))))} ({share} band): {'; '.join(parts)}; "
            f"lowest {_figure(path[lowest])} in {int(forecast.points[lowest]) * step:g} {unit}."
        )
    return lines


def _figure(value: Tensor) -> str:
    """Three digits, whatever the size of the quantity, and no exponent where people expect none."""
    number = float(value)
    return f"{number:.0f}" if 100 <= abs(number) < 1e6 else f"{number:.3g}"
