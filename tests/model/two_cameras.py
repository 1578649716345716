"""A small bench: two cameras and a depth camera look at a tool whose pose is known, as a surgical scene will be."""

import numpy as np

from foreworld.episodes import Channel, Episode, Schema, fit_statistics
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.latent_model import LatentConfig

SIDE, FAR = 16, 4.0
FRAME = {"role": "observation", "kind": "video", "dtype": "uint8", "shape": (SIDE, SIDE, 3)}
BARE = Schema(
    name="bench",
    step=1.0,
    time_unit="step",
    channels=(
        Channel(name="left", **FRAME),
        Channel(name="right", **FRAME),
        Channel(
            name="range",
            role="observation",
            kind="depth",
            dtype="float32",
            shape=(SIDE, SIDE),
            unit="m",
            low=0,
            high=FAR,
        ),
        Channel(name="tool", role="observation", shape=(2,), unit="px"),
        Channel(name="x", role="observation", unit="px", low=0.0, high=float(SIDE)),
        Channel(name="across", role="action", unit="share", low=-1.0, high=1.0),
        Channel(name="down", role="action", unit="share", low=-1.0, high=1.0),
    ),
)
SIGHT = {"frames": ("left", "right"), "depth": ("range",), "series": ("tool",)}


def episode(seed: int, actions: int) -> Episode:
    """A tool of 4 px that moves by up to 2 px a step; the depth camera has holes, and the pose is at times unknown."""
    r = np.random.default_rng(seed)
    moves = r.uniform(-1.0, 1.0, (actions, 2)).astype(np.float32)
    places = np.empty((actions + 1, 2), np.float32)
    places[0] = r.uniform(2, SIDE - 2, 2)
    for t, move in enumerate(moves):
        places[t + 1] = np.clip(places[t] + 2.0 * move, 2, SIDE - 2)
    left, depth = (
        r.integers(0, 8, (actions + 1, SIDE, SIDE, 3), dtype=np.uint8),
        np.full((actions + 1, SIDE, SIDE), 3.0),
    )
    grid = np.arange(SIDE)
    near = (np.abs(grid[None, :, None] - places[:, 1, None, None]) < 2) & (
        np.abs(grid[None, None, :] - places[:, 0, None, None]) < 2
    )
    left[near] = (200, 40, 40)
    depth[near] = 1.0
    depth[r.random(depth.shape) < 0.1] = np.nan
    tool = places.copy()
    tool[r.random(actions + 1) < 0.1] = np.nan
    return Episode(
        subject=f"bench{seed}",
        times=np.arange(actions + 1.0),
        values={
            "left": left,
            "right": np.ascontiguousarray(left[:, :, ::-1]),
            "range": depth.astype(np.float32),
            "tool": tool,
            "x": places[:, 0].astype(np.float32),
            "across": moves[:, 0],
            "down": moves[:, 1],
        },
    )


SCHEMA = BARE.with_statistics(fit_statistics(BARE, [episode(seed, 20) for seed in range(4)]))


def config(**more):
    """A small model of all that is seen."""
    sizes = {"grid": HorizonGrid(points=(2, 4, 6)), "quantities": ("x",), "width": 8, "hidden": 16, "bf16": False}
    return LatentConfig(**{**sizes, **SIGHT, **more})
