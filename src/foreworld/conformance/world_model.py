"""`check_world_model`: does a model keep time, keep subjects apart, and read out quantities in units?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foreworld.conformance.report import Report, Review
from foreworld.conformance.toy import select_history
from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import InputError
from foreworld.model.belief import History
from foreworld.model.interface import Imaginer

# Differences that float32 rounding explains, in units of the predicted scale.
SAME = 1e-4
CANDIDATES = 3


@dataclass(frozen=True)
class _Case:
    """What a model is tried on: `raw` actions [B, S, H, A] of equally long histories."""

    model: Imaginer
    history: History
    raw: Tensor

    @property
    def length(self) -> int:
        return self.history.times.shape[1]

    @property
    def schema(self) -> Schema:
        return self.model.schema

    def latents(self, belief: Any, raw: Tensor) -> Tensor:
        """[E, B, S, H, D]."""
        model = self.model
        return model.respond(model.prepare(belief), model.normalise_actions(belief, raw))

    def read(self, belief: Any, raw: Tensor | None = None) -> Tensor:
        """[Q, E, B, S, H] means in units of the predicted scale, so that one tolerance fits all quantities."""
        latents = self.latents(belief, self.raw if raw is None else raw)
        means, scales = self.model.read(latents), self.model.read_scale(latents)
        return torch.stack([means[name] / scales[name].clamp(min=1e-6) for name in self.model.quantities])


def check_world_model(model: Imaginer, history: History, *, seed: int = 0) -> Report:
    """Try a model on histories.

    Args:
        model: A `WorldModel`, or whatever answers `model.interface.Imaginer`; put into evaluation mode.
        history: Of at least two subjects and five moments, raw units, as the schema says.
        seed: Of the candidate actions that it is asked about.

    Raises:
        InputError: The history is too short.
        ConformanceError: With every finding.
    """
    least = int(history.lengths.min())
    if len(history) < 2 or least < 5:
        raise InputError(
            f"the check needs 2 subjects or more with 5 moments or more each, got {len(history)} with {least}"
        )
    model = model.eval()
    history = cut(model.schema, history, least)
    case = _Case(model, history, _actions(model, len(history), seed))
    review = Review(f"world model {type(model).__name__}")
    checks: tuple[tuple[str, Callable[[_Case, Review], None]], ...] = (
        ("predicts finite values", _finite),
        ("reads every quantity within its bounds", _reads),
        ("gives the same answer twice", _repeats),
        ("does not depend on the batch", _batch),
        ("judges candidates apart from one another", _candidates),
        ("reads nothing that lies after the present", _causal),
        ("updates to what it would encode", _updates),
        ("lets no action act before it is done", _prefix),
        ("uses the last action done", _last_action),
        ("takes missing values as missing", _missing),
    )
    with torch.no_grad():
        for name, check in checks:
            with review.check(name):
                check(case, review)
    return review.close()


def cut(schema: Schema, history: History, length: int) -> History:
    """The first moments of each history; nothing lies behind them."""
    ends = {Role.static: None, Role.action: length - 1}
    values = {
        c.name: history.values[c.name]
        if c.role is Role.static
        else history.values[c.name][:, : ends.get(c.role, length)]
        for c in schema.channels
    }
    return History(history.times[:, :length], values, torch.full_like(history.lengths, length))


def _actions(model: Imaginer, batch: int, seed: int) -> Tensor:
    """[B, S, H, A] candidates within the channels' bounds; the first two differ in every interval."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for channel in model.schema.by_role(Role.action):
        size = (batch, CANDIDATES, len(model.config.grid), channel.size)
        share = torch.rand(size, generator=generator)
        low, high = _range(channel)
        parts.append(torch.floor(share * (high + 1)) if channel.discrete else low + (high - low) * share)
    return torch.cat(parts, dim=-1)


def _range(channel: Channel) -> tuple[float, float]:
    if channel.discrete:
        return 0.0, len(channel.categories) - 1.0
    low = 0.0 if channel.low is None else channel.low
    return low, low + 1.0 if channel.high is None else channel.high


def _other(case: _Case, raw: Tensor) -> Tensor:
    """Actions that differ everywhere: the opposite end of the range, or the next category."""
    parts, at = [], 0
    for channel in case.schema.by_role(Role.action):
        part = raw[..., at : at + channel.size]
        low, high = _range(channel)
        if channel.discrete:
            parts.append((part + 1) % len(channel.categories))
        else:
            parts.append(torch.where(part > (low + high) / 2, low, high))
        at += channel.size
    return torch.cat(parts, dim=-1)


def _apart(a: Tensor, b: Tensor) -> float:
    gap = (a - b).abs().amax()
    return float(gap) if bool(torch.isfinite(gap)) else float("inf")


def _finite(case: _Case, review: Review) -> None:
    found = torch.isfinite(case.latents(case.model.encode(case.history), case.raw)).all()
    review.expect(found, "finite predictions on valid histories", "NaN or infinity", "look at the inputs' scales")


def _reads(case: _Case, review: Review) -> None:
    model = case.model
    latents = case.latents(model.encode(case.history), case.raw)
    wild = 1e3 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    lead = (model.config.members, len(case.history), CANDIDATES, len(model.config.grid))
    shape = tuple(latents.shape[:-1])
    review.expect(shape == lead, f"latents [E, B, S, H, D] beginning {lead}", f"{shape}", "keep the order of axes")
    for words, given in (("predictions", latents), ("wild latents", wild)):
        means, scales = model.read(given), model.read_scale(given)
        for name in model.quantities:
            if not review.expect(
                name in means and name in scales, f"{name} to be read", "nothing", "read every quantity"
            ):
                continue
            mean, channel = means[name], case.schema[name]
            same = mean.shape == given.shape[:-1] == scales[name].shape
            review.expect(same, f"{name} of shape {tuple(given.shape[:-1])}", f"{tuple(mean.shape)}", "keep [...]")
            low = -torch.inf if channel.low is None else channel.low
            high = torch.inf if channel.high is None else channel.high
            inside = bool(((mean >= low) & (mean <= high)).all())
            review.expect(
                inside,
                f"{name} within {low:g}..{high:g} {channel.unit} whatever the {words}",
                f"{float(mean.min()):g}..{float(mean.max()):g}",
                "clamp to the channel's bounds when reading",
            )
            review.expect((scales[name] > 0).all(), f"positive scales of {name}", "0 or less", "predict log scales")


def _repeats(case: _Case, review: Review) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = case.read(case.model.encode(case.history))
        torch.manual_seed(2)
        second = case.read(case.model.encode(case.history))
    same = torch.equal(first, second)
    review.expect(same, "equal answers to equal questions in evaluation mode", "others", "turn noise off in eval()")


def _batch(case: _Case, review: Review) -> None:
    together = case.read(case.model.encode(case.history))
    for i in range(len(case.history)):
        index = torch.tensor([i])
        belief = case.model.encode(select_history(case.history, index))
        away = _apart(case.read(belief, case.raw[index]), together[:, :, index])
        review.expect(
            away <= SAME,
            f"subject {i} to be predicted alike alone and in the batch (within {SAME:g} predicted scales)",
            f"a difference of {away:.2g}",
            "no statistics over the batch; use running ones in evaluation mode",
        )


def _candidates(case: _Case, review: Review) -> None:
    belief = case.model.encode(case.history)
    together = case.read(belief)
    for s in range(CANDIDATES):
        away = _apart(case.read(belief, case.raw[:, s : s + 1]), together[:, :, :, s : s + 1])
        review.expect(
            away <= SAME, "a candidate's future not to depend on the others", f"a difference of {away:.2g}",
            "nothing may pass along the axis S",
        )  # fmt: skip


def _causal(case: _Case, review: Review) -> None:
    """Histories that end early, with the rest still lying behind the end, against the same ones cut off."""
    length = case.length - 2
    short = case.read(case.model.encode(cut(case.schema, case.history, length)))
    behind = replace(case.history, lengths=torch.full_like(case.history.lengths, length))
    away = _apart(case.read(case.model.encode(behind)), short)
    review.expect(
        away <= SAME,
        "what lies behind `history.lengths` not to matter",
        f"predictions that differ by {away:.2g} predicted scales",
        "the belief at t may read times, observations and exogenous values up to t, and actions before t",
    )
    every = getattr(case.model, "encode_all", None)
    if every is None:
        return
    whole, part = every(case.history), every(cut(case.schema, case.history, length))
    for name, value in part.items():
        if value.dim() < 2 or value.shape[1] != length or not value.is_floating_point():
            continue
        gap = _apart(whole[name][:, :length].float(), value.float())
        review.expect(
            gap <= SAME,
            f"`{name}` of encode_all at a moment not to change when later moments are added",
            f"a difference of {gap:.2g}",
            "no attention, recurrence, filling or scaling from later moments to earlier ones",
        )


def _updates(case: _Case, review: Review) -> None:
    model, schema, history = case.model, case.schema, case.history
    start = max(case.length - 4, 1)
    belief = model.encode(cut(schema, history, start))
    seen = [c.name for c in schema.channels if c.role in (Role.observation, Role.exogenous)]
    acted = schema.names(Role.action)
    for t in range(start, case.length):
        observation = {name: history.values[name][:, t] for name in seen}
        action = {name: history.values[name][:, t - 1] for name in acted}
        belief = model.update(belief, history.times[:, t], observation, action)
        away = _apart(case.read(belief), case.read(model.encode(cut(schema, history, t + 1))))
        review.expect(
            away <= SAME,
            "`update` by one moment to equal `encode` of the longer history",
            f"predictions that differ by {away:.2g} predicted scales at moment {t}",
            "action[t - 1] leads to observation[t]; give both ways the same inputs and clocks",
        )


def _prefix(case: _Case, review: Review) -> None:
    belief = case.model.encode(case.history)
    before, other = case.read(belief), _other(case, case.raw)
    points = case.raw.shape[2]
    for j in range(1, points):
        raw = torch.cat([case.raw[:, :, :j], other[:, :, j:]], dim=2)
        away = _apart(case.read(belief, raw)[..., :j], before[..., :j])
        review.expect(
            away <= SAME,
            f"actions from interval {j} on to leave the horizon points before it alone",
            f"a change of {away:.2g} predicted scales",
            "interval j runs from point j - 1 to point j: an action acts on its own point and later ones only",
        )
    first = torch.cat([other[:, :, :1], case.raw[:, :, 1:]], dim=2)
    moved = (case.read(belief, first) - before).abs().amax((0, 1, 2, 3))
    late = bool(moved[0] == 0) and bool((moved[1:] > 0).any())
    review.expect(
        not late,
        "the first action to move the first horizon point, as it moves later ones",
        "no effect on the first point",
        "the actions look shifted by one step: interval 0 leads to point 0",
    )


def _last_action(case: _Case, review: Review) -> None:
    history, moved = case.history, False
    for channel in case.schema.by_role(Role.action):
        values = dict(history.values)
        past = values[channel.name].clone()
        low, high = _range(channel)
        last = past[:, -1]
        if channel.discrete:
            past[:, -1] = (last + 1) % len(channel.categories)
        else:
            past[:, -1] = torch.where(last > (low + high) / 2, low, high).to(last.dtype)
        changed = case.model.encode(replace(history, values={**values, channel.name: past}))
        moved |= _apart(case.read(changed), case.read(case.model.encode(history))) > 0
    review.expect(
        moved,
        "the belief to know the last action before the present",
        "the same predictions whatever was done last",
        "the actions look shifted by one step: action[t - 1] belongs to the input at t",
    )


def _missing(case: _Case, review: Review) -> None:
    values = dict(case.history.values)
    for channel in case.schema.by_role(Role.observation):
        if values[channel.name].is_floating_point():
            values[channel.name] = torch.full_like(values[channel.name], torch.nan)
    nothing = case.model.encode(replace(case.history, values=values))
    fine = bool(torch.isfinite(case.read(nothing)).all())
    review.expect(fine, "finite predictions when nothing was measured", "NaN", "mask missing values")
    for channel in case.schema.by_role(Role.observation):
        given = case.history.values[channel.name]
        if channel.shape == () and given.is_floating_point():
            _masked(case, channel, given, review)


def _masked(case: _Case, channel: Channel, given: Tensor, review: Review) -> None:
    """A missing value is neither a measured zero nor one measured at the mean."""
    statistics = case.schema.statistics.get(channel.name)
    filled, absent = given.clone(), given.clone()
    filled[:, -1], absent[:, -1] = (0.0 if statistics is None else statistics.mean), torch.nan
    readings = [
        case.read(case.model.encode(replace(case.history, values={**case.history.values, channel.name: value})))
        for value in (filled, absent)
    ]
    review.expect(
        bool(torch.isfinite(readings[1]).all()), f"finite predictions when {channel.name} is missing", "NaN", "mask it"
    )
    review.expect(
        _apart(readings[0], readings[1]) > 0,
        f"a missing {channel.name} to differ from one measured at its mean",
        "the same predictions",
        "give the model the mask beside the value; never impute silently",
    )
