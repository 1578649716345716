"""What the scripts beside this one share: the peer's environment, the report, and foreworld seen from there.

Scripts may be started by any Python; `enter` starts them again by the one of the peer's environment, in which foreworld
is read from this checkout. Timings and readings of both sides are then taken in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "src"))

from foreworld.errors import ForeworldError, InputError, MissingDataError  # noqa: E402

VERSION = "0.1.1"  # of stable-worldmodel
FOLDER_VARIABLE = "FOREWORLD_STABLE_WORLDMODEL"
DEFAULT_FOLDER = ROOT / "runs" / "peers" / "stable_worldmodel"
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "stable-worldmodel", "torch", "numpy", "gymnasium", "transformers", "pillow", "numba", "tensorstore", "zarr",
    "h5py", "lancedb", "pylance",
)  # fmt: skip
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
QUIET = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "MUJOCO_GL": "egl", "PYTHONWARNINGS": "ignore"}


def peer_python() -> Path:
    """The Python of the peer's environment.

    Raises:
        MissingDataError: It is not there, or holds another version; the message gives the command.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
    python = folder / "venv" / "bin" / "python"
    how = f"run: make peers-worldmodel (some 8 GB; {FOLDER_VARIABLE} names another folder that holds venv)"
    if not python.exists():
        raise MissingDataError(f"stable-worldmodel {VERSION} is not installed: there is no {python}; {how}")
    found = sorted(path.name for path in folder.glob("venv/lib/python*/site-packages/stable_worldmodel-*.dist-info"))
    if found != [f"stable_worldmodel-{VERSION}.dist-info"]:
        there = found[0].removesuffix(".dist-info") if found else "no stable-worldmodel"
        raise MissingDataError(f"{folder / 'venv'} holds {there}, not version {VERSION}; remove it and {how}")
    return python


def enter() -> None:
    """Go on in the peer's environment, on one thread; returns where this is it already.

    Raises:
        MissingDataError: The environment is missing.
    """
    python = peer_python()
    own = {name: "1" for name in ONE_THREAD} | QUIET
    # What the peer keeps of its own stays beside its environment and out of the home folder.
    own["STABLEWM_HOME"] = str(python.parents[2] / "home")
    if Path(sys.prefix).resolve() == python.parents[1].resolve():
        os.environ.update(own)  # before anything that counts threads is imported
        return
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execve(python, [str(python), *sys.argv], kept | own)


def run(main: Any, description: str | None, **options: Mapping[str, Any]) -> None:
    """Parse `options` (argparse's own settings by name), enter the peer's environment and call `main`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    given = parser.parse_args()
    try:
        enter()
        main(given)
    except ForeworldError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def seeds_of(text: str) -> tuple[int, ...]:
    """`70,71` as numbers.

    Raises:
        InputError: It is something else, or holds a number twice.
    """
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text!r} is no list of whole numbers such as 70,71") from None
    if len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text!r} names a seed twice")
    return seeds


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


def commit() -> str:
    """The commit of this checkout, with `+` where files differ from it."""
    asked = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*asked, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        state = subprocess.run([*asked, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Of Python and of the packages that are there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_report(name: str, content: Mapping[str, Any], path: str | None = None) -> Path:
    """Write `benchmarks/results/peer-NAME.json`, or `path`; atomically, so that it may be written as a run goes on."""
    from foreworld.evidence.protocol import machine

    place = Path(path) if path else RESULTS / f"peer-{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    head = {"format": 1, "benchmark": f"peer-{name}", "peer": f"stable-worldmodel {VERSION}", "commit": commit()}
    text = json.dumps(head | {"machine": machine(), "versions": versions()} | dict(content), indent=1, allow_nan=False)
    partial = place.with_suffix(".partial.json")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, place)
    return place


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns: the first to the left, all others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)
