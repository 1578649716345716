"""Model cards: what a model was trained on, how good it is, by which command, and where it must not be trusted.

    checkpoint.save(model, folder, card=model_card(card, level=3))      # inside the checkpoint's own README
    Path("CARD.md").write_text(model_card(card), encoding="utf-8")      # on its own

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019; 220-229).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foreworld.errors import InputError
from foreworld.evidence.report import BANNER, MISSING, number


class Figure(BaseModel):
    """One figure of evidence with the command that gives it again.

    Attributes:
        arm: Whose figure it is.
        metric: As in the evidence JSON.
        value: Shares in 0..1.
        low: Lower end of the 95 % interval, if there is one.
        high: Upper end.
        n: Independent units, if counted.
        unit: `share` is shown in per cent.
        command: What to type to get it again.
    """

    # NaN and the evidence JSON's other keys, such as by_seed, do not belong on a card.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    arm: str = "foreworld"
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    command: str = Field(min_length=1)


class Card(BaseModel):
    """What a card says.

    Attributes:
        name: Of the model.
        summary: What it does, in a sentence or two.
        trained_on: What data: source, subjects, days, how the actions were chosen, seed.
        sizes: Parameters, members, horizon, episodes, training time, with units in the names or values.
        calibration: On whom, at which coverage and risk, with which result.
        figures: Evidence; none without its command.
        limits: Where it was not tested or is known to fail; at least one, for every model has some.
        versions: Of foreworld, of the data format, of what it ran on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    summary: str
    trained_on: dict[str, str | int | float | None]
    sizes: dict[str, str | int | float | None] = Field(default_factory=dict)
    calibration: dict[str, str | int | float | None] = Field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    limits: tuple[str, ...] = Field(min_length=1)
    versions: dict[str, str | int | float | None] = Field(default_factory=dict)


def model_card(card: Card | Mapping[str, Any], level: int = 1) -> str:
    """The card in Markdown (CommonMark with tables); the same input always gives the same text.

    Args:
        card: A `Card`, or a mapping that makes one.
        level: 1 gives a page of its own with title and banner; 2 to 5 gives sections with headings of this level, to be
            put below a title and a banner that stand already.

    Raises:
        InputError: A field is missing or wrong, or the level is not 1 to 5.
    """
    if not 1 <= level <= 5:
        raise InputError(f"level {level} must be 1 to 5")
    if not isinstance(card, Card):
        try:
            card = Card.model_validate(dict(card))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"model card: {where}: {first['msg']}; see foreworld.evidence.card.Card") from error
    head = "#" * (level + 1 if level == 1 else level)
    parts = [f"# {_plain(card.name)}\n\n**{BANNER}**"] if level == 1 else []
    parts.append(_plain(card.summary))
    for title, values in (("Trained on", card.trained_on), ("Sizes", card.sizes), ("Calibration", card.calibration)):
        parts.append(f"{head} {title}\n\n{_list(values)}")
    parts.append(f"{head} Figures\n\n{_figures(card.figures)}")
    parts.append(f"{head} Limits\n\n" + "\n".join(f"- {_plain(limit)}" for limit in card.limits))
    if card.versions:
        parts.append(f"{head} Versions\n\n{_list(card.versions)}")
    return "\n\n".join(parts) + "\n"


def _list(values: Mapping[str, object]) -> str:
    if not values:
        return "Nothing is recorded."
    return "\n".join(f"- {_plain(name)}: {_plain(_shown(value))}" for name, value in values.items())


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else MISSING if value is None else str(value)


def _figures(figures: tuple[Figure, ...]) -> str:
    """A table for each command, so that none can be read without it."""
    if not figures:
        return "None were measured: take its forecasts for unproven."
    by_command: dict[str, list[Figure]] = {}
    for figure in figures:
        by_command.setdefault(figure.command, []).append(figure)
    parts = []
    for command, rows in by_command.items():
        lines = ["| Arm | Metric | Value | 95 % interval | n |", "|---|---|--:|--:|--:|"]
        for row in rows:
            unit = {"share": " %", "index": "", "": ""}.get(row.unit, f" {row.unit}")
            interval = MISSING
            if row.low is not None and row.high is not None:
                interval = f"{number(row.low, row.unit)} to {number(row.high, row.unit)}"
            value = _plain(number(row.value, row.unit) + unit)
            count = MISSING if row.n is None else f"{row.n:,}"
            lines.append(f"| {_plain(row.arm)} | {_plain(row.metric)} | {value} | {_plain(interval)} | {count} |")
        parts.append(f"{_code(command)}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _code(command: str) -> str:
    """A fenced block that no run of backticks in the command can close."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command.strip()}\n{fence}"


def _plain(text: str) -> str:
    """Text on one line in which nothing is markup; underscores inside words are no markup and stay readable."""
    text = " ".join(text.split())
    text = re.sub(r"([\\`*\[\]<>|&~$])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return re.sub(r"^([#+=-]|\d+[.)](?=\s|$))", lambda found: _lead(found[0]), text)


def _lead(mark: str) -> str:
    """A mark at the beginning of a line would start a heading or a list; a number's escape stands before its dot."""
    return f"{mark[:-1]}\\{mark[-1]}"
