"""The protocol's figure: error, coverage and what statements are worth against the horizon; below, correctness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foreworld.domains.treatment import figure_style as fs
from foreworld.domains.treatment.error_growth.fit import Compounding, Floor, Recoverable
from foreworld.domains.treatment.schema import STEP_MINUTES
from foreworld.errors import InputError
from foreworld.evidence.report import Picture
from foreworld.evidence.rows import Evidence, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "foreworld": "foreworld (direct)",
    "foreworld_12h": "foreworld, 12 h known",
    "foreworld_8h": "foreworld, 8 h known",
    "token": "token by token",
    "recursive": "recursive",
    "two_rate": "two-rate",
    "persistence": "persistence",
}
COLOURS = {
    "foreworld": fs.BLUE,
    "foreworld_12h": fs.SKY,
    "foreworld_8h": fs.ORANGE,
    "token": fs.VERMILION,
    "recursive": fs.PURPLE,
    "two_rate": fs.GREEN,
}
MARKERS = {"foreworld": "o", "foreworld_12h": "v", "foreworld_8h": "P", "token": "s", "recursive": "D", "two_rate": "^"}
HOURS = 12.0


def pictures(evidence: Evidence) -> Sequence[Picture]:
    """The figure for a page of evidence.

    Raises:
        InputError: The evidence has none of the arms.
        MissingExtraError: Matplotlib is not installed.
    """
    return [
        Picture(
            fs.png_bytes(growth_figure(evidence)),
            "Error, coverage and skill of a statement up to 12 hours ahead for each model; below, for each, the share "
            "of forecasts that are correct with the three fitted laws.",
            "Above: bars are 95 % intervals, resampling patients; skill is 0 for the best constant statement and 1 for "
            "one that is always right. Direct is to be compared with autoregressive where both know as much: 12 h "
            "known with token by token, 8 h known with recursive and two-rate. Below: filled, correct at this "
            "horizon; hollow, correct at every point so far; dotted and grey, correct by chance, when forecasts are "
            "shuffled. Dashed, errors that compound, (1 - e)^n; dash-dotted, the same above the floor of chance; "
            "solid, the chain. Rates are for a 5-minute step. The chain is algebraically compounding with some floor, "
            "so what shows recovery is being above chance far ahead, more recovered than by persistence, and a ΔAIC "
            "(a forecast; law with the measured floor less chain) above 0. Correct is within 15 mg/dL or 15 % of the "
            "sensor (ISO 15197).",
        )
    ]


@fs.styled
def growth_figure(evidence: Evidence) -> Figure:
    """Three panels with all arms and one for each arm with its laws.

    Args:
        evidence: Of the protocol, with any of its arms.

    Raises:
        InputError: It has none of the arms.
        MissingExtraError: Matplotlib is not installed.
    """
    arms = [arm for arm in NAMES if any(row.arm == arm for row in evidence.rows)]
    if not arms:
        raise InputError(f"{evidence.protocol} has none of the arms {', '.join(NAMES)}; give evidence of error growth")
    figure = fs.new_figure(15.0, 8.6)
    above, below = np.ravel(figure.subfigures(2, 1, squeeze=False, height_ratios=(1.15, 1.0)))
    panels = above.subplots(1, 3)
    _curves(panels[0], evidence, arms, "rmse", 1.0, "Error against the sensor", "root mean square error, mg/dL")
    _curves(panels[1], evidence, arms, "coverage_90", 100.0, "Coverage of the 90 % band", "readings inside, %")
    _curves(panels[2], evidence, arms, "truth_skill", 1.0, "“Stays in 70–180 mg/dL until then”", "skill")
    panels[0].set_ylim(bottom=0.0)
    panels[2].set_ylim(bottom=max(panels[2].get_ylim()[0], -1.0), top=1.0)
    panels[2].axhline(0.0, color=fs.SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    panels[1].axhline(90.0, color=fs.SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    handles, labels = panels[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=len(arms))
    judged = [arm for arm in arms if arm != "persistence"] or arms
    row = np.ravel(below.subplots(1, len(judged), sharey=True))
    for index, (arm, axes) in enumerate(zip(judged, row, strict=True)):
        _laws(axes, evidence, arm)
        if index == 0:
            axes.set_ylabel("forecasts correct, %")
            axes.legend(loc="upper right", fontsize=8.5)
    for axes in figure.axes:
        axes.set_xlim(0.0, HOURS * 1.02)
        axes.set_xticks(np.arange(0.0, HOURS + 1.0, 2.0))
        axes.set_xlabel("hours ahead")
        axes.grid(axis="y", color=fs.GRID, linewidth=0.7)
    return figure


def _points(evidence: Evidence, arm: str, name: str) -> list[tuple[float, Row]]:
    """Hours ahead and the row of every horizon of a curve."""
    start, found = f"{name}_", []
    for row in evidence.rows:
        if row.arm == arm and row.group == "all" and row.metric.removeprefix(start).isdigit():
            found.append((int(row.metric.removeprefix(start)) / 60.0, row))
    return sorted(found, key=lambda one: one[0])


def _curves(
    axes: Axes, evidence: Evidence, arms: Sequence[str], name: str, scale: float, title: str, label: str
) -> None:
    for index, arm in enumerate(arms):
        points = _points(evidence, arm, name)
        if not points:
            continue
        hours, values = np.array([h for h, _ in points]), np.array([scale * row.value for _, row in points])
        colour = COLOURS.get(arm, "#8a8a8a")
        shift = 0.05 * (index - (len(arms) - 1) / 2.0)
        for hour, row in points:
            if row.low is not None and row.high is not None:
                axes.vlines(hour + shift, scale * row.low, scale * row.high, color=colour, linewidth=1.0, alpha=0.6)
        axes.plot(
            hours + shift, values, color=colour, marker=MARKERS.get(arm, "x"), markersize=4.5,
            linewidth=2.0 if arm == "foreworld" else 1.3, label=NAMES[arm], zorder=3 if arm == "foreworld" else 2,
        )  # fmt: skip
    axes.set_title(title)
    axes.set_ylabel(label)


def _laws(axes: Axes, evidence: Evidence, arm: str) -> None:
    """One arm: what was correct, by chance too, and the laws."""
    colour = COLOURS.get(arm, "#8a8a8a")
    steps = np.linspace(0.0, HOURS * 60.0 / STEP_MINUTES, 200)
    hours = steps * STEP_MINUTES / 60.0
    for name, face, label in (("correct", colour, "correct then"), ("correct_so_far", "white", "correct so far")):
        points = _points(evidence, arm, name)
        axes.plot(
            [h for h, _ in points], [100.0 * row.value for _, row in points], linestyle="", color=colour,
            marker=MARKERS.get(arm, "x"), markerfacecolor=face, markersize=5, label=label, zorder=3,
        )  # fmt: skip
    value = {name: evidence.row(arm, name).value for name in ("e", "e_floor", "a", "b", "aic_gain_floor")}
    chance = _points(evidence, arm, "correct_by_chance")
    known = tuple(hour * 60.0 / STEP_MINUTES for hour, _ in chance), tuple(row.value for _, row in chance)
    compounding, chain = Compounding(value["e"], 0.0), Recoverable(value["a"], value["b"], 0.0)
    floor = Floor(value["e_floor"], *known, 0.0)
    axes.plot([h for h, _ in chance], 100.0 * np.array(known[1]), color="#8a8a8a", linestyle=":", label="by chance")
    axes.plot(hours, 100.0 * compounding.correct(steps), color=fs.INK, linewidth=1.3, linestyle="--", label="(1 − e)ⁿ")
    axes.plot(hours, 100.0 * floor.correct(steps), color=fs.INK, linewidth=1.3, linestyle="-.", label="with floor")
    axes.plot(hours, 100.0 * chain.correct(steps), color=fs.INK, linewidth=1.6, label="chain")
    axes.set_title(NAMES[arm])
    axes.text(
        0.5, -0.24, f"e {value['e']:.4f}, with floor {value['e_floor']:.4f}\na {value['a']:.4f}, "
        f"b {value['b']:.4f}; ΔAIC {value['aic_gain_floor']:+.2f}",
        transform=axes.transAxes, ha="center", va="top", fontsize=8.5, color=fs.SOFT,
    )  # fmt: skip
    axes.set_ylim(0.0, 101.0)
