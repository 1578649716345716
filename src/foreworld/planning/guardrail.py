"""Guardrails: bounds that no cost can buy off. Frozen, not learned, hashed.

A state guardrail bounds a predicted quantity over a horizon, at a one-sided risk level; its margin is tightened by
the calibrated trajectory score. An action guardrail bounds what is done, from measured data and statics alone.
A plan is feasible only if `margin >= 0` is true for every guardrail; NaN is infeasible.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast
from foreworld.model.belief import History


@dataclass(frozen=True, kw_only=True)
class Guardrail(ABC):
    """One bound.

    Attributes:
        name: Identifier, unique in a task.
        unit: Unit of bound and margin.
        source: Where the bound comes from.
        severity: Of the harm it prevents, 1 (negligible) to 5 (catastrophic); recovery minimises the worst first.
        risk: One-sided risk level of a state guardrail; 0 for an action guardrail, which holds exactly.
        horizon: Steps ahead over which it counts; the planning horizon is at least as long.
    """

    name: str
    unit: str
    source: str
    severity: int = 5
    risk: float = 0.0
    horizon: int = 1

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("a guardrail needs a name")
        if not 1 <= self.severity <= 5:
            raise InputError(f"guardrail {self.name}: severity {self.severity} must lie in 1..5")
        if not 0.0 <= self.risk < 1.0 or self.horizon < 1:
            raise InputError(
                f"guardrail {self.name}: risk {self.risk} must lie in 0..1 and horizon {self.horizon} be at least 1"
            )

    @abstractmethod
    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """How far inside the bound each candidate stays.

        Args:
            forecast: Of B subjects and S candidates.
            actions: [B, S, H, A] raw units.
            history: What was measured and done, raw units.

        Returns:
            [B, S] in `unit`; negative outside, NaN where it cannot be told.
        """


@dataclass(frozen=True, kw_only=True)
class Tightened(Guardrail):
    """A bound on what is predicted, whose margin is tightened by the calibrated trajectory score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.risk < 1.0:
            raise InputError(f"guardrail {self.name}: a state guardrail needs a risk between 0 and 1, got {self.risk}")

    @abstractmethod
    def predicted(self, forecast: Forecast) -> tuple[Tensor, Tensor]:
        """Least predicted distance from the bound [B, S], before tightening, and the predicted scale there."""

    def margin(self, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
        """Least predicted distance minus the calibrated score times the predicted scale."""
        least, scale = self.predicted(forecast)
        margin = least - forecast.trajectory_bound(self.name, self.risk) * scale
        # Beyond the usable horizon nothing is known: such a candidate cannot be shown to be safe.
        return torch.where(forecast.usable >= self.horizon, margin, torch.full_like(margin, torch.nan))


@dataclass(frozen=True, kw_only=True)
class StateGuardrail(Tightened):
    """A predicted quantity stays above (or below) a bound from the first step that an action can influence.

    Attributes:
        quantity: The predicted quantity.
        bound: In its unit.
        sense: Which side is allowed.
        start: First step that counts.
    """

    quantity: str
    bound: float
    sense: Literal["at_least", "at_most"] = "at_least"
    start: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.bound) or self.sense not in ("at_least", "at_most"):
            raise InputError(f"guardrail {self.name}: bound {self.bound} must be finite and sense at_least or at_most")
        if not 1 <= self.start <= self.horizon:
            raise InputError(f"guardrail {self.name}: start {self.start} must lie in 1..horizon {self.horizon}")

    def predicted(self, forecast: Forecast) -> tuple[Tensor, Tensor]:
        """Least predicted distance from the bound [B, S], before tightening, and the predicted scale there.

        Where the horizon lies between two points of the grid, its end is read off the line between them.
        """
        points = forecast.points.tolist()
        first, after = bisect_left(points, self.start), bisect_left(points, self.horizon)
        if after == len(points) or not (after or points[after] == self.horizon):
            raise InputError(
                f"guardrail {self.name}: its steps {self.start}..{self.horizon} are not covered by the model's "
                f"horizon points {points}"
            )
        mean, scale = forecast.mean[self.quantity], forecast.scale[self.quantity]

        def along(values: Tensor) -> Tensor:
            if points[after] == self.horizon:
                return values[..., first : after + 1]
            before = points[after - 1]
            share = (self.horizon - before) / (points[after] - before)
            end = values[..., after - 1] + share * (values[..., after] - values[..., after - 1])
            return torch.cat([values[..., first:after], end[..., None]], dim=-1)

        sign = 1.0 if self.sense == "at_least" else -1.0
        distance = sign * (along(mean) - self.bound)
        least, at = distance.min(-1)
        there = along(scale).gather(-1, at[..., None])[..., 0]
        return torch.where(torch.isnan(distance).any(-1), torch.full_like(least, torch.nan), least), there


def margin_of(guardrail: Guardrail, forecast: Forecast, actions: Tensor, history: History) -> Tensor:
    """[B, S] the margin that a plan is held to; arguments as those of `Guardrail.margin`.

    Of a model that was adapted to a subject, the lesser one of before and after: margins were calibrated for the model
    as it was, and whatever was learned since may only tighten them.
    """
    margin = guardrail.margin(forecast, actions, history)
    if forecast.calibrated is None:
        return margin
    return torch.minimum(margin, guardrail.margin(forecast.calibrated, actions, history))


def digest(guardrails: Sequence[Guardrail]) -> str:
    """SHA-256 of the canonical JSON of the guardrails, for plans and the audit log."""
    content = [{"class": type(g).__name__, **asdict(g)} for g in guardrails]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_guardrails(guardrails: Sequence[Guardrail], horizon: int) -> None:
    """Refuse sets that cannot work.

    Raises:
        InputError: No guardrail, two of one name, or one that looks further than the plan.
    """
    names = [g.name for g in guardrails]
    if not names:
        raise InputError("planning without guardrails is not offered here; give at least one")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two guardrails are named {name}; names must be unique")
    for guardrail in guardrails:
        if guardrail.horizon > horizon:
            raise InputError(
                f"guardrail {guardrail.name} looks {guardrail.horizon} steps ahead, the plan only {horizon}; "
                "shorten its horizon"
            )
