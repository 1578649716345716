"""Writes the golden files of a latent model of one camera, and what it must give: tests/golden/latent.

    python tests/golden/make_latent.py        refuses where there are some

Written by the version that knew one camera alone. The checkpoint is of points with sight, the smallest; of convolutions
the latents of weights drawn from a seed are kept: neither the order of drawing nor what is done to pixels may change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.episodes import Channel, Schema
from foreworld.model.checkpoint import load_as, save
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.latent_model import LatentConfig, LatentModel

HERE = Path(__file__).parent / "latent"
SIDE = 16
SCHEMA = Schema(
    name="golden-scene",
    step=1.0,
    time_unit="step",
    channels=(
        Channel(name="frame", role="observation", kind="video", dtype="uint8", shape=(SIDE, SIDE, 3)),
        Channel(name="x", role="observation", unit="px", low=0.0, high=float(SIDE)),
        Channel(name="right", role="action", unit="share", low=-1.0, high=1.0),
        Channel(name="turn", role="action", unit="rad", low=0.0, high=4.0),
    ),
)


def made(**more: Any) -> LatentModel:
    """A model of random weights that has seen some frames."""
    sizes = {"grid": HorizonGrid(points=(2, 4, 6)), "quantities": ("x",), "width": 4, "hidden": 8, "bf16": False}
    torch.manual_seed(0)
    model = LatentModel(SCHEMA, LatentConfig(**{**sizes, **more}))
    model.fit_pixels(frames(20, 1))
    return model.eval()


def frames(count: int, seed: int) -> torch.Tensor:
    """uint8 noise."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return torch.from_numpy(drawn)


@torch.no_grad()
def given(model: LatentModel) -> dict[str, Any]:
    """Latents, and what they lead to."""
    seen = frames(3, 2)
    latents = model.embed(seen)
    actions = torch.linspace(-1.0, 1.0, 3 * 2 * 3 * 2).reshape(3, 2, 3, 2)
    return {
        "latents": latents.tolist(),
        "foreseen": model.predict(latents, actions, model.around(seen)).tolist(),
        "weights": {name: list(value.shape) for name, value in model.state_dict().items()},
        "config": model.config.model_dump(mode="json"),
    }


if __name__ == "__main__":
    if HERE.exists():
        sys.exit(f"{HERE} exists; golden files are never written again")
    save(made(kind="points", sight=1), HERE / "checkpoint", card="Golden: random weights.")
    expected = {"points": given(load_as(LatentModel, HERE / "checkpoint")), "conv": given(made(members=2))}
    (HERE / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")
