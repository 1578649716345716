"""What a diagnosis looks like: how training went, what is foreseen how far ahead, and what can be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreworld.errors import MissingExtraError
from foreworld.learning.diagnose import Diagnosis

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito
PARTS = ("one", "ahead", "regular", "inverse", "present", "reconstruct")


def read_log(model: str | Path) -> list[dict[str, Any]]:
    """Lines of the training log beside a model's folder; none where it is gone."""
    folder = Path(model)
    path = folder.parent / f"{folder.name}-run" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def draw_probe(path: str | Path, found: Diagnosis, log: Sequence[dict[str, Any]] = ()) -> None:
    """Write a PNG of three panels: parts of the loss by step, open-loop error by block, probes.

    Raises:
        MissingExtraError: Matplotlib is not installed; it comes with the extra `report`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    below: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
    figure = Figure(figsize=(11.0, 3.8), dpi=150, layout="constrained")
    training, ahead, read = figure.subplots(1, 3)
    for colour, part in zip(COLOURS, PARTS, strict=True):
        points = [(line["step"], line[part]) for line in log if part in line and line[part] > 0]
        if points:
            training.plot(*zip(*points, strict=True), color=colour, label=part)
    if log:
        training.set_yscale("log")
        training.legend(**below, ncols=3)
    else:
        training.text(0.5, 0.5, "no training log beside the model", ha="center", transform=training.transAxes)
    training.set(title="Parts of the loss", xlabel="optimiser steps")
    blocks = range(1, len(found.error) + 1)
    ahead.plot(blocks, found.error, marker="o", color=COLOURS[0], label="the model")
    ahead.plot(blocks, found.persistence, marker="s", color="#8a8a8a", label="nothing changes")
    ahead.set(title="Open-loop error", xlabel="blocks ahead", ylabel="share of the latent's spread", ylim=(0, None))
    ahead.legend(**below, ncols=2)
    places = range(len(found.linear))
    for shift, colour, name in ((-0.2, COLOURS[0], "linear"), (0.2, COLOURS[1], "perceptron")):
        values = [max(0.0, value) for value in getattr(found, name).values()]
        read.bar([place + shift for place in places][: len(values)], values, 0.38, color=colour, label=name)
    read.set(title="What probes read", ylabel="R2 on unseen frames", ylim=(0, 1.05))
    read.set_xticks(list(places), list(found.linear))
    if found.linear:
        read.legend(**below, ncols=2)
    for axes in (training, ahead, read):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
