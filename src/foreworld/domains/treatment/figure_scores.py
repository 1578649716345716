"""Patient by patient, and horizon by horizon: who gained and who lost, and whether the bands keep their word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from foreworld.domains.treatment import figure_style as fs
from foreworld.domains.treatment.figure_agp import checked
from foreworld.domains.treatment.figure_style import FloatArray
from foreworld.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOAL = 0.7  # consensus goal for most adults: more than 70 % of the time in 70-180 mg/dL (Battelino et al. 2019)

_MOST_NAMES = 60


@dataclass(frozen=True)
class HorizonErrors:
    """How good the forecast is at each horizon, on patients that it never saw.

    Attributes:
        minutes: `[H]` ahead.
        coverage: `[H]` share of readings inside the band; NaN where not measured.
        rmse: By arm `[H]`, mg/dL against the sensor; NaN where not measured.
        coverage_low: `[H]` lower end of the 95 % interval of the coverage, if there is one.
        coverage_high: `[H]` upper end.
        nominal: Coverage that the band states.
    """

    minutes: FloatArray
    coverage: FloatArray
    rmse: Mapping[str, FloatArray] = field(default_factory=dict)
    coverage_low: FloatArray | None = None
    coverage_high: FloatArray | None = None
    nominal: float = 0.9

    def __post_init__(self) -> None:
        named = {"coverage": self.coverage, "coverage_low": self.coverage_low, "coverage_high": self.coverage_high}
        named |= {f"rmse of {arm}": values for arm, values in self.rmse.items()}
        for name, values in named.items():
            if values is not None and np.shape(values) != np.shape(self.minutes):
                raise InputError(f"{name} of shape {np.shape(values)} for {len(self.minutes)} horizons; give one each")
        if (self.coverage_low is None) != (self.coverage_high is None):
            raise InputError("give both ends of the interval of the coverage, or none")


def time_in_range_by_patient(bg: FloatArray, patients: Sequence[str]) -> dict[str, float]:
    """Share of time in 70-180 mg/dL of each patient, over all of that patient's rows; NaN for one without a sample.

    Args:
        bg: `[P, N]` true glucose in mg/dL, NaN where unknown.
        patients: `[P]` labels; a patient may have several rows, one for each seed.

    Raises:
        InputError: Shape or values are wrong, or there is not one label a row.
    """
    traces = checked(bg)
    if len(patients) != len(traces):
        raise InputError(f"{len(patients)} patient labels for {len(traces)} traces; give one for each row")
    inside, known = ((traces >= 70.0) & (traces <= 180.0)).sum(axis=1), np.isfinite(traces).sum(axis=1)
    result = {}
    for name in dict.fromkeys(patients):
        rows = [index for index, label in enumerate(patients) if label == name]
        count = int(known[rows].sum())
        result[name] = float(inside[rows].sum()) / count if count else float("nan")
    return result


@fs.styled
def patients_figure(shares: Mapping[str, Mapping[str, float]], names: Mapping[str, str] | None = None) -> Figure:
    """Time in range of every patient, the arms paired on one line, sorted by the first arm.

    Args:
        shares: By arm, then by patient: share of time in range. The first arm is the one that is judged.
        names: Names of arms to show.

    Raises:
        InputError: There is no arm or no patient.
        MissingExtraError: Matplotlib is not installed.
    """
    arms = list(shares)
    if not arms or not shares[arms[0]]:
        raise InputError("no patient to draw; give shares of at least one arm and patient")
    first = shares[arms[0]]
    # A patient without a value is sorted to the end instead of anywhere.
    order = sorted(first, key=lambda name: (not np.isfinite(first[name]), -first[name], name))
    values = {arm: np.array([100.0 * shares[arm].get(name, np.nan) for name in order]) for arm in arms}
    named = len(order) <= _MOST_NAMES
    figure = fs.new_figure(9.0, 1.5 + (0.25 if named else 0.08) * len(order))
    axes = figure.add_subplot()
    rows = np.arange(len(order))
    stacked = np.stack(list(values.values()))
    known = np.isfinite(stacked).any(axis=0)
    ends = [reduce(stacked[:, known], axis=0) for reduce in (np.nanmin, np.nanmax)]
    axes.hlines(rows[known], ends[0], ends[1], color="#c3ccd4", linewidth=1.6, zorder=1)
    for index in reversed(range(len(arms))):  # the arm that is judged lies on top
        axes.scatter(
            values[arms[index]], rows + 0.17 * (index - (len(arms) - 1) / 2),
            s=58 if index == 0 else 34, zorder=3 if index == 0 else 2,
            color=fs.ARM_COLOURS[index % 8], marker=fs.ARM_MARKERS[index % 8], edgecolor="white", linewidth=0.5,
            label=fs.plain((names or {}).get(arms[index], arms[index]), 34),
        )  # fmt: skip
    axes.axvline(100.0 * GOAL, color=fs.SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(rows if named else [], [fs.plain(name, 24) for name in order] if named else [])
    axes.set_ylim(len(order) - 0.4, -0.6)
    lowest = float(np.nanmin(stacked)) if known.any() else 0.0
    axes.set_xlim(max(-1.5, 10.0 * np.floor(min(lowest - 2.0, 68.0) / 10.0)), 101.5)
    axes.set_xlabel("time in 70–180 mg/dL, % (dashed: the consensus goal of 70 %)")
    axes.set_ylabel(f"{len(order)} patients" if not named else "")
    axes.grid(axis="x", color=fs.GRID, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=min(len(arms), 4))
    return figure


@fs.styled
def calibration_figure(errors: HorizonErrors, names: Mapping[str, str] | None = None) -> Figure:
    """Coverage of the band and error of the forecast, both by horizon.

    Args:
        errors: What was measured.
        names: Names of arms to show.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure = fs.new_figure(10.5, 4.1)
    columns = 2 if errors.rmse else 1
    left = figure.add_subplot(1, columns, 1)
    _coverage(left, errors)
    panels = [left]
    if errors.rmse:
        panels.append(figure.add_subplot(1, columns, 2))
        _rmse(panels[1], errors, names or {})
    last = float(np.max(errors.minutes))
    for axes in panels:
        axes.set_xlim(0.0, last * 1.03)
        axes.set_xticks(np.arange(0.0, last + 1.0, 30.0 if last <= 240.0 else 60.0 if last <= 480.0 else 120.0))
        axes.set_xlabel("minutes ahead")
    return figure


def _coverage(axes: Axes, errors: HorizonErrors) -> None:
    low, high = (100.0 * (errors.nominal + offset) for offset in (-0.02, 0.02))
    axes.axhspan(low, high, color=fs.IN_RANGE, alpha=0.3, linewidth=0.0, label=f"{low:.0f}–{high:.0f} % corridor")
    axes.axhline(100.0 * errors.nominal, color="#2f8f66", linewidth=1.0)
    known = np.isfinite(errors.coverage)
    x, y = errors.minutes[known], 100.0 * errors.coverage[known]
    ends = [low, high, *y]
    if errors.coverage_low is not None and errors.coverage_high is not None:
        bounds = [100.0 * part[known] for part in (errors.coverage_low, errors.coverage_high)]
        axes.vlines(x, bounds[0], bounds[1], color=fs.BLUE, linewidth=1.2, label="95 % interval")
        ends += [value for part in bounds for value in part if np.isfinite(value)]
    axes.plot(x, y, color=fs.BLUE, marker="o", markersize=5, linewidth=1.4, label="measured")
    axes.set_ylim(max(0.0, 5.0 * np.floor((min(ends) - 1.0) / 5.0)), min(101.0, 5.0 * np.ceil((max(ends) + 1.0) / 5.0)))
    axes.set_ylabel("readings inside the band, %")
    axes.set_title(f"Coverage of the {100.0 * errors.nominal:.0f} % band")
    axes.grid(axis="y", color=fs.GRID, linewidth=0.7)
    axes.legend(loc="lower left")


def _rmse(axes: Axes, errors: HorizonErrors, names: Mapping[str, str]) -> None:
    """Root mean square errors of all arms."""
    top, ends = 0.0, []
    for index, (arm, values) in enumerate(errors.rmse.items()):
        known = np.isfinite(values)
        if not known.any():
            continue
        colour = fs.ARM_COLOURS[index % 8]
        axes.plot(
            errors.minutes[known], values[known], color=colour, marker=fs.ARM_MARKERS[index % 8], markersize=5,
            linewidth=2.2 if index == 0 else 1.3, label=fs.plain(names.get(arm, arm), 34),
            zorder=3 if index == 0 else 2,
        )  # fmt: skip
        top = max(top, float(values[known].max()))
        ends.append(arm)
    axes.set_ylim(0.0, top * 1.08 or 1.0)
    axes.set_ylabel("root mean square error, mg/dL")
    axes.set_title("Error against the sensor")
    axes.grid(axis="y", color=fs.GRID, linewidth=0.7)
    if ends:
        axes.legend(loc="upper left" if len(ends) < 4 else "lower right")
