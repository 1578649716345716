"""One picture of `treatment/personalisation`: what days with a person are worth, and what a change of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foreworld.domains.treatment import figure_style as fs
from foreworld.domains.treatment.personalisation.settings import ADAPTED, ARMS, PersonalisationConfig
from foreworld.domains.treatment.personalisation.step_change import WINDOWS
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import Evidence, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "foreworld": "renewed belief, adaptive bands",
    "foreworld_fixed": "belief kept, bands as calibrated",
    "population": "last six hours alone",
    "population_day": "last day alone",
}
LABELS = ("48 h before", "0-24 h", "24-48 h", "48-72 h", "72-96 h")


def pictures(evidence: Evidence) -> Sequence[Picture]:
    """The figure, of the unseen patients where there are any."""
    groups = {row.group for row in evidence.rows}
    group = "unseen" if "unseen" in groups else "all"
    alt = (
        "Four panels: forecast error against days of history; time in range by day; coverage of the 90 % band around a "
        "40 % drop of insulin sensitivity; width and error around it as ratios to those before."
    )
    caption = (
        f"Group {group}, seeds {', '.join(map(str, evidence.seeds))}; bars are 95 % intervals, resampling patients. "
        "Top: from the same moments with the history cut; the closed loop from the first day. Bottom: forecasts of all "
        "horizons to twelve hours, by when the reading came; dashed, the bars of 1.25 for width and 1.1 for error."
    )
    return (Picture(fs.png_bytes(personalisation_figure(evidence, group)), alt, caption),)


@fs.styled
def personalisation_figure(evidence: Evidence, group: str) -> Figure:
    """The four panels; a part that was not run stays empty.

    Args:
        evidence: Of the protocol.
        group: Whose rows.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    rows = {(row.arm, row.metric): row for row in evidence.rows if row.group == group}
    figure = fs.new_figure(11.0, 8.0)
    known, control, coverage, ratio = (figure.add_subplot(2, 2, number) for number in (1, 2, 3, 4))
    _known(known, rows)
    days = [f"time_in_range_day_{day}" for day in range(1, PersonalisationConfig().loop.days + 1)]
    _arms(control, rows, days, 100.0, 0.15)
    control.set_title("Control from the first day")
    control.set_xlabel("day")
    control.set_ylabel("time in 70–180 mg/dL, %")
    low, high = 88.0, 92.0
    coverage.axhspan(low, high, color=fs.IN_RANGE, alpha=0.3, linewidth=0.0)
    _arms(coverage, rows, [f"coverage_90_all_{window}" for window in WINDOWS], 100.0, 0.12)
    coverage.set_title("Readings inside the 90 % band")
    coverage.set_ylabel(f"% (corridor {low:.0f}–{high:.0f})")
    ratio.set_title("Width (solid) and error (dotted), ratio to before")
    _arms(ratio, rows, [f"width_ratio_all_{window}" for window in WINDOWS], 1.0, 0.12)
    _arms(ratio, rows, [f"rmse_ratio_all_{window}" for window in WINDOWS], 1.0, 0.12, line=":")
    for level in (1.1, 1.25):
        ratio.axhline(level, color=fs.SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    for axes in (coverage, ratio):
        axes.set_xticks(range(1, 1 + len(LABELS)), LABELS)
        axes.set_xlim(0.6, len(LABELS) + 0.4)
        axes.set_xlabel("when the reading came, from the change of sensitivity")
    for axes in (known, control, coverage, ratio):
        axes.grid(axis="y", color=fs.GRID, linewidth=0.7)
    handles, labels = coverage.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    return figure


def _known(axes: Axes, rows: dict[tuple[str, str], Row]) -> None:
    """Error against days of history, at two horizons."""
    days = PersonalisationConfig().known.days
    for index, minutes in enumerate((60, 120)):
        found = [rows.get(("foreworld_fixed", f"rmse_{minutes}_after_{day}d")) for day in days]
        _line(axes, [*days], found, 1.0, f"{minutes} min ahead", fs.INK, ("o", "s")[index], "-")
        found = [rows.get((ADAPTED, f"rmse_{minutes}_after_{day}d")) for day in days]
        _line(axes, [*days], found, 1.0, f"{minutes} min ahead, adapted", fs.SOFT, ("o", "s")[index], "--")
    axes.set_title("Forecast error by what is known of the person")
    axes.set_xlabel("days of history (0: six to twelve hours)")
    axes.set_ylabel("root mean square error, mg/dL")
    axes.set_xticks(days)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def _arms(
    axes: Axes, rows: dict[tuple[str, str], Row], metrics: list[str], scale: float, apart: float, line: str = "-"
) -> None:
    """One line an arm over the metrics in turn, which stand at 1, 2, ..."""
    for index, arm in enumerate(ARMS):
        places = [1.0 + number + apart * (index - (len(ARMS) - 1) / 2) for number in range(len(metrics))]
        found = [rows.get((arm, metric)) for metric in metrics]
        _line(axes, places, found, scale, NAMES[arm], fs.ARM_COLOURS[index], fs.ARM_MARKERS[index], line)


def _line(
    axes: Axes, places: Sequence[float], found: Sequence[Row | None], scale: float, name: str, colour: str,
    marker: str, line: str,
) -> None:  # fmt: skip
    kept = [(x, row) for x, row in zip(places, found, strict=True) if row is not None]
    if not kept:
        return
    x, y = np.array([x for x, _ in kept]), scale * np.array([row.value for _, row in kept])
    axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.6, linestyle=line, label=name, zorder=3)
    sure = [(x, row) for x, row in kept if row.low is not None and row.high is not None]
    if sure and line == "-":
        low, high = ([scale * float(getattr(row, end)) for _, row in sure] for end in ("low", "high"))
        axes.vlines([x for x, _ in sure], low, high, color=colour, linewidth=1.0, alpha=0.5, zorder=2)
