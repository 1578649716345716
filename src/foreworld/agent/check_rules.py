"""Generic rules of the independent checker: numbers, bounds, rates, windows, intervals, and the state of a sensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreworld.agent.check import CLOCK, Level, Measured, Reason, Rule, number, within


@dataclass(frozen=True, kw_only=True)
class FiniteAction(Rule):
    """The action has exactly the known channels, and each is a finite number.

    Attributes:
        others: Action channels besides `channel`.
    """

    others: tuple[str, ...] = ()

    def check(self, measured: Measured, action: Mapping[str, float]) -> Reason | None:
        """None if the action is complete and finite; holds at every level."""
        known = {self.channel, *self.others}
        if set(action) != known:
            odd = ", ".join(sorted(str(name) for name in known ^ set(action)))
            return self.refuse(math.nan, math.nan, f"action channels missing or unknown: {odd}")
        for name in sorted(known):
            if math.isnan(number(action[name])):
                return self.refuse(math.nan, math.nan, f"{name} is {action[name]!r}, not a finite number")
        return None

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Never reached: `check` decides at every level."""
        return self.check(measured, {self.channel: value})


@dataclass(frozen=True, kw_only=True)
class Bounds(Rule):
    """`low <= action <= high`; `low` is exact, and no level is exempt."""

    low: float
    high: Level

    def check(self, measured: Measured, action: Mapping[str, float]) -> Reason | None:
        """None if the action is within the bounds."""
        return self.judge(measured, number(action.get(self.channel)))

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Compare with both bounds; the last resort passes although a static of `high` is unknown."""
        if not value >= self.low:
            return self.refuse(value, self.low, f"{self.channel} {value:g} is below {self.low:g} {self.unit}")
        if value > self.floor and not within(value, high := self.high.of(measured)):
            return self.refuse(value, high, f"{self.channel} {value:g} is above {high:g} {self.unit}")
        return None


@dataclass(frozen=True, kw_only=True)
class SoundHistory(Rule):
    """Without a present and strictly increasing time stamps only the floor may be done."""

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Refuse if the time stamps are empty, not finite or not increasing."""
        if measured.sound and math.isfinite(value):
            return None
        return self.at_most_safe(measured, value, "time stamps are missing, not finite or not increasing")


@dataclass(frozen=True, kw_only=True)
class StaticRange(Rule):
    """A static outside low..high (a unit or typing error in the profile) lets only the floor pass.

    Attributes:
        static: The static that is judged.
        per: Another static to divide by, or "".
    """

    static: str
    low: float
    high: float
    per: str = ""

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Judge the static, or its quotient."""
        quantity = measured.static(self.static)
        if self.per:
            divisor = measured.static(self.per)
            quantity = quantity / divisor if divisor > 0 else math.nan
        if self.low <= quantity <= self.high and math.isfinite(value):
            return None
        words = f"{self.static}{f' per {self.per}' if self.per else ''} {quantity:g}"
        bound = self.high if quantity > self.high else self.low
        return self.refuse(quantity, bound, f"{words} is outside {self.low:g}..{self.high:g} {self.unit}")


@dataclass(frozen=True, kw_only=True)
class RateLimit(Rule):
    """The action changes by at most `rise` up and `fall` down from the one before.

    Attributes:
        rise: Greatest increase per step.
        fall: Greatest decrease per step, or None for any.
        start: What counts as the action before the first one, or None for zero.
    """

    rise: Level
    fall: Level | None = None
    start: Level | None = None

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Compare with the newest action done."""
        past = measured.actions.get(self.channel)
        if past is None:
            return self.refuse(math.nan, math.nan, f"past {self.channel} is not known")
        first = 0.0 if self.start is None else self.start.of(measured)
        before = float(past[-1]) if len(past) else first
        if not within(value, before + (step := self.rise.of(measured))):
            words = f"{self.channel} {value:g} after {before:g} rises by more than {step:g} {self.unit}"
            return self.refuse(value, before + step, words)
        if self.fall is not None and not within(before - value, drop := self.fall.of(measured)):
            words = f"{self.channel} {value:g} after {before:g} falls by more than {drop:g} {self.unit}"
            return self.refuse(value, before - drop, words)
        return None


@dataclass(frozen=True, kw_only=True)
class WindowLimit(Rule):
    """The sum over the last `minutes`, this action included, is at most `bound`; negative amounts count as zero."""

    minutes: float
    bound: Level

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Add up what was done and what is proposed."""
        past = measured.done(self.channel, self.minutes)
        total = math.nan if past is None else float(past[1].clip(min=0.0).sum()) + value
        if within(total, bound := self.bound.of(measured)):
            return None
        words = f"{self.channel} over {self.minutes:g} min would be {total:g}, more than {bound:g} {self.unit}"
        return self.refuse(total, bound, words)


@dataclass(frozen=True, kw_only=True)
class Interval(Rule):
    """At least `minutes` lie between two events, an event being an action above `size`."""

    minutes: float
    size: Level

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Look for an event within the interval."""
        size = self.size.of(measured)
        if within(value, size):
            return None
        past = measured.done(self.channel, self.minutes)
        if past is not None and math.isfinite(size) and math.isfinite(value):
            ages, amounts = past
            events = [age for age, amount in zip(ages, amounts, strict=True) if not within(amount, size)]
            if not events or min(events) >= self.minutes - CLOCK:
                return None
            words = f"the last {self.channel} above {size:g} {self.unit} was {min(events):g} min ago"
            return self.refuse(float(min(events)), self.minutes, f"{words}, less than {self.minutes:g} min")
        return self.refuse(math.nan, self.minutes, f"past {self.channel} or its size is not known")


@dataclass(frozen=True, kw_only=True)
class StaleData(Rule):
    """No reading of `observation` within `minutes` lets only the safe level pass."""

    observation: str
    minutes: float

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Judge the age of the newest reading."""
        age = measured.age(self.observation)
        if age <= self.minutes + CLOCK and math.isfinite(value):
            return None
        words = f"no {self.observation} was measured" if math.isnan(age) else f"{self.observation} is {age:g} min old"
        return self.at_most_safe(measured, value, f"{words}, at most {self.minutes:g} min is allowed")


@dataclass(frozen=True, kw_only=True)
class RangeGate(Rule):
    """A newest reading outside `low < x <= high` (an error code, saturation) lets only the safe level pass."""

    observation: str
    low: float
    high: float

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Judge the newest reading; none at all refuses as well."""
        reading = measured.newest(self.observation)[1]
        if self.low < reading <= self.high and math.isfinite(value):
            return None
        words = f"{self.observation} {reading:g} is not within {self.low:g}..{self.high:g}"
        return self.at_most_safe(measured, value, words)


@dataclass(frozen=True, kw_only=True)
class FlatSignal(Rule):
    """Readings that all lie within `band` of the newest for at least `minutes` let only the safe level pass."""

    observation: str
    minutes: float
    band: float = 0.0

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Walk back from the newest reading to the first that differs."""
        values = measured.observations.get(self.observation)
        age, newest = measured.newest(self.observation)
        if values is None or not (math.isfinite(newest) and math.isfinite(value)):
            return self.at_most_safe(measured, value, f"no {self.observation} was measured")
        for at in range(len(values) - 1, -1, -1):
            reading = float(values[at])
            if not math.isfinite(reading):
                continue
            if abs(reading - newest) > self.band:
                return None
            span = measured.now - float(measured.times[at]) - age
            if span >= self.minutes - CLOCK:
                words = f"{self.observation} has been {newest:g} for {self.minutes:g} min or more"
                return self.at_most_safe(measured, value, words)
        return None


@dataclass(frozen=True, kw_only=True)
class SuspendBelow(Rule):
    """A reading below `threshold`, now or by linear extrapolation, lets only the floor pass.

    The line is the least-squares line through the readings of the last `fit` minutes, read off `horizon`
    minutes from now. With too little to judge on, only the safe level passes.

    Attributes:
        observation: What must not be low.
        threshold: In the observation's unit.
        max_age: A newest reading older than this judges nothing, min.
        horizon: How far to extrapolate, min; 0 judges the newest reading itself.
        fit: Span of the readings the line goes through, min.
        readings: Fewest readings for a line.
        codes: Error codes of the sensor, which are no readings here.
        code_below: Readings at or below this are error codes, too; None for no such bound.
    """

    observation: str
    threshold: float
    max_age: float
    horizon: float = 0.0
    fit: float = 30.0
    readings: int = 3
    codes: tuple[float, ...] = ()
    code_below: float | None = None

    def check(self, measured: Measured, action: Mapping[str, float]) -> Reason | None:
        """None at the floor, or if the reading is not low; the safe level passes only where it cannot be judged."""
        value = number(action.get(self.channel))
        return None if value <= self.floor else self.judge(measured, value)

    def judge(self, measured: Measured, value: float) -> Reason | None:
        """Compare the newest reading, or the line, with the threshold."""
        span = self.fit if self.horizon > 0 else self.max_age
        points = [
            (time - measured.now, reading)
            for time, reading in measured.readings(self.observation, span)
            if reading not in self.codes and (self.code_below is None or reading > self.code_below)
        ]
        level = self._level(points)
        if math.isnan(level):
            if self.safe is not None and within(value, self.safe.of(measured)):
                return None
            return self.at_most_safe(measured, value, f"too few readings of {self.observation} to rule out a low")
        if level >= self.threshold and math.isfinite(value):
            return None
        when = f"heads for {level:g} in {self.horizon:g} min" if self.horizon > 0 else f"is {level:g}"
        words = f"{self.observation} {when}, below {self.threshold:g}; {self.channel} must be at most {self.floor:g}"
        return self.refuse(level, self.threshold, words)

    def _level(self, points: list[tuple[float, float]]) -> float:
        """The newest reading, or the line through (time from now, reading) at `horizon`; NaN if undetermined."""
        if not points or -points[-1][0] > self.max_age + CLOCK:
            return math.nan
        if self.horizon <= 0:
            return points[-1][1]
        if len(points) < self.readings:
            return math.nan
        n = len(points)
        middle = sum(time for time, _ in points) / n
        mean = sum(reading for _, reading in points) / n
        spread = sum((time - middle) * (time - middle) for time, _ in points)
        slope = sum((time - middle) * (reading - mean) for time, reading in points) / spread
        level = mean + slope * (self.horizon - middle)
        return level if math.isfinite(level) else math.nan
