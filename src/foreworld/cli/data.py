"""Commands about data: `collect`, `import csv` and `inspect`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from foreworld.cli.output import note, say, working
from foreworld.errors import InputError

if TYPE_CHECKING:
    from foreworld.evidence.rows import Evidence


def collect(out: Path, *, domain: str = "treatment", subjects: int = 1000, days: int = 7, seed: int = 0) -> None:
    """Record virtual people on standard therapy into a new store, with a split by subject and statistics.

    Example: `foreworld collect runs/data --subjects 24 --days 7 --seed 0`

    Args:
        out: Folder of the new store.
        domain: Whose people.
        subjects: How many virtual people.
        days: Days recorded of each.
        seed: Of people, meals, sensors and therapy.
    """
    if domain != "treatment":
        raise InputError(f"domain {domain!r} collects nothing on the command line; treatment does")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; choose another folder, or remove it first")
    if subjects < 1 or days < 1:
        raise InputError(f"subjects {subjects} and days {days} must be at least 1")
    from foreworld.domains.treatment.collect import CollectConfig
    from foreworld.domains.treatment.collect import collect as record
    from foreworld.episodes import describe

    unfinished = out.absolute().with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with working(f"recording {subjects} people, {days} days each"):
        record(unfinished, CollectConfig(subjects=subjects, days=days), seed=seed)
    if out.is_dir():
        out.rmdir()
    os.replace(unfinished, out)
    say(describe(out))


def csv(table: Path, *, schema: Path, out: Path) -> None:
    """Import a table of your own: all of it, or nothing and an error that names line, channel, value and unit.

    Example: `foreworld import csv docs/examples/walks.csv --schema docs/examples/walks.schema.json --out runs/walks`

    Args:
        table: UTF-8 CSV with the columns subject, time and one for each channel; a name may state its unit in brackets.
        schema: JSON file that names the channels, their roles, units and bounds; see docs/own-data.md.
        out: Folder of the store; made if absent, appended to otherwise.
    """
    from foreworld.episodes import Schema, describe, import_csv

    channels = Schema.load(schema)
    with working(f"importing {table}"):
        import_csv(table, channels, out)
    say(describe(out))


def inspect(path: Path, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """Show what is in a store, a model, an audit log, a file of evidence or a guardrail pack.

    Example: `foreworld inspect runs/data`

    Args:
        path: Folder or file.
        as_json: Print JSON, where there is any, instead of text.
    """
    if not path.exists():
        raise InputError(f"there is nothing at {path}; check the path")
    if (path / "zarr.json").is_file():
        from foreworld.episodes import describe, summary

        with working(f"reading {path}"):
            text = json.dumps(summary(path), indent=1) if as_json else describe(path)
        say(text)
    elif (path / "config.json").is_file():
        from foreworld.model.checkpoint import check, read_extra

        check(path)
        say(json.dumps(read_extra(path), indent=1) if as_json else (path / "README.md").read_text("utf-8").rstrip())
    elif (path / "log.jsonl").is_file():
        from foreworld.agent.audit import verify

        found = verify(path)
        content = {"records": found.records, "head": found.head, "inputs": found.inputs}
        say(json.dumps(content) if as_json else f"{path}: audit log, {found.records} records, head {found.head}")
    elif path.is_file() and path.suffix == ".json":
        evidence = _evidence(path)
        say(evidence.to_json() if as_json else evidence.table())
    elif path.is_file() and path.suffix == ".toml":
        say(_pack(path, as_json))
    else:
        raise InputError(f"{path} is no store, model, audit log, file of evidence or guardrail pack; check the path")
    note("Research software, not a medical device.")


def _pack(path: Path, as_json: bool) -> str:
    """A guardrail pack beside the floor, whether it may be loaded or not."""
    from dataclasses import asdict, replace

    from foreworld.domains.treatment.pack import KINDS, floor
    from foreworld.domains.treatment.schema import SCHEMA
    from foreworld.planning.pack import compare, describe
    from foreworld.planning.pack_file import read_pack

    pack = read_pack(path, SCHEMA, KINDS)
    pack = replace(pack, differences=compare(pack, floor(), KINDS))
    if not as_json:
        return describe(pack, KINDS)
    content = asdict(pack) | {"hash": pack.hash}
    del content["override"]  # of a loading, not of a file
    return json.dumps(content, indent=1)


def _evidence(path: Path) -> Evidence:
    """Evidence with the names that it uses itself: it may come from a domain that is not installed here."""
    from foreworld.episodes.files import read_json
    from foreworld.evidence.rows import NAMES, Evidence, Names

    content = read_json(path)
    rows = content.get("rows")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def used(key: str) -> frozenset[str]:
        return frozenset(str(row[key]) for row in rows if key in row)

    return Evidence.from_dict(content, NAMES | Names(used("arm"), used("group"), used("metric")))
