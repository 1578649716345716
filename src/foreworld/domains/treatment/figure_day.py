"""One day of one patient: what was measured, what was foreseen, what was done, and what held it back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foreworld.domains.treatment import figure_style as fs
from foreworld.domains.treatment.figure_style import FloatArray
from foreworld.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

INACTIVE, CLOSEST, REFUSED = 0, 1, 2
"""What a guardrail did at a decision: nothing, it was the one nearest to its bound, or it refused the plan."""

_ACTORS = {
    "planner": (fs.BLUE, "planner"),
    "policy": (fs.SKY, "fast mode"),
    "recovery": (fs.ORANGE, "recovery"),
    "fallback": (fs.PURPLE, "fallback"),
    "last_resort": ("#1d2329", "last resort"),
}
_STATES = {CLOSEST: ("#8fa3b5", "nearest to its bound"), REFUSED: (fs.VERMILION, "refused the plan")}
_MOST_GUARDRAILS = 10


@dataclass(frozen=True)
class DayForecast:
    """The calibrated forecast of the plan carried out, as made at one decision.

    Attributes:
        decision: Index of the decision.
        points: `[H]` steps ahead, rising, at least 1.
        mean: `[H]` sensor glucose in mg/dL.
        lower: `[H]` lower end of the 90 % band.
        upper: `[H]` upper end.
    """

    decision: int
    points: npt.NDArray[np.integer]
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True)
class DayExample:
    """A stretch of one patient's life, N decisions long; time is in steps from its beginning.

    Attributes:
        patient: Label.
        step_minutes: Between decisions.
        start_minute: Clock of the first decision, minutes after midnight.
        cgm: `[N + 1]` sensor glucose in mg/dL, NaN where dropped.
        bg: `[M]` true glucose in mg/dL, evenly spaced from the first decision to the last observation: M = N + 1 for
            one at each observation, more for one at each minute. NaN where unknown.
        insulin: `[N]` U delivered over each step.
        basal: Profile basal in U/h.
        announced: `[N + 1]` g of carbohydrate announced at each decision.
        forecasts: Made at a few decisions, every 2 to 3 h.
        guardrails: By name, `[N]` of INACTIVE, CLOSEST or REFUSED.
        acted: `[N]` who chose the action: planner, policy, recovery, fallback or last_resort.
        arm: Whose day it is.
        coverage: That the bands state.
    """

    patient: str
    step_minutes: float
    start_minute: float
    cgm: FloatArray
    bg: FloatArray
    insulin: FloatArray
    basal: float
    announced: FloatArray
    forecasts: Sequence[DayForecast] = ()
    guardrails: Mapping[str, npt.NDArray[np.integer]] = field(default_factory=dict)
    acted: Sequence[str] = ()
    arm: str = "foreworld"
    coverage: float = 0.9

    def __post_init__(self) -> None:
        steps = len(self.insulin)
        sizes: dict[str, tuple[npt.NDArray[Any], int]]
        sizes = {"cgm": (self.cgm, steps + 1), "announced": (self.announced, steps + 1)}
        sizes |= {f"guardrail {name}": (values, steps) for name, values in self.guardrails.items()}
        for name, (values, size) in sizes.items():
            if len(values) != size:
                raise InputError(f"{name} has {len(values)} values for {steps} decisions; give {size}")
        if self.acted and len(self.acted) != steps:
            raise InputError(f"acted has {len(self.acted)} values for {steps} decisions; give one for each, or none")
        if not steps or len(self.bg) < 2 or self.step_minutes <= 0.0:
            raise InputError("a day needs at least one decision, two values of bg, and a step above 0 min")
        for forecast in self.forecasts:
            shapes = {np.shape(x) for x in (forecast.points, forecast.mean, forecast.lower, forecast.upper)}
            if len(shapes) != 1 or not 0 <= forecast.decision < steps:
                raise InputError(f"forecast at decision {forecast.decision} of {steps}: arrays of shapes {shapes}")

    @property
    def hours(self) -> FloatArray:
        """`[N + 1]` clock time of every decision and of the end, hours after the first midnight."""
        minutes: FloatArray = self.start_minute + self.step_minutes * np.arange(len(self.insulin) + 1.0)
        return minutes / 60.0


@fs.styled
def day_figure(day: DayExample) -> Figure:
    """Meals, glucose with forecasts, insulin above basal, basal, guardrails and who acted, on one clock.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    rows = _guardrail_rows(day)
    strip = 0.28 * (len(rows) + bool(day.acted))
    heights = [0.5, 3.6, 1.3, 0.8, *([max(strip, 0.3)] if strip else [])]
    figure = fs.new_figure(10.5, sum(heights) + 1.6)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    panels = [figure.add_subplot(grid[index, 0]) for index in range(len(heights))]
    _meals(panels[0], day)
    _glucose(panels[1], day)
    _bolus(panels[2], day)
    _basal(panels[3], day)
    if strip:
        _strip(panels[4], day, rows)
    span = day.hours[-1] - day.hours[0]
    every = next((gap for gap in (1.0, 2.0, 3.0, 6.0) if span / gap <= 13.0), 12.0)
    for index, axes in enumerate(panels):
        fs.clock_axis(axes, day.hours[0], day.hours[-1], every, labels=index == len(panels) - 1)
        axes.tick_params(axis="x", length=3.0 if index == len(panels) - 1 else 0.0)
    panels[-1].set_xlabel("time of day, h:min")
    figure.align_ylabels(panels)
    if strip:
        # A legend that spans panels belongs to the figure; what the strip's colours mean stands below the strip.
        handles = _strip_handles(day, rows)
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _meals(axes: Axes, day: DayExample) -> None:
    """Grams in a lane of their own; entries close to each other are set in two rows."""
    last, high = -np.inf, False
    needed = 0.055 * (day.hours[-1] - day.hours[0])  # width of a label
    for index in np.flatnonzero(np.nan_to_num(day.announced) > 0.0):
        hour = float(day.hours[index])
        high = hour - last < needed and not high
        last = hour
        end = hour > day.hours[-1] - needed
        axes.plot([hour], [0.12], marker="v", markersize=6, color=fs.INK, clip_on=False)
        axes.text(
            hour, 0.95 if high else 0.4, f"{day.announced[index]:.0f}", ha="right" if end else "center", va="bottom",
            fontsize=9.5,
        )  # fmt: skip
    axes.set_ylim(0.0, 1.6)
    axes.set_yticks([0.7], ["carbs, g"])
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{fs.plain(day.patient)}, treated by {fs.plain(day.arm)}")


def _glucose(axes: Axes, day: DayExample) -> None:
    true_hours = np.linspace(day.hours[0], day.hours[-1], len(day.bg))
    axes.axhspan(70.0, 180.0, color=fs.IN_RANGE, alpha=0.22, linewidth=0.0, label="target")
    axes.axhline(54.0, color=fs.VERY_LOW, linewidth=0.9, linestyle=(0, (4, 3)))
    for index, forecast in enumerate(day.forecasts):
        x = day.hours[forecast.decision] + np.asarray(forecast.points) * day.step_minutes / 60.0
        first = index == 0
        band = f"{100.0 * day.coverage:.0f} % band" if first else None
        axes.fill_between(x, forecast.lower, forecast.upper, color=fs.BLUE, alpha=0.2, linewidth=0.0, label=band)
        axes.plot(x, forecast.mean, color=fs.BLUE, linewidth=1.8, label="forecast" if first else None)
        start, value = day.hours[forecast.decision], day.cgm[forecast.decision]
        axes.axvline(start, color=fs.BLUE, linewidth=0.7, linestyle=(0, (1, 2)))
        if np.isfinite(value):
            axes.plot([start], [value], "o", markersize=7, markerfacecolor="white", color=fs.BLUE, zorder=5)
    axes.plot(true_hours, day.bg, color=fs.INK, linewidth=1.0, label="true glucose")
    axes.plot(
        day.hours, day.cgm, linestyle="none", marker="o", markersize=2.6, color=fs.VERMILION, label="sensor (CGM)"
    )
    if day.forecasts:
        axes.plot([], [], "o", markersize=7, markerfacecolor="white", color=fs.BLUE, label="decision")
    drawn = [day.cgm, day.bg, *(f.lower for f in day.forecasts), *(f.upper for f in day.forecasts)]
    values = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in drawn])
    values = values[np.isfinite(values)]
    top = max(250.0, float(values.max()) + 10.0) if values.size else 250.0
    low = min(40.0, float(values.min()) - 5.0) if values.size else 40.0
    axes.set_yticks([tick for tick in (0, 54, 70, 120, 180, 250, 300, 400, 500, 600) if low <= tick <= top])
    axes.set_ylim(low, top)
    axes.set_ylabel("glucose, mg/dL")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, borderaxespad=0.2)


def _split(day: DayExample) -> tuple[FloatArray, FloatArray]:
    """Insulin up to the profile basal, in U/h, and insulin above it, in U a step; `[N]` each."""
    step = day.basal * day.step_minutes / 60.0
    below = np.minimum(day.insulin, step)
    return below * 60.0 / day.step_minutes, day.insulin - below


def _bolus(axes: Axes, day: DayExample) -> None:
    _, above = _split(day)
    width = day.step_minutes / 60.0
    axes.bar(day.hours[:-1], above, width, align="edge", color="#3b5b92", linewidth=0.0)
    top = max(float(np.nanmax(np.append(above, 0.0))) * 1.3, 0.5)
    for index in np.argsort(-np.nan_to_num(above))[:8]:
        # Only the large doses are named, and none so near to another that the numbers touch.
        if above[index] < 0.15 * top:
            break
        taken = [text.get_position()[0] for text in axes.texts]
        hour = float(day.hours[index]) + width / 2.0
        if all(abs(hour - other) > 0.04 * (day.hours[-1] - day.hours[0]) for other in taken):
            axes.text(hour, above[index] + 0.03 * top, f"{above[index]:.1f}", ha="center", va="bottom", fontsize=9.0)
    axes.set_ylim(0.0, top)
    axes.locator_params(axis="y", nbins=3)
    axes.set_ylabel(f"insulin\nabove basal,\nU per {day.step_minutes:g} min")


def _basal(axes: Axes, day: DayExample) -> None:
    rate, _ = _split(day)
    axes.stairs(rate, day.hours, fill=True, color="#8fb0d9")
    axes.axhline(day.basal, color=fs.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_ylim(0.0, max(day.basal * 1.25, 1e-3))
    axes.set_yticks([0.0, day.basal], ["0", f"{day.basal:.2g}"])
    axes.set_ylabel("basal,\nU/h")


def _guardrail_rows(day: DayExample) -> list[tuple[str, npt.NDArray[np.integer]]]:
    """Those that were active, most often first; the rest is named in one line of the caption."""
    active = [(name, np.asarray(values)) for name, values in day.guardrails.items() if np.any(values != INACTIVE)]
    return sorted(active, key=lambda item: -int(np.sum(item[1] != INACTIVE)))[:_MOST_GUARDRAILS]


def _strip(axes: Axes, day: DayExample, rows: list[tuple[str, npt.NDArray[np.integer]]]) -> None:
    labels = []
    if day.acted:
        labels.append("who acted")
        for start, stop, actor in _runs(list(day.acted)):
            colour = _ACTORS.get(actor, ("#8a8a8a", actor))[0]
            axes.barh(0, day.hours[stop] - day.hours[start], 0.8, left=day.hours[start], color=colour, linewidth=0.0)
    for name, values in rows:
        place = len(labels)
        labels.append(fs.plain(name.replace("_", " "), 26))
        for start, stop, state in _runs([int(value) for value in values]):
            if state == INACTIVE:
                continue
            colour, tall = _STATES.get(state, _STATES[REFUSED])[0], 0.8 if state != CLOSEST else 0.45
            axes.barh(place, day.hours[stop] - day.hours[start], tall, left=day.hours[start], color=colour)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _strip_handles(day: DayExample, rows: list[tuple[str, npt.NDArray[np.integer]]]) -> list[Patch]:
    from matplotlib.patches import Patch

    actors = list(dict.fromkeys([*(name for name in _ACTORS if name in day.acted), *day.acted]))
    found = [_ACTORS.get(actor, ("#8a8a8a", fs.plain(actor, 20))) for actor in actors]
    states = {int(value) for _, values in rows for value in np.unique(values)} - {INACTIVE}
    found += [_STATES[state] for state in (CLOSEST, REFUSED) if state in states]
    return [Patch(color=colour, label=name) for colour, name in found]


def _runs(values: Sequence[object]) -> list[tuple[int, int, Any]]:
    """Start, end and value of every stretch of equal values."""
    edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [(start, stop, values[start]) for start, stop in itertools.pairwise(edges)]
