"""The one shape of evidence: exactly one row per arm, group and metric, checked when it is made and when it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foreworld.agent import canonical
from foreworld.episodes.files import read_json, write_json
from foreworld.errors import FormatError, InputError

FORMAT = 1
RARE = 0.05
"""A share below this is rare: often few subjects carry all of it."""
RARE_NOTE = "A rare share is often carried by few: its upper end is then too low and no limit; look at the worst."
_NAME = re.compile(r"[a-z0-9][a-z0-9_.#~+-]*")


@dataclass(frozen=True)
class Names:
    """The arms, groups and metrics that evidence may speak of; a domain adds its own with `|`."""

    arms: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for kind in ("arms", "groups", "metrics"):
            names = frozenset(getattr(self, kind))
            for name in names:
                if not _NAME.fullmatch(name):
                    raise InputError(f"{name!r} among the {kind} is no name; use lower-case letters, digits and _")
            object.__setattr__(self, kind, names)

    def __or__(self, other: Names) -> Names:
        return Names(self.arms | other.arms, self.groups | other.groups, self.metrics | other.metrics)

    def check(self, arm: str, group: str, metric: str) -> None:
        """Raise `InputError` if one of the three is not among the names."""
        for kind, name in (("arms", arm), ("groups", group), ("metrics", metric)):
            known: frozenset[str] = getattr(self, kind)
            if name not in known:
                raise InputError(f"{name!r} is not among the {kind} {', '.join(sorted(known))}; extend `Names`")


NAMES = Names(
    arms=frozenset(
        "foreworld fallback bb bb_error bb_cap pid arx oref0 oref0_smb filter oracle boosting straight_line random "
        "nothing clone".split()
    ),
    groups=frozenset("all unseen adult adolescent child".split()),
    metrics=frozenset(
        "time_in_range time_below_70 time_below_54 time_above_180 failures rmse_30 rmse_60 rmse_120 coverage_90 "
        "success violations refusals "
        "cpu_ms_per_decision train_cpu_seconds auroc auprc event1 event2 mse cost_share".split()
    ),
)
"""The lists of the architecture page."""


class Row(BaseModel):
    """One figure.

    Attributes:
        arm: who acted or forecast.
        group: on whom.
        metric: what was measured; shares are in 0..1.
        value: pooled over seeds.
        low: lower end of the 95 % interval, None where there is no interval (a single unit, a maximum).
        high: upper end.
        n: number of independent units, such as subjects or episodes.
        unit: of the value.
        by_seed: the value in each seed, in the order of the evidence's seeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arm: str
    group: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=1)
    unit: str = Field(min_length=1)
    by_seed: tuple[float, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """Arm, group and metric."""
        return self.arm, self.group, self.metric

    @property
    def rare(self) -> bool:
        """Whether it is a rare share with an interval, whose upper end says little (`cluster_bootstrap`)."""
        return self.unit == "share" and self.high is not None and self.value < RARE

    @model_validator(mode="after")
    def _whole(self) -> Self:
        where = f"row {self.arm}/{self.group}/{self.metric}"
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{where} has one end of an interval; give both or none")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{where}: low {self.low} is above high {self.high}")
        if self.unit == "share" and not 0.0 <= self.value <= 1.0:
            raise ValueError(f"{where}: {self.value} is no share; shares are in 0..1")
        return self


class Evidence(BaseModel):
    """What a protocol found; immutable, and refused if a row is missing its seeds or appears twice.

    Attributes:
        format: version of this shape.
        protocol: `domain/name`.
        version: of the protocol.
        hash: SHA-256 of the protocol's settings.
        seeds: a seed is data, initialisation and environment at once.
        machine: what it ran on, without a host name.
        cpu_seconds: of this process and its children.
        rows: exactly one per arm, group and metric.
        source: first digits of the SHA-256 of foreworld's own files when it began (`source.source_digest`); empty
            where unknown.
        notes: what a reader must know besides, such as runs that were kept from other source; not stored if empty.
        names: which names are allowed; not stored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: int = FORMAT
    protocol: str = Field(pattern=r"^[a-z0-9_-]+/[a-z0-9_-]+$")
    version: int = Field(ge=1)
    hash: str = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    machine: str
    cpu_seconds: float = Field(ge=0.0)
    rows: tuple[Row, ...]
    source: str = Field(default="", exclude_if=lambda source: not source)
    notes: tuple[str, ...] = Field(default=(), exclude_if=lambda notes: not notes)
    names: Names = Field(default=NAMES, exclude=True, repr=False)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format} is not {FORMAT}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"a seed appears twice in {self.seeds}")
        found: set[tuple[str, str, str]] = set()
        for row in self.rows:
            self.names.check(*row.key)
            if row.key in found:
                raise ValueError(f"two rows for {'/'.join(row.key)}; there must be exactly one")
            if len(row.by_seed) != len(self.seeds):
                raise ValueError(f"row {'/'.join(row.key)} has {len(row.by_seed)} seeds, not {len(self.seeds)}")
            found.add(row.key)
        return self

    def row(self, arm: str, metric: str, group: str = "all") -> Row:
        """The row of this arm, group and metric.

        Raises:
            InputError: there is none; the message lists what there is.
        """
        for row in self.rows:
            if row.key == (arm, group, metric):
                return row
        known = sorted({"/".join(row.key) for row in self.rows})
        raise InputError(f"no row {arm}/{group}/{metric} among {', '.join(known) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """As JSON text."""
        return self.model_dump_json(indent=1)

    def save(self, path: Path | str) -> None:
        """Write to a file, atomically."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], names: Names = NAMES) -> Evidence:
        """From plain JSON values.

        Raises:
            FormatError: a newer format, or not the shape of evidence.
        """
        version = content.get("format")
        if not isinstance(version, int) or isinstance(version, bool):
            raise FormatError("this is no evidence: it has no format number; make it with `foreworld evaluate`")
        if version > FORMAT:
            raise FormatError(f"evidence of format {version} is newer than {FORMAT}; update foreworld to read it")
        try:
            return cls.model_validate({**content, "names": names})
        except (ValidationError, InputError) as error:
            raise FormatError(f"this is no valid evidence: {error}") from error

    @classmethod
    def from_json(cls, text: str, names: Names = NAMES) -> Evidence:
        """From JSON text; raises as `from_dict`, and `FormatError` where the text is damaged."""
        content = _object(text)
        return cls.from_dict(content, names)

    @classmethod
    def load(cls, path: Path | str, names: Names = NAMES) -> Evidence:
        """From a file; raises as `from_dict`, and `FormatError` where it is missing or damaged."""
        return cls.from_dict(read_json(Path(path)), names)

    def table(self, group: str = "all", metrics: Sequence[str] | None = None, width: int | None = None) -> str:
        """Plain text: arms as rows, metrics as columns, each figure with its interval; shares in %.

        Args:
            group: Whose.
            metrics: Which; all of them if None.
            width: Characters of a line, beyond which columns go on below; one of them at least stands in a line.
        """
        rows = [row for row in self.rows if row.group == group and (metrics is None or row.metric in metrics)]
        columns = list(metrics or dict.fromkeys(row.metric for row in rows))
        cell = {(row.arm, row.metric): row for row in rows}
        arms = list(dict.fromkeys(row.arm for row in rows))
        units = {row.metric: "%" if row.unit == "share" else row.unit for row in rows}
        head = [f"{self.protocol} v{self.version}, {group}", *(f"{name} [{units.get(name, '')}]" for name in columns)]
        lines = [head]
        for arm in arms:
            lines.append([arm, *(_cell(cell.get((arm, name))) for name in columns)])
        n = sorted({row.n for row in rows})
        counts = f"{n[0]}" if len(n) == 1 else f"{n[0]}-{n[-1]}" if n else "0"
        foot = f"n = {counts}, seeds {', '.join(map(str, self.seeds))}; 95 % intervals in brackets; {self.machine}"
        parts = [lines] if width is None else _beside(lines, width)
        blocks = "\n\n".join("\n".join(align(part)) for part in parts)
        rare = [RARE_NOTE] if any(row.rare for row in rows) else []
        return "\n".join([blocks, foot, *rare, *self.notes])

    def compare(self, other: Evidence, group: str = "all") -> str:
        """Plain text: every figure of this group here, in `other`, and the change, for two runs of one protocol.

        The change has no interval: that needs samples paired by subject, `Samples.difference`.

        Raises:
            InputError: the two come from different protocols, versions or settings.
        """
        if (self.protocol, self.version, self.hash) != (other.protocol, other.version, other.hash):
            raise InputError(
                f"{self.protocol} v{self.version} {self.hash[:8]} cannot be compared with "
                f"{other.protocol} v{other.version} {other.hash[:8]}; run the same protocol with the same settings"
            )
        theirs = {row.key: row for row in other.rows}
        lines = [["arm", "metric", "this", "other", "change"]]
        for row in self.rows:
            if row.group != group or row.key not in theirs:
                continue
            scale = 100.0 if row.unit == "share" else 1.0
            change = f"{scale * (row.value - theirs[row.key].value):+.2f}"
            lines.append([row.arm, row.metric, _cell(row), _cell(theirs[row.key]), change])
        return "\n".join(align(lines))


def _object(text: str) -> Mapping[str, Any]:
    """The JSON object in `text`; raises `FormatError` if it is damaged or no object."""
    try:
        content = canonical.decode(text)
    except ValueError as error:
        raise FormatError(f"this is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise FormatError("evidence must be a JSON object")
    return content


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    scale, digits = (100.0, 1) if row.unit == "share" else (1.0, 2)
    value = f"{scale * row.value:.{digits}f}"
    if row.low is None or row.high is None:
        return value
    return f"{value} [{scale * row.low:.{digits}f}, {scale * row.high:.{digits}f}]"


def _beside(lines: Sequence[Sequence[str]], width: int) -> list[list[list[str]]]:
    """The same lines with as many columns at a time, the first in each, as fit into the width."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    blocks: list[list[int]] = [[]]
    room = width - widths[0]
    for column in range(1, len(widths)):
        if blocks[-1] and room < widths[column] + 2:
            blocks.append([])
            room = width - widths[0]
        blocks[-1].append(column)
        room -= widths[column] + 2
    return [[[line[0], *(line[column] for column in block)] for line in lines] for block in blocks]


def align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to equal width, the first to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            text.ljust(width) if at == 0 else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
