"""Calibration on held-out subjects: display bands, novelty, and one trajectory score per guardrail.

The planner picks the best of many candidates and so seeks out the model's errors: guardrails are calibrated on the
plans that it *chose*, carried out open-loop, then planned and calibrated again (`calibrate` in a domain drives the
rounds; this module holds the statistics).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.conformal import conformal_quantile, masked_quantiles
from foreworld.forecast.forecaster import Calibration
from foreworld.forecast.novelty import NoveltyModel, disagreement, fit_gaussian, mahalanobis
from foreworld.model.belief import History
from foreworld.model.loss import beliefs_at, future_of
from foreworld.model.world_model import WorldModel
from foreworld.planning.guardrail import Tightened


@dataclass(frozen=True)
class Moments:
    """Forecasts of what was really done, and what came of it, at random moments of held-out histories.

    Attributes:
        mean: By quantity [n, H], units.
        scale: By quantity [n, H].
        truth: By quantity [n, H]; NaN where not measured.
        spread: [n, H] disagreement of the members, the largest over quantities.
        context: [n, C].
        subject: [n] index of the subject.
        known: [n] moments of history behind each forecast.
    """

    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    truth: dict[str, Tensor]
    spread: Tensor
    context: Tensor
    subject: Tensor
    known: Tensor

    def between(self, first: int, until: int) -> Self:
        """Those with at least `first` and fewer than `until` moments of history behind them."""
        kept = (self.known >= first) & (self.known < until)

        def of(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[kept] for name, value in values.items()}

        return replace(
            self,
            mean=of(self.mean),
            scale=of(self.scale),
            truth=of(self.truth),
            spread=self.spread[kept],
            context=self.context[kept],
            subject=self.subject[kept],
            known=self.known[kept],
        )


@torch.no_grad()
def moments_of(
    model: WorldModel, history: History, *, each: int, first: int, seed: int, known_future: bool = True
) -> Moments:
    """Forecast from random moments of histories.

    Args:
        model: Predicts.
        history: Of B held-out subjects, equal lengths.
        each: Moments a subject.
        first: Earliest moment.
        seed: Of the moments.
        known_future: Whether announced exogenous values after the moment are given to the model.

    Raises:
        InputError: Histories are too short, or of several lengths.
    """
    if not bool((history.lengths == history.times.shape[1]).all()):
        raise InputError("histories to calibrate on must be of one length; cut them to the shortest")
    last = history.times.shape[1] - model.config.grid.last - 1
    if last < first:
        raise InputError(
            f"histories of {history.times.shape[1]} moments are too short to calibrate: "
            f"{first} + {model.config.grid.last} steps are needed"
        )
    generator = torch.Generator().manual_seed(seed)
    at = torch.randint(first, last + 1, (len(history), each), generator=generator)
    belief = beliefs_at(model.encode_all(history), at)
    actions, exogenous, targets, mask = (
        None if part is None else part.flatten(0, 1) for part in future_of(model, history, at)
    )
    assert actions is not None and targets is not None and mask is not None
    prepared = model.prepare(belief, exogenous if known_future else None)
    latents = model.respond(prepared, actions[:, None])[:, :, 0]
    means, scales = model.read(latents), model.read_scale(latents)
    mean = {name: value.mean(0) for name, value in means.items()}
    scale = {name: value.mean(0) for name, value in scales.items()}
    truth = {}
    for i, name in enumerate(model.quantities):
        values = model.features.to_units(name, targets[..., i])
        truth[name] = torch.where(mask[..., i] > 0, values, torch.full_like(values, torch.nan))
    spread = torch.stack([disagreement(means[name], scale[name]) for name in model.quantities]).amax(0)
    subject = torch.arange(len(history))[:, None].expand(-1, each).flatten()
    return Moments(mean, scale, truth, spread, prepared.context, subject, belief.count)


class Aged(Protocol):
    """Moments or visits, which can be told apart by how much history is behind them."""

    def between(self, first: int, until: int) -> Self:
        """Those with at least `first` and fewer than `until` moments of history."""


Seen = TypeVar("Seen", bound=Aged)
Found = TypeVar("Found", bound=dict[str, Any])


def by_stage(fit: Callable[[Seen], Found], seen: Seen, starts: Sequence[int]) -> list[Found]:
    """What `fit` finds in each stage of being known; a stage with too little in it takes over what the one before has.

    Subjects are the less predictable the less they are known, so taking over is on the safe side.

    Args:
        fit: `fit_bands` or `fit_trajectory` with all but the first argument given.
        seen: Of all stages.
        starts: Moments of history from which the stages after the first count, ascending.

    Raises:
        InputError: The first stage already has too little, or something anywhere is not finite.
    """
    fit(seen)  # what is broken is told here, so that below nothing but too little of it is left to be refused
    edges = [0, *starts, sys.maxsize]
    found: list[Found] = []
    for first, until in pairwise(edges):
        try:
            found.append(fit(seen.between(first, until)))
        except InputError:
            if not found:
                raise
            found.append(found[-1])
    return found


def fit_bands(moments: Moments, coverage: float) -> dict[str, tuple[float, ...]]:
    """Half-widths in units of the predicted scale, by horizon: conformal quantiles of |error| / scale over subjects.

    Raises:
        InputError: Too few subjects with an outcome at a horizon point, or a forecast is not finite.
    """
    bands = {}
    for name, mean in moments.mean.items():
        measured = ~torch.isnan(moments.truth[name])
        # A forecast that is NaN must not pass for an outcome that was not measured.
        if not bool((torch.isfinite(mean) & torch.isfinite(moments.scale[name])).all()):
            raise InputError(f"a forecast of {name} is not finite; check the model before calibrating it")
        score = (moments.truth[name] - mean).abs() / moments.scale[name]
        bands[name] = tuple(masked_quantiles(score, measured, moments.subject, 1.0 - coverage).tolist())
    return bands


def fit_novelty(
    context: Tensor, spread: Tensor, false_alarm: float, subject: Tensor | np.ndarray | None = None
) -> NoveltyModel:
    """Thresholds that familiar states exceed with probability `false_alarm` at most, half for each of the two signs.

    Args:
        context: [n, C] contexts of calibration subjects; half of them fit the Gaussian, the others the threshold.
        spread: [n, H] disagreement there; its largest ratio to the usual one over all horizon points is one score.
        false_alarm: Stated rate, in (0, 1).
        subject: [n] index of the subject. With it no subject is in both halves, so that the rate is that of subjects
            never seen; without it rows are exchangeable as they stand.

    Raises:
        InputError: Too few states for the rate, or a single subject.
    """
    if subject is None:
        first = torch.arange(len(context)) < len(context) // 2
    else:
        owner = torch.as_tensor(subject)
        everyone = torch.from_numpy(np.unique(owner.numpy()))
        if len(everyone) < 2:
            raise InputError("states of one subject cannot calibrate novelty; give more subjects")
        first = torch.isin(owner, everyone[::2])
    if int(first.sum()) < 2 or bool(first.all()):
        raise InputError(f"{len(context)} states are too few to calibrate novelty; give more subjects or days")
    mean, precision = fit_gaussian(context[first])
    distance = float(conformal_quantile(mahalanobis(context[~first], mean, precision), false_alarm / 2))
    usual = torch.quantile(spread[first], 0.95, dim=0).clamp(min=1e-6)
    factor = float(conformal_quantile((spread[~first] / usual).amax(1), false_alarm / 2))
    if not (np.isfinite(distance) and np.isfinite(factor)):
        raise InputError(
            f"{int((~first).sum())} states are too few for a false-alarm rate of {false_alarm:g}; "
            "give more subjects or days"
        )
    return NoveltyModel(
        mean=tuple(mean.tolist()),
        precision=tuple(tuple(row) for row in precision.tolist()),
        distance=distance,
        # A single member never disagrees.
        disagreement=tuple((usual * factor).clamp(min=1e-6).tolist()),
        false_alarm=false_alarm,
    )


@dataclass(frozen=True)
class Visits:
    """Plans that a planner chose, and what carrying them out open-loop really gave.

    Attributes:
        least: By guardrail [n]: least predicted distance from its bound, before tightening.
        scale: By guardrail [n]: predicted scale there.
        true: By guardrail [n]: least true distance over the steps that count for it.
        whole: By guardrail [n]: the same from the first step after the decision on, which may be less.
        margin: By guardrail [n]: margin at the time, tightened by the calibration then in force.
        context: [n, C].
        spread: [n, H].
        subject: [n].
        known: [n] moments of history behind each plan.
        surprise: [m, looks] of everybody at those times, planned for or not (`agent.monitor`).
        jump: [k] of everybody at every time, likewise.
    """

    least: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    true: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]
    margin: dict[str, np.ndarray]
    context: Tensor
    spread: Tensor
    subject: np.ndarray
    known: np.ndarray
    surprise: np.ndarray
    jump: np.ndarray

    def __len__(self) -> int:
        """Number of plans."""
        return len(self.subject)

    def between(self, first: int, until: int) -> Self:
        """Those of subjects with at least `first` and fewer than `until` moments of history."""
        kept = (self.known >= first) & (self.known < until)
        rows = torch.from_numpy(kept)

        def of(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: value[kept] for name, value in values.items()}

        return replace(
            self,
            least=of(self.least),
            scale=of(self.scale),
            true=of(self.true),
            whole=of(self.whole),
            margin=of(self.margin),
            context=self.context[rows],
            spread=self.spread[rows],
            subject=self.subject[kept],
            known=self.known[kept],
        )

    def scores(self, name: str) -> np.ndarray:
        """[n] predicted minus true least distance, in units of the predicted scale."""
        out: np.ndarray = (self.least[name] - self.true[name]) / self.scale[name]
        return out

    def exceeded(self, calibration: Calibration, guardrail: Tightened, risk: float | None = None) -> np.ndarray:
        """[n] whether the true distance fell short of the tightened one: happens at the stated risk, or less."""
        bounds = calibration.trajectory_bounds(guardrail.name, guardrail.risk if risk is None else risk)
        stage = calibration.stage(torch.from_numpy(self.known))
        return np.asarray(self.scores(guardrail.name) > bounds[stage].numpy())


def fit_trajectory(
    visits: Visits, guardrails: Sequence[Tightened], levels: Sequence[float] = (0.01, 0.05, 0.1, 0.2)
) -> dict[str, dict[str, float]]:
    """By guardrail and risk level: the bound on the trajectory score of chosen plans.

    Raises:
        InputError: Too few plans for a guardrail's own risk.
    """
    bounds: dict[str, dict[str, float]] = {}
    for guardrail in guardrails:
        scores = torch.from_numpy(visits.scores(guardrail.name))
        bounds[guardrail.name] = {}
        for risk in sorted({*levels, guardrail.risk}):
            bound = float(conformal_quantile(scores, risk))
            if np.isfinite(bound):
                bounds[guardrail.name][f"{risk:g}"] = bound
            elif risk == guardrail.risk:
                raise InputError(
                    f"{len(scores)} plans are too few to calibrate guardrail {guardrail.name} at risk {risk:g}; "
                    "give more subjects or days"
                )
    return bounds
