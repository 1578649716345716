"""A model adapted to each subject by a few gradient steps, and the guard that decides whether the steps may stand.

    adaptation = adapt(forecaster, history)     # of B subjects, up to now
    adaptation.forecaster                       # stands where the forecaster stood
    adaptation.verdicts[0].reason               # why an update was rejected, in words

Fitted on the earlier part of a history and judged on the latest, which the fit never saw. Where the guard rejects an
update, that subject keeps the model as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Forecast, Forecaster
from foreworld.forecast.recent import Around
from foreworld.learning.adapt import AdapterConfig, Past, adaptable, fit_adapter, past_of
from foreworld.model.belief import Belief, History
from foreworld.model.dynamics import Prepared
from foreworld.model.loss import beliefs_at
from foreworld.model.low_rank import Adapter
from foreworld.model.world_model import WorldModel


@dataclass(frozen=True)
class Personal:
    """A belief about B subjects with the adapter of each.

    Attributes:
        belief: The model's own.
        adapter: Of the same B subjects.
    """

    belief: Belief
    adapter: Adapter

    def __len__(self) -> int:
        """Number of subjects B."""
        return len(self.belief)

    @property
    def count(self) -> Tensor:
        """[B] moments behind it."""
        return self.belief.count

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, belief=self.belief.select(index), adapter=self.adapter.select(index))


@dataclass(frozen=True)
class BothPrepared:
    """What of a prediction does not depend on the actions, of the adapted model and of the one it was made from.

    Attributes:
        own: Of the adapted model.
        calibrated: Of the model as it was calibrated.
    """

    own: Prepared
    calibrated: Prepared

    @property
    def context(self) -> Tensor:
        """[B, C] the state as the predictor reads it; no adapter changes it, so novelty is judged as before."""
        return self.calibrated.context

    def select(self, index: Tensor) -> Self:
        """That of some subjects."""
        return replace(self, own=self.own.select(index), calibrated=self.calibrated.select(index))

    def hold(self, blocks: tuple[int, ...]) -> Self:
        """As `Prepared.hold`, of both."""
        return replace(self, own=self.own.hold(blocks), calibrated=self.calibrated.hold(blocks))


class Adapted(Around):
    """A world model with an adapter for each of B subjects.

    It stands where the model stands (`model.interface.Imaginer`), for these subjects in this order. Beliefs, contexts
    and predicted scales are the model's own; what is adapted are the predicted quantities and the responses to actions,
    whose signs stay those of the schema.

    Args:
        model: Its weights are never written.
        adapter: Of B subjects.
    """

    def __init__(self, model: WorldModel, adapter: Adapter) -> None:
        super().__init__(model)
        adaptable(model, tuple(adapter.up))
        self.adapter = adapter

    def encode(self, history: History) -> Personal:
        """The belief at the end of each history.

        Raises:
            InputError: There are not as many histories as adapters.
        """
        self._count(history)
        return Personal(self.model.encode(history), self.adapter)

    def encode_at(self, history: History, at: Tensor) -> Personal:
        """The beliefs at moments [B, N] as one batch of B * N, each from what came before it alone; raises likewise."""
        self._count(history)
        rows = torch.arange(len(history)).repeat_interleave(at.shape[1])
        return Personal(beliefs_at(self.model.encode_all(history), at), self.adapter.select(rows))

    def update(
        self, belief: Personal, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Personal:
        """One step later; the adapter stays."""
        return replace(belief, belief=self.model.update(belief.belief, time, observation, action))

    def prepare(self, belief: Personal, exogenous: Tensor | None = None) -> BothPrepared:
        """What does not depend on the actions."""
        prepared = self.model.prepare(belief.belief, exogenous)
        return BothPrepared(self.model.dynamics.adapted(prepared, exogenous, belief.adapter), prepared)

    def respond(self, prepared: BothPrepared | Prepared, actions: Tensor) -> Tensor:
        """As the model."""
        return self.model.respond(prepared.own if isinstance(prepared, BothPrepared) else prepared, actions)

    def _count(self, history: History) -> None:
        if len(history) != len(self.adapter):
            raise InputError(
                f"{len(history)} histories for the adapters of {len(self.adapter)} subjects; give those that were "
                "adapted, in the same order"
            )


class AdaptConfig(AdapterConfig):
    """How a model is adapted, and when an update may stand.

    Attributes:
        held_out: Steps at the end of the history that judge the update and that it is not fitted on.
        least: Moments before them that must be there, besides `warmup`.
        better: Share by which held-out error must fall: an update that gains nothing is not worth its risk.
    """

    held_out: int = Field(default=288, ge=1)
    least: int = Field(default=288, ge=1)
    better: float = Field(default=0.01, ge=0, lt=1)

    @property
    def needed(self) -> int:
        """Moments that a history must have."""
        return self.warmup + self.least + self.held_out


@dataclass(frozen=True)
class Held:
    """How well one subject's latest part was foreseen.

    Attributes:
        coverage: Share of readings inside the calibrated bands.
        error: Root mean squared error in units of the predicted scale, which no adapter changes.
    """

    coverage: float
    error: float


@dataclass(frozen=True)
class Verdict:
    """What the guard decided about one subject's update.

    Attributes:
        accepted: Whether it stands.
        reason: In words.
        before: By quantity, of the model as it was.
        after: Of the update.
        readings: Held-out forecasts of readings that it was judged by.
    """

    accepted: bool
    reason: str
    before: dict[str, Held]
    after: dict[str, Held]
    readings: int


@dataclass(frozen=True)
class Adaptation:
    """A forecaster adapted to B subjects.

    Attributes:
        forecaster: With the calibration it had; for these B subjects in this order.
        verdicts: One a subject.
    """

    forecaster: Forecaster
    verdicts: tuple[Verdict, ...]


def adapt(forecaster: Forecaster, history: History, config: AdaptConfig | None = None) -> Adaptation:
    """Fit an adapter for each subject on their own past, and keep it where it foresees the latest part better.

    The history is cut where the held-out part begins before anything is fitted, so no later value can reach the fit.
    Every subject is fitted and judged alone. Nothing random but the start of the adapters, from the seed.

    Args:
        forecaster: Of a `WorldModel`, calibrated.
        history: Of B subjects up to now, of one length.
        config: How.

    Raises:
        InputError: The model is no WorldModel or predicts categories, a layer does not exist, or the history is too
            short (the message says how long it must be) or padded.
    """
    config, model = config or AdaptConfig(), forecaster.model
    if not isinstance(model, WorldModel):
        raise InputError(f"a {type(model).__name__} has no layers to adapt; give the forecaster of a WorldModel")
    adaptable(model, config.layers)
    moments = history.times.shape[1]
    if not len(history) or not bool((history.lengths == moments).all()):
        raise InputError("histories must be of one length, at least one of them; adapt to them one by one")
    if moments < config.needed:
        raise InputError(
            f"a history of {moments} moments is too short to adapt to: {config.needed} are needed ({config.warmup} "
            f"before the first forecast, {config.least} to fit, {config.held_out} held out)"
        )
    parts = [_adapted(forecaster, model, history.select(torch.tensor([row])), config) for row in range(len(history))]
    adapter = Adapter.stack([part for part, _ in parts])
    return Adaptation(
        Forecaster(Adapted(model, adapter), forecaster.calibration), tuple(verdict for _, verdict in parts)
    )


def _adapted(
    forecaster: Forecaster, model: WorldModel, history: History, config: AdaptConfig
) -> tuple[Adapter, Verdict]:
    """The adapter of one subject, silenced where it was rejected."""
    cut = history.times.shape[1] - config.held_out
    earlier = history.until(model.schema, cut)
    adapter = fit_adapter(model, past_of(model, earlier, config.warmup, config.stride), config)
    if not adapter.finite():
        return _blank(adapter), Verdict(
            False, "the gradient steps did not give finite numbers; look for bad values in the history", {}, {}, 0
        )
    latest = past_of(model, history, cut - 1, config.stride)
    verdict = judge(forecaster, model, adapter, latest, config)
    return adapter if verdict.accepted else adapter.silenced(), verdict


def _blank(adapter: Adapter) -> Adapter:
    """Finite and changing nothing: zero times what is not finite is not zero."""
    return Adapter({name: torch.zeros_like(value) for name, value in adapter.down.items()}, adapter.silenced().up)


@torch.no_grad()
def judge(forecaster: Forecaster, model: WorldModel, adapter: Adapter, latest: Past, config: AdaptConfig) -> Verdict:
    """Whether an update may stand, by a part of the subject's history that it was not fitted on.

    Args:
        forecaster: Its calibration gives bands and their coverage.
        model: Its model.
        adapter: Of one subject.
        latest: The part held out.
        config: When it may.
    """
    rows = torch.zeros(len(latest.belief), dtype=torch.int64)
    own = Forecaster(Adapted(model, adapter), forecaster.calibration)
    forecasts = []
    for one, belief in ((forecaster, latest.belief), (own, Personal(latest.belief, adapter.select(rows)))):
        prepared = one.model.prepare(belief, latest.exogenous)
        imagined = replace(one.begin(belief), prepared=prepared)
        forecasts.append(one.of_latents(imagined, one.model.respond(prepared, latest.actions[:, None])))
    before, after = ({name: _held(model, f, latest, name) for name in model.quantities} for f in forecasts)
    reason = _reason(before, after, forecaster.calibration.coverage, config.better)
    readings = int(latest.known.sum())
    if reason is None:
        name = model.quantities[0]
        told = f"the held-out error of {name} fell from {before[name].error:.3f} to {after[name].error:.3f} scales"
        return Verdict(True, told, before, after, readings)
    return Verdict(False, reason, before, after, readings)


def _held(model: WorldModel, forecast: Forecast, latest: Past, name: str) -> Held:
    i = model.quantities.index(name)
    known, truth = latest.known[..., i] > 0, model.features.to_units(name, latest.targets[..., i])
    mean, scale, lower, upper = (
        part[name][:, 0][known] for part in (forecast.mean, forecast.scale, forecast.lower, forecast.upper)
    )
    truth = truth[known]
    inside = ((truth >= lower) & (truth <= upper)).double().mean()
    error = (((mean - truth) / scale).double() ** 2).mean().sqrt()
    return Held(float(inside), float(error))


def _reason(before: Mapping[str, Held], after: Mapping[str, Held], coverage: float, better: float) -> str | None:
    """Why an update is rejected; None where it is not. Comparisons are written so that NaN rejects."""
    for name, now in after.items():
        was = before[name]
        if not now.error < float("inf"):
            return f"held-out forecasts of {name} are not finite, or nothing was measured in the part held out"
        if not now.coverage >= min(was.coverage, coverage):
            return (
                f"held-out coverage of {name} fell from {was.coverage:.1%} to {now.coverage:.1%}, "
                f"below the {coverage:.0%} of the calibration"
            )
        if not now.error <= (1.0 - better) * was.error:
            return (
                f"the held-out error of {name} went from {was.error:.3f} to {now.error:.3f} predicted scales: not "
                f"better by {better:.0%}"
            )
    return None
