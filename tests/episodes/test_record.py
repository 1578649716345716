from importlib import import_module

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from foreworld.episodes import BatchSource, Channel, EpisodeStore, Kind, Schema, record
from foreworld.errors import ForeworldError, InputError, SchemaError


class Counter(gymnasium.Env):
    """Observes the step and the last action; gives the same array each time, altered in place."""

    action_space = spaces.Discrete(50, start=10)

    def __init__(self, fail_at=None):
        self.observation_space = spaces.Dict(
            {
                "Clock": spaces.Box(-1, 1000, (2,), np.float32),
                "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "mode": spaces.Discrete(3, start=-1),
            }
        )
        self.fail_at = fail_at
        self.resets = 0
        self.buffer = np.zeros(2, np.float32)

    def observation(self):
        return {"Clock": self.buffer, "camera": np.full((4, 4, 3), self.t, np.uint8), "mode": self.t % 3 - 1}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        self.t = 0
        self.buffer[:] = 0, -1
        return self.observation(), {}

    def step(self, action):
        if self.resets == self.fail_at:
            raise RuntimeError("the power is off")
        self.t += 1
        self.buffer[:] = self.t, action
        return self.observation(), 100.0 + self.t, self.t == 7, False, {}


def policy(observation):
    return 10 + int(observation["Clock"][0])


def test_action_t_follows_observation_t_and_leads_to_the_next(tmp_path):
    store = record(Counter(), policy, tmp_path / "store", episodes=3, seed=5)
    assert store.lengths.tolist() == [7, 7, 7]
    for episode in store:
        clock, action = episode.values["clock"], episode.values["action"]
        np.testing.assert_array_equal(clock[:, 0], np.arange(8))
        np.testing.assert_array_equal(action, clock[:-1, 0])  # chosen after seeing observation[t]
        np.testing.assert_array_equal(clock[1:, 1], action + 10)  # and leads to observation[t+1]
        np.testing.assert_array_equal(episode.values["reward"][1:], 100 + np.arange(1, 8))
        assert np.isnan(episode.values["reward"][0])
        np.testing.assert_array_equal(episode.values["camera"][:, 0, 0, 0], np.arange(8))
        np.testing.assert_array_equal(episode.values["mode"], np.arange(8) % 3)
        assert episode.info["terminated"] and not episode.info["truncated"]


def test_infers_channels_from_spaces(tmp_path):
    schema = record(Counter(), policy, tmp_path / "store", seed=0).schema
    assert schema["camera"].kind is Kind.video and schema["camera"].dtype == "uint8"
    assert schema["mode"].categories == ("-1", "0", "1")
    assert schema["action"].categories[:2] == ("10", "11")
    assert schema["clock"].shape == (2,)


def test_an_interrupted_recording_goes_on_where_it_stopped(tmp_path, monkeypatch):
    # The package's name `record` is the function; the module is reached by import_module.
    monkeypatch.setattr(import_module("foreworld.episodes.record"), "_EPISODES_PER_COMMIT", 2)
    with pytest.raises(RuntimeError, match="power"):
        record(Counter(fail_at=6), policy, tmp_path / "store", episodes=8, seed=0)
    assert len(EpisodeStore.open(tmp_path / "store")) == 4
    environment = Counter()
    store = record(environment, policy, tmp_path / "store", episodes=8, seed=0)
    assert len(store) == len(store.subjects) == 8 and environment.resets == 4


def test_cartpole_is_recorded_repeatably_and_its_physics_fits_the_order(tmp_path):
    stores = [record(gymnasium.make("CartPole-v1"), None, tmp_path / n, episodes=5, seed=3) for n in "ab"]
    for left, right in zip(*stores, strict=True):
        np.testing.assert_array_equal(left.values["observation"], right.values["observation"])
        np.testing.assert_array_equal(left.values["action"], right.values["action"])
    for episode in stores[0]:
        pushed = np.diff(episode.values["observation"][:, 1])  # cart velocity
        np.testing.assert_array_equal(pushed > 0, episode.values["action"] == 1)
    other = record(gymnasium.make("CartPole-v1"), None, tmp_path / "c", episodes=5, seed=4)
    assert (other.episode(0).values["observation"][0] != stores[0].episode(0).values["observation"][0]).any()
    short = record(gymnasium.make("CartPole-v1"), None, tmp_path / "d", episodes=2, steps=4, seed=3)
    assert short.lengths.tolist() == [4, 4] and not short.info(0)["terminated"]


def test_a_given_schema_is_kept_and_a_wrong_one_is_named(tmp_path):
    channels = (
        Channel(name="cart", role="observation", shape=(4,)),
        Channel(name="push", role="action", dtype="int64", categories=("left", "right")),
    )
    schema = Schema(name="cart", step=0.02, time_unit="s", channels=channels)
    environment = gymnasium.make("CartPole-v1")
    store = record(environment, None, tmp_path / "store", seed=0, schema=schema)
    assert store.episode(0).times[1] == 0.02
    with pytest.raises(SchemaError, match="has another schema"):
        record(environment, None, tmp_path / "store", seed=1)
    lacking = schema.model_copy(update={"channels": (*channels, Channel(name="wind", role="exogenous"))})
    with pytest.raises(SchemaError, match="not in the environment"):
        record(environment, None, tmp_path / "other", seed=0, schema=lacking)
    assert not (tmp_path / "other").exists()


def test_unsupported_spaces_are_named(tmp_path):
    environment = Counter()
    environment.action_space = spaces.MultiBinary(3)
    with pytest.raises(InputError, match="MultiBinary"):
        record(environment, None, tmp_path / "store", seed=0)


class Ward:
    """B subjects that observe the step and the last dose; subject b is done after 3 + b steps."""

    def __init__(self, size=3, ends=True):
        self.subjects = [f"patient{b}" for b in range(size)]
        self.size = size
        self.ends = ends
        self.seen = np.zeros((size, 2), np.float32)

    def output(self):
        return {"sensor": self.seen, "meal": np.full(self.size, self.t % 2.0)}

    def reset(self):
        self.t = 0
        self.seen[:] = 0, np.nan
        return self.output()

    def step(self, actions):
        self.t += 1
        self.seen[:, 0], self.seen[:, 1] = self.t, actions["dose"]
        done = {"done": np.arange(self.size) + 3 <= self.t} if self.ends else {}
        return self.output() | done

    def statics(self):
        return {"weight": 60.0 + np.arange(self.size)}


WARD = Schema(
    name="ward",
    step=5,
    channels=(
        Channel(name="sensor", role="observation", shape=(2,)),
        Channel(name="meal", role="exogenous", unit="g"),
        Channel(name="dose", role="action", unit="U", low=0, high=1000),
        Channel(name="weight", role="static", unit="kg"),
    ),
)


def dose(seen):
    answer = seen["sensor"][:, 0] * 10 + np.arange(len(seen["sensor"]))
    seen["sensor"][:] = -1  # a policy that spoils its input must not spoil the record
    return {"dose": answer}


def test_a_batch_source_is_recorded_in_order_and_cut_where_each_subject_ends(tmp_path):
    assert isinstance(Ward(), BatchSource)
    store = record(Ward(), dose, tmp_path / "store", schema=WARD, seed=0, episodes=2)
    assert store.lengths.tolist() == [3, 4, 5] * 2
    assert store.subjects == ("patient0", "patient1", "patient2")
    for i, episode in enumerate(store):
        n, b = len(episode), i % 3
        np.testing.assert_array_equal(episode.values["sensor"][:, 0], np.arange(n + 1))
        np.testing.assert_array_equal(episode.values["dose"], 10 * np.arange(n) + b)
        np.testing.assert_array_equal(episode.values["sensor"][1:, 1], episode.values["dose"])
        np.testing.assert_array_equal(episode.times, 5.0 * np.arange(n + 1))
        assert episode.values["weight"] == 60 + b
        assert episode.info == {"seed": 0, "episode": i // 3, "terminated": True, "truncated": False}


def test_a_batch_source_may_be_cut_by_steps_and_driven_at_random(tmp_path):
    store = record(Ward(ends=False), None, tmp_path / "store", schema=WARD, seed=0, steps=9)
    assert store.lengths.tolist() == [9, 9, 9]
    doses = np.stack([episode.values["dose"] for episode in store])
    assert len(np.unique(doses)) == 27 and doses.min() >= 0 and doses.max() <= 1000
    again = record(Ward(ends=False), None, tmp_path / "again", schema=WARD, seed=0, steps=9)
    np.testing.assert_array_equal(doses, np.stack([episode.values["dose"] for episode in again]))


def test_a_wrong_batch_source_is_named_and_nothing_is_kept(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", WARD)
    cases = [
        (Ward(ends=False), dose, {}, "never says `done`"),
        (Ward(), lambda seen: {}, {"steps": 4}, "dose is missing from what the policy gave"),
        (Ward(), lambda seen: {"dose": np.zeros(2)}, {"steps": 4}, "expected 3 rows"),
        (Ward(), lambda seen: {"dose": np.full(3, -1.0)}, {"steps": 4}, "dose.*-1 is below"),
        (Ward(), dose, {"steps": 0}, "steps >= 1"),
    ]
    for source, acts, options, message in cases:
        with pytest.raises(ForeworldError, match=message):
            record(source, acts, store, seed=0, **options)
    assert len(EpisodeStore.open(store.path)) == 0
    with pytest.raises(InputError, match="give schema="):
        record(Ward(), dose, tmp_path / "none", seed=0)
