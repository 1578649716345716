"""The log of a training run: `metrics.jsonl`, one row every so many steps, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreworld.errors import InputError

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends rows; a resumed run first drops the rows after the step that it goes on from.

    Rows hold no clock times, so that the log of a run that was interrupted equals that of one that was not.

    Args:
        run: The run folder, or None to keep no file.
        step: Steps already done; later rows, and a row that a crash cut short, are dropped.
        tensorboard: Also write event files into `run / "tensorboard"`.

    Raises:
        InputError: TensorBoard is asked for but is not installed, or there is no run folder for it.
    """

    def __init__(self, run: Path | None, step: int, *, tensorboard: bool = False) -> None:
        self.last: dict[str, float | None] = {}
        self._path = None if run is None else run / METRICS_FILE
        self._board = _board(run, step) if tensorboard else None
        if self._path is not None:
            self._truncate(self._path, step)

    def _truncate(self, path: Path, step: int) -> None:
        if not path.is_file():
            return
        content = path.read_bytes()
        keep = 0
        for line in content.splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or row["step"] > step:
                break
            keep += len(line)
            self.last = {key: value for key, value in row.items() if key != "step"}
        if keep < len(content):
            os.truncate(path, keep)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Append a row; what is not finite becomes null, as JSON knows no NaN."""
        self.last = {key: value if math.isfinite(value) else None for key, value in row.items()}
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **self.last}) + "\n")
        if self._board is not None:
            for key, value in row.items():
                self._board.add_scalar(key, value, step)

    def sync(self) -> None:
        """Flush the file to disk: a state that is saved after this finds all rows before it."""
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Finish the event files."""
        if self._board is not None:
            self._board.close()


def _board(run: Path | None, step: int) -> Any:
    if run is None:
        raise InputError("TensorBoard needs a run folder to write into; give run=")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard is not installed; run: pip install tensorboard, or do without it") from error
    # Rows after this step are of a process that was killed; TensorBoard then hides them.
    return SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=step + 1)
