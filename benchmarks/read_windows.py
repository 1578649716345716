"""Reading random windows: the episode store against zarr-python and h5py, on the same data and windows.

    PYTHONPATH=src python benchmarks/read_windows.py [--quick]

Two data sets: 64x64 RGB video in windows of 4 frames, and three float32 channels in windows of 288 steps. Figures
are frames (steps) a CPU-second over all threads of the process, the median of repetitions with the least and greatest.
The store and zarr-python read the same compressed files; h5py reads uncompressed, contiguous arrays.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import zarr

from foreworld.episodes import Channel, Episode, EpisodeStore, Schema, WindowReader

BATCH = 128
RESULT = Path(__file__).parent / "results" / "read_windows.json"
Read = Callable[[np.ndarray], list[np.ndarray]]

VIDEO = Schema(
    name="video",
    step=1.0,
    time_unit="step",
    channels=(
        Channel(name="frame", role="observation", kind="video", dtype="uint8", shape=(64, 64, 3)),
        Channel(name="move", role="action", shape=(2,)),
    ),
)
SERIES = Schema(
    name="series",
    step=5.0,
    channels=(
        Channel(name="glucose", role="observation", unit="mg/dL"),
        Channel(name="heart_rate", role="observation", unit="1/min"),
        Channel(name="activity", role="observation"),
        Channel(name="insulin", role="action", unit="U"),
    ),
)


def video_episode(number: int, steps: int) -> Episode:
    """A square that moves over a tiled, slightly noisy room: compressible as drawn scenes are."""
    generator = np.random.default_rng([1, number])
    room = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.repeat(room[None], steps + 1, axis=0)
    frames[:, ::2, ::2] += generator.integers(0, 4, (steps + 1, 32, 32, 3), dtype=np.uint8)
    place = np.cumsum(generator.integers(-2, 3, (steps + 1, 2)), axis=0) % 56
    for t, (row, column) in enumerate(place):
        frames[t, row : row + 8, column : column + 8] = 255
    moves = np.diff(place, axis=0).astype(np.float32)
    return Episode(f"s{number}", np.arange(steps + 1.0), {"frame": frames, "move": moves})


def series_episode(number: int, steps: int) -> Episode:
    """Random walks, rounded as sensors round."""
    generator = np.random.default_rng([2, number])
    walks = np.cumsum(generator.normal(size=(3, steps + 1)), axis=1).round(1).astype(np.float32)
    values = dict(zip(("glucose", "heart_rate", "activity"), walks, strict=True))
    values["insulin"] = generator.exponential(size=steps).round(2).astype(np.float32)
    return Episode(f"s{number}", np.arange(steps + 1) * 5.0, values)


def figure(read: Callable[[int], int], repetitions: int, batches: int) -> dict[str, float]:
    """Median, least and greatest frames a CPU-second; the first batch opens files and is not counted."""
    read(0)
    rates, walls = [], []
    for repetition in range(repetitions):
        cpu, wall = time.process_time(), time.perf_counter()
        frames = sum(read(1 + repetition * batches + i) for i in range(batches))
        rates.append(frames / (time.process_time() - cpu))
        walls.append(frames / (time.perf_counter() - wall))
    return {
        "frames_per_cpu_second": float(np.median(rates)),
        "low": min(rates),
        "high": max(rates),
        "frames_per_second": float(np.median(walls)),
        "n": repetitions * batches * BATCH,
    }


def compare(
    folder: Path, schema: Schema, episodes: list[Episode], channels: list[str], width: int, counts: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """Figures of the three readers for windows of `width` frames of `channels`."""
    store = EpisodeStore.create(folder / schema.name, schema)
    store.append(episodes)
    steps = len(episodes[0])
    with h5py.File(folder / f"{schema.name}.h5", "w") as file:
        for name in channels:
            file[name] = np.concatenate([episode.values[name] for episode in episodes])

    # The same windows for all: drawn once by the reader, then looked up by the others.
    repetitions, batches = counts
    draws = WindowReader(store, width - 1, seed=0, batch_size=BATCH, channels=[], in_memory=False)
    rows = [b.episodes * (steps + 1) + b.starts for b, _ in zip(draws, range(1 + repetitions * batches), strict=False)]
    reader = WindowReader(store, width - 1, seed=0, batch_size=BATCH, channels=channels, in_memory=False)
    held = WindowReader(store, width - 1, seed=0, batch_size=BATCH, channels=channels, in_memory=True)
    assert len(store.segments) == 1, "the direct readers look into one segment"
    values = store.segments[0].path / "values"
    arrays = [zarr.open_array(str(values / name), mode="r") for name in channels]
    with h5py.File(folder / f"{schema.name}.h5", "r") as file:
        data = [file[name] for name in channels]

        def direct(sources: list) -> Callable[[int], int]:
            def read(i: int) -> int:
                batch = [np.stack([source[r : r + width] for r in rows[i].tolist()]) for source in sources]
                return batch[0].shape[0] * batch[0].shape[1]

            return read

        def ours(source: WindowReader) -> Callable[[int], int]:
            def read(_: int) -> int:
                first = next(source).values[channels[0]]
                return first.shape[0] * first.shape[1]

            return read

        first = next(WindowReader(store, width - 1, seed=0, batch_size=BATCH, channels=channels, in_memory=False))
        for name, source in zip(channels, data, strict=True):
            expected = np.stack([source[r : r + width] for r in rows[0].tolist()])
            np.testing.assert_array_equal(first.values[name], expected)
        few = max(1, batches // 8)
        return {
            "foreworld": figure(ours(reader), repetitions, batches),
            "foreworld, held in memory": figure(ours(held), repetitions, batches),
            "zarr-python": figure(direct(arrays), repetitions, few),
            "h5py, uncompressed": figure(direct(data), repetitions, batches),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run in some seconds")
    quick = parser.parse_args().quick
    started = time.process_time()
    counts = (3, 8) if quick else (5, 40)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = [video_episode(i, 199) for i in range(20 if quick else 100)]
        results = {"video 64x64x3, 4 frames": compare(folder, VIDEO, videos, ["frame"], 4, counts)}
        series = [series_episode(i, 4_031) for i in range(20 if quick else 250)]
        three = ["glucose", "heart_rate", "activity"]
        results["series of 3 float32 channels, 288 steps"] = compare(folder, SERIES, series, three, 288, counts)
    report = {
        "format": 1,
        "benchmark": "read_windows",
        "quick": quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("numpy", "zarr", "tensorstore", "h5py")},
        "batch": BATCH,
        "cpu_seconds": time.process_time() - started,
        "results": results,
    }
    if not quick:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{report['machine']}; {report['versions']}")
    for data, readers in results.items():
        print(f"\n{data}; frames a CPU-second, median (least to greatest), n windows")
        ours = readers["foreworld"]["frames_per_cpu_second"]
        for reader, r in readers.items():
            print(
                f"  {reader:26s} {r['frames_per_cpu_second']:>12,.0f} ({r['low']:,.0f} to {r['high']:,.0f}), "
                f"n {r['n']:,}; foreworld on disk is {ours / r['frames_per_cpu_second']:.2f} times that"
            )


if __name__ == "__main__":
    sys.exit(main())
