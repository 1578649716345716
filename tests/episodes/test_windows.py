import json

import numpy as np
import pytest

from foreworld.episodes import EpisodeStore, WindowReader
from foreworld.errors import FormatError, InputError

from .helpers import SCHEMA, make_episode


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = EpisodeStore.create(tmp_path_factory.mktemp("windows") / "store", SCHEMA)
    store.append(make_episode(f"s{i}", 2 + 3 * i, i) for i in range(8))
    store.append(make_episode(f"t{i}", 20, 50 + i, masked=False) for i in range(4))  # a segment without masks
    store.split("default", {"train": 0.5, "test": 0.5}, seed=0)
    return store


def take(reader, count):
    return [next(reader) for _ in range(count)]


def assert_equal_batches(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.episodes, b.episodes)
        np.testing.assert_array_equal(a.starts, b.starts)
        np.testing.assert_array_equal(a.times, b.times)
        assert set(a.values) == set(b.values) == set(a.masks) == set(b.masks)
        for name in a.values:
            np.testing.assert_array_equal(a.values[name], b.values[name])
            np.testing.assert_array_equal(a.masks[name], b.masks[name])


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_every_window_is_a_part_of_one_episode(store, in_memory):
    length = 5
    reader = WindowReader(store, length, seed=1, batch_size=16, in_memory=in_memory)
    episodes = list(store)
    for batch in take(reader, 6):
        assert batch.times.shape == (16, length + 1)
        for b, (i, start) in enumerate(zip(batch.episodes, batch.starts, strict=True)):
            part = episodes[i].window(SCHEMA, int(start), int(start) + length)
            np.testing.assert_array_equal(batch.times[b], part.times)
            for channel in SCHEMA.channels:
                name = channel.name
                assert batch.values[name].dtype == channel.dtype
                np.testing.assert_array_equal(batch.values[name][b], part.values[name])
                mask = channel.measured(part.values[name]) & part.masks.get(name, True)
                np.testing.assert_array_equal(batch.masks[name][b], mask)


def test_every_place_is_drawn_equally_often(store):
    reader = WindowReader(store, 12, seed=0, batch_size=1000, channels=["insulin"], in_memory=True)
    places = np.maximum(store.lengths - 12 + 1, 0)
    assert reader.places == places.sum()
    batches = take(reader, 40)
    drawn = np.bincount(np.concatenate([b.episodes for b in batches]), minlength=len(store))
    expected = 40_000 * places / places.sum()
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected) + 1e-9).all()
    starts = np.concatenate([b.starts[b.episodes == len(store) - 1] for b in batches])
    assert sorted(set(starts)) == list(range(9))


def test_same_seed_same_batches_on_disk_and_in_memory(store):
    first = take(WindowReader(store, 4, seed=7, batch_size=8, in_memory=False), 5)
    assert_equal_batches(first, take(WindowReader(store, 4, seed=7, batch_size=8, in_memory=False), 5))
    assert_equal_batches(first, take(WindowReader(store, 4, seed=7, batch_size=8, in_memory=True), 5))
    other = take(WindowReader(store, 4, seed=8, batch_size=8), 5)
    assert any((a.starts != b.starts).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("used", [0, 1, 4])
def test_resumes_after_the_last_batch_given(store, used):
    reader = WindowReader(store, 4, seed=7, batch_size=8, in_memory=False)
    take(reader, used)
    state = json.loads(json.dumps(reader.state_dict()))
    expected = take(reader, 4)
    resumed = WindowReader(store, 4, seed=0, batch_size=8, in_memory=True)
    take(resumed, 2)
    resumed.load_state_dict(state)
    assert_equal_batches(expected, take(resumed, 4))
    with pytest.raises(InputError, match="length 4, this one has 3"):
        WindowReader(store, 3, seed=0, batch_size=8).load_state_dict(state)


def test_reads_only_the_split_and_the_channels_asked_for(store):
    reader = WindowReader(store, 2, seed=0, split="train", channels=["glucose", "weight"])
    batch = next(reader)
    assert set(batch.values) == {"glucose", "weight"}
    assert set(batch.episodes) <= set(store.episodes_of("train"))


def test_says_why_no_window_fits(store):
    with pytest.raises(InputError, match="longest has 23"):
        WindowReader(store, 24, seed=0)
    with pytest.raises(InputError, match="length >= 1"):
        WindowReader(store, 0, seed=0)


def test_damage_found_while_reading_names_the_file(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", SCHEMA)
    store.append([make_episode("a", 50, 0)])
    reader = WindowReader(store, 4, seed=0, channels=["frame"], in_memory=False)
    file = next(f for f in (store.path / "segments/000000/values/frame/c").rglob("*") if f.is_file())
    file.unlink()
    with pytest.raises(FormatError, match="values/frame"):
        next(reader)
