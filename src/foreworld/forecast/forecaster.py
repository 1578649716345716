"""`Forecaster`: calibrated futures of candidate actions, and how far they may be trusted.

imagined = forecaster.begin(belief, exogenous)      # what does not depend on the actions, once
forecast = forecaster.forecast(imagined, actions)   # [B, S] candidates at once
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from foreworld.errors import InputError, ModelError
from foreworld.forecast.calibration import Calibration, MonitorLimits, Stage
from foreworld.forecast.novelty import disagreement, mahalanobis
from foreworld.model.interface import Adjusted, Believed, Holding, Imaginer, Present, Ready, familiar

__all__ = [
    "QUANTILES",
    "Calibration",
    "Forecast",
    "Forecaster",
    "Imagined",
    "MonitorLimits",
    "Stage",
    "check_finite",
    "require_finite",
]

# Scenarios of each member. A cost of rare harm must see how far the tails reach: four members at one quantile each end
# at 1.15 standard deviations, at three each at 1.73.
QUANTILES = 3


@dataclass(frozen=True)
class Imagined:
    """A belief made ready for many candidate actions.

    Attributes:
        belief: Of B subjects.
        prepared: What of the prediction does not depend on the actions.
        distance: [B] novelty of the belief itself; above 1 is novel.
        now: By quantity: [B] what is read out of the present, where the model can.
    """

    belief: Believed
    prepared: Ready
    distance: Tensor
    now: dict[str, Tensor] = field(default_factory=dict)

    def select(self, index: Tensor) -> Imagined:
        """Some of the subjects."""
        now = {name: value[index] for name, value in self.now.items()}
        return Imagined(self.belief.select(index), self.prepared.select(index), self.distance[index], now)

    def hold(self, blocks: tuple[int, ...]) -> Imagined | None:
        """The same for candidates that hold one amount over each block of intervals; None where the model cannot.

        `Forecaster.forecast` then takes [B, S, N, A], one amount for each of the N blocks.

        Args:
            blocks: Last interval of each block, exclusive.
        """
        if not isinstance(self.prepared, Holding):
            return None
        return replace(self, prepared=self.prepared.hold(blocks))


@dataclass(frozen=True)
class Forecast:
    """Calibrated futures of S candidate plans of B subjects, in units.

    Attributes:
        points: [H] steps ahead.
        samples: By quantity: scenarios [E, B, S, H], each member at several quantiles.
        mean: By quantity: [B, S, H].
        scale: By quantity: predicted standard deviation [B, S, H].
        lower: By quantity: lower end of the display band [B, S, H].
        upper: By quantity: upper end.
        calibration: What the bands and the guardrails' trajectory bounds rest on.
        novelty: [B, S]; above 1 is novel.
        usable: [B, S] int64: steps ahead up to which the members agree as they do on familiar data.
        known: [B] int64 moments of history behind it.
        latents: [E, B, S, H, D] what the model predicted, for what reads more than quantities (a critic); None in a
            forecast that was picked out of another.
        calibrated: What the model foresaw before it was adapted to a subject; guardrails hold by both. None elsewhere.
        now: By quantity: [B] what is read out of the present, where the model can.
    """

    points: Tensor
    samples: dict[str, Tensor]
    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    lower: dict[str, Tensor]
    upper: dict[str, Tensor]
    calibration: Calibration
    novelty: Tensor
    usable: Tensor
    known: Tensor
    latents: Tensor | None = None
    calibrated: Forecast | None = None
    now: dict[str, Tensor] = field(default_factory=dict)

    def trajectory_bound(self, guardrail: str, risk: float) -> Tensor:
        """[B, 1] the calibrated score that tightens a guardrail's margin here; raises as `Calibration` does."""
        bounds = self.calibration.trajectory_bounds(guardrail, risk)
        return bounds[self.calibration.stage(self.known)][:, None].float()

    def pick(self, candidate: Tensor) -> Forecast:
        """The forecast of one candidate [B] of each subject, with S = 1."""
        rows = torch.arange(len(candidate))

        def of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[rows, candidate][:, None] for name, value in values.items()}

        samples = {name: value[:, rows, candidate][:, :, None] for name, value in self.samples.items()}
        return Forecast(
            self.points,
            samples,
            of(self.mean),
            of(self.scale),
            of(self.lower),
            of(self.upper),
            self.calibration,
            self.novelty[rows, candidate][:, None],
            self.usable[rows, candidate][:, None],
            self.known,
            calibrated=None if self.calibrated is None else self.calibrated.pick(candidate),
            now=self.now,
        )

    def row(self, subject: int) -> Forecast:
        """The forecast of one subject, with B = 1."""
        i = slice(subject, subject + 1)

        def of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[i] for name, value in values.items()}

        return Forecast(
            self.points,
            {name: value[:, i] for name, value in self.samples.items()},
            of(self.mean),
            of(self.scale),
            of(self.lower),
            of(self.upper),
            self.calibration,
            self.novelty[i],
            self.usable[i],
            self.known[i],
            calibrated=None if self.calibrated is None else self.calibrated.row(subject),
            now=of(self.now),
        )


class Forecaster:
    """A model with its calibration.

    Args:
        model: A `WorldModel`, or whatever answers `Imaginer`. Predicts; put into evaluation mode.
        calibration: From held-out subjects (`agent.calibrate`); without it bands are the predicted ones and nothing
            counts as novel.
    """

    def __init__(self, model: Imaginer, calibration: Calibration | None = None) -> None:
        self.model = model.eval()
        self.calibration = calibration or Calibration()
        self.points = torch.tensor(model.config.grid.points)
        members = model.config.members
        # A scenario is a member at one quantile of its own predicted spread, the same at all horizons: what errs
        # now (a miscounted meal, an insensitive day) errs in the same direction for hours.
        levels = (torch.arange(QUANTILES * members, dtype=torch.float64) + 0.5) / (QUANTILES * members)
        self._offsets = torch.special.ndtri(levels).float().reshape(QUANTILES, members)
        normal = float(torch.special.ndtri(torch.tensor(0.5 + self.calibration.coverage / 2)))
        stages = [
            [stage.bands.get(name, (normal,) * len(self.points)) for stage in self.calibration.stages]
            for name in model.quantities
        ]
        novelty = self.calibration.novelty
        self._familiar = None if novelty is None else novelty.gaussian()
        self._limit = torch.full((len(self.points),), math.inf) if novelty is None else novelty.limits()
        sizes = [(name, len(values)) for name, some in zip(model.quantities, stages, strict=True) for values in some]
        for what, size in (*sizes, ("novelty", len(self._limit))):
            if size != len(self.points):
                raise InputError(
                    f"the calibration of {what} has {size} horizon points, the model {len(self.points)}; "
                    "it belongs to another model: calibrate again"
                )
        self._bands = torch.tensor(stages)  # [Q, stages, H]
        channels = [model.schema[name] for name in model.quantities]
        ends = [(channel.low, channel.high) for channel in channels]
        # [Q, 1, 1, 1], so that all quantities are clamped at once.
        self._low = torch.tensor([-math.inf if low is None else low for low, _ in ends])[:, None, None, None]
        self._high = torch.tensor([math.inf if high is None else high for _, high in ends])[:, None, None, None]
        self._present = model if isinstance(model, Present) else None

    @torch.no_grad()
    def begin(self, belief: Believed, exogenous: Tensor | None = None) -> Imagined:
        """Prepare a belief for candidates.

        Args:
            belief: Of B subjects.
            exogenous: Known future amounts a step, raw units, [B, H, X] on the grid; None where nothing is known.
        """
        announced = None if exogenous is None else self.model.normalise_exogenous(belief, exogenous)
        prepared = self.model.prepare(belief, announced)
        novelty = self.calibration.novelty
        distance = torch.zeros(len(belief))
        if novelty is not None and self._familiar is not None:
            distance = mahalanobis(familiar(prepared), *self._familiar) / novelty.distance
        now = {} if self._present is None else self._present.read_now(prepared)
        return Imagined(belief, prepared, distance, now)

    def forecast(self, imagined: Imagined, actions: Tensor) -> Forecast:
        """Futures of candidates: `actions` [B, S, H, A] in raw units, one value for each interval of the grid.

        After `Imagined.hold` one for each block. It can be differentiated by actions that require a gradient, and by
        nothing else.

        Where the model gives NaN or infinite values the forecast is NaN, which no guardrail lets pass
        (`require_finite` raises).

        A model that was adapted to its subjects comes with what it foresaw before: guardrails hold by both, and it is
        trusted no more and no further than before.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and actions.requires_grad):
            amounts = self.model.normalise_actions(imagined.belief, actions)
            forecast = self._of_latents(imagined, self.model.respond(imagined.prepared, amounts))
            if not isinstance(imagined.prepared, Adjusted):
                return forecast
            was = self._of_latents(imagined, self.model.respond(imagined.prepared.calibrated, amounts))
        return replace(
            forecast,
            novelty=torch.maximum(forecast.novelty, was.novelty),
            usable=torch.minimum(forecast.usable, was.usable),
            calibrated=was,
        )

    @torch.no_grad()
    def of_latents(self, imagined: Imagined, latents: Tensor) -> Forecast:
        """The calibrated forecast of what the model predicted: latents [E, B, S, H, D] from `respond`."""
        return self._of_latents(imagined, latents)

    def _of_latents(self, imagined: Imagined, latents: Tensor) -> Forecast:
        # Before reading: the bounds of a quantity would turn an infinite value into a plausible one.
        if not _all_finite([latents]):
            sound = torch.isfinite(latents).all(-1, keepdim=True)
            latents = torch.where(sound, latents, torch.full_like(latents, torch.nan))
        # All quantities at once: with few candidates it is the number of operations that takes time.
        found, spreads, names = self.model.read(latents), self.model.read_scale(latents), self.model.quantities
        members, scales = (torch.stack([values[name] for name in names]) for values in (found, spreads))
        known, typical, mean = imagined.belief.count, scales.mean(1), members.mean(1)
        offsets = self._offsets[..., None, None, None] * typical[:, None, None]
        samples = torch.clamp((members[:, None] + offsets).flatten(1, 2), self._low[:, None], self._high[:, None])
        half = self._bands[:, self.calibration.stage(known)][:, :, None] * typical
        # What cannot be is not shown; the truth lies within the bounds, so no coverage is lost.
        lower = torch.clamp(mean - half, self._low, self._high)
        upper = torch.clamp(mean + half, self._low, self._high)
        novelty, usable = self._trust(imagined, disagreement(members.transpose(0, 1), typical).amax(0))

        def named(part: Tensor) -> dict[str, Tensor]:
            return dict(zip(names, part.unbind(0), strict=True))

        return Forecast(
            self.points, named(samples), named(mean), named(typical), named(lower), named(upper), self.calibration,
            novelty, usable, known, latents, now=imagined.now,
        )  # fmt: skip

    def _trust(self, imagined: Imagined, spread: Tensor) -> tuple[Tensor, Tensor]:
        ratio = spread / self._limit
        agreed = torch.cumprod((ratio <= 1.0).long(), dim=-1)
        count = agreed.sum(-1)
        steps = torch.cat([torch.zeros(1, dtype=torch.int64), self.points])
        early = ratio[..., : max(len(self.points) // 4, 1)].amax(-1)
        return torch.maximum(imagined.distance[:, None], early), steps[count]


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every entry is finite; if so surely True, otherwise, or where a sum overflows, False.

    A sum is finite only if all its terms are, and takes a tenth of the time of a look at each.
    """
    return all(math.isfinite(tensor.detach().sum().item()) for tensor in tensors)


def check_finite(forecast: Forecast) -> Tensor:
    """[B, S] whether every scenario, the mean and the scale of a candidate are finite."""
    if _all_finite([*forecast.samples.values(), *forecast.mean.values(), *forecast.scale.values()]):
        return torch.ones(forecast.novelty.shape, dtype=torch.bool)
    finite = [torch.isfinite(value).all(-1).all(0) for value in forecast.samples.values()]
    finite += [torch.isfinite(value).all(-1) for value in (*forecast.mean.values(), *forecast.scale.values())]
    return torch.stack(finite).all(0)


def require_finite(forecast: Forecast) -> None:
    """Raise ModelError where no candidate of some subject has a finite forecast."""
    bad = (~check_finite(forecast).any(1)).nonzero()
    if len(bad):
        raise ModelError(f"the model's forecast of subject {int(bad[0])} is not finite; check inputs and checkpoint")
