"""`check_domain`: do the pieces of a domain fit together?"""

from __future__ import annotations

import math

import numpy as np
import torch

from foreworld.agent.check import Checker, Measured
from foreworld.conformance.report import Report, Review
from foreworld.episodes.schema import Channel, Kind, Role, Schema
from foreworld.evidence.domain import Domain, load_domain
from foreworld.model.belief import History
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.guardrail import StateGuardrail, check_guardrails, digest
from foreworld.planning.space import ActionSpace

SUBJECTS, MOMENTS = 4, 40
# Float32 rounding of a bound.
ROUNDING = 1e-6


def check_domain(domain: Domain | str, *, history: History | None = None) -> Report:
    """Try the pieces of a domain on one another.

    Args:
        domain: A domain, or the name of an installed one.
        history: Typical histories for its task; made up within the channels' bounds if None.

    Raises:
        InputError: No domain of this name is installed.
        ConformanceError: With every finding.
    """
    domain = load_domain(domain) if isinstance(domain, str) else domain
    review = Review(f"domain {domain.name}")
    past = made_up_history(domain.schema) if history is None else history
    horizon = max((g.horizon for g in domain.task.guardrails), default=1)
    grid = HorizonGrid.geometric(fine=8, last=max(horizon, 16))
    with review.check("has a schema that can be planned with"):
        _schema(domain, review)
    with review.check("has guardrails that fit the schema"):
        _guardrails(domain, grid, review)
    with review.check("has profiles that its objective takes"):
        _profiles(domain, review)
    with review.check("has an action space within the channels' bounds"):
        _space(domain, grid, past, review)
    with review.check("always has something to do"):
        _chain(domain, past, review)
    with review.check("has a checker that refuses what it must"):
        _checker(domain, review)
    with review.check("names its protocols"):
        _protocols(domain, review)
    return review.close()


def made_up_history(schema: Schema, seed: int = 0) -> History:
    """Histories of a few subjects: every channel wanders within the middle of its bounds; some values are missing."""
    r = np.random.default_rng(seed)
    values = {}
    for channel in schema.channels:
        lead = {Role.static: (SUBJECTS,), Role.action: (SUBJECTS, MOMENTS - 1)}.get(channel.role, (SUBJECTS, MOMENTS))
        made = _values(channel, lead, r)
        if channel.role is Role.observation and made.dtype.kind == "f":
            made[r.random(lead) < 0.1] = np.nan
        values[channel.name] = made
    times = np.tile(schema.step * np.arange(MOMENTS), (SUBJECTS, 1))
    return History.from_arrays(schema, times, values)


def _values(channel: Channel, lead: tuple[int, ...], r: np.random.Generator) -> np.ndarray:
    size = (*lead, *channel.shape)
    if channel.discrete:
        return np.asarray(r.integers(0, len(channel.categories), size)).astype(channel.dtype)
    low = 0.0 if channel.low is None else channel.low
    high = low + 1.0 if channel.high is None else channel.high
    share = r.uniform(0.2, 0.4, size)
    if channel.log and low > 0:
        made = np.exp(np.log(low) + share * (np.log(high) - np.log(low)))
    else:
        made = low + share * (high - low)
    if channel.kind is Kind.event:
        made = np.where(r.random(size) < 0.1, made, 0.0)
    return np.asarray(made).astype(channel.dtype)


def _schema(domain: Domain, review: Review) -> None:
    for role in (Role.observation, Role.action):
        found = domain.schema.by_role(role)
        review.expect(found, f"at least one {role} channel", "none", "a plan needs something to see and to do")
    for channel in domain.schema.by_role(Role.action):
        bounded = channel.discrete or (channel.low is not None and channel.high is not None)
        review.expect(
            bounded, f"bounds of action {channel.name}", f"{channel.low}..{channel.high}", "give low and high"
        )
    named = domain.schema.name == domain.name
    review.expect(named, f"a schema named {domain.name}", domain.schema.name, "name both alike")


def _guardrails(domain: Domain, grid: HorizonGrid, review: Review) -> None:
    guardrails = tuple(domain.task.guardrails)
    check_guardrails(guardrails, grid.last)
    same = digest(guardrails) == digest(tuple(domain.task.guardrails))
    review.expect(same, "the same guardrails every time", "others", "make them once")
    scalars = {c.name: c for c in domain.schema.by_role(Role.observation) if c.shape == () and not c.discrete}
    for guardrail in guardrails:
        review.expect(guardrail.source, f"a source of guardrail {guardrail.name}", "none", "say where it comes from")
        if not isinstance(guardrail, StateGuardrail):
            continue
        channel = scalars.get(guardrail.quantity)
        if channel is None:
            listed = ", ".join(scalars)
            review.expect(
                False,
                f"guardrail {guardrail.name} to bound one of {listed}",
                guardrail.quantity,
                "name a scalar observation channel",
            )
            continue
        review.expect(
            guardrail.unit == channel.unit,
            f"guardrail {guardrail.name} in {channel.unit or 'no unit'}, as channel {channel.name}",
            guardrail.unit or "no unit",
            "convert the bound",
        )
        low = -math.inf if channel.low is None else channel.low
        high = math.inf if channel.high is None else channel.high
        review.expect(
            low < guardrail.bound < high,
            f"the bound of {guardrail.name} within {low:g}..{high:g} {channel.unit}",
            f"{guardrail.bound:g}",
            "a bound that no value can cross guards nothing; check its unit",
        )


def _profiles(domain: Domain, review: Review) -> None:
    review.expect("standard" in domain.profiles, "a profile named standard", ", ".join(domain.profiles), "add one")
    for name, profile in domain.profiles.items():
        review.expect(profile.name == name, f"profile {name} to bear its name", profile.name, "use profile.name as key")
        objective = domain.task.objective(profile)
        kept = objective.profile == profile
        review.expect(kept, f"an objective with profile {name}", objective.profile.name, "hand the profile on")


def _space(domain: Domain, grid: HorizonGrid, history: History, review: Review) -> None:
    space = domain.task.space(grid, history)
    actions = domain.schema.by_role(Role.action)
    names = tuple(c.name for c in actions if c.shape == ())
    review.expect(
        space.channels == names, f"actions {names}", f"{space.channels}", "keep the order of the schema's actions"
    )
    for k, channel in enumerate(actions[: len(space.channels)]):
        low, high = (0.0, len(channel.categories) - 1.0) if channel.discrete else (channel.low, channel.high)
        least, most = float(space.lower[..., k].min()), float(space.upper[..., k].max())
        slack = ROUNDING * max(abs(least), abs(most))
        inside = (low is None or least >= low - slack) and (high is None or most <= high + slack)
        review.expect(
            inside, f"bounds of {channel.name} within {low}..{high} {channel.unit}", f"{least:g}..{most:g}", "clip them"
        )
        levels = space.levels[k] if space.levels else 0
        review.expect(
            levels == len(channel.categories),
            f"{len(channel.categories)} levels of action {channel.name} (0 where it is continuous)",
            f"{levels}",
            "give `levels` of discrete actions to the space",
        )
    _suggestions(domain, space, history, review)


def _suggestions(domain: Domain, space: ActionSpace, history: History, review: Review) -> None:
    given = domain.task.suggestions(space, history)
    wanted = (len(history), *space.shape)
    fine = given.dim() == 4 and (given.shape[0], *given.shape[2:]) == wanted
    review.expect(fine, f"suggestions [B, N, K, A] with B, K, A {wanted}", f"{tuple(given.shape)}", "one row a block")
    review.expect(torch.isfinite(given).all(), "finite suggestions", "NaN or infinity", "leave out what is unknown")


def _chain(domain: Domain, history: History, review: Review) -> None:
    checker = Checker(domain.rules)
    count = sum(c.size for c in domain.schema.by_role(Role.action))
    for words, past in (("typical", history), ("unmeasured", _unmeasured(domain.schema, history))):
        for name in ("fallback", "last_resort"):
            done = getattr(domain.task, name)(past)
            fine = tuple(done.shape) == (len(past), count) and bool(torch.isfinite(done).all())
            review.expect(
                fine,
                f"finite actions [{len(past)}, {count}] from {name} on {words} histories",
                f"{tuple(done.shape)}" + ("" if bool(torch.isfinite(done).all()) else " with NaN or infinity"),
                "the chain of what acts instead must never end in nothing",
            )
        for i, action in enumerate(domain.task.last_resort(past)):
            verdict = checker.check(_measured(domain.schema, past, i), _named(domain.schema, action.tolist()))
            review.expect(
                verdict.accepted,
                f"the last resort to pass the checker on {words} histories",
                verdict.explain(),
                "let the rules' floor be the last resort",
            )


def _unmeasured(schema: Schema, history: History) -> History:
    values = {
        c.name: torch.full_like(v, math.nan) if c.role is Role.observation and v.is_floating_point() else v
        for c, v in ((c, history.values[c.name]) for c in schema.channels)
    }
    return History(history.times, values, history.lengths)


def _named(schema: Schema, action: list[float]) -> dict[str, float]:
    return dict(zip(schema.names(Role.action), action, strict=True))


def _measured(schema: Schema, history: History, i: int) -> Measured:
    def of(role: Role) -> dict[str, np.ndarray]:
        return {c.name: history.values[c.name][i].numpy() for c in schema.by_role(role) if c.shape == ()}

    statics = {name: float(value) for name, value in of(Role.static).items()}
    return Measured(history.times[i].numpy(), of(Role.observation), of(Role.action), of(Role.exogenous), statics)


def _checker(domain: Domain, review: Review) -> None:
    checker = Checker(domain.rules)
    actions = domain.schema.by_role(Role.action)
    nothing = Measured(np.zeros(0), {}, {}, {}, {})
    for channel in actions:
        ruled = any(rule.channel == channel.name for rule in domain.rules)
        review.expect(ruled, f"a rule on action {channel.name}", "none", "bound every action in `rules`")
        high = len(channel.categories) - 1.0 if channel.discrete else channel.high
        for value in (math.nan, math.inf, 1e9 if high is None else 2 * high + 1):
            verdict = checker.check(nothing, {c.name: value if c is channel else 0.0 for c in actions})
            review.expect(
                not verdict.accepted,
                f"{channel.name} of {value:g} to be refused",
                "an acceptance",
                "begin the rules with FiniteAction and Bounds",
            )


def _protocols(domain: Domain, review: Review) -> None:
    for name, protocol in domain.protocols.items():
        full = f"{domain.name}/{name}"
        review.expect(protocol.name == full, f"a protocol named {full}", protocol.name, "name it domain/name")
        review.expect(protocol.arms, f"arms of {full}", "none", "name what it compares")
        for arm in domain.baselines:
            review.expect(callable(domain.baselines[arm]), f"baseline {arm} to be callable", "a value", "give a maker")
