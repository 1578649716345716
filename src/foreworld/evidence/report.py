"""Pages of evidence: one self-contained HTML file that opens without a network, on paper and on a phone.

    page = Page(title="Run 7", lead="What was found.", sections=[Section("Result", [table, picture, "In words."])])
    write_page("runs/7/report.html", page)

All text is escaped, pictures are embedded, and a content policy in the page forbids loading anything.
"""

from __future__ import annotations

import base64
import html
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foreworld.episodes.files import sync_folder
from foreworld.errors import InputError
from foreworld.evidence.report_style import STYLE

BANNER = "Research software, not a medical device. Not for diagnosis or treatment of anybody."
MISSING = "–"


@dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes:
        content: PNG or SVG file.
        alt: What the figure shows, in words, for those who cannot see it.
        caption: What to read from it.
    """

    content: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table; the first column heads its row.

    Attributes:
        columns: Names, with units.
        rows: Cells; a number is set to the right, None shows as a dash.
        caption: What is in it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str


@dataclass(frozen=True)
class Bullets:
    """A list of short statements."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and their values, such as the sizes and the versions of a run."""

    values: Mapping[str, object]


@dataclass(frozen=True)
class Commands:
    """Lines to type, one after the other."""

    lines: Sequence[str]


Block = str | Picture | Table | Bullets | Facts | Commands
"""What a section is made of; a plain string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: Of the window and at the top.
        lead: The first sentences; all that many will read.
        sections: In the order in which a reader needs them.
        banner: Shown above everything else, on every printed page's first sheet.
        language: Of the text, as in BCP 47.
    """

    title: str
    lead: str
    sections: Sequence[Section] = field(default=())
    banner: str = BANNER
    language: str = "en"


def evidence_table(
    rows: Sequence[Mapping[str, object]],
    *,
    caption: str,
    arms: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
) -> Table:
    """Evidence rows as a table: a row for each arm (and group, if there are several), a column for each metric.

    Args:
        rows: As in the evidence JSON: arm, metric, value, unit, and where known low, high, n and group. At most one row
            for each (arm, group, metric). Shares are shown in per cent.
        caption: What is in the table.
        arms: Names to show; these arms come first, in this order. Others keep their own name.
        metrics: Headings to show; only these metrics are shown, in this order. By default all.

    Raises:
        InputError: A row lacks arm, metric or value, or two rows stand for the same thing.
    """
    cells: dict[tuple[str, str], dict[str, Mapping[str, object]]] = {}
    units: dict[str, str] = {}
    for row in rows:
        missing = [key for key in ("arm", "metric", "value") if key not in row]
        if missing:
            raise InputError(f"an evidence row has no {missing[0]!r}: {dict(row)}; give arm, metric and value")
        key, metric = (str(row["arm"]), str(row.get("group", "all"))), str(row["metric"])
        if metric in cells.setdefault(key, {}):
            raise InputError(f"two evidence rows for arm {key[0]}, group {key[1]}, metric {metric}; pool them first")
        cells[key][metric] = row
        units.setdefault(metric, str(row.get("unit", "")))
    shown = [metric for metric in metrics if metric in units] if metrics is not None else list(units)
    order = list(arms or ())
    keys = sorted(cells, key=lambda key: order.index(key[0]) if key[0] in order else len(order))
    grouped = len({group for _, group in keys}) > 1
    headings = [_heading((metrics or {}).get(metric, metric), units[metric]) for metric in shown]
    body = []
    for arm, group in keys:
        found = cells[arm, group]
        head = [(arms or {}).get(arm, arm), *([group] if grouped else [])]
        body.append([*head, *(_interval(found.get(metric)) for metric in shown), _count(found, shown)])
    return Table(["Arm", *(["Group"] if grouped else []), *headings, "n"], body, caption)


def _heading(name: str, unit: str) -> str:
    unit = {"share": "%", "index": ""}.get(unit, unit)
    return f"{name}, {unit}" if unit else name


def number(value: float, unit: str = "") -> str:
    """A value with the digits that a reader can use; shares in per cent, so small ones never read as none."""
    if not math.isfinite(value):
        return MISSING
    if unit == "share":
        percent = 100.0 * value
        return "<0.1" if 0.0 < percent < 0.05 else ">99.9" if 99.95 <= percent < 100.0 else f"{percent:.1f}"
    if value == 0.0 or 1.0 <= abs(value) < 1e6:
        digits = 1 if abs(value) < 1000.0 else 0
        return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def _interval(row: Mapping[str, object] | None) -> str:
    if row is None:
        return MISSING
    unit = str(row.get("unit", ""))
    value, low, high = (_float(row.get(key)) for key in ("value", "low", "high"))
    text = number(value, unit)
    return f"{text} ({number(low, unit)} to {number(high, unit)})" if math.isfinite(low + high) else text


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _count(found: Mapping[str, Mapping[str, object]], shown: Sequence[str]) -> str:
    counts = [_float(found[metric].get("n")) for metric in shown if metric in found]
    counts = sorted({count for count in counts if math.isfinite(count)})
    if not counts:
        return MISSING
    return f"{counts[0]:g}" if len(counts) == 1 else f"{counts[0]:g} to {counts[-1]:g}"


def render(page: Page) -> str:
    """The page as HTML.

    Raises:
        InputError: A picture is neither PNG nor SVG, or has no alternative text; a table's row has too many cells.
    """
    links = "".join(f'<li><a href="#s{i}">{_text(s.title)}</a></li>' for i, s in enumerate(page.sections, 1))
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(page.sections) > 1 else ""
    sections = "\n".join(_section(i, section) for i, section in enumerate(page.sections, 1))
    return f"""<!DOCTYPE html>
<html lang="{_text(page.language)}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(page.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<p class="banner" role="note">{_text(page.banner)}</p>
<main>
<header>
<h1>{_text(page.title)}</h1>
<p class="lead">{_prose(page.lead)}</p>
{contents}
</header>
{sections}
</main>
</body>
</html>
"""


def write_page(path: str | Path, page: Page) -> Path:
    """Write the page, whole or not at all; gives the path. Raises as `render` does."""
    return write_file(path, render(page).encode("utf-8"))


def write_file(path: str | Path, content: bytes) -> Path:
    """Replace a file atomically; the folder is made if absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path


# Control characters may not stand in HTML, nor lone surrogates in UTF-8.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _text(value: object) -> str:
    return html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def _prose(text: str) -> str:
    """Text in which a number and its per cent sign stay on one line."""
    return _text(text).replace(" %", "\N{NO-BREAK SPACE}%")


def _section(index: int, section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return f'<section aria-labelledby="s{index}">\n<h2 id="s{index}">{_text(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Picture():
            return _picture(block)
        case Table():
            return _table(block)
        case Bullets():
            return "<ul>" + "".join(f"<li>{_prose(item)}</li>" for item in block.items) + "</ul>"
        case Facts():
            pairs = (f"<div><dt>{_text(k)}</dt><dd>{_text(_value(v))}</dd></div>" for k, v in block.values.items())
            return f"<dl>{''.join(pairs)}</dl>"
        case Commands():
            return f'<pre tabindex="0"><code>{_text(chr(10).join(block.lines))}</code></pre>'
        case _:
            return f"<p>{_prose(block)}</p>"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return MISSING if value is None else str(value)


def _picture(picture: Picture) -> str:
    if picture.content.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif re.match(rb"\s*(<\?xml|<!DOCTYPE svg|<!--|<svg)", picture.content):
        kind = "svg+xml"  # inside <img> a browser runs no script of it and loads nothing for it
    else:
        raise InputError("a picture must be a PNG or SVG file; save the figure in one of these formats")
    if not picture.alt.strip():
        raise InputError("a picture has no alternative text; say in words what it shows")
    data = base64.b64encode(picture.content).decode("ascii")
    image = f'<img src="data:image/{kind};base64,{data}" alt="{_text(picture.alt)}">'
    frame = f'<div class="scroll" tabindex="0" role="group" aria-label="Figure, scrolls sideways">{image}</div>'
    return f"<figure>{frame}<figcaption>{_prose(picture.caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_prose(name)}</th>' for name in table.columns)
    body = []
    for row in table.rows:
        if len(row) != len(table.columns):
            raise InputError(f"a table row has {len(row)} cells for {len(table.columns)} columns; give one for each")
        first, *rest = row
        cells = "".join(f"<td>{_text(_value(cell))}</td>" for cell in rest)
        body.append(f'<tr><th scope="row">{_text(_value(first))}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways"><table>'
        f"<caption>{_prose(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
