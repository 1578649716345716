"""The picture of `whatif`: the predicted course under each dose, and how they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foreworld.agent.whatif import WhatIf
from foreworld.domains.treatment import figure_style as fs
from foreworld.domains.treatment.plan_file import PlanFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAST_HOURS = 3.0


@fs.styled
def whatif_figure(answer: WhatIf, person: PlanFile, most_hours: float = 6.0) -> Figure:
    """Sensor glucose before, its calibrated forecast under each dose, and the differences from the first dose.

    Args:
        answer: Of `whatif.what_if`.
        person: The same.
        most_hours: How far ahead is drawn.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure = fs.new_figure(9.5, 6.4)
    grid = figure.add_gridspec(2, 1, height_ratios=[2.6, 1.0])
    above = figure.add_subplot(grid[0, 0])
    below = figure.add_subplot(grid[1, 0], sharex=above)
    hours = answer.forecast.points.double().numpy() * answer.step / 60.0
    shown = hours <= most_hours
    _glucose(above, answer, person, hours[shown], shown)
    _differences(below, answer, hours[shown], shown)
    above.tick_params(axis="x", labelbottom=False, length=0.0)
    below.set_xlim(-PAST_HOURS, hours[shown][-1])
    below.set_xlabel("hours from now")
    figure.align_ylabels([above, below])
    figure.supxlabel("Research software, not a medical device", fontsize=9.0, color=fs.SOFT, ha="right", x=0.99)
    return figure


def _glucose(axes: Axes, answer: WhatIf, person: PlanFile, hours: fs.FloatArray, shown: np.ndarray) -> None:
    axes.axhspan(70.0, 180.0, color=fs.IN_RANGE, alpha=0.22, linewidth=0.0, label="target")
    axes.axhline(54.0, color=fs.VERY_LOW, linewidth=0.9, linestyle=(0, (4, 3)))
    before = (person.times - person.times[-1]) / 60.0
    recent = before >= -PAST_HOURS
    seen = person.values["cgm"][recent]
    axes.plot(before[recent], seen, "o", markersize=3.0, color=fs.INK, label="sensor (CGM)")
    drawn = [seen]
    forecast = answer.forecast
    mean, lower, upper = (part["cgm"][0].double().numpy() for part in (forecast.mean, forecast.lower, forecast.upper))
    for i, option in enumerate(answer.options):
        colour = fs.ARM_COLOURS[i % len(fs.ARM_COLOURS)]
        fate = "would be refused" if option.refused else "would pass"
        dashes = (0, (5, 2)) if option.refused else "solid"
        label = f"{answer.told(option.action)}: {fate}"
        axes.fill_between(hours, lower[i, shown], upper[i, shown], color=colour, alpha=0.15, linewidth=0.0)
        axes.plot(hours, mean[i, shown], color=colour, linewidth=1.8, linestyle=dashes, label=label)
        drawn += [lower[i, shown], upper[i, shown]]
    axes.axvline(0.0, color=fs.SOFT, linewidth=0.8)
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    low, top = (min(40.0, values.min() - 5.0), max(200.0, values.max() + 10.0)) if values.size else (40.0, 250.0)
    axes.set_ylim(float(low), float(top))
    axes.set_yticks([tick for tick in (54, 70, 120, 180, 250, 300, 400, 500, 600) if low <= tick <= top])
    axes.grid(axis="x", color=fs.GRID, linewidth=0.7)
    axes.set_ylabel("glucose, mg/dL")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)


def _differences(axes: Axes, answer: WhatIf, hours: fs.FloatArray, shown: np.ndarray) -> None:
    samples = answer.forecast.samples["cgm"][:, 0].double().numpy()
    axes.axhline(0.0, color=fs.ARM_COLOURS[0], linewidth=1.2)
    for i in range(1, len(answer.options)):
        colour = fs.ARM_COLOURS[i % len(fs.ARM_COLOURS)]
        apart = (samples[:, i] - samples[:, 0])[:, shown]
        axes.fill_between(hours, apart.min(0), apart.max(0), color=colour, alpha=0.2, linewidth=0.0)
        axes.plot(hours, apart.mean(0), color=colour, linewidth=1.8)
    axes.axvline(0.0, color=fs.SOFT, linewidth=0.8)
    axes.grid(axis="x", color=fs.GRID, linewidth=0.7)
    axes.set_ylabel("difference from the\nfirst dose, mg/dL")
