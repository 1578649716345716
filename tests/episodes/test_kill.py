"""A writer killed with SIGKILL in the middle of an append loses nothing that was committed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from foreworld.episodes import EpisodeStore

from .helpers import SCHEMA, assert_same, make_episode

# Each append is of 5 segments, and `count` is printed only when it is committed.
WRITER = """
import sys
from tests.episodes.helpers import make_episode
import foreworld.episodes.store as module
from foreworld.episodes import EpisodeStore
module._SEGMENT_BYTES = 1
store = EpisodeStore.open(sys.argv[1])
print("ready", flush=True)
while True:
    base = len(store)
    store.append([make_episode(f"s{base + i}", 40, base + i) for i in range(5)])
    print(len(store), flush=True)
"""


def test_a_killed_writer_leaves_every_committed_episode_and_the_store_usable(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", SCHEMA)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    generator = np.random.default_rng(0)
    torn = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=root,
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(float(generator.uniform(0.02, 0.5)))
            writer.send_signal(signal.SIGKILL)
            committed = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        store = EpisodeStore.open(store.path)
        folders = [f for f in (store.path / "segments").iterdir() if f.is_dir()]
        torn += len(folders) > len(store.segments)
        assert len(store) % 5 == 0, "an append became visible in part"
        assert len(store) >= max(committed, default=0)
        for i, episode in enumerate(store):
            assert_same(episode, make_episode(f"s{i}", 40, i))
        before = len(store)
        store.append([make_episode(f"s{before + i}", 40, before + i) for i in range(5)])
        assert len(EpisodeStore.open(store.path)) == before + 5
        assert len([f for f in (store.path / "segments").iterdir() if f.is_dir()]) == len(store.segments)
    assert torn, "no writer was killed in the middle of an append, so nothing was tested"
