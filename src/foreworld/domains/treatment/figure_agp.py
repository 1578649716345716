"""The ambulatory glucose profile: all days on one clock, and the consensus times in ranges as bars.

Percentile bands and ranges as in Johnson et al., Diabetes Technol Ther 2019; 21(S2):S2-17-S2-25 (the AGP report) and
Battelino et al., Diabetes Care 2019; 42:1593-1603. Here the days of all patients of an arm are pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreworld.domains.treatment import figure_style as fs
from foreworld.domains.treatment.figure_style import FloatArray
from foreworld.errors import InputError
from foreworld.evidence.report import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAY = 1440.0
BIN_MINUTES = 15
PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
RANGES = ("<54", "54–69", "70–180", "181–250", ">250")
"""The consensus ranges in mg/dL; 69 and 181 stand for all below 70 and above 180, for glucose is not whole here."""
RANGE_COLOURS = (fs.VERY_LOW, fs.LOW, fs.IN_RANGE, fs.HIGH, fs.VERY_HIGH)


@dataclass(frozen=True)
class Profile:
    """A glucose profile over 24 h.

    Attributes:
        minutes: `[96]` middle of each quarter of an hour, minutes after midnight.
        bands: `[5, 96]` 5th, 25th, 50th, 75th and 95th percentile, mg/dL; NaN where nothing was measured.
    """

    minutes: FloatArray
    bands: FloatArray


def checked(bg: FloatArray) -> FloatArray:
    """`bg` as `[P, N]` float64.

    Raises:
        InputError: It has another shape, no finite value, or an infinite one.
    """
    traces = np.asarray(bg, dtype=np.float64)
    if traces.ndim != 2 or not np.any(np.isfinite(traces)) or np.any(np.isinf(traces)):
        raise InputError(f"bg of shape {traces.shape} must be [patients, samples] in mg/dL, finite or NaN, not all NaN")
    return traces


def glucose_profile(bg: FloatArray, step_minutes: float = 1.0) -> Profile:
    """Percentiles of glucose by time of day, pooled over patients and days.

    Args:
        bg: `[P, N]` true glucose in mg/dL from a midnight on; NaN where unknown.
        step_minutes: Between samples; at most 15.

    Raises:
        InputError: Shape or values are wrong, or the step is above 15 min.
    """
    traces = checked(bg)
    if not 0.0 < step_minutes <= BIN_MINUTES:
        raise InputError(f"a step of {step_minutes} min is not in 0..{BIN_MINUTES} min; give true glucose more often")
    bins = int(DAY) // BIN_MINUTES
    which = (np.arange(traces.shape[1]) * step_minutes % DAY // BIN_MINUTES).astype(np.int64)
    bands = np.full((len(PERCENTILES), bins), np.nan)
    for index in range(bins):
        values = traces[:, which == index]
        values = values[np.isfinite(values)]
        if values.size:
            bands[:, index] = np.percentile(values, PERCENTILES)
    middles: FloatArray = np.arange(bins, dtype=np.float64) + 0.5
    return Profile(middles * BIN_MINUTES, bands)


def range_shares(bg: FloatArray) -> FloatArray:
    """`[5]` mean share of time in each of `RANGES`, each patient counting the same; they sum to 1.

    Args:
        bg: `[P, N]` true glucose in mg/dL; NaN is left out, and so is a patient with nothing else.

    Raises:
        InputError: Shape or values are wrong.
    """
    traces = checked(bg)
    traces = traces[np.isfinite(traces).any(axis=1)]
    known = np.isfinite(traces)
    below = [(traces < 54.0), (traces < 70.0), (traces <= 180.0), (traces <= 250.0), known]
    cumulative = np.array([(part.sum(axis=1) / known.sum(axis=1)).mean() for part in below])
    return np.diff(cumulative, prepend=0.0)


@fs.styled
def agp_figure(
    traces: Mapping[str, FloatArray], step_minutes: float = 1.0, names: Mapping[str, str] | None = None
) -> Figure:
    """A profile for each arm on one scale, and below them the time in ranges of all arms.

    Args:
        traces: By arm, in the order to show: `[P, N]` true glucose in mg/dL from a midnight on, burn-in left out.
        step_minutes: Between samples.
        names: Names of arms to show.

    Raises:
        InputError: There is no arm, or a trace is wrong.
        MissingExtraError: Matplotlib is not installed.
    """
    if not traces:
        raise InputError("no arm to draw; give traces of at least one")
    arms = list(traces)
    titles = [fs.plain((names or {}).get(arm, arm), 34) for arm in arms]
    profiles = [glucose_profile(traces[arm], step_minutes) for arm in arms]
    columns = 2 if len(arms) in (2, 4) else min(len(arms), 3)
    rows = -(-len(arms) // columns)
    top = max([300.0, *(float(np.nanmax(profile.bands)) for profile in profiles)])
    bottom = min([40.0, *(float(np.nanmin(profile.bands)) for profile in profiles)])
    limits = (20.0 * np.floor(bottom / 20.0), 50.0 * np.ceil(top / 50.0))
    bars = 0.75 + 0.36 * len(arms)
    figure = fs.new_figure(10.5, 3.1 * rows + bars + 0.4)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*([3.1] * rows), bars])
    for index, (title, profile) in enumerate(zip(titles, profiles, strict=True)):
        row, column = divmod(index, columns)
        axes = figure.add_subplot(grid[row, column])
        _draw_profile(axes, profile, limits, first=column == 0)
        axes.set_title(title)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5)
    _draw_ranges(figure.add_subplot(grid[rows, :]), titles, [range_shares(traces[arm]) for arm in arms])
    return figure


def _draw_profile(axes: Axes, profile: Profile, limits: tuple[float, float], first: bool) -> None:
    # The day before and the day after close the curve at both midnights.
    x = np.concatenate([profile.minutes[-1:] - DAY, profile.minutes, profile.minutes[:1] + DAY]) / 60.0
    low, quarter, median, three, high = np.concatenate(
        [profile.bands[:, -1:], profile.bands, profile.bands[:, :1]], axis=1
    )
    axes.axhspan(70.0, 180.0, color=fs.IN_RANGE, alpha=0.22, linewidth=0.0, label="target, 70–180 mg/dL")
    axes.axhline(54.0, color=fs.VERY_LOW, linewidth=1.0, linestyle=(0, (4, 3)), label="54 mg/dL")
    for edge in (70.0, 180.0):
        axes.axhline(edge, color="#2f8f66", linewidth=0.9)
    axes.fill_between(x, low, high, color="#9cc3e3", linewidth=0.0, label="5–95 %")
    axes.fill_between(x, quarter, three, color="#4a8fc4", linewidth=0.0, label="25–75 %")
    axes.plot(x, median, color="#0b2f52", linewidth=2.0, label="median")
    axes.set_yticks([tick for tick in (0, 70, 120, 180, 250, 300, 350, 400, 500, 600) if tick <= limits[1]])
    axes.set_ylim(*limits)
    axes.tick_params(axis="y", left=first, labelleft=first)
    if first:
        axes.set_ylabel("true glucose, mg/dL")
    axes.set_xticks(range(0, 25, 6))
    axes.set_xlabel("hour of the day")
    axes.set_xlim(0.0, 24.0)
    axes.grid(axis="x", color=fs.GRID, linewidth=0.7)


def _draw_ranges(axes: Axes, titles: list[str], shares: list[FloatArray]) -> None:
    """A bar of 100 % for each arm; the numbers stand in columns beside it, where small parts cannot collide."""
    first, step = 108.0, 15.0
    for row, values in enumerate(shares):
        left = 0.0
        for share, colour in zip(100.0 * values, RANGE_COLOURS, strict=True):
            axes.barh(row, share, 0.66, left=left, color=colour, edgecolor="white", linewidth=0.6)
            left += share
        for column, share in enumerate(values):
            weight = "bold" if column == 2 else "normal"
            text = f"{number(float(share), 'share')} %"
            axes.text(first + step * (column + 0.85), row, text, ha="right", va="center", weight=weight)
    for column, (name, colour) in enumerate(zip(RANGES, RANGE_COLOURS, strict=True)):
        right = first + step * (column + 0.85)
        axes.text(right, -0.78, name, ha="right", va="center", fontsize=9.5, color=fs.SOFT)
        axes.barh(-0.5, 11.0, 0.09, left=right - 11.0, color=colour)
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -1.1)
    axes.set_xlim(0.0, first + 5 * step)
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_xlabel("share of time, %", loc="left")
    axes.set_title("Time in ranges of true glucose, mg/dL")
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
