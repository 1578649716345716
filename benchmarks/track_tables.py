"""The tables of the closed-loop tracks as a page, from the evidence that `foreworld evaluate ... --json` wrote.

    python benchmarks/track_tables.py [--results benchmarks/results] [--out docs/tracks.md]

No figure of that page is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from foreworld.domains.treatment.protocols import PROTOCOLS
from foreworld.domains.treatment.tracks import TRACKS, Track
from foreworld.errors import InputError
from foreworld.evidence.protocol import Evidence, Row

KEPT = re.compile(r"(?P<arm>\w+): runs kept from foreworld source (?P<source>\w+), not \w+")
RESULTS = Path(__file__).parent / "results"
MAIN = ("time_in_range", "time_below_70", "time_below_54", "time_above_180", "failures", "refusals")
MORE = (
    "time_in_tight_range",
    "time_above_250",
    "mean_glucose",
    "cv",
    "lbgi",
    "hbgi",
    "gri",
    "insulin_per_day",
    "refusals_per_day",
    "refusals_unfaulted",
    "interventions_per_day",
)
DIGITS = {"ms": 2, "ratio": 2, "1/step": 4, "AIC per forecast": 2}
HEADS = {
    "time_in_range": "70-180", "time_below_70": "< 70", "time_below_54": "< 54", "time_above_180": "> 180",
    "time_above_250": "> 250", "time_in_tight_range": "70-140", "failures": "failures", "refusals": "refused",
}  # fmt: skip
HEAD = """\
# Closed-loop tracks

Written by `python benchmarks/track_tables.py` from `benchmarks/results`; no figure here was typed. Virtual patients of
one simulator; research software, not a medical device. Shares of time are in %, on true glucose; in brackets 95 %
intervals that resample patients, each with all its seeds. Where few patients carry all of a share, as below 70 and 54
mg/dL, the upper end is too low and no limit; the worst patient is given further down for this. The unseen patients come
first: nothing was trained on them.
A run that was kept from an earlier state of the source says so under its table. What was tried on the way, and what
qualifies these figures: [evidence](evidence.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("docs/tracks.md"))
    options = parser.parse_args()
    there: dict[tuple[str, str], Evidence] = {}
    for track in TRACKS:
        for kind in ("", "-ceilings"):
            path = options.results / f"treatment-{track.name}{kind}.json"
            if path.is_file():
                there[track.name, kind] = Evidence.load(path, PROTOCOLS[f"treatment/{track.name}"].names)
    parts = [HEAD, "\n".join(summary({name: evidence for (name, kind), evidence in there.items() if not kind}))]
    for track in TRACKS:
        for kind in ("", "-ceilings"):
            if (track.name, kind) in there:
                parts.append("\n".join(section(track, there[track.name, kind], bool(kind))))
    options.out.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    print(options.out)


def summary(there: dict[str, Evidence]) -> Iterator[str]:
    """All tracks: what foreworld does, beside whoever else is most in range and whoever else is least below 70."""
    yield "## All tracks\n"
    yield from textwrap.wrap(
        "The unseen patients. `planned` is the share of decisions without an active fault that the planner itself "
        "took. The last two columns are about others that may be compared (no ceiling, and not the planner without "
        "guardrails): who is most in range, and who of those within ten points of foreworld's time in range is least "
        "below 70 mg/dL: 70-180 / < 70 / < 54.",
        118,
    )
    yield ""
    yield "| track | n | 70-180 | < 70 | < 54 | failures | planned | most in range | fewest lows |"
    yield "|---" * 9 + "|"
    for name, evidence in there.items():
        own = [found(evidence, "foreworld", metric, "unseen") for metric in (*MAIN[:3], "failures")]
        refused = found(evidence, "foreworld", "refusals_unfaulted", "unseen")
        planned = "" if refused is None else cell(turned(refused))
        others = {row.arm for row in evidence.rows} - {"foreworld", "unguarded", "filter", "oracle"}
        shares = [
            [row for metric in MAIN[:3] if (row := found(evidence, arm, metric, "unseen"))] for arm in sorted(others)
        ]
        best = max(shares, key=lambda rows: rows[0].value)
        near = [rows for rows in shares if own[0] is None or rows[0].value > own[0].value - 0.1]
        fewest = min(near or shares, key=lambda rows: (rows[1].value, -rows[0].value))
        told = [f"{rows[0].arm} " + " / ".join(cell(row, True) for row in rows) for rows in (best, fewest)]
        n = own[0].n if own[0] is not None else 0
        yield f"| {name} | {n} | " + " | ".join([*map(cell, own), planned, *told]) + " |"
    yield ""


def turned(row: Row) -> Row:
    """One minus a share."""
    ends = {"low": None if row.high is None else 1 - row.high, "high": None if row.low is None else 1 - row.low}
    return row.model_copy(update={"value": 1 - row.value, **ends})


def section(track: Track, evidence: Evidence, ceilings: bool) -> Iterator[str]:
    """A track's title, command and tables."""
    arms = sorted({row.arm for row in evidence.rows}, key=lambda arm: -evidence.row(arm, MAIN[0], "unseen").value)
    seeds = ",".join(map(str, evidence.seeds))
    yield f"## {track.name}{': ceilings' if ceilings else ''}\n"
    yield textwrap.fill(track.description, 118, break_on_hyphens=False) + "\n"
    yield f"```sh\nforeworld evaluate treatment/{track.name} --seeds {seeds} --arms {','.join(arms)}\n```\n"
    for group in ("unseen", *(() if ceilings else ("all", "adult", "adolescent", "child"))):
        present = [arm for arm in arms if found(evidence, arm, MAIN[0], group)]
        if not present:
            continue
        n = evidence.row(present[0], MAIN[0], group).n
        yield f"{group.capitalize()}, n = {n}, seeds {seeds}:\n"
        yield from table(evidence, present, group, MAIN if group in ("unseen", "all") else MAIN[:4])
    yield from () if ceilings else more(evidence, arms)
    yield from above(evidence)
    yield textwrap.fill(" ".join(sources(evidence)), 118, break_on_hyphens=False) + "\n"


def sources(evidence: Evidence) -> Iterator[str]:
    """What ran where: notes of runs that were kept are gathered by the source that ran."""
    yield f"Source {evidence.source or 'unknown'}; {evidence.machine}."
    kept: dict[str, list[str]] = {}
    for line in evidence.notes:
        match = KEPT.fullmatch(line)
        if match is None:
            yield f"{line}."
        else:
            kept.setdefault(match["source"], []).append(match["arm"])
    if kept:
        told = "; ".join(f"{source} {', '.join(sorted(arms))}" for source, arms in sorted(kept.items()))
        yield f"Runs kept from an earlier source: {told}."


def table(evidence: Evidence, arms: list[str], group: str, metrics: tuple[str, ...]) -> Iterator[str]:
    """Arms as rows."""
    yield "| arm | " + " | ".join(HEADS.get(name, name) for name in metrics) + " |"
    yield "|---" * (len(metrics) + 1) + "|"
    for arm in arms:
        yield f"| {arm} | " + " | ".join(cell(found(evidence, arm, name, group)) for name in metrics) + " |"
    yield ""


def more(evidence: Evidence, arms: list[str]) -> Iterator[str]:
    """Everything else that is measured, for the unseen patients, without intervals; and the tails."""
    yield "The rest, unseen patients, means; then the worst patient and the 5th percentile of patients:\n"
    tails = ("time_in_range_worst", "time_in_range_p5", "time_below_54_worst", "cpu_ms_per_decision")
    names = [*MORE, *tails]
    units = {name: row.unit for name in names for arm in arms if (row := found(evidence, arm, name, "unseen"))}
    names = [name for name in names if name in units]
    heads = [f"{HEADS.get(name, name)} [{'%' if units[name] == 'share' else units[name]}]" for name in names]
    yield "| arm | " + " | ".join(heads) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for arm in arms:
        yield f"| {arm} | " + " | ".join(cell(found(evidence, arm, name, "unseen"), True) for name in names) + " |"
    yield ""


def above(evidence: Evidence) -> Iterator[str]:
    """How far foreworld is above each other arm, paired."""
    rows = [row for row in evidence.rows if row.group == "unseen" and row.metric.startswith("time_in_range_above_")]
    if rows:
        yield "Points of time in range that foreworld is above each arm, paired by patient and seed, unseen:\n"
        yield "| arm | points | by seed |"
        yield "|---|---|---|"
        for row in rows:
            by_seed = ", ".join(f"{value:.1f}" for value in row.by_seed)
            yield f"| {row.metric.removeprefix('time_in_range_above_')} | {cell(row)} | {by_seed} |"
        yield ""
    gap = found(evidence, "foreworld", "gap_closed", "unseen")
    if gap is not None:
        yield f"Share of the gap from the standard of care to the filter that is closed: {cell(gap)} %.\n"


def found(evidence: Evidence, arm: str, metric: str, group: str) -> Row | None:
    """The row, if there is one."""
    try:
        return evidence.row(arm, metric, group)
    except InputError:
        return None


def cell(row: Row | None, short: bool = False) -> str:
    """A figure with its interval."""
    if row is None:
        return ""
    scale = 100.0 if row.unit == "share" else 1.0
    digits = DIGITS.get(row.unit, 2 if 0.0 < abs(scale * row.value) < 0.1 else 1)
    value = f"{scale * row.value:.{digits}f}"
    if short or row.low is None or row.high is None:
        return value
    return f"{value} ({scale * row.low:.{digits}f} to {scale * row.high:.{digits}f})"


if __name__ == "__main__":
    main()
