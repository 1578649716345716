"""Writes the golden files of the current format: a store, a checkpoint, an audit log, and what they must give.

    python tests/golden/make.py            writes tests/golden/v1, and refuses where there is one

The files of a released version are never written again: whoever reads them with a later foreworld must get the same.
A change of format adds a folder, and `test_golden.py` then reads both. Before the first release they may be removed and
made anew. The model is tiny and its weights are random: what counts is that every kind of channel, gap and mask
goes through it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.agent import audit
from foreworld.agent.calibrate import fit_novelty
from foreworld.episodes import Channel, Episode, EpisodeStore, Schema, fit_statistics
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.model.belief import History
from foreworld.model.checkpoint import FORMAT_VERSION, load, read_extra, save
from foreworld.model.dynamics import HorizonGrid
from foreworld.model.world_model import WorldModel, WorldModelConfig

HERE = Path(__file__).parent
SCHEMA = Schema(
    name="golden",
    step=5.0,
    periods=(1440.0,),
    channels=(
        Channel(name="glucose", role="observation", unit="mg/dL", low=20, high=600),
        Channel(name="pulse", role="observation", unit="1/min"),
        Channel(name="insulin", role="action", unit="U", low=0, high=25, per="weight", lowers=("glucose",)),
        Channel(name="mode", role="action", dtype="int32", categories=("rest", "walk", "run")),
        Channel(name="meal", role="exogenous", kind="event", unit="g", low=0, high=300, raises=("glucose",)),
        Channel(name="weight", role="static", unit="kg", low=1, high=300, log=True),
        Channel(name="sex", role="static", dtype="int32", categories=("f", "m")),
    ),
)
CONFIG = WorldModelConfig(
    grid=HorizonGrid.geometric(fine=4, last=12, per_doubling=2),
    width=6,
    hidden=6,
    latent=2,
    members=2,
    stride=3,
    recent=3,
    memory=(2.0, 10.0),
    scales=(2.0, 6.0),
    curves=2,
)


def episode(seed: int, actions: int) -> Episode:
    """Noise at irregular times, with missing values and a mask."""
    r = np.random.default_rng(seed)
    n = actions + 1
    glucose = r.uniform(60, 300, n).astype(np.float32)
    glucose[r.random(n) < 0.2] = np.nan
    return Episode(
        subject=f"s{seed}",
        times=100.0 * seed + np.cumsum(r.uniform(3, 7, n)),
        values={
            "glucose": glucose,
            "pulse": r.normal(80, 10, n).astype(np.float32),
            "insulin": r.uniform(0, 3, actions).astype(np.float32),
            "mode": r.integers(0, 3, actions, dtype=np.int32),
            "meal": (r.uniform(10, 90, n) * (r.random(n) < 0.2)).astype(np.float32),
            "weight": np.float32(r.uniform(40, 120)),
            "sex": np.int32(r.integers(0, 2)),
        },
        masks={"pulse": r.random(n) < 0.7},
        info={"source": "golden", "seed": seed},
    )


def results(folder: Path) -> dict[str, Any]:
    """What the store and the checkpoint of a folder give: contents, and forecasts with bands and novelty."""
    store, model = EpisodeStore.open(folder / "store"), load(folder / "checkpoint")
    calibration = Calibration.model_validate(read_extra(folder / "checkpoint")["calibration"])
    forecaster = Forecaster(model, calibration)
    with torch.no_grad():
        belief = model.encode(History.from_episodes(store.schema, list(store)))
        horizon = len(model.config.grid)
        steps = torch.arange(horizon, dtype=torch.float32)
        plans = torch.stack([torch.stack([k * 0.5 + 0.1 * steps, (steps + k) % 3], dim=-1) for k in range(3)])
        actions = plans.expand(len(store), -1, -1, -1)
        meals = (10.0 * (steps % 2))[None, :, None].expand(len(store), -1, -1)
        forecast = forecaster.forecast(forecaster.begin(belief, meals), actions)
    parts = {"mean": forecast.mean, "scale": forecast.scale, "lower": forecast.lower, "upper": forecast.upper}
    return {
        "subjects": list(store.subjects),
        "lengths": store.lengths.tolist(),
        "splits": store.splits(),
        "info": [store.info(i) for i in range(len(store))],
        "sums": {
            name: [float(np.nansum(np.asarray(one.values[name], dtype=np.float64))) for one in store]
            for name in store.schema.names()
        },
        "measured": [int(one.masks["pulse"].sum()) for one in store],
        "last_times": [float(one.times[-1]) for one in store],
        "statistics": {name: found.mean for name, found in store.schema.statistics.items()},
        "forecast": {part: {name: value.tolist() for name, value in of.items()} for part, of in parts.items()},
        "novelty": forecast.novelty.tolist(),
        "usable": forecast.usable.tolist(),
    }


def write(folder: Path) -> None:
    """Everything of the current format into a folder that does not exist."""
    folder.mkdir()
    store = EpisodeStore.create(folder / "store", SCHEMA)
    store.append([episode(seed, actions) for seed, actions in ((1, 20), (2, 13), (3, 17))])
    store.append([episode(4, 9)])
    store.split("default", {"fit": 0.5, "validate": 0.5}, 0)
    store.set_statistics(fit_statistics(SCHEMA, list(store)))
    (folder / "store" / ".lock").unlink(missing_ok=True)
    torch.manual_seed(0)
    model = WorldModel(store.schema, CONFIG).eval()
    draw = torch.Generator().manual_seed(1)
    context = 0.3 * torch.randn(80, CONFIG.width, generator=draw)
    points = len(CONFIG.grid)
    calibration = Calibration(
        bands={name: tuple(1.0 + 0.1 * h for h in range(points)) for name in model.quantities},
        novelty=fit_novelty(context, torch.rand(80, points, generator=draw), 0.2),
        trajectory={"low": {"0.05": 1.5}},
        subjects=4,
    )
    extra = {"calibration": calibration.model_dump(mode="json")}
    save(model, folder / "checkpoint", card="Golden: random weights.", extra=extra)
    with audit.AuditLog.open(folder / "audit") as log:
        for number in range(3):
            arrays = {"glucose": np.array([100.0 + number, np.nan]), "stale": np.array([False, number == 1])}
            record = {"time": 5.0 * number, "seed": number, "decision": {"dose": 0.1 * number, "margin": -np.inf}}
            head = log.append(record, arrays)
    content = {"format": FORMAT_VERSION, "head": head, **results(folder)}
    (folder / "expected.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = HERE / f"v{FORMAT_VERSION}"
    if target.exists():
        sys.exit(f"{target} exists; golden files of a released version are never written again")
    write(target)
