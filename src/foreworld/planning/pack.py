"""Guardrail packs: what must hold, as a TOML file with a source for every number; hashed, and held to a floor.

    pack = admit(read_pack("mine.toml", schema, kinds), floor, kinds)    # refuses what is weaker than the floor

A pack holds state guardrails and the numbers of a domain (its limits). The domain says of each limit which side is
stricter; this module reads, hashes and compares. A weaker pack needs an override with a reason, which goes with the
pack into every decision, its explanation and its audit record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration
from foreworld.planning.guardrail import StateGuardrail

FORMAT = 1


class Stricter(Enum):
    """Which side of a number is the stricter one."""

    lower = "lower"
    higher = "higher"
    neither = "neither"


@dataclass(frozen=True)
class LimitKind:
    """What a domain knows of one of its limits.

    Attributes:
        stricter: The side that only ever allows less; `neither` where that depends on the state, so that any change
            counts as weaker.
        unit: Of the number, "" if it has none.
    """

    stricter: Stricter
    unit: str = ""


@dataclass(frozen=True)
class Limit:
    """One number of a pack, in the unit that the domain states, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Difference:
    """One entry of a pack that is not the floor's.

    Attributes:
        where: Guardrail or limit, and which of its fields.
        value: As the pack has it; None where it is missing.
        floor: As the floor has it; None where only the pack has it.
        unit: Of both.
        weaker: Whether the pack allows what the floor does not.
    """

    where: str
    value: float | str | None
    floor: float | str | None
    unit: str
    weaker: bool

    def explain(self) -> str:
        """One line without an end, such as `guardrail predicted_low bound: 65 mg/dL, floor 70 mg/dL`."""
        if self.value is None:
            return f"{self.where}: missing"
        if self.floor is None:
            return f"{self.where}: added"
        return f"{self.where}: {self._shown(self.value)}, floor {self._shown(self.floor)}"

    def _shown(self, value: float | str) -> str:
        return f"{value if isinstance(value, str) else f'{value:g}'} {self.unit}".rstrip()


@dataclass(frozen=True)
class Pack:
    """Guardrails and limits that belong together.

    Attributes:
        name: Identifier.
        version: Of the numbers.
        source: Who made it, and from what.
        guardrails: State guardrails, in the order of explanations.
        limits: By name.
        differences: From the floor, once it was compared.
        override: Why a weaker pack was let through; "" for one that is not weaker.
    """

    name: str
    version: str
    source: str
    guardrails: tuple[StateGuardrail, ...]
    limits: Mapping[str, Limit]
    differences: tuple[Difference, ...] = field(default=(), compare=False)
    override: str = field(default="", compare=False)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of all that the file says; layout, comments and order do not count."""
        content = {
            "format": FORMAT,
            "pack": [self.name, self.version, self.source],
            "guardrails": [_canonical(asdict(g)) for g in sorted(self.guardrails, key=lambda g: g.name)],
            "limits": {name: _canonical(asdict(limit)) for name, limit in self.limits.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def weaker(self) -> tuple[Difference, ...]:
        """What allows more than the floor."""
        return tuple(difference for difference in self.differences if difference.weaker)

    @property
    def stricter(self) -> tuple[Difference, ...]:
        """What allows less than the floor."""
        return tuple(difference for difference in self.differences if not difference.weaker)

    def note(self) -> dict[str, Any]:
        """What a decision records of the pack: plain values for provenance, JSON and the audit log."""
        return {
            "name": self.name,
            "version": self.version,
            "hash": self.hash,
            "override": self.override or None,
            "weaker": [difference.explain() for difference in self.weaker],
        }


def compare(pack: Pack, floor: Pack, kinds: Mapping[str, LimitKind]) -> tuple[Difference, ...]:
    """Every number of a pack that differs from the floor's, guardrails first.

    Args:
        pack: To be judged.
        floor: What it is held to.
        kinds: Which side of each limit is stricter.
    """
    found: list[Difference] = []
    mine = {guardrail.name: guardrail for guardrail in pack.guardrails}
    for other in floor.guardrails:
        where = f"guardrail {other.name}"
        if other.name in mine:
            found += _compare_guardrail(mine.pop(other.name), other, where)
        else:
            found.append(Difference(where, None, other.bound, other.unit, weaker=True))
    found += [Difference(f"guardrail {g.name}", g.bound, None, g.unit, weaker=False) for g in mine.values()]
    for name, limit in floor.limits.items():
        value = pack.limits[name].value
        if value != limit.value:
            kind = kinds[name]
            weaker = not _is_stricter(value, limit.value, kind.stricter)
            found.append(Difference(f"limit {name}", value, limit.value, kind.unit, weaker))
    return tuple(found)


def admit(pack: Pack, floor: Pack, kinds: Mapping[str, LimitKind], override: str | None = None) -> Pack:
    """The pack with its differences from the floor, if it is nowhere weaker or a reason overrides that.

    Raises:
        InputError: It is weaker, and no reason was given; or a reason was given for a pack that needs none.
    """
    judged = replace(pack, differences=compare(pack, floor, kinds))
    label = f"pack {pack.name} {pack.version}"
    if not judged.weaker:
        if override is not None:
            raise InputError(f"{label} is nowhere weaker than the built-in floor; leave the override out")
        return judged
    if override is None or not override.strip():
        listed = "; ".join(difference.explain() for difference in judged.weaker)
        raise InputError(
            f"{label} is weaker than the built-in floor: {listed}. Mend that, or give an override with the reason, "
            "which is recorded with every decision"
        )
    return replace(judged, override=" ".join(override.split()))


def check_calibrated(pack: Pack, calibration: Calibration, calibrated: Sequence[StateGuardrail]) -> None:
    """Refuse guardrails whose claimed risk the calibration says nothing about.

    The trajectory score does not depend on the bound, but on the quantity, its side and the steps that count.

    Args:
        pack: To be planned with.
        calibration: Of the model.
        calibrated: The guardrails that it was fitted with.

    Raises:
        InputError: A name or risk level was not calibrated, or another stretch of steps was.
    """
    if not calibration.trajectory:
        return
    before = {guardrail.name: guardrail for guardrail in calibrated}
    for guardrail in pack.guardrails:
        calibration.trajectory_bounds(guardrail.name, guardrail.risk)
        known = before.get(guardrail.name)
        if known is not None and _stretch(known) != _stretch(guardrail):
            raise InputError(
                f"guardrail {guardrail.name} of pack {pack.name} counts {_stretch(guardrail)}, but the model was "
                f"calibrated for {_stretch(known)}: its claimed risk would be empty; keep those, or calibrate anew"
            )


def describe(pack: Pack, kinds: Mapping[str, LimitKind]) -> str:
    """The pack for people: guardrails, limits by source, hash, and how it compares with the floor."""
    lines = [f"Guardrail pack {pack.name} {pack.version}", f"Source: {pack.source}", f"Hash: {pack.hash}", ""]
    for g in pack.guardrails:
        words = "at least" if g.sense == "at_least" else "at most"
        lines.append(
            f"guardrail {g.name}: {g.quantity} {words} {g.bound:g} {g.unit}, steps {g.start} to {g.horizon} ahead, "
            f"risk {g.risk:g}, severity {g.severity}"
        )
        lines.append(f"    {g.source}")
    by_source: dict[str, list[str]] = {}
    for name, limit in pack.limits.items():
        shown = f"limit {name}: {limit.value:g} {kinds[name].unit}".rstrip()
        by_source.setdefault(limit.source, []).append(shown)
    for source, entries in by_source.items():
        lines += [*entries, f"    {source}"]
    return "\n".join([*lines, "", *_standing(pack)])


def _standing(pack: Pack) -> list[str]:
    """How a compared pack stands to the floor, one entry a line."""
    if not pack.differences:
        return ["Every number is that of the built-in floor."]
    lines = []
    for told, part in (("weaker", pack.weaker), ("stricter", pack.stricter)):
        if part:
            lines.append(f"{told.capitalize()} than the built-in floor in {len(part)}:")
            lines += [f"    {difference.explain()}" for difference in part]
    lines.append(
        "It loads only with an override and its reason." if pack.weaker else "Nowhere weaker: it loads without asking."
    )
    return lines


def _compare_guardrail(mine: StateGuardrail, floor: StateGuardrail, where: str) -> list[Difference]:
    sides = {
        "bound": Stricter.higher if floor.sense == "at_least" else Stricter.lower,
        "risk": Stricter.lower,
        "start": Stricter.lower,
        "horizon": Stricter.higher,
        "severity": Stricter.higher,
        "quantity": Stricter.neither,
        "unit": Stricter.neither,
        "sense": Stricter.neither,
    }
    units = {"bound": floor.unit, "start": "steps", "horizon": "steps"}
    found = []
    for name, side in sides.items():
        value, other = getattr(mine, name), getattr(floor, name)
        if value != other:
            weaker = side is Stricter.neither or not _is_stricter(value, other, side)
            found.append(Difference(f"{where} {name}", value, other, units.get(name, ""), weaker))
    return found


def _is_stricter(value: float, floor: float, side: Stricter) -> bool:
    if side is Stricter.neither:
        return False
    return value < floor if side is Stricter.lower else value > floor


def _stretch(guardrail: StateGuardrail) -> str:
    side = guardrail.sense.replace("_", " ")
    return f"{guardrail.quantity} {side} over steps {guardrail.start} to {guardrail.horizon}"


def _canonical(entry: dict[str, Any]) -> dict[str, Any]:
    """Numbers as floats: 70 and 70.0 are the same bound."""
    return {name: value if isinstance(value, str) else float(value) for name, value in entry.items()}
