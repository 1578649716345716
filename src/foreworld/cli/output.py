"""What a command shows: results on standard output, everything else on standard error, movement only on a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

PATIENCE_SECONDS = 2.0
BEAT_SECONDS = 30.0


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line about what is going on, or an error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on, once it takes more than two seconds.

    For work that shows nothing of its own.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(), TextColumn(what, markup=False), TimeElapsedColumn(), console=console, transient=True
    )
    bar.add_task("", total=None)
    timer = threading.Timer(PATIENCE_SECONDS, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


@contextmanager
def heartbeat(what: str) -> Iterator[None]:
    """Say on a terminal every half minute that something still goes on.

    For work that may draw a bar of its own, which a second one would garble.
    """
    if not sys.stderr.isatty():
        yield
        return
    over, began = threading.Event(), monotonic()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            note(f"{what}: {monotonic() - began:.0f} s")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
