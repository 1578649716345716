"""The reliability diagram: the risk that was claimed against the share of plans that fell short of what was claimed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foreworld.domains.treatment import figure_style as fs
from foreworld.errors import InputError
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import Evidence, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Claims = Mapping[str, tuple[str, float]]


@fs.styled
def reliability_figure(rows: Mapping[str, Mapping[float, Row]], titles: Mapping[str, str]) -> Figure:
    """Claimed against happened, a panel for each guardrail, with 95 % intervals.

    Args:
        rows: By `guardrail/group`, then by claimed risk in 0..1: the share that fell short, as a row of evidence.
        titles: By guardrail: what it says; one panel each.

    Raises:
        InputError: There is nothing to draw.
        MissingExtraError: Matplotlib is not installed.
    """
    if not rows:
        raise InputError("no claimed risk to draw; give rows of at least one guardrail and group")
    figure = fs.new_figure(4.6 * len(titles), 4.6)
    groups = list(dict.fromkeys(key.partition("/")[2] for key in rows))
    for panel, (name, title) in enumerate(titles.items(), 1):
        axes = figure.add_subplot(1, len(titles), panel)
        top = 5.0
        for at, group in enumerate(groups):
            found = rows.get(f"{name}/{group}", {})
            risks = sorted(found)
            x = [100.0 * risk + 0.25 * (at - (len(groups) - 1) / 2) for risk in risks]
            y = [100.0 * found[risk].value for risk in risks]
            ends = [
                [100.0 * (row.value if end is None else end) for end in (row.low, row.high)]
                for row in (found[risk] for risk in risks)
            ]
            axes.vlines(
                x, [low for low, _ in ends], [high for _, high in ends], color=fs.ARM_COLOURS[at], linewidth=1.6
            )
            axes.plot(
                x, y, color=fs.ARM_COLOURS[at], marker=fs.ARM_MARKERS[at], linewidth=0.0, markersize=6,
                label=f"{group}, n = {max((row.n for row in found.values()), default=0)}",
            )  # fmt: skip
            top = max([top, *x, *(high for _, high in ends)])
        top = 5.0 * (int(top / 5.0) + 1)
        axes.plot([0.0, top], [0.0, top], color=fs.SOFT, linewidth=1.0, linestyle=(0, (4, 3)), label="kept exactly")
        axes.set_xlim(0.0, top)
        axes.set_ylim(0.0, top)
        axes.set_xlabel("claimed risk, %")
        axes.set_ylabel("plans that fell short, %")
        axes.set_title(fs.plain(title, 40))
        axes.grid(color=fs.GRID, linewidth=0.7)
        axes.legend(loc="upper left")
    return figure


def reliability_pictures(
    evidence: Evidence, claims: Claims, titles: Mapping[str, str], groups: tuple[str, ...] = ("unseen", "virtual")
) -> list[Picture]:
    """The diagram for a page; none where there is nothing to draw.

    Args:
        evidence: Of a protocol on claimed risk.
        claims: By metric: guardrail and claimed risk.
        titles: By guardrail: what it says.
        groups: Who is drawn.
    """
    rows: dict[str, dict[float, Row]] = {}
    for row in evidence.rows:
        if row.group in groups and row.metric in claims:
            name, risk = claims[row.metric]
            rows.setdefault(f"{name}/{row.group}", {})[risk] = row
    if not rows:
        return []
    words = []
    for key, found in rows.items():
        name, _, group = key.partition("/")
        told = ", ".join(f"{100 * risk:g} % claimed {100 * found[risk].value:.1f} %" for risk in sorted(found))
        words.append(f"{name} of {group}: {told}.")
    caption = (
        "Plans were chosen in closed loop and carried out open-loop in branches of the simulator. A guardrail that "
        "claims a risk keeps it if the interval (95 %, resampling people) contains the dashed line; above it more "
        "plans fell short than was claimed."
    )
    return [Picture(fs.png_bytes(reliability_figure(rows, titles)), " ".join(words), caption)]
