"""The tables of guardrails, sabotage, personalisation, error growth and sepsis as a page.

    python benchmarks/evidence_tables.py [--results benchmarks/results] [--out docs/figures.md]

They come from the evidence that `foreworld evaluate ... --json` wrote; no figure of that page is typed by hand. The
closed-loop tracks have a page of their own (`track_tables.py`), and tumour growth is on its page (`docs/tumour.md`).
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreworld.domains.treatment.protocols import PROTOCOLS
from foreworld.evidence.protocol import Evidence, Protocol, Row
from track_tables import RESULTS, cell, found

HEAD = """\
# Figures of the other protocols

Written by `python benchmarks/evidence_tables.py` from `benchmarks/results`; no figure here was typed. Shares are in %;
in brackets 95 % intervals, resampling patients, each with all its seeds. The closed-loop tracks have a page of their
own; what was tried on the way, and what qualifies these figures: [evidence](evidence.md). Research software, not a
medical device.
"""


@dataclass(frozen=True)
class Table:
    """One table of a protocol.

    Attributes:
        title: Above it.
        by: Whether rows are `arm`, `group` or `metric`.
        columns: Metrics; of rows by metric, what `{}` in `rows` stands for.
        rows: Which; all that there are if empty.
        group: Whose figures, where rows are arms or metrics.
        arm: Whose figures, where rows are groups or metrics.
        seeds: A metric whose figures of each seed are given, too.
    """

    title: str
    by: str
    columns: tuple[str, ...]
    rows: tuple[str, ...] = ()
    group: str = "all"
    arm: str = "foreworld"
    seeds: str | None = None


def levels(group: str) -> Table:
    """Claims of the guardrails in one group."""
    return Table(
        f"Share of chosen plans that fell short of the margin claimed at a risk, {group} people", "metric",
        ("1", "5", "10", "20"), ("short_predicted_low_{}", "short_predicted_very_low_{}"), group,
    )  # fmt: skip


MINUTES = ("60", "120", "180", "300", "420", "580", "720")
WINDOWS = ("before", "0_24h", "24_48h", "48_72h", "72_96h")
GUARDRAILS = (
    levels("unseen"),
    levels("virtual"),
    Table("All plans", "group", ("plans", "violations", "violations_from_60min"), ("unseen", "virtual")),
)
GROWTH = ("rmse", "coverage_90", "width_90", "truth", "truth_skill", "correct", "correct_by_chance")
TABLES: dict[str, tuple[Table, ...]] = {
    "treatment/guardrails": GUARDRAILS,
    "treatment/guardrails-unannounced": GUARDRAILS,
    "treatment/sabotage": (
        Table(
            "Unseen patients, from the onset on", "group",
            ("time_in_range", "time_below_70", "time_below_54", "time_in_range_above_fallback", "failures", "refusals",
             "false_refusals"),
        ),
        Table(
            "How soon it is noticed", "group",
            ("noticed", "minutes_to_notice", "minutes_planned_before_notice", "low_before_notice"),
        ),
    ),
    "treatment/personalisation": (
        Table(
            "Control on days 8 to 14, unseen patients", "arm",
            ("time_in_range", "time_below_70", "time_below_54", "refusals", "time_in_range_above_population",
             "time_in_range_above_population_day"), group="unseen",
        ),
        *(
            Table(f"{what} by days of history, unseen patients", "arm",
                  tuple(f"{what}_after_{days}d" for days in (0, 1, 2, 3, 5, 7, 10)), group="unseen")
            for what in ("rmse_60", "rmse_120", "coverage_90")
        ),
        *(
            Table(f"{what} around the step change, all horizons, unseen patients", "arm",
                  tuple(f"{what}_all_{window}" for window in WINDOWS), group="unseen")
            for what in ("coverage_90", "width_ratio", "rmse_ratio", "rmse")
        ),
        Table("coverage_90 twelve hours ahead, unseen patients", "arm",
              tuple(f"coverage_90_720_{window}" for window in WINDOWS), group="unseen"),
        Table("Who is scored, and who recovered, unseen patients", "arm",
              ("scored_known", "scored_step", "recovered_48_72h"), group="unseen"),
        Table("Time in range around the step change, unseen patients", "arm",
              tuple(f"time_in_range_{window}" for window in WINDOWS), group="unseen"),
    ),
    "treatment/error-growth": (
        *(Table(f"{name} by minutes ahead", "arm", tuple(f"{name}_{minutes}" for minutes in MINUTES))
          for name in GROWTH),
        Table("Which law", "arm", ("e", "a", "b", "pi", "aic_gain", "e_floor", "aic_gain_floor", "misfit_compounding",
                                   "misfit_floor", "misfit_recoverable", "recovered")),
        Table("Training", "arm", ("fit_cpu_seconds", "fit_steps", "scored")),
    ),
    "treatment/icu-sepsis": (
        Table("New patients", "arm", ("survival", "steps", "refusals", "cpu_ms_per_decision", "train_cpu_seconds")),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("docs/figures.md"))
    options = parser.parse_args()
    parts = [HEAD]
    for name, tables in TABLES.items():
        path = options.results / f"{name.replace('/', '-')}.json"
        if path.is_file():
            evidence = Evidence.load(path, PROTOCOLS[name].names)
            parts.append("\n".join(section(PROTOCOLS[name], evidence, tables)))
    options.out.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    print(options.out)


def section(
    protocol: Protocol, evidence: Evidence, tables: Sequence[Table], title: str = "", arms: Sequence[str] = ()
) -> Iterator[str]:
    """A protocol's title, command and tables; of some arms alone where they are named."""
    seeds = ",".join(map(str, evidence.seeds))
    yield f"## {title or protocol.name.partition('/')[2]}\n"
    yield textwrap.fill(protocol.description, 118) + "\n"
    told = f" --arms {','.join(arms)}" if arms else ""
    yield f"```sh\nforeworld evaluate {protocol.name} --seeds {seeds}{told}\n```\n"
    for one in tables:
        yield from lines(evidence, one)
    note = f"Version {evidence.version}, source {evidence.source or 'unknown'}; {evidence.machine}."
    yield textwrap.fill(" ".join([note, *(f"{line}." for line in evidence.notes)]), 118) + "\n"


def lines(evidence: Evidence, one: Table) -> Iterator[str]:
    """A table, without rows and columns that have no figure; nothing where there is none."""
    names = one.rows or tuple(dict.fromkeys(getattr(row, one.by) for row in evidence.rows))

    def row_of(name: str, column: str):
        arm, group, metric = one.arm, one.group, column
        if one.by == "metric":
            metric = name.format(column)
        elif one.by == "arm":
            arm = name
        else:
            group = name
        return found(evidence, arm, metric, group)

    columns = [column for column in one.columns if any(row_of(name, column) for name in names)]
    names = [name for name in names if any(row_of(name, column) for column in columns)]
    if not columns:
        return
    shown_rows = [row for name in names for column in columns if (row := row_of(name, column)) is not None]
    # A figure of a whole run, such as CPU time, has no units to count.
    counts = sorted({row.n for row in shown_rows if row.low is not None} or {row.n for row in shown_rows})
    yield f"{one.title}, n = {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}:\n"
    units = {}
    for column in columns:
        unit = next(row.unit for name in names if (row := row_of(name, column)) is not None)
        units[column] = "%" if unit == "share" else unit
    heads = [f"{column} %" if one.by == "metric" else f"{column} [{units[column]}]" for column in columns]
    heads += [f"{one.seeds} by seed"] if one.seeds else []
    yield f"| {one.by} | " + " | ".join(heads) + " |"
    yield "|---" * (len(heads) + 1) + "|"
    for name in names:
        shown = re.sub(r"^short_|_\{\}$", "", name)
        cells = [cell(row_of(name, column)) for column in columns]
        cells += [by_seed(row_of(name, one.seeds))] if one.seeds else []
        yield f"| {shown} | " + " | ".join(cells) + " |"
    yield ""


def by_seed(row: Row | None) -> str:
    """A figure of each seed."""
    if row is None:
        return ""
    scale = 100.0 if row.unit == "share" else 1.0
    return ", ".join(f"{scale * value:.1f}" for value in row.by_seed)


if __name__ == "__main__":
    main()
