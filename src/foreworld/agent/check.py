"""The independent checker: the last gate before anything is done.

It judges one proposed action of one subject on measured data alone, shares no code with the model, and can
only refuse: it never changes an action. `Measured` is what it may look at, `Rule` one limit, `Checker` all of
them; `check_rules` holds the generic rules, and a domain adds its own.

Two conventions hold for every rule. A number that is missing, NaN or infinite refuses: every limit is written
so that only a true `value <= bound` passes. And an action at or below the rule's `floor` (the last resort,
such as no insulin) passes with whatever data, so that a way out always exists.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from foreworld.errors import InputError

if TYPE_CHECKING:
    from foreworld.episodes.episode import Episode
    from foreworld.episodes.schema import Schema

FORMAT_VERSION = 1
TOLERANCE = 1e-6
"""Relative excess over a bound that still counts as the bound: a planner computes in float32 (6e-8)."""
CLOCK = 1e-9
"""Absolute tolerance of time comparisons, in the unit of time: sums of steps are not exact."""


def within(value: float, bound: float) -> bool:
    """Whether `value <= bound` up to `TOLERANCE`; False if either is NaN or infinite."""
    return math.isfinite(value) and math.isfinite(bound) and value <= bound + TOLERANCE * abs(bound)


def number(value: object) -> float:
    """A plain finite number as a float; NaN for anything else (text, bool, None, arrays, huge integers)."""
    if type(value) is float:  # nearly always, and this is asked dozens of times a decision
        return value if math.isfinite(value) else math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return math.nan
    try:
        result = float(value)
    except OverflowError:
        return math.nan
    return result if math.isfinite(result) else math.nan


@dataclass(frozen=True)
class Measured:
    """What was measured and done so far for one subject, in raw units.

    `actions[...][t]` was done at `times[t]`; the proposed action is to be done at `times[-1]`, the present.
    Before the record begins nothing beyond the usual is assumed to have been done. An empty history is legal.

    Attributes:
        times: [T+1] time stamps in the schema's time unit, the last one the present; [0] if nothing is known.
        observations: By channel, [T+1]; NaN where nothing was measured.
        actions: By channel, [T].
        exogenous: By channel, [T+1], announced up to and including the present.
        statics: By channel, one number.

    Raises:
        InputError: An array does not fit the time stamps; the message names the channel.
    """

    times: np.ndarray
    observations: Mapping[str, np.ndarray]
    actions: Mapping[str, np.ndarray]
    exogenous: Mapping[str, np.ndarray]
    statics: Mapping[str, float]

    def __post_init__(self) -> None:
        times = _vector(self.times, "times", None)
        object.__setattr__(self, "times", times)
        lengths = {"observations": len(times), "actions": max(len(times) - 1, 0), "exogenous": len(times)}
        for role, length in lengths.items():
            given: Mapping[str, np.ndarray] = getattr(self, role)
            object.__setattr__(self, role, {name: _vector(v, name, length) for name, v in given.items()})

    @classmethod
    def of(cls, episode: Episode, schema: Schema) -> Measured:
        """The scalar channels of an episode that ends at the present: N actions done, N+1 observations."""

        def pick(role: str) -> dict[str, np.ndarray]:
            return {c.name: episode.values[c.name] for c in schema.by_role(role) if c.shape == ()}

        statics = {name: float(value) for name, value in pick("static").items()}
        return cls(episode.times, pick("observation"), pick("action"), pick("exogenous"), statics)

    @classmethod
    def each(cls, schema: Schema, times: np.ndarray, values: Mapping[str, np.ndarray]) -> Iterator[Measured]:
        """That of every subject, from the arrays that an agent's memory keeps; its scalar channels.

        Args:
            schema: Of the channels.
            times: [T+1] of all B subjects, or [B, T+1].
            values: By channel: observed and announced [B, T+1], done [B, T], statics [B].
        """

        def pick(role: str) -> dict[str, np.ndarray]:
            return {c.name: np.asarray(values[c.name], np.float64) for c in schema.by_role(role) if c.shape == ()}

        series, statics = [pick(role) for role in ("observation", "action", "exogenous")], pick("static")
        for i in range(len(next(iter(values.values())))):
            seen, done, told = ({name: array[i] for name, array in channels.items()} for channels in series)
            yield cls(
                times if times.ndim == 1 else times[i],
                seen,
                done,
                told,
                {name: float(array[i]) for name, array in statics.items()},
            )

    @property
    def now(self) -> float:
        """The present, in the unit of time; NaN for an empty history."""
        return float(self.times[-1]) if len(self.times) else math.nan

    @cached_property
    def sound(self) -> bool:
        """Whether there is a present and the time stamps are finite and strictly increasing."""
        times = self.times
        return len(times) > 0 and bool(np.isfinite(times).all()) and bool((times[1:] > times[:-1]).all())

    def static(self, name: str) -> float:
        """A static as a finite number, or NaN."""
        return number(self.statics.get(name))

    def readings(self, channel: str, minutes: float = math.inf) -> list[tuple[float, float]]:
        """(time, value) of the finite readings of an observation over the last `minutes`, oldest first.

        Empty if the channel is unknown or the time stamps are unsound.
        """
        values = self.observations.get(channel)
        if values is None or not self.sound:
            return []
        start = self._since(minutes)
        pairs = zip(self.times[start:].tolist(), values[start:].tolist(), strict=True)
        return [(time, value) for time, value in pairs if math.isfinite(value)]

    def newest(self, channel: str) -> tuple[float, float]:
        """Age (in the unit of time) and value of the newest finite reading; (NaN, NaN) if there is none."""
        values = self.observations.get(channel)
        if values is not None and self.sound:
            for at in range(len(values) - 1, -1, -1):
                value = float(values[at])
                if math.isfinite(value):
                    return self.now - float(self.times[at]), value
        return math.nan, math.nan

    def age(self, channel: str) -> float:
        """Time since the last measurement of an observation; NaN if there is none."""
        return self.newest(channel)[0]

    def done(self, channel: str, minutes: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Ages and amounts of an action over the last `minutes` inclusive, oldest first.

        None if that is not known: the channel is missing, an amount is not finite, time is unsound.
        """
        return self._amounts(self.actions.get(channel), minutes)

    def announced(self, channel: str, minutes: float) -> tuple[np.ndarray, np.ndarray] | None:
        """The same for an exogenous channel, the present included."""
        return self._amounts(self.exogenous.get(channel), minutes)

    def _amounts(self, values: np.ndarray | None, minutes: float) -> tuple[np.ndarray, np.ndarray] | None:
        if values is None or not self.sound:
            return None
        start = self._since(minutes)
        amounts = values[start:]
        if not np.isfinite(amounts).all():
            return None
        return self.now - self.times[start : start + len(amounts)], amounts

    def _since(self, minutes: float) -> int:
        return 0 if math.isinf(minutes) else int(np.searchsorted(self.times, self.now - minutes - CLOCK))


def _vector(values: object, name: str, length: int | None) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"channel {name} of the measured history is not an array of numbers") from error
    if array.ndim != 1 or (length is not None and len(array) != length):
        wanted = "one dimension" if length is None else f"shape ({length},)"
        raise InputError(f"channel {name} of the measured history has shape {array.shape}, expected {wanted}")
    return array


@dataclass(frozen=True)
class Level:
    """An amount that may scale with a static: `factor * static ** power`, or `factor` alone."""

    factor: float
    static: str = ""
    power: int = 1

    def of(self, measured: Measured) -> float:
        """The amount for this subject; NaN if the static is missing, not finite or not above zero."""
        if not self.static:
            return self.factor
        value = measured.static(self.static)
        return float(self.factor * value**self.power) if value > 0 else math.nan


@dataclass(frozen=True)
class Reason:
    """Why a rule refused: the value that was judged, the bound that it broke (NaN where unknown), and a sentence."""

    rule: str
    value: float
    bound: float
    unit: str
    severity: int
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Accepted, or refused for at least one reason."""

    accepted: bool
    reasons: tuple[Reason, ...] = ()

    def explain(self) -> str:
        """All reasons as one line for a person."""
        return "accepted" if self.accepted else "; ".join(reason.sentence for reason in self.reasons)


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """One limit on one action channel; frozen, hashable, and serialised into the checker's digest.

    Attributes:
        name: Identifier, unique among a checker's rules.
        channel: The action that it limits.
        unit: Unit of the value and bound in its reasons.
        source: Where the limit comes from.
        severity: Of the harm it prevents, 1 (negligible) to 5 (catastrophic), as in ISO 14971.
        floor: An action at or below this is never refused by this rule, whatever is missing.
        safe: An action at or below this is not refused either, if the level is known (profile basal).
    """

    name: str
    channel: str
    unit: str = ""
    source: str = ""
    severity: int = 5
    floor: float = 0.0
    safe: Level | None = None

    def check(self, measured: Measured, action: Mapping[str, float]) -> Reason | None:
        """None if the rule lets the action pass, a reason otherwise."""
        value = number(action.get(self.channel))
        if value <= self.floor or (self.safe is not None and within(value, self.safe.of(measured))):
            return None
        return self.judge(measured, value)

    @abstractmethod
    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Judge a value above floor and safe level, or NaN; only a true `value <= bound` may pass."""

    def refuse(self, value: float, bound: float, because: str) -> Reason:
        """A reason whose sentence opens with the rule's name."""
        return Reason(self.name, value, bound, self.unit, self.severity, f"{self.name}: {because}")

    def at_most_safe(self, measured: Measured, value: float, because: str) -> Reason:
        """A reason for refusing all but the safe level."""
        bound = self.floor if self.safe is None else self.safe.of(measured)
        return self.refuse(value, bound, f"{because}; {self.channel} {value:g} is above the safe {bound:g} {self.unit}")


class Checker:
    """All rules of a domain; accepts an action only if every rule lets it pass.

    Args:
        rules: At least one, with distinct names.

    Raises:
        InputError: No rule, or two of one name.

    Attributes:
        rules: The rules, in the order in which they are judged.
        digest: SHA-256 of the canonical JSON of all rules, for the audit log.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        names = [rule.name for rule in self.rules]
        if not names:
            raise InputError("a checker without rules would accept everything; give at least one rule")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"two rules are named {doubled[0]}; rule names must be unique")
        content = {
            "format": FORMAT_VERSION,
            "tolerance": TOLERANCE,
            "rules": [{"class": type(rule).__name__, **asdict(rule)} for rule in self.rules],
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def check(self, measured: Measured, action: Mapping[str, float]) -> Verdict:
        """Judge one proposed action; the action is never changed.

        Args:
            measured: The subject's history up to the present.
            action: By channel, in raw units.

        Returns:
            Accepted only if every rule passes. A rule that fails to compute counts as a refusal.
        """
        reasons: list[Reason] = []
        with np.errstate(all="ignore"):
            for rule in self.rules:
                try:
                    reason = rule.check(measured, action)
                except Exception as error:  # whatever goes wrong in a rule, the last gate stays shut
                    reason = rule.refuse(math.nan, math.nan, f"could not be judged ({type(error).__name__}: {error})")
                if reason is not None:
                    reasons.append(reason)
        return Verdict(not reasons, tuple(reasons))
