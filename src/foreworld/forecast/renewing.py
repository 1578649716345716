"""Renewing a picture of a subject that has aged: what was learned lately is trusted where it foresees better.

renewing = Renewing(model)                 # stands where the model stands: same schema, grid, calibration, planner
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.episodes.schema import Role
from foreworld.errors import InputError
from foreworld.forecast.recent import Around, last_of, longer
from foreworld.model.belief import Belief, History
from foreworld.model.world_model import WorldModel


class RenewConfig(BaseModel):
    """When a younger picture of a subject takes over.

    Attributes:
        every: Steps between two starts of a young picture.
        young: How many young pictures are kept; the oldest of them is `every` * `young` steps old at most.
        steps: Of history that a young picture starts with, so that it knows the insulin that still acts.
        ahead: Steps ahead at which pictures are compared.
        compare: Steps between two comparisons.
        window: Time constant, in steps, of the running mean of errors.
        wait: Steps for which they must have been compared before a young one may take over.
        better: A young picture is in force where its running error is below this share of the old one's.
        surely: It replaces the old one, if it is still in force when it would be dropped, below this share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=144, ge=1)
    young: int = Field(default=3, ge=1)
    steps: int = Field(default=72, ge=1)
    ahead: int = Field(default=24, ge=1)
    compare: int = Field(default=3, ge=1)
    window: float = Field(default=144.0, gt=0)
    wait: int = Field(default=36, ge=0)
    better: float = Field(default=0.92, gt=0, le=1)
    surely: float = Field(default=0.95, gt=0, le=1)


@dataclass(frozen=True)
class Pictures:
    """Several pictures of B subjects side by side: the old one first, then the young ones.

    Attributes:
        all: (1 + K) * B beliefs; picture k of subject b is row k * B + b.
        chosen: [B] which of them is in force.
        trail: `all` of the last moments, the oldest first.
        window: The last steps of B subjects.
        errors: [2, B, K] running sums of errors, of each young picture and of the old one over the same moments.
        born: Steps at which each young picture was started; None where it was not yet.
        clock: Steps since the first moment.
    """

    all: Belief
    chosen: Tensor
    trail: tuple[Belief, ...]
    window: History
    errors: Tensor
    born: tuple[int | None, ...]
    clock: int

    def __len__(self) -> int:
        """Number of subjects B."""
        return len(self.chosen)

    @property
    def belief(self) -> Belief:
        """That in force."""
        return self.all.select(self.chosen * len(self) + torch.arange(len(self)))

    @property
    def count(self) -> Tensor:
        """[B] moments behind the one in force: how long a subject is known as it is now."""
        return self.belief.count

    @property
    def since(self) -> Tensor:
        """[B] step at which the history of the one in force begins: where it differs, it is another picture."""
        return self.clock + 1 - self.count

    def select(self, index: Tensor) -> Self:
        """Those of some subjects."""
        rows = torch.as_tensor(index)
        if rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        every = (torch.arange(1 + len(self.born))[:, None] * len(self) + rows).flatten()
        return replace(
            self,
            all=self.all.select(every),
            chosen=self.chosen[rows],
            trail=tuple(past.select(every) for past in self.trail),
            window=self.window.select(rows),
            errors=self.errors[:, rows],
        )


class Renewing(Around):
    """Keeps young pictures beside the old one, and trusts the one that foresaw this subject best lately.

    A recurrent state that has watched somebody for a week is slow to believe that they have changed. A picture that was
    started yesterday is not: where its forecasts of what has come since, told what was done, were better by a margin,
    it is in force, and at the end of its time it replaces the old one. So a subject who does not change is known by
    all of the history, and one who does by what came after the change. (Tracking the best of several experts of
    different ages: Herbster and Warmuth 1998; Hazan and Seshadhri 2009.)

    Every comparison of forecasts made at t waits for what was measured after t. `encode` goes through the history
    step by step and so equals `update`.

    Args:
        model: Whose beliefs these are; scalar channels of actions and exogenous values.
        config: When a young picture takes over.

    Raises:
        InputError: The schema has an action or exogenous channel that is no scalar amount, or the grid does not
            reach as far as pictures are compared.
    """

    def __init__(self, model: WorldModel, config: RenewConfig | None = None) -> None:
        super().__init__(model)
        self.settings = config or RenewConfig()
        for channel in model.schema.channels:
            if channel.role in (Role.action, Role.exogenous) and (channel.shape != () or channel.discrete):
                raise InputError(f"channel {channel.name} is no scalar amount; pictures are compared on such alone")
        points, ahead = model.config.grid.points, self.settings.ahead
        self._where = [i for i, p in enumerate(points) if ahead // 2 <= p <= ahead]
        if ahead not in points or self.settings.steps < ahead:
            raise InputError(f"pictures are compared {ahead} steps ahead: no point of the grid, or beyond the window")

    def encode(self, history: History) -> Pictures:
        """From the first moment on, step by step."""
        *_, pictures = self._through(history)
        return pictures

    def along(self, history: History, at: Sequence[int]) -> list[Belief]:
        """The beliefs in force at some moments of histories of one length, each from what came before it alone."""
        wanted = set(at)
        found = {t: pictures.belief for t, pictures in enumerate(self._through(history)) if t in wanted}
        return [found[t] for t in at]

    @torch.no_grad()
    def _through(self, history: History) -> Iterator[Pictures]:
        """The pictures at every moment."""
        if not bool((history.lengths == history.times.shape[1]).all()):
            raise InputError("histories must be of one length; go through them one by one")
        pictures = self._begin(history.until(self.schema, 1))
        yield pictures
        seen = (*self.schema.names(Role.observation), *self.schema.names(Role.exogenous))
        for t in range(1, history.times.shape[1]):
            observed = {name: history.values[name][:, t] for name in seen}
            done = {name: history.values[name][:, t - 1] for name in self.schema.names(Role.action)}
            pictures = self.update(pictures, history.times[:, t], observed, done)
            yield pictures

    def _begin(self, history: History) -> Pictures:
        c, size = self.settings, len(history)
        first = self.model.encode(history)
        return Pictures(
            all=_stacked([first] * (1 + c.young)),
            chosen=torch.zeros(size, dtype=torch.int64),
            trail=(),
            window=history,
            errors=torch.zeros(2, size, c.young, dtype=torch.float64),
            born=(None,) * c.young,
            clock=0,
        )

    @torch.no_grad()
    def update(
        self, belief: Pictures, time: Tensor, observation: Mapping[str, Tensor], action: Mapping[str, Tensor]
    ) -> Pictures:
        """One step later: every picture goes on, forecasts that have come due are compared, and one may be renewed."""
        c, many = self.settings, 1 + self.settings.young

        def repeated(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.repeat(many, *[1] * (value.dim() - 1)) for name, value in values.items()}

        everyone = self.model.update(belief.all, time.repeat(many), repeated(observation), repeated(action))
        window = longer(self.schema, belief.window, time, observation, action)
        now = replace(
            belief,
            all=everyone,
            trail=(*belief.trail, belief.all)[-c.ahead :],
            window=last_of(self.schema, window, c.steps),
            clock=belief.clock + 1,
        )
        if now.clock % c.compare == 0 and len(now.trail) == c.ahead:
            now = self._compared(now)
        if now.clock % c.every == 0:
            now = self._renewed(now, now.clock // c.every % c.young)
        return now

    def _compared(self, now: Pictures) -> Pictures:
        """With the errors of what each picture foresaw `ahead` steps ago, and the choice that follows from them."""
        c, size, many = self.settings, len(now), 1 + self.settings.young
        past, values = now.trail[0], now.window.values
        averaging = self.model.config.grid.averaging().double()
        averaging = averaging[:, : c.ahead]
        done = torch.stack([values[n][:, -c.ahead :].double() for n in self.schema.names(Role.action)], dim=-1)
        actions = torch.einsum("hk,bka->bha", averaging, done).float().repeat(many, 1, 1)[:, None]
        exogenous = None
        if told := self.schema.names(Role.exogenous):
            came = torch.stack([values[name][:, -c.ahead :].double() for name in told], dim=-1)
            raw = torch.einsum("hk,bkx->bhx", averaging, came).float().repeat(many, 1, 1)
            exogenous = self.model.normalise_exogenous(past, raw)
        prepared = self.model.prepare(past, exogenous)
        means = self.model.read(self.model.respond(prepared, self.model.normalise_actions(past, actions)))
        points = torch.tensor(self.model.config.grid.points)[self._where]
        error = torch.zeros(many, size, dtype=torch.float64)
        for name in self.quantities:
            came = values[name][:, points - c.ahead - 1].double()
            typical = self.schema.statistics[name].std
            missed = (means[name].mean(0)[:, 0, self._where].double().reshape(many, size, -1) - came).abs() / typical
            error += torch.nan_to_num(missed).mean(-1)
        kept = math.exp(-c.compare / c.window)
        errors = now.errors.clone()
        old = [b is not None and now.clock - b >= c.ahead for b in now.born]
        for k, comparable in enumerate(old):
            if comparable:
                errors[0, :, k] = kept * errors[0, :, k] + error[1 + k]
                errors[1, :, k] = kept * errors[1, :, k] + error[0]
        share = self._share(replace(now, errors=errors))
        least = share.min(dim=1)
        chosen = torch.where(least.values < c.better, least.indices + 1, torch.zeros_like(now.chosen))
        return replace(now, errors=errors, chosen=chosen)

    def _share(self, now: Pictures) -> Tensor:
        """[B, K] running error of each young picture as a share of the old one's; 1 where it is too young to tell."""
        c = self.settings
        known = torch.tensor([b is not None and now.clock - b >= c.ahead + c.wait for b in now.born])
        return torch.where(known & (now.errors[1] > 0), now.errors[0] / now.errors[1].clamp(min=1e-9), 1.0)

    def _renewed(self, now: Pictures, slot: int) -> Pictures:
        """With one young picture started anew; where it was surely better than the old one, it replaces that first."""
        size = len(now)
        heir = self._share(now)[:, slot] < self.settings.surely
        heir &= now.chosen == slot + 1
        rows = torch.arange(len(now.all))
        rows[:size] = torch.where(heir, rows[:size] + (slot + 1) * size, rows[:size])
        everyone, trail = now.all.select(rows), tuple(past.select(rows) for past in now.trail)
        errors = now.errors.clone()
        errors[:, heir] = 0.0  # of the others against an old one that is gone
        errors[:, :, slot] = 0.0
        chosen = torch.where(now.chosen == slot + 1, torch.zeros_like(now.chosen), now.chosen)
        fresh = self.model.encode(now.window)
        parts = [everyone.select(slice(k * size, (k + 1) * size)) for k in range(1 + len(now.born))]
        parts[slot + 1] = fresh
        born = tuple(now.clock if k == slot else b for k, b in enumerate(now.born))
        return replace(now, all=_stacked(parts), trail=trail, errors=errors, chosen=chosen, born=born)


def _stacked(parts: list[Belief]) -> Belief:
    return Belief(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Belief)})
