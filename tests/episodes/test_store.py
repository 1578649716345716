import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreworld.episodes import Channel, Episode, EpisodeStore, Schema, WindowReader, fit_statistics
from foreworld.episodes.files import one_writer
from foreworld.errors import ForeworldError, FormatError, InputError, SchemaError

from .helpers import SCHEMA, assert_same, make_episode

FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def store(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", SCHEMA)
    store.append(make_episode(f"s{i}", 3 + i, i) for i in range(10))
    return store


@FEW
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10_000), st.booleans()), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    )
)
def test_gives_back_what_was_appended_in_any_batches(batches):
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore.create(Path(folder) / "store", SCHEMA)
        appended = []
        for batch in batches:
            episodes = [make_episode(f"s{seed % 7}", n, seed, masked=masked) for n, seed, masked in batch]
            assert store.append(iter(episodes)) == len(batch)
            appended += episodes
        for reader in (store, EpisodeStore.open(Path(folder) / "store", schema=SCHEMA)):
            assert len(reader) == len(appended)
            assert reader.lengths.tolist() == [len(episode) for episode in appended]
            assert reader.subjects == tuple(dict.fromkeys(episode.subject for episode in appended))
            for i, (found, expected) in enumerate(zip(reader, appended, strict=True)):
                assert_same(found, expected)
                assert reader.info(i) == expected.info and reader.subject(i) == expected.subject


def test_gives_back_episodes_that_span_several_chunks_and_segments(tmp_path, monkeypatch):
    monkeypatch.setattr("foreworld.episodes.store._SEGMENT_BYTES", 1_000_000)
    store = EpisodeStore.create(tmp_path / "store", SCHEMA)
    episodes = [make_episode(f"s{i}", 5_000, i) for i in range(4)]
    store.append(episodes)
    assert len(store.segments) > 1
    for found, expected in zip(store, episodes, strict=True):
        assert_same(found, expected)


def test_casts_floats_and_refuses_what_the_dtype_cannot_hold(store):
    good = make_episode("a", 4, 1)
    store.append([replace(good, values=good.values | {"glucose": good.values["glucose"].astype(np.float64)})])
    assert_same(store.episode(-1), good)
    for name, bad in (("frame", 256), ("frame", 0.5), ("sites", -1), ("glucose", 1e39)):
        values = good.values | {name: np.full(good.values[name].shape, bad)}
        with pytest.raises(InputError, match=name):
            store.append([replace(good, values=values)])
    assert len(store) == 11


def _nan_action(episode):
    episode.values["insulin"][1] = np.nan
    return episode


def _wrong_unit(episode):
    episode.values["glucose"][1] = 5.6  # mmol/L
    return episode


def _backward(episode):
    episode.times[2] = episode.times[0] - 1
    return episode


def _lacking(episode):
    del episode.values["meal"]
    return episode


def _shifted(episode):
    episode.values["insulin"] = np.zeros(len(episode) + 1, dtype=np.float32)
    return episode


def _infinite(episode):
    episode.values["pose"][0, 0] = np.inf
    return episode


def _wrong_mask(episode):
    episode.masks["alarm"] = episode.masks["alarm"][1:]
    return episode


def _info_object(episode):
    return replace(episode, info={"policy": object()})


BAD = {
    _nan_action: (InputError, "insulin.*step 1.*NaN"),
    _wrong_unit: (InputError, r"glucose.*5\.6.*20 mg/dL"),
    _backward: (InputError, "times.*backwards"),
    _lacking: (SchemaError, "meal.*missing"),
    _shifted: (SchemaError, r"insulin.*shape"),
    _infinite: (InputError, "pose.*infinite"),
    _wrong_mask: (SchemaError, "mask alarm.*shape"),
    _info_object: (InputError, "JSON"),
}


@FEW
@given(spoil=st.sampled_from(list(BAD)), before=st.integers(0, 3), length=st.integers(3, 12), seed=st.integers(0, 999))
def test_bad_input_is_named_and_changes_nothing(store, spoil, before, length, seed):
    kept = len(store)
    error, message = BAD[spoil]
    episodes = [make_episode("new", length, seed + i) for i in range(before + 1)]
    with pytest.raises(error, match=message):
        store.append([*episodes[:-1], spoil(episodes[-1])])
    again = EpisodeStore.open(store.path)
    assert len(store) == len(again) == kept
    assert_same(again.episode(0), make_episode("s0", 3, 0))
    assert len(list((store.path / "segments").iterdir())) == len(store.segments) + 1


@FEW
@given(data=st.data())
def test_a_truncated_or_missing_file_is_named_and_the_rest_is_readable(tmp_path, data):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        store = EpisodeStore.create(Path(folder) / "store", SCHEMA)
        first, second = make_episode("a", 8, 1), make_episode("b", 9, 2)
        store.append([first])
        store.append([second])
        files = sorted(f for f in (store.path / "segments" / "000001").rglob("*") if f.is_file())
        file = data.draw(st.sampled_from(files))
        content = file.read_bytes()
        keep = data.draw(st.one_of(st.none(), st.integers(0, len(content) - 1)))
        file.unlink()
        if keep is not None:
            file.write_bytes(content[:keep])
        with pytest.raises(FormatError, match=r"000001.*restore"):
            EpisodeStore.open(store.path)
        rest = EpisodeStore.open(store.path, skip_damaged=True)
        assert len(rest) == 1 and len(rest.damaged) == 1
        assert_same(rest.episode(0), first)
        rest.append([first])
        file.write_bytes(content)
        mended = EpisodeStore.open(store.path)
        assert_same(mended.episode(1), second)
        assert len(mended) == 3


@FEW
@given(at=st.floats(0, 1, exclude_max=True))
def test_flipped_bits_in_data_are_an_error_and_never_other_values(tmp_path, at):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        store = EpisodeStore.create(Path(folder) / "store", SCHEMA)
        episode = make_episode("a", 30, 1)
        store.append([episode])
        file = next(f for f in (store.path / "segments/000000/values/glucose/c").rglob("*") if f.is_file())
        content = bytearray(file.read_bytes())
        content[int(at * len(content))] ^= 0x10
        file.write_bytes(bytes(content))
        try:
            assert_same(EpisodeStore.open(store.path).episode(0), episode)
        except FormatError as error:
            assert "glucose" in str(error)


def test_newer_formats_are_refused_and_left_alone(store):
    for file in (store.path / "zarr.json", store.path / "segments" / "000000" / "zarr.json"):
        text = file.read_text()
        content = json.loads(text)
        content["attributes"]["foreworld"]["format_version"] = 99
        file.write_text(json.dumps(content))
        with pytest.raises(FormatError, match=r"99.*newer"):
            EpisodeStore.open(store.path)
        file.write_text(text)
    assert len(EpisodeStore.open(store.path)) == 10


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attributes": {"foreworld": {"format_version": 1}}}'])
def test_a_damaged_index_is_named(store, text):
    (store.path / "zarr.json").write_text(text)
    with pytest.raises(FormatError, match=r"zarr\.json"):
        EpisodeStore.open(store.path)


def test_another_schema_is_named_by_its_differences(store):
    channels = list(SCHEMA.channels)
    channels[0] = Channel(name="glucose", role="observation", unit="mmol/L", low=1, high=33)
    with pytest.raises(SchemaError, match="unit is 'mg/dL', expected 'mmol/L'"):
        EpisodeStore.open(store.path, schema=SCHEMA.model_copy(update={"channels": tuple(channels)}))


def test_create_and_open_say_what_to_do_about_a_wrong_path(store, tmp_path):
    with pytest.raises(InputError, match=r"exists already.*open"):
        EpisodeStore.create(store.path, SCHEMA)
    with pytest.raises(InputError, match=r"no episode store.*create"):
        EpisodeStore.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has 10 episodes"):
        store.episode(10)


def test_a_store_made_anew_at_the_same_path_does_not_show_the_old_content(tmp_path):
    for seed in (1, 2):
        store = EpisodeStore.create(tmp_path / f"new{seed}", SCHEMA)
        store.append([make_episode("a", 9, seed)])
        store.path.rename(tmp_path / "store")
        assert_same(EpisodeStore.open(tmp_path / "store").episode(0), make_episode("a", 9, seed))
        (tmp_path / "store").rename(tmp_path / f"old{seed}")


def test_any_zarr_v3_reader_can_browse_the_store(store):
    group = zarr.open_group(str(store.path), mode="r")
    assert group.attrs["foreworld"]["schema"]["name"] == "ward"
    stored = group["segments/000000/values/glucose"]
    assert stored.shards is not None and [codec.to_dict()["name"] for codec in stored.compressors] == ["zstd"]
    assert group["segments/000000/values/frame"].chunks == (4, 6, 5, 3)
    np.testing.assert_array_equal(stored[:4], store.episode(0).values["glucose"])


def test_two_writers_do_not_mix(store):
    other = EpisodeStore.open(store.path)
    other.append([make_episode("other", 5, 77)])
    store.append([make_episode("mine", 6, 78)])
    assert [store.subject(i) for i in (-2, -1)] == ["other", "mine"]
    other.refresh()
    assert len(other) == 12
    with one_writer(store.path / ".lock"), pytest.raises(InputError, match="another writer"):
        store.append([make_episode("late", 5, 79)])
    assert store.append([make_episode("late", 5, 79)]) == 1


def test_statistics_are_stored_and_the_episodes_stay(store):
    fitted = fit_statistics(SCHEMA, store)
    store.set_statistics(fitted)
    again = EpisodeStore.open(store.path)
    assert again.schema.statistics == fitted
    assert fitted["glucose"].count == sum(int(np.isfinite(e.values["glucose"]).sum()) for e in store)
    assert_same(again.episode(3), make_episode("s3", 6, 3))
    with pytest.raises(SchemaError, match="unknown"):
        store.set_statistics({"unknown": fitted["glucose"]})


@settings(max_examples=30)
@given(n=st.integers(5, 40), seed=st.integers(0, 2**31), share=st.floats(0.3, 0.7))
def test_division_is_disjoint_complete_and_repeatable(n, seed, share):
    from foreworld.episodes.splits import divide_subjects

    subjects = [f"p{i}" for i in range(n)]
    parts = divide_subjects(subjects, {"train": share, "test": 1 - share}, seed)
    assert sorted(parts["train"] + parts["test"]) == sorted(subjects)
    assert abs(len(parts["train"]) - share * n) <= 1
    assert divide_subjects(subjects[::-1], {"train": share, "test": 1 - share}, seed) == parts


def test_splits_are_by_subject_stored_and_seeded(store):
    store.append(make_episode(f"s{i}", 4, 100 + i) for i in range(10))  # a second episode for each subject
    fractions = {"train": 0.6, "calibration": 0.2, "test": 0.2}
    parts = store.split("default", fractions, seed=3)
    again = EpisodeStore.open(store.path)
    assert again.splits() == {"default": parts}
    by_part = {part: {again.subject(i) for i in again.episodes_of(part)} for part in parts}
    assert [len(by_part[part]) for part in fractions] == [6, 2, 2]
    assert not by_part["train"] & by_part["test"] and set.union(*by_part.values()) == set(store.subjects)
    assert len(again.episodes_of("default/train")) == 12
    assert store.split("default", fractions, seed=3) == parts
    with pytest.raises(InputError, match="another name"):
        store.split("default", fractions, seed=4)
    assert store.split("other", fractions, seed=4) != parts
    with pytest.raises(InputError, match="ambiguous"):
        store.episodes_of("train")


@pytest.mark.parametrize(
    ("fractions", "message"),
    [({"a": 0.9, "b": 0.2}, "at most 1"), ({"a": 0.0}, "share"), ({"a": 0.95, "b": 0.01}, "empty"), ({}, "shares")],
)
def test_wrong_shares_are_named(store, fractions, message):
    with pytest.raises(InputError, match=message):
        store.split("x", fractions, seed=0)


def test_a_given_split_is_checked(store):
    for parts, message in (
        ({"a": ["s1", "s2"], "b": ["s2"]}, "'s2' is in both"),
        ({"a": ["nobody"]}, "not in the store"),
        ({"a/b": ["s1"]}, "slash"),
    ):
        with pytest.raises(InputError, match=message):
            store.set_split("protocol", parts)
    assert store.set_split("protocol", {"a": ["s1"]}) == {"a": ["s1"]}
    with pytest.raises(InputError, match="unknown"):
        store.episodes_of("b")


def test_a_window_of_an_episode_is_cut_by_role():
    episode = make_episode("a", 3, 5)  # as many actions as the static `sites` has entries
    part = episode.window(SCHEMA, 1, 3)
    part.validate(SCHEMA)
    np.testing.assert_array_equal(part.values["sites"], episode.values["sites"])
    np.testing.assert_array_equal(part.values["insulin"], episode.values["insulin"][1:3])
    np.testing.assert_array_equal(part.values["glucose"], episode.values["glucose"][1:4])
    np.testing.assert_array_equal(part.masks["alarm"], episode.masks["alarm"][1:4])


def test_every_error_is_one_of_ours(tmp_path):
    assert issubclass(FormatError, ForeworldError) and issubclass(SchemaError, InputError)
    with pytest.raises(ValueError, match="shape"):
        Schema(name="x", step=1, channels=(Channel(name="a", role="observation", shape=(0,)),))


def test_depth_of_16_bits_with_holes_is_kept_and_a_map_is_missing_only_where_all_of_it_is(tmp_path):
    depth = {"role": "observation", "kind": "depth", "shape": (2, 2), "low": 0}
    schema = Schema(
        name="depth",
        step=1.0,
        channels=(
            Channel(name="metres", unit="m", high=4, **depth),
            Channel(name="millimetres", unit="mm", high=4000, dtype="uint16", **depth),
            Channel(name="move", role="action"),
        ),
    )
    metres = np.ones((3, 2, 2), np.float32)
    metres[0, 0, 0], metres[1] = np.nan, np.nan
    values = {"metres": metres, "millimetres": np.nan_to_num(1000 * metres), "move": np.zeros(2, np.float32)}
    store = EpisodeStore.create(tmp_path / "store", schema)
    store.append([Episode("a", np.arange(3.0), values)])
    found = store.episode(0)
    assert found.values["millimetres"].dtype == np.uint16 and found.values["millimetres"][0, 0, 1] == 1000
    np.testing.assert_array_equal(found.values["metres"], metres)
    assert schema["metres"].measured(found.values["metres"]).tolist() == [True, False, True]
    batch = next(WindowReader(store, 2, seed=0, batch_size=1))
    assert batch.masks["metres"].tolist() == [[True, False, True]]
    with pytest.raises(InputError, match=r"millimetres"):
        store.append([Episode("b", np.arange(3.0), values | {"millimetres": np.full((3, 2, 2), 70_000)})])
