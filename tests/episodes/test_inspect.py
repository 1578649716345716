import numpy as np
import pytest

from foreworld.episodes import EpisodeStore, describe, summary

from .helpers import SCHEMA, make_episode


def test_summary_agrees_with_numpy_over_all_episodes(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", SCHEMA)
    assert summary(store.path)["length"] is None and "0 episodes" in describe(store.path)
    episodes = [make_episode(f"s{i % 4}", 5 + 7 * i, i) for i in range(6)]
    store.append(episodes)
    store.split("default", {"train": 0.75, "test": 0.25}, seed=0)
    found = summary(store.path)
    assert (found["episodes"], found["subjects"]) == (6, 4)
    assert found["steps"] == sum(len(e) for e in episodes) and found["length"] == [5, 22.5, 40]
    assert found["duration"] == pytest.approx(sum(e.times[-1] - e.times[0] for e in episodes))
    assert found["splits"]["default/train"]["subjects"] == 3
    assert sum(part["episodes"] for part in found["splits"].values()) == 6
    glucose = np.concatenate([e.values["glucose"] for e in episodes]).astype(float)
    one = found["channels"]["glucose"]
    assert one["unit"] == "mg/dL"
    assert one["mean"] == pytest.approx(np.nanmean(glucose)) and one["sd"] == pytest.approx(np.nanstd(glucose))
    assert (one["min"], one["max"]) == (np.nanmin(glucose), np.nanmax(glucose))
    assert one["missing"] == pytest.approx(np.isnan(glucose).mean())
    alarm = np.concatenate([e.values["alarm"][e.masks["alarm"]] for e in episodes])
    shares = np.bincount(alarm, minlength=3) / len(alarm)
    assert list(found["channels"]["alarm"]["categories"].values()) == pytest.approx(shares.tolist())
    frames = np.concatenate([e.values["frame"] for e in episodes])
    assert found["channels"]["frame"]["mean"] == pytest.approx(frames.mean())


def test_describe_has_a_line_a_channel_with_its_unit(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", SCHEMA)
    store.append([make_episode("a", 9, 0)])
    lines = describe(store.path).splitlines()
    for channel in SCHEMA.channels:
        (line,) = [line for line in lines if line.startswith(channel.name + " ")]
        assert channel.unit in line
    assert "splits: none" in lines and "1 episodes of 1 subjects, 9 steps" in lines[1]
