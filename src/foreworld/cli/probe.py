"""`probe`: what a latent model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from foreworld.cli.output import note, say, working
from foreworld.errors import InputError


def probe(
    model: Path,
    store: Path,
    *,
    split: str = "default/check",
    labelled: str = "default/fit",
    picture: Path | None = None,
    seed: int = 0,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Look at what a model of video sees, on episodes that it did not learn from; exit code 4 if it is not fit for use.

    Example: `foreworld probe runs/rooms/model runs/rooms/data --picture runs/probe.png`

    Args:
        model: Folder of a latent model.
        store: Folder of the episodes.
        split: Part that it is looked at on.
        labelled: Part whose labels the probes are fitted on, 500 at most.
        picture: Also write a PNG: training, open-loop error by block, probes.
        seed: Of what is drawn.
        as_json: Print JSON instead of text.
    """
    if picture is not None and not picture.absolute().parent.is_dir():
        raise InputError(f"cannot write the picture to {picture}; give a file in a folder that exists")
    import torch

    from foreworld.learning.diagnose import Gate, diagnose, require_sound
    from foreworld.learning.figure_probe import draw_probe, read_log
    from foreworld.model.checkpoint import load_as
    from foreworld.model.latent_model import LatentModel

    torch.set_num_threads(1)
    with working(f"looking at {model}"):
        found = diagnose(load_as(LatentModel, model), store, split, labelled=labelled, seed=seed)
    if as_json:
        say(found.model_dump_json(indent=1))
    else:
        say(found.table())
    if picture is not None:
        draw_probe(picture, found, read_log(model))
        note(f"picture in {picture}")
    require_sound(found, Gate())
