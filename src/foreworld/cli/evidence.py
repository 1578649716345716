"""Commands that give evidence: `demo`, `evaluate` and `safety`."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from foreworld.cli.output import heartbeat, note, say
from foreworld.errors import InputError, MissingExtraError

WIDTH = 120  # characters of a printed table

if TYPE_CHECKING:
    from foreworld.evidence.protocol import Protocol
    from foreworld.evidence.rows import Evidence, Row


def demo(*, out: Path | None = None, seed: int = 0, subjects: int | None = None, domain: str = "treatment") -> None:
    """Learn a model of patients, plan for patients that it never saw, and write a report; prints its path last.

    Collect, train, calibrate, evaluate: minutes on two cores. Nothing is opened and nothing is downloaded.

    Example: `foreworld demo --seed 1`

    Args:
        out: Folder of the run; a new one under runs/ if not given. A folder of an interrupted run is gone on with.
        seed: Of data, model and patients' days.
        subjects: Evaluate at most so many patients.
        domain: Whose demo.
    """
    from foreworld.evidence.domain import load_domain

    found = load_domain(domain)
    if found.demo is None:
        raise InputError(f"domain {domain!r} has no demo")
    folder = out or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    note(f"demo in {folder}; after an interruption go on with: foreworld demo --out {folder} --seed {seed}")
    report = found.demo(folder, seed=seed, subjects=subjects, report=note)
    say(str(report))


def evaluate(
    protocol: str,
    *,
    arms: str | None = None,
    model: Path | None = None,
    data: Path | None = None,
    seeds: str = "0,1,2",
    subjects: int | None = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    report: Path | None = None,
    film: Path | None = None,
    kept: Path | None = None,
    trust: str | None = None,
    ray: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
) -> None:
    """Run an experiment, train what is not given, and print its table.

    Example: `foreworld evaluate treatment/forecast --quick --seeds 0 --json runs/forecast.json`

    Args:
        protocol: DOMAIN/PROTOCOL, such as treatment/t1d-announced; an unknown name lists those there are.
        arms: Which arms, with commas; all of the protocol's if not given.
        model: A trained and calibrated model's folder, instead of training one for each seed.
        data: A store to learn from, instead of collecting one.
        seeds: Seeds, with commas; a seed is data, initialisation and environment at once.
        subjects: At most so many subjects.
        quick: A smoke run under a minute, whose figures mean nothing.
        json: Also write the figures to this file; `-` prints nothing but JSON on standard output.
        report: Also write a page, report.html, into this folder, and the protocol's figures if it has any.
        film: Also film some episodes into this folder, with what was imagined drawn in; of protocols with something to
            see.
        kept: Keep finished runs in this folder, and take those that are there: an interrupted evaluation goes on.
        trust: Arms, with commas, whose kept runs are taken although foreworld's source has changed since; the figures
            say so.
        ray: Fan arms and seeds out over the ray cluster at this address (host:port or auto); over this machine's cores
            if no address is given. Needs the extra scale.
    """
    from foreworld.evidence.heap import keep_heap
    from foreworld.evidence.kept import Kept
    from foreworld.evidence.protocol import Request

    if json is not None and json != "-":
        _writable(Path(json))
    experiment = _protocol(protocol)
    if film is not None and experiment.film is None:
        raise InputError(f"{experiment.name} has nothing to film; leave --film out")
    if film is not None and film.exists() and not film.is_dir():
        raise InputError(f"cannot film into {film}, which is a file; give a folder")
    if trust is not None and kept is None:
        raise InputError("--trust is about kept runs; give their folder with --kept")
    runs = None if kept is None else Kept(kept, _words(trust) or ())
    request = Request(_words(arms), _numbers(seeds), subjects, quick, model, data, runs, note)
    shown = ", ".join(request.arms or experiment.arms)
    note(f"{experiment.name}: arms {shown}; seeds {seeds}{'; quick' if quick else ''}")
    # A protocol's own words must not get between the lines of JSON.
    quiet = redirect_stdout(sys.stderr) if json == "-" else nullcontext()
    keep_heap()
    with heartbeat(experiment.name), quiet, _place(ray):
        evidence = experiment.evaluate(request)
    if json == "-":
        say(evidence.to_json())
    else:
        say(_tables(evidence))
        if json is not None:
            evidence.save(json)
            note(f"figures in {json}")
    if report is not None:
        note(f"page in {_page(report, experiment, evidence, quick)}")
    if film is not None and experiment.film is not None:
        with heartbeat("film"):
            note(f"film in {experiment.film(request, film)}")


def safety(*, domain: str = "treatment", out: Path | None = None) -> None:
    """Print the safety requirements: the hazard that each answers, where it is enforced, and which tests show it.

    Example: `foreworld safety --out docs/safety.md`

    Args:
        domain: Whose requirements stand beside the engine's.
        out: Write them into this file instead of printing them.
    """
    from foreworld.evidence.domain import load_domain
    from foreworld.evidence.report import write_file
    from foreworld.evidence.requirements import ENGINE
    from foreworld.evidence.safety import page

    text = page(load_domain(domain), ENGINE)
    if out is None:
        say(text.rstrip())
        return
    _writable(out, "--out", "page")
    write_file(out, text.encode())
    note(f"requirements in {out}")


def _protocol(name: str) -> Protocol:
    from foreworld.evidence.domain import installed_domains, load_domain

    domain, _, rest = name.partition("/")
    if not rest:
        raise InputError(
            f"{name!r} is no protocol; write DOMAIN/PROTOCOL, with domain {', '.join(installed_domains())}"
        )
    found = {protocol.name: protocol for protocol in load_domain(domain).protocols.values()}
    if name not in found:
        raise InputError(f"domain {domain} has no protocol {name!r}; it has {', '.join(found) or 'none'}")
    return found[name]


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise InputError(f"seeds {text!r} are no whole numbers; write them with commas, such as 0,1,2") from None


def _place(ray: list[str] | None) -> AbstractContextManager[None]:
    """Where the jobs run: here, or on a ray cluster."""
    if ray is None:
        return nullcontext()
    from foreworld.evidence.on_ray import on_ray

    if len(ray) > 1:
        raise InputError(f"--ray takes one address, not {', '.join(ray)}; a cluster has one head")
    return on_ray(ray[0] if ray else None)


def _writable(path: Path, option: str = "--json", what: str = "figures") -> None:
    """Fail before hours of work and not after them."""
    if str(path).startswith("-"):
        raise InputError(f"{option} needs a file, or - for standard output, not the option {path}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"cannot write the {what} to {path}; give a file in a folder that exists")


def _tables(evidence: Evidence) -> str:
    groups = dict.fromkeys(row.group for row in evidence.rows)
    return "\n\n".join(evidence.table(group, width=WIDTH) for group in groups)


def _page(folder: Path, protocol: Protocol, evidence: Evidence, quick: bool) -> Path:
    from foreworld.evidence.report import Block, Page, Section, Table, write_file, write_page
    from foreworld.evidence.rows import RARE_NOTE

    sections: list[Section] = []
    if protocol.pictures is not None:
        blocks: list[Block] = []
        try:
            pictures = protocol.pictures(evidence)
        except MissingExtraError as error:  # the figures are there; only the drawing is not
            blocks.append(f"No picture: {error}")
        else:
            for number, picture in enumerate(pictures, 1):
                write_file(folder / f"figure-{number}.png", picture.content)
            blocks += pictures
        sections.append(Section("Figures", blocks))
    for group in dict.fromkeys(row.group for row in evidence.rows):
        rows = [row for row in evidence.rows if row.group == group]
        cells = [[row.arm, row.metric, *_figures(row), "%" if row.unit == "share" else row.unit] for row in rows]
        caption = f"Group {group}; intervals of 95 %, n counts independent units."
        caption += f" {RARE_NOTE}" if any(row.rare for row in rows) else ""
        sections.append(Section(group, [Table(("arm", "metric", "value", "interval", "n", "unit"), cells, caption)]))
    facts = [
        f"Version {evidence.version}, settings {evidence.hash[:12]}, seeds {', '.join(map(str, evidence.seeds))}.",
        f"{evidence.machine}; {evidence.cpu_seconds:.0f} CPU seconds.",
        *(["A smoke run: its figures mean nothing."] if quick else []),
    ]
    lead = f"{protocol.description} {' '.join(facts)}"
    return write_page(folder / "report.html", Page(title=protocol.name, lead=lead, sections=sections))


def _figures(row: Row) -> tuple[str, str | None, int | None]:
    """Value, interval and n of a row, as a page shows them."""
    from foreworld.evidence.report import number

    interval = None
    if row.low is not None and row.high is not None:
        interval = f"{number(row.low, row.unit)} to {number(row.high, row.unit)}"
    return number(row.value, row.unit), interval, row.n
