"""What a person sees of a training run: a bar on a terminal, or a plain line now and then."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Mode = Literal["auto", "bar", "lines", "none"]

# A run shorter than this shows nothing.
PATIENCE_SECONDS = 2.0
REDRAW_SECONDS = 0.2
LINE_SECONDS = 10.0


class Progress:
    """Shows loss, speed and time left.

    Args:
        mode: "auto" draws a bar if standard error is a terminal and nothing otherwise; "bar" always draws it;
            "lines" prints a line about every ten seconds; "none" shows nothing.
        total: Steps of the run.
        done: Steps that an earlier process did.
        console: Where to write; standard error if None.
    """

    def __init__(self, mode: Mode, total: int, done: int = 0, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        if mode == "auto":
            mode = "bar" if self._console.is_terminal else "none"
        self._mode, self._total, self._first = mode, total, done
        self._windows = 0
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._began = self._shown = monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, windows: int) -> None:
        """One more step is done.

        Args:
            step: Steps done, an earlier process's included.
            loss: Of this step.
            windows: In its batch.
        """
        self._windows += windows
        if self._mode == "none":
            return
        now = monotonic()
        if now - self._began < PATIENCE_SECONDS:
            return
        if now - self._shown < (REDRAW_SECONDS if self._mode == "bar" else LINE_SECONDS) and step < self._total:
            return
        self._shown = now
        elapsed = now - self._began
        steps, windows_a_second = (step - self._first) / elapsed, self._windows / elapsed
        speed = f"loss {loss:.4g} · {steps:.1f} steps/s · {windows_a_second:,.0f} windows/s"
        if self._mode == "bar":
            self._draw(step, speed)
        else:
            left = (self._total - step) / steps
            self._console.print(f"step {step}/{self._total} · {speed} · {left:.0f} s left", highlight=False)

    def _draw(self, step: int, speed: str) -> None:
        if self._bar is None:
            columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[speed]} ·"), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("left"), console=self._console)
            self._task = self._bar.add_task("", total=self._total, completed=self._first, speed=speed)
            self._bar.start()
        self._bar.update(self._task, completed=step, speed=speed)
