"""Does what came agree with what was foreseen? A model that is wrong about this subject may not plan for it.

Three signs of a wrong model, none of which asks the model itself how sure it is:

- *Surprise.* The belief of an hour ago, and that of a quarter of an hour ago, are asked again what would come, now that
  everything done and announced since is known, and their answers are compared with what was measured, in units of the
  calibrated band. Running means over a short and a long time must stay below what calibration subjects stayed below (at
  a stated false-alarm rate). The nearer look is for a model that does not know where the subject is now: a sensor that
  jumps surprises it once, a late or frozen model all the time.
- *Coherence.* After an action that stands out, what is foreseen now must be what was foreseen for that action a
  moment ago, but for one reading more. A model that is late does not know yet what was just done, and would do it
  again and again.
- *Direction.* Where the schema says which way an action can only move a quantity, more of it must be foreseen to move
  it so.

An over-confident model is surprised often, a late or frozen one by much; a model whose signs are wrong plans harm
before it is surprised, which is what the other two are for.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foreworld.agent.memory import Memory
from foreworld.episodes.schema import Role
from foreworld.forecast.conformal import conformal_quantile
from foreworld.forecast.forecaster import Forecaster, Imagined, MonitorLimits
from foreworld.planning.space import ActionSpace

EVERY = 3  # decisions between two looks back


class Look(NamedTuple):
    """One way of looking back.

    Attributes:
        lag: Decisions back; `Memory` keeps as many as the greatest.
        first: First point of its forecast that counts: far ahead, the nearest are mostly the noise of the sensor.
        window: Decisions; time constant of its running mean.
    """

    lag: int
    first: int
    window: int


LOOKS = (Look(12, 3, 12), Look(12, 3, 72), Look(EVERY, 1, 12))
LAG = max(look.lag for look in LOOKS)
WORST = 4.0  # one broken reading must not weigh more than this many band half-widths
STANDS_OUT = 3.0  # an action of this many times the median of the last ones
FAR = (12, 24)  # steps ahead at which two forecasts are compared
MARGIN = 1.25  # coherence is limited to this many times the worst of calibration: its alarm lasts ...
HELD = 144  # ... this many decisions
RELEASE = 0.8  # an alarm ends when surprise falls below this share of its limit


class Monitor:
    """Watches the model of B subjects, decision by decision.

    Attributes:
        surprise: [B, looks] running means of `hindsight`.
        alarm: [B] whether surprise is above a limit.
        jump: [B] how far the forecasts before and after an outstanding action lie apart, in half-widths of the band;
            NaN where there was none.
        held: [B] decisions for which an incoherent model stays called wrong.
        against: [B] whether an action is foreseen to act in a direction that it cannot.

    Args:
        size: Number of subjects B.
        limits: From calibration; without them surprise is measured and never an alarm.
    """

    def __init__(self, size: int, limits: MonitorLimits | None) -> None:
        self.limits = limits
        usual = limits.usual if limits is not None else 0.0
        start = _of_looks(usual if isinstance(usual, tuple) else (usual,) * len(LOOKS), np.nan)
        self.surprise = np.tile(np.where(np.isnan(start), start[0], start), (size, 1))
        self.alarm = np.zeros(size, dtype=bool)
        self.against = np.zeros(size, dtype=bool)
        self.jump = np.full(size, np.nan)
        self.held = np.zeros(size, dtype=np.int64)
        self._seen = 0

    def keep(self, rows: np.ndarray) -> None:
        """Forget all subjects but those at `rows` [n]."""
        self.surprise, self.alarm, self.against = self.surprise[rows], self.alarm[rows], self.against[rows]
        self.jump, self.held = self.jump[rows], self.held[rows]

    def look(self, forecaster: Forecaster, memory: Memory, imagined: Imagined, space: ActionSpace) -> np.ndarray:
        """[B] whether surprise or direction calls the model wrong, after the moment that memory saw last.

        Args:
            forecaster: Whose belief of `LAG` decisions ago is asked again.
            memory: Of the same subjects.
            imagined: The belief of now.
            space: What may be done now.
        """
        due = self._seen % EVERY == 0
        self._seen += 1
        if due and self.limits is not None:
            self.against = wrong_direction(forecaster, imagined, space)
        if due and len(memory.decisions) >= LAG:
            # A model of a short horizon is not asked what it does not foresee.
            reach = forecaster.model.config.grid.last
            looks = {(look.lag, look.first) for look in LOOKS if look.lag <= reach}
            scores = {at: hindsight(forecaster, memory, *at) for at in looks}
            self.surprise = self.surprise.copy()  # a copy of the monitor must stay as it is
            for k, look in enumerate(LOOKS):
                if look.lag > reach:
                    continue
                score, kept = scores[look.lag, look.first], np.exp(-EVERY / look.window)
                moved, known = kept * self.surprise[:, k] + (1.0 - kept) * score, ~np.isnan(score)
                self.surprise[known, k] = moved[known]
            if self.limits is not None:
                share = (self.surprise / _of_looks(self.limits.surprise, np.inf)).max(1)
                # A NaN forecast is refused elsewhere; what cannot be compared is no reason to end an alarm.
                self.alarm = np.where(self.alarm, share > RELEASE, share > 1.0)
        self.jump = jumps(forecaster, memory, imagined)
        self.held = np.maximum(self.held - 1, 0)
        if self.limits is not None:
            self.held = np.where(self.jump > self.limits.jump, HELD, self.held)
        return self.alarm | self.against | (self.held > 0)


def _of_looks(values: tuple[float, ...], otherwise: float) -> np.ndarray:
    """[looks] one value each; `otherwise` for those that calibration did not know."""
    return np.array((*values[: len(LOOKS)], *(otherwise,) * (len(LOOKS) - len(values))))


@torch.no_grad()
def hindsight(forecaster: Forecaster, memory: Memory, lag: int, first: int) -> np.ndarray:
    """[B] mean absolute error, in half-widths of the calibrated band, of what is foreseen from `lag` decisions ago.

    NaN where nothing was measured since, or the forecast is not finite.

    Args:
        forecaster: Whose belief it was.
        memory: At least `lag` decisions.
        lag: Decisions back.
        first: First step ahead that counts.
    """
    model, grid = forecaster.model, forecaster.model.config.grid
    seen = memory.recent(Role.observation, lag)
    names = [channel.name for channel in model.schema.by_role(Role.observation) if channel.shape == ()]
    worst = np.full(len(memory.subjects), np.nan)
    if np.isnan(seen[:, :, [names.index(name) for name in model.quantities]]).all():
        return worst  # scenes, for instance, whose places are known to nobody: nothing is imagined for nothing
    past = memory.decisions[-lag]
    done = torch.from_numpy(np.stack([d.action for d in list(memory.decisions)[-lag:]], axis=1))
    actions = _on_grid(done, grid.averaging())
    announced = memory.recent(Role.exogenous, lag)
    exogenous = _on_grid(torch.from_numpy(announced), grid.averaging()) if announced.shape[-1] else None
    forecast = forecaster.forecast(forecaster.begin(past.belief, exogenous), actions[:, None])
    points = [(i, p) for i, p in enumerate(grid.points) if first <= p <= lag]
    where, ahead = [i for i, _ in points], [p - 1 for _, p in points]
    for name in model.quantities:
        low, mean, high = (
            part[name][:, 0][:, where].double().numpy() for part in (forecast.lower, forecast.mean, forecast.upper)
        )
        measured = seen[:, ahead, names.index(name)]
        half = np.maximum((high - low) / 2.0, 1e-9)
        score = np.minimum(np.abs(measured - mean) / half, WORST)
        known = ~np.isnan(score)
        mean_score = np.where(known, score, 0.0).sum(1) / np.maximum(known.sum(1), 1)
        worst = np.fmax(worst, np.where(known.any(1), mean_score, np.nan))
    return worst


@torch.no_grad()
def jumps(forecaster: Forecaster, memory: Memory, imagined: Imagined) -> np.ndarray:
    """[B] distance between what is foreseen now and what the last belief foresees, told what was done and announced.

    In half-widths of the calibrated band, the mean over `FAR` steps ahead and the worst quantity; NaN where the last
    action did not stand out. Nothing is done after it in either forecast.
    """
    found = np.full(len(memory.subjects), np.nan)
    if not memory.decisions:
        return found
    done = np.stack([decision.action for decision in memory.decisions], axis=1)
    usual = np.median(done, axis=1)
    outstanding = ((done[:, -1] > STANDS_OUT * usual) & (done[:, -1] > 0)).any(-1)
    rows = torch.from_numpy(np.flatnonzero(outstanding))
    if not len(rows):
        return found
    averaging = forecaster.model.config.grid.averaging()
    before = memory.decisions[-1].belief.select(rows)
    told = memory.recent(Role.exogenous, 1)[outstanding]
    exogenous = _on_grid(torch.from_numpy(told), averaging) if told.shape[-1] else None
    action = _on_grid(torch.from_numpy(done[outstanding, -1:]), averaging)[:, None]
    then = forecaster.forecast(forecaster.begin(before, exogenous), action)
    now = forecaster.forecast(imagined.select(rows), torch.zeros_like(action))
    points = then.points.double().numpy()
    ahead = np.arange(*FAR).astype(float)
    worst = np.zeros(len(rows))
    for name in forecaster.model.quantities:
        first = _between(ahead + 1.0, points, then.mean[name])
        second = _between(ahead, points, now.mean[name])
        half = _between(ahead, points, now.upper[name] - now.lower[name]) / 2.0
        worst = np.maximum(worst, (np.abs(first - second) / np.maximum(half, 1e-9)).mean(1))
    found[outstanding] = worst
    return found


def _between(ahead: np.ndarray, points: np.ndarray, values: Tensor) -> np.ndarray:
    """[B, n] forecasts [B, 1, H] read off the line between two points; beyond the ends as at the ends."""
    known = values[:, 0].double().numpy()
    after = np.clip(np.searchsorted(points, ahead, side="right"), 1, len(points) - 1)
    slope = (known[:, after] - known[:, after - 1]) / (points[after] - points[after - 1])
    inside = np.clip(ahead, points[0], points[-1])
    found: np.ndarray = slope * (inside - points[after - 1]) + known[:, after - 1]
    return found


def _on_grid(steps: Tensor, averaging: Tensor) -> Tensor:
    """[B, n, A] raw amounts of the first n steps to means over the grid's intervals [B, H, A]; nothing after them."""
    rest = averaging.shape[1] - steps.shape[1]
    whole = torch.cat([steps, steps.new_zeros(len(steps), rest, steps.shape[2])], dim=1)
    return torch.einsum("hk,bka->bha", averaging.to(whole.dtype), whole).float()


@torch.no_grad()
def wrong_direction(forecaster: Forecaster, imagined: Imagined, space: ActionSpace) -> np.ndarray:
    """[B] whether the greatest actions are foreseen to move a quantity against the sign that the schema declares.

    Also where they are foreseen to move it nowhere at all although they are greater: a model that does not answer to
    actions cannot choose among them.
    """
    schema = forecaster.model.schema
    wrong = torch.zeros(len(space.lower), dtype=torch.bool)
    for column, channel in enumerate(schema.by_role(Role.action)):
        for sign, names in ((-1.0, channel.lowers), (1.0, channel.raises)):
            for name in set(names) & set(forecaster.model.quantities):
                blocks = torch.stack([space.lower, space.lower], dim=1)
                blocks[:, 1, :, column] = space.upper[..., column]
                mean = forecaster.forecast(imagined, space.expand(blocks)).mean[name]
                moved = sign * (mean[:, 1] - mean[:, 0])
                more = (space.upper > space.lower)[..., column].any(1)
                against = moved < -1e-3 * mean[:, 0].abs().clamp(min=1.0)
                wrong |= more & (against.any(1) | ~(moved > 0).any(1))
    return wrong.numpy()


def fit_monitor(surprise: np.ndarray, jump: np.ndarray, false_alarm: float) -> MonitorLimits:
    """Limits that running surprise exceeds in a share `false_alarm` of healthy moments at most.

    Args:
        surprise: [n, looks] of calibration subjects, measured without limits.
        jump: [m] of them; NaN where no action stood out.
        false_alarm: Stated rate, shared out evenly between the looks.

    Where there are too few moments for the rate the limit is the greatest surprise among them: more false alarms than
    stated rather than a model that nobody watches.

    Raises:
        InputError: No moment, or a surprise that is NaN.
    """
    values = torch.from_numpy(surprise)
    bounds = torch.minimum(conformal_quantile(values, false_alarm / surprise.shape[1]), values.amax(0))
    known = jump[~np.isnan(jump)]
    return MonitorLimits(
        surprise=tuple(bounds.tolist()),
        usual=tuple(values.mean(0).tolist()),
        jump=MARGIN * float(known.max()) if len(known) else sys.float_info.max,
        false_alarm=false_alarm,
    )
