"""The report of a run: `report.html` and its figures as PNG files, in the order in which a reader needs them.

path = write_report("runs/7", ReportData(title="Run 7", traces={"foreworld": bg, ...}, patients=names, ...))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foreworld.domains.treatment.figure_agp import agp_figure, checked, range_shares
from foreworld.domains.treatment.figure_day import DayExample, day_figure
from foreworld.domains.treatment.figure_scores import (
    HorizonErrors,
    calibration_figure,
    patients_figure,
    time_in_range_by_patient,
)
from foreworld.domains.treatment.figure_style import FloatArray, png_bytes
from foreworld.errors import InputError
from foreworld.evidence.report import (
    BANNER,
    Block,
    Bullets,
    Commands,
    Facts,
    Page,
    Picture,
    Section,
    evidence_table,
    number,
    render,
    write_file,
)

ARM_NAMES = {
    "foreworld": "foreworld",
    "bb": "basal-bolus, exact carbs",
    "bb_error": "basal-bolus",
    "bb_cap": "basal-bolus, capped",
    "pid": "PID",
    "arx": "same planner, ARX model",
    "arx_signed": "same planner, ARX with signs",
    "oref0": "oref0",
    "oref0_smb": "oref0 with microboluses",
    "filter": "particle filter",
    "clone": "behaviour cloning",
    "offline_rl": "offline RL (TD3+BC)",
    "fallback": "fallback alone",
    "nothing": "basal only",
}
"""How arms are called in figures and tables."""

MODEL_NAMES = {
    "foreworld": "foreworld",
    "arx": "ARX with inputs",
    "arx_signed": "ARX with signed inputs",
    "ar": "AR without inputs",
    "persistence": "last reading persists",
    "supervised": "plain supervised network",
}
"""How the same arms are called where they only forecast."""

_ARM_MEANINGS = {
    "foreworld": "the learned world model, its planner, guardrails, recovery and fallback, acting together",
    "bb": "profile basal and a bolus by carb ratio, told the exact grams",
    "bb_error": "profile basal and a bolus by carb ratio, told the same wrong grams as foreworld",
    "bb_cap": "basal-bolus with corrections less insulin on board, and low suspend",
    "pid": "a PID controller tuned on each patient, with low suspend",
    "arx": "the planner and guardrails of foreworld on a linear model with inputs",
    "arx_signed": "the same, where the linear model is told that insulin lowers glucose and carbohydrate raises it",
    "oref0": "the open-source OpenAPS reference design",
    "oref0_smb": "the open-source OpenAPS reference design with microboluses",
    "filter": "a particle filter that is told the true equations: about what is attainable",
    "fallback": "what acts when foreworld refuses, acting all the time",
    "nothing": "profile basal and nothing else",
}

METRIC_NAMES = {
    "time_in_range": "Time in 70–180 mg/dL",
    "time_below_70": "Below 70 mg/dL",
    "time_below_54": "Below 54 mg/dL",
    "time_above_180": "Above 180 mg/dL",
    "time_above_250": "Above 250 mg/dL",
    "failures": "Patients failed",
    "mean_glucose": "Mean glucose",
    "insulin_per_day": "Insulin",
    "gri": "Glycemia risk index",
    "refusals": "Decisions refused",
    "planned": "Decisions by the planner",
}
"""Metrics of the closed loop, in the order of the table."""

FORECAST_NAMES = {
    "rmse_30": "RMSE at 30 min",
    "rmse_60": "RMSE at 60 min",
    "rmse_120": "RMSE at 120 min",
    "coverage_90": "Inside the 90 % band",
}
"""Metrics of the forecast, in the order of the table."""


@dataclass(frozen=True)
class ReportData:
    """What a report is made from.

    Attributes:
        title: Of the page.
        traces: By arm, the arm that is judged first: `[P, N]` true glucose in mg/dL from a midnight on, after burn-in.
        patients: `[P]` label of each row of the traces; a patient may have several rows, one for each seed.
        rows: Evidence rows: arm, metric, value, low, high, n, unit; optionally group.
        day: One day of one patient under the arm that is judged, or None.
        errors: Coverage and errors by horizon, or None.
        facts: How it was made: seeds, patients, days, versions, timings.
        commands: That make it again, in order.
        limits: What this run in particular does not show.
        step_minutes: Between samples of the traces.
    """

    title: str
    traces: Mapping[str, FloatArray]
    patients: Sequence[str]
    rows: Sequence[Mapping[str, object]] = ()
    day: DayExample | None = None
    errors: HorizonErrors | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[str] = ()
    limits: Sequence[str] = ()
    step_minutes: float = 1.0


def write_report(folder: str | Path, data: ReportData) -> Path:
    """Write `report.html` and beside it agp.png, patients.png and, where there is data, day.png and calibration.png.

    Everything is computed before anything is written; files of the same names are replaced.

    Args:
        folder: Made if absent.
        data: Of the run.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: There is no arm, shapes disagree, or an evidence row is wrong.
        MissingExtraError: Matplotlib is not installed.
    """
    folder = Path(folder)
    if not data.traces:
        raise InputError("a report needs the glucose traces of at least one arm")
    shares = {arm: time_in_range_by_patient(bg, data.patients) for arm, bg in data.traces.items()}
    figures = {
        "agp": agp_figure(data.traces, data.step_minutes, ARM_NAMES),
        "patients": patients_figure(shares, ARM_NAMES),
    }
    if data.day is not None:
        figures["day"] = day_figure(data.day)
    if data.errors is not None:
        figures["calibration"] = calibration_figure(data.errors, MODEL_NAMES)
    images = {name: png_bytes(figure) for name, figure in figures.items()}
    sections = [
        Section("Result", _result(data, images["agp"])),
        Section("What this is not", _limits(data)),
        *([Section("One day of one patient", _day(data.day, images["day"]))] if data.day is not None else []),
        Section("Patient by patient", _patients(data, shares, images["patients"])),
        *([Section("How good the forecast is", _forecast(data, images))] if _has_forecast(data) else []),
        Section("How it was made", _making(data)),
    ]
    text = render(Page(title=data.title, lead=_lead(data), sections=sections))
    for name, image in images.items():
        write_file(folder / f"{name}.png", image)
    # Last, so that a page is never beside figures of another run.
    return write_file(folder / "report.html", text.encode("utf-8"))


def _name(arm: str) -> str:
    return ARM_NAMES.get(arm, arm)


def _lead(data: ReportData) -> str:
    """The headline: what the evidence rows say where there are any, else what the traces say."""
    people = len(set(data.patients))
    parts = []
    for arm in data.traces:
        row = _row(data, arm, "time_in_range")
        if row is None:
            parts.append(f"{_name(arm)} {100.0 * range_shares(data.traces[arm])[2]:.1f} %")
            continue
        text = f"{_name(arm)} {number(_value(row, 'value'), 'share')} %"
        low, high = _value(row, "low"), _value(row, "high")
        if np.isfinite(low + high):
            text += f" (95 % interval {number(low, 'share')} to {number(high, 'share')})"
        parts.append(text)
    return (
        f"Share of time that {people} simulated patients spent with true glucose in 70–180 mg/dL: {'; '.join(parts)}."
    )


def _row(data: ReportData, arm: str, metric: str) -> Mapping[str, object] | None:
    """The evidence row over all patients, or over the only group that there is."""
    found = [row for row in data.rows if row.get("arm") == arm and row.get("metric") == metric]
    pooled = [row for row in found if row.get("group", "all") == "all"]
    return pooled[0] if pooled else found[0] if len(found) == 1 else None


def _value(row: Mapping[str, object], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def _result(data: ReportData, image: bytes) -> list[Block]:
    parts = []
    for arm, bg in data.traces.items():
        very_low, low, inside, high, very_high = (number(float(share), "share") for share in range_shares(bg))
        parts.append(
            f"{_name(arm)}: below 54 {very_low} %, 54 to 69 {low} %, 70 to 180 {inside} %, 181 to 250 {high} %, "
            f"above 250 {very_high} %"
        )
    days = checked(next(iter(data.traces.values()))).shape[1] * data.step_minutes / 1440.0
    caption = (
        f"True glucose by time of day, all patients and days pooled ({len(data.patients)} traces of {days:.3g} days "
        "for each arm). Line: median; dark band: the middle half; light band: 90 % of values; green ground: the target "
        "range. Below: share of time in each consensus range, each trace counting the same."
    )
    blocks: list[Block] = [Picture(image, "Glucose profiles over 24 h. Time in ranges: " + "; ".join(parts), caption)]
    rows = [row for row in data.rows if row.get("metric") not in FORECAST_NAMES]
    if rows:
        others = dict.fromkeys(str(row.get("metric")) for row in rows)
        metrics = METRIC_NAMES | {metric: metric for metric in others if metric not in METRIC_NAMES}
        caption = "Value and, in brackets, 95 % interval; n counts independent units. Scored on true glucose."
        blocks.append(evidence_table(rows, caption=caption, arms=_arms(data), metrics=metrics))
    meanings = {_name(arm): _ARM_MEANINGS[arm] for arm in data.traces if arm in _ARM_MEANINGS}
    if meanings:
        blocks += ["Every arm met the same patients, meals, counting errors and sensor noise.", Facts(meanings)]
    return blocks


def _arms(data: ReportData) -> dict[str, str]:
    return {arm: _name(arm) for arm in data.traces} | {k: v for k, v in ARM_NAMES.items() if k not in data.traces}


def _limits(data: ReportData) -> list[Block]:
    return [
        Bullets(
            [
                BANNER,
                "The patients are simulated (UVA/Padova 2008 equations). No person was treated, and nothing here shows "
                "how a person would fare.",
                "The model of 2008 has no exercise, illness, stress, alcohol or pump failure; what a run adds to it is "
                "listed under How it was made.",
                "Bands and guardrails hold their stated level on average over patients like those they were calibrated "
                "on, not for each patient.",
                *data.limits,
            ]
        )
    ]


def _day(day: DayExample, image: bytes) -> list[Block]:
    bg = np.asarray(day.bg, dtype=np.float64)[None, :]
    # A person's true glucose is not known; only a simulated day has it.
    known = bool(np.isfinite(bg).any())
    inside = f", {number(float(range_shares(bg)[2]), 'share')} % of the time in 70 to 180 mg/dL" if known else ""
    acted = {actor: list(day.acted).count(actor) for actor in dict.fromkeys(day.acted)}
    actors = ", ".join(f"{actor.replace('_', ' ')} {count}" for actor, count in acted.items())
    silent = [name.replace("_", " ") for name, values in day.guardrails.items() if not np.any(values)]
    meals = int(np.sum(np.nan_to_num(day.announced) > 0.0))
    alt = (
        f"One day of {day.patient} under {_name(day.arm)}: {meals} meals announced, {float(np.sum(day.insulin)):.1f} U "
        f"of insulin{inside}." + (f" Decisions by {actors}." if actors else "")
    )
    caption = (
        "Orange dots: the sensor, which is all of glucose that the controller sees; thin line: true glucose, in mg/dL. "
        "Blue: what was foreseen at the open circles for the plan chosen there, with the "
        f"{100.0 * day.coverage:.0f} % band for the sensor; later decisions may change the plan, so the forecast need "
        "not come true. Triangles: grams of carbohydrate announced. Insulin up to the profile basal (dashed) "
        "and above it are shown apart. The strip shows who chose each dose, the guardrail nearest to its bound and the "
        "guardrails that refused a plan."
    )
    if silent:
        caption += f" Never nearest to a bound on this day: {', '.join(silent)}."
    return [alt, Picture(image, alt, caption)]


def _patients(data: ReportData, shares: Mapping[str, Mapping[str, float]], image: bytes) -> list[Block]:
    arms = list(shares)
    first = shares[arms[0]]
    texts = []
    for arm in arms[1:]:
        pairs = [(first[name], shares[arm][name]) for name in first if np.isfinite(first[name] + shares[arm][name])]
        better = sum(a > b for a, b in pairs)
        texts.append(f"{better} of {len(pairs)} patients spent more time in range under {_name(arms[0])} than under ")
        texts[-1] += f"{_name(arm)}."
    worst = min((value, name) for name, value in first.items() if np.isfinite(value))
    texts.append(f"The lowest under {_name(arms[0])} is {100.0 * worst[0]:.1f} % ({worst[1]}).")
    caption = "Time in range of each patient, all seeds together, sorted; one line is one patient under every arm."
    return [" ".join(texts), Picture(image, "Time in range of each patient, a dot for each arm. " + texts[-1], caption)]


def _has_forecast(data: ReportData) -> bool:
    return data.errors is not None or any(row.get("metric") in FORECAST_NAMES for row in data.rows)


def _forecast(data: ReportData, images: Mapping[str, bytes]) -> list[Block]:
    blocks: list[Block] = []
    if data.errors is not None:
        errors = data.errors
        known = np.isfinite(errors.coverage)
        low, high = (float(f(errors.coverage[known])) for f in (np.min, np.max)) if known.any() else (np.nan, np.nan)
        share = f"{100.0 * errors.nominal:.0f} %"
        text = (
            f"A {share} band should hold {share} of readings at every horizon, on patients never seen. Measured: "
            f"{number(low, 'share')} to {number(high, 'share')} %."
        )
        alt = f"{text} Errors by horizon: " + "; ".join(
            f"{MODEL_NAMES.get(arm, arm)} {number(float(values[np.isfinite(values)][-1]))} mg/dL at the last horizon"
            for arm, values in errors.rmse.items()
            if np.isfinite(values).any()
        )
        caption = (
            "Left: share of readings inside the band; green is within 2 points of what it states. Right: error of the "
            "forecast against the sensor, whose own noise no forecast can foresee."
        )
        blocks += [text, Picture(images["calibration"], alt, caption)]
    rows = [row for row in data.rows if row.get("metric") in FORECAST_NAMES]
    if rows:
        caption = "Forecast of the sensor on unseen patients: value and, in brackets, 95 % interval."
        blocks.append(evidence_table(rows, caption=caption, arms=MODEL_NAMES, metrics=FORECAST_NAMES))
    return blocks


def _making(data: ReportData) -> list[Block]:
    blocks: list[Block] = []
    if data.facts:
        blocks.append(Facts({str(name).replace("_", " "): value for name, value in data.facts.items()}))
    if data.commands:
        blocks += ["These commands make it again:", Commands(list(data.commands))]
    blocks.append("This page and the PNG files beside it load nothing from a network, and nothing was sent anywhere.")
    return blocks
