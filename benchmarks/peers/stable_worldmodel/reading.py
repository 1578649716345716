"""Reading windows for training: the peer's HDF5 and Lance stores beside ours, on the same frames.

    python benchmarks/peers/stable_worldmodel/reading.py [--episodes 80] [--repeats 7] [--turn 0.4]

The same recorded episodes are written by each side's own writer and read as random windows of frames, actions and
places in batches of 64: theirs by PyTorch's DataLoader as their documentation does, without workers; ours by
`WindowReader`. In each repeat every reader has its turn of so many CPU seconds. Frames a CPU-second count all threads
of the process. The page cache is warm. HDF5 is not compressed, ours is (Zstandard, without loss), Lance holds JPEG
(which loses): sizes are printed. Two readers hold what they read in memory: ours by default where 512 MiB are enough,
theirs where its columns are named to be cached.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer import run, table, tell, write_report

from foreworld.errors import InputError

BATCH, STEPS = 64, 68  # windows a batch; actions an episode, the mean of the peer's own collection
SIZES = (64, 224)
WINDOWS = {"4 frames": (4, 1), "16 frames": (16, 1), "4 frames, every 5th": (4, 5)}
COLUMNS = ["pixels", "action", "proprio"]
Next = Callable[[], dict[str, Any]]


def main(given: argparse.Namespace) -> None:
    import torch

    if min(given.episodes, given.repeats) < 1 or not given.turn > 0:
        raise InputError("--episodes and --repeats are at least 1, and --turn is above 0")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    report = {
        "batch": BATCH,
        "turn_cpu_seconds": given.turn,
        "repeats": given.repeats,
        "seed": given.seed,
        "results": found,
    }
    with tempfile.TemporaryDirectory() as name:
        for size in SIZES:
            tell(f"writing {given.episodes} episodes of {STEPS + 1} frames of {size} px")
            folder = Path(name) / str(size)
            episodes = record(given.episodes, size, given.seed)
            stores = write(folder, episodes, size)
            sizes = {store: bytes_of(path) for store, path in stores.items()}
            check(stores, episodes)
            for window, (frames, every) in WINDOWS.items():
                tell(f"reading {size} px, {window}")
                readers = readers_of(stores, frames, every, given.seed)
                rates = measure(readers, frames, given.repeats, given.turn)
                found[f"{size} px, {window}"] = {
                    "frames": given.episodes * (STEPS + 1), "bytes_a_frame": sizes, "readers": rates,
                }  # fmt: skip
                write_report("reading", report, given.json)
    show(found, write_report("reading", report, given.json))


def record(count: int, size: int, seed: int) -> dict[str, Any]:
    """Frames [N, T + 1, S, S, 3], places [N, T + 1, 2] and actions [N, T, 2] of a noisy expert."""
    import numpy as np

    from foreworld.domains.rooms.behaviour import Expert
    from foreworld.domains.rooms.scene import RoomsConfig, Scenes

    seeds = [int(s) for s in np.random.SeedSequence((seed, 7)).generate_state(count)]
    scenes, expert = Scenes(RoomsConfig(frame=size), seeds), Expert()
    frames, places, actions = [scenes.reset()], [scenes.position.copy()], []
    expert.start(scenes, [np.random.default_rng((s, 1)) for s in seeds])
    for _ in range(STEPS):
        actions.append(expert.act(scenes))
        frames.append(scenes.step(actions[-1]))
        places.append(scenes.position.copy())
    return {
        "pixels": np.stack(frames, axis=1), "proprio": np.stack(places, axis=1), "action": np.stack(actions, axis=1),
    }  # fmt: skip


def write(folder: Path, episodes: dict[str, Any], size: int) -> dict[str, Path]:
    """The same episodes by each side's own writer."""
    import numpy as np
    from stable_worldmodel.data.formats.hdf5 import HDF5Writer
    from stable_worldmodel.data.formats.lance import LanceWriter

    from foreworld.domains.rooms.scene import RoomsConfig
    from foreworld.domains.rooms.source import schema_of
    from foreworld.episodes import Episode, EpisodeStore

    folder.mkdir()
    paths = {"foreworld": folder / "store", "hdf5": folder / "frames.h5", "lance": folder / "frames.lance"}
    count = len(episodes["pixels"])
    store = EpisodeStore.create(paths["foreworld"], schema_of(RoomsConfig(frame=size)))
    times = np.arange(STEPS + 1.0)
    store.append(
        Episode(f"s{n}", times, {
            "frame": episodes["pixels"][n], "x": episodes["proprio"][n, :, 0], "y": episodes["proprio"][n, :, 1],
            "right": episodes["action"][n, :, 0], "down": episodes["action"][n, :, 1],
        })
        for n in range(count)
    )  # fmt: skip

    def rows(n: int) -> dict[str, list[Any]]:
        # Their rows hold an action each; after the last frame comes the episode's first one again, as they collect.
        action = np.concatenate([episodes["action"][n], episodes["action"][n, :1]])
        return {"pixels": list(episodes["pixels"][n]), "proprio": list(episodes["proprio"][n]), "action": list(action)}

    for kind, path in ((HDF5Writer, paths["hdf5"]), (LanceWriter, paths["lance"])):
        with kind(path) as writer:
            writer.write_episodes(rows(n) for n in range(count))
    return paths


def bytes_of(path: Path) -> int:
    """On disk."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def check(stores: dict[str, Path], episodes: dict[str, Any]) -> None:
    """All stores give what was written; Lance as far as JPEG goes.

    Raises:
        InputError: One does not, so its speed would mean nothing.
    """
    import numpy as np
    from stable_worldmodel.data.formats.hdf5 import HDF5Dataset
    from stable_worldmodel.data.formats.lance import LanceDataset

    from foreworld.episodes import EpisodeStore

    last = len(episodes["pixels"]) - 1
    wanted = episodes["pixels"][last, 5:9]
    ours = EpisodeStore.open(stores["foreworld"]).episode(last).values["frame"][5:9]
    if not (ours == wanted).all():
        raise InputError("our store gives other frames than were written")
    for name, kind, off in (("hdf5", HDF5Dataset, 0), ("lance", LanceDataset, 40)):
        data = kind(path=stores[name], num_steps=4)
        chunk = data.load_chunk(np.array([last]), np.array([5]), np.array([9]))[0]["pixels"].permute(0, 2, 3, 1).numpy()
        if np.abs(chunk.astype(int) - wanted).max() > off:
            raise InputError(f"the {name} store gives other frames than were written")


def readers_of(stores: dict[str, Path], frames: int, every: int, seed: int) -> dict[str, Next]:
    """What gives the next batch, by name; all give PyTorch tensors."""
    import torch
    from stable_worldmodel.data.formats.hdf5 import HDF5Dataset
    from stable_worldmodel.data.formats.lance import LanceDataset
    from torch.utils.data import DataLoader, RandomSampler

    from foreworld.episodes import EpisodeStore, WindowReader

    def ours(**options: Any) -> Next:
        reader = WindowReader(
            EpisodeStore.open(stores["foreworld"]), (frames - 1) * every, seed=seed, batch_size=BATCH, every=every,
            **options,
        )  # fmt: skip

        def give() -> dict[str, Any]:
            batch = {name: torch.from_numpy(values) for name, values in next(reader).values.items()}
            return {"pixels": batch.pop("frame"), **batch}

        return give

    def theirs(kind: Any, path: Path, **options: Any) -> Next:
        data = kind(path=path, num_steps=frames, frameskip=every, keys_to_load=list(COLUMNS), **options)
        sampler = RandomSampler(
            data, replacement=True, num_samples=10**9 // BATCH, generator=torch.Generator().manual_seed(seed)
        )
        batches = iter(DataLoader(data, batch_size=BATCH, sampler=sampler))
        return lambda: next(batches)

    return {
        "foreworld, on disk": ours(in_memory=False),
        "foreworld, as it comes": ours(),
        "HDF5": theirs(HDF5Dataset, stores["hdf5"]),
        "Lance": theirs(LanceDataset, stores["lance"]),
        "HDF5, cached": theirs(HDF5Dataset, stores["hdf5"], keys_to_cache=list(COLUMNS)),
    }


def measure(readers: dict[str, Next], frames: int, repeats: int, turn: float) -> dict[str, Any]:
    """Frames a CPU-second and a second of each reader: least, median, greatest over the repeats."""
    import statistics

    rates: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in readers}
    for give in readers.values():
        if give()["pixels"].shape[:2] != (BATCH, frames):
            raise InputError("a reader gives batches of another shape")
        give()
    for _ in range(repeats):
        for name, give in readers.items():
            cpu, wall, batches = time.process_time(), time.perf_counter(), 0
            while (spent := time.process_time() - cpu) < turn:
                give()
                batches += 1
            rates[name]["cpu"].append(BATCH * frames * batches / spent)
            rates[name]["wall"].append(BATCH * frames * batches / (time.perf_counter() - wall))
    return {
        name: {
            f"frames_a_{what}_second": [min(each), statistics.median(each), max(each)]
            for what, each in (("cpu", rate["cpu"]), ("wall", rate["wall"]))
        }
        for name, rate in rates.items()
    }


def show(found: dict[str, Any], place: Path) -> None:
    """Print what was found."""
    for name, one in found.items():
        rows = [(name, "bytes a frame", "frames a CPU-second", "a second", "ours on disk / it")]
        ours = one["readers"]["foreworld, on disk"]["frames_a_cpu_second"][1]
        for reader, rate in one["readers"].items():
            store = reader.split(",")[0].lower()
            cpu = "{1:,.0f} ({0:,.0f} to {2:,.0f})".format(*rate["frames_a_cpu_second"])
            wall = f"{rate['frames_a_wall_second'][1]:,.0f}"
            per = f"{one['bytes_a_frame'][store] / one['frames']:,.0f}"
            rows.append((reader, per, cpu, wall, f"{ours / rate['frames_a_cpu_second'][1]:.2f}"))
        print(table(rows) + "\n")
    print(f"medians (least to greatest); {next(iter(found.values()))['frames']:,} frames in all; {place}")


if __name__ == "__main__":
    run(
        main,
        __doc__,
        episodes={"type": int, "default": 80, "help": "recorded"},
        repeats={"type": int, "default": 7, "help": "turns of every reader"},
        turn={"type": float, "default": 0.4, "help": "CPU seconds that a reader's turn lasts at least"},
        seed={"type": int, "default": 70, "help": "of episodes and windows"},
        json={"default": None, "help": "where to write, instead of benchmarks/results/peer-reading.json"},
    )
