"""One picture of a closed-loop track: every arm's time in range and time low, and how far foreworld is above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foreworld.domains.treatment import figure_style as fs
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import Evidence, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN = ("foreworld", "unguarded")
KNOWS = ("filter", "oracle")  # may read what nobody can know of a person
LEAST = 0.5  # of time in range, below which an arm is named and not drawn
Rows = dict[tuple[str, str], Row]


def pictures(evidence: Evidence) -> Sequence[Picture]:
    """The figure, of the unseen patients where there are any."""
    group = "unseen" if any(row.group == "unseen" for row in evidence.rows) else "all"
    alt = (
        "Three panels with a row for each arm: time in range; time below 70 and below 54 mg/dL; points of time in "
        "range that foreworld is above the arm."
    )
    n = max((row.n for row in evidence.rows if row.group == group), default=0)
    caption = (
        f"Group {group}, n = {n}, seeds {', '.join(map(str, evidence.seeds))}; bars are 95 % intervals, resampling "
        "patients. Squares are foreworld, diamonds ceilings that read the simulator's equations, circles others. "
        "Right: paired by patient and seed. Virtual patients; research software, not a medical device."
    )
    return (Picture(fs.png_bytes(track_figure(evidence, group)), alt, caption),)


@fs.styled
def track_figure(evidence: Evidence, group: str) -> Figure:
    """The three panels, arms in order of their time in range.

    Args:
        evidence: Of a closed-loop track.
        group: Whose rows.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    rows = {(row.arm, row.metric): row for row in evidence.rows if row.group == group}
    arms = sorted({arm for arm, metric in rows if metric == "time_in_range"}, key=lambda arm: _value(rows, arm))
    figure = fs.new_figure(11.0, 1.6 + 0.32 * max(len(arms), 1))
    inside, low, above = figure.subplots(1, 3, sharey=True, width_ratios=(3, 2, 2))
    for place, arm in enumerate(arms):
        colour = fs.BLUE if arm in OWN else fs.GREEN if arm in KNOWS else fs.SOFT
        marker = "s" if arm in OWN else "D" if arm in KNOWS else "o"
        _dot(inside, place, rows.get((arm, "time_in_range")), 100.0, colour, marker)
        _dot(low, place + 0.14, rows.get((arm, "time_below_70")), 100.0, fs.LOW, marker)
        _dot(low, place - 0.14, rows.get((arm, "time_below_54")), 100.0, fs.VERY_LOW, marker)
        _dot(above, place, rows.get(("foreworld", f"time_in_range_above_{arm}")), 1.0, colour, marker)
    inside.set_yticks(np.arange(len(arms)), [fs.plain(arm) for arm in arms])
    inside.set_ylim(-0.7, len(arms) - 0.3)
    inside.set_title("Time in 70–180 mg/dL, %")
    low.set_title("Below 70, 54 (dark), %")
    low.set_xlim(left=0.0)
    above.set_title("foreworld above, points")
    above.axvline(0.0, color=fs.SOFT, linewidth=0.9)
    # Who does nothing must not squeeze everybody else into a corner.
    near = [arm for arm in arms if _value(rows, arm) >= LEAST]
    if near and len(near) < len(arms):
        left = min(100.0 * (rows[arm, "time_in_range"].low or _value(rows, arm)) for arm in near) - 3.0
        inside.set_xlim(left, 101.0)
        pairs = [rows[found] for arm in near if (found := ("foreworld", f"time_in_range_above_{arm}")) in rows]
        if pairs:
            above.set_xlim(right=max(row.high or row.value for row in pairs) + 1.0)
        for place, arm in enumerate(arms):
            if _value(rows, arm) < LEAST:
                inside.text(left + 0.5, place, f"← {100.0 * _value(rows, arm):.0f}", va="center", color=fs.SOFT)
    for axes in (inside, low, above):
        axes.grid(axis="both", color=fs.GRID, linewidth=0.7)
        axes.tick_params(axis="y", length=0)
    return figure


def _value(rows: Rows, arm: str) -> float:
    return rows[arm, "time_in_range"].value


def _dot(axes: Axes, place: float, row: Row | None, scale: float, colour: str, marker: str) -> None:
    """A figure with its interval at a height; nothing where it was not measured."""
    if row is None:
        return
    if row.low is not None and row.high is not None:
        axes.hlines(place, scale * row.low, scale * row.high, color=colour, linewidth=1.6, alpha=0.6)
    axes.plot([scale * row.value], [place], color=colour, marker=marker, markersize=5, zorder=3)
