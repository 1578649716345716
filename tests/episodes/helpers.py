"""A small schema and episodes of it, made from a seed."""

import numpy as np

from foreworld.episodes import Channel, Episode, Schema

SCHEMA = Schema(
    name="ward",
    step=5.0,
    channels=(
        Channel(name="glucose", role="observation", unit="mg/dL", low=20, high=600),
        Channel(name="frame", role="observation", kind="video", dtype="uint8", shape=(6, 5, 3)),
        Channel(name="alarm", role="observation", dtype="int32", categories=("none", "low", "high")),
        Channel(name="pose", role="observation", dtype="float64", shape=(2,)),
        Channel(name="meal", role="exogenous", kind="event", unit="g", low=0, high=300),
        Channel(name="insulin", role="action", kind="event", unit="U", low=0, high=25),
        Channel(name="weight", role="static", unit="kg", low=1, high=300),
        Channel(name="sites", role="static", dtype="uint8", shape=(3,)),
    ),
)


def make_episode(subject: str, actions: int, seed: int, *, masked: bool = True) -> Episode:
    generator = np.random.default_rng(seed)
    n = actions + 1
    glucose = generator.uniform(40, 400, n).astype(np.float32)
    glucose[generator.random(n) < 0.2] = np.nan
    pose = generator.normal(size=(n, 2))
    pose[generator.random((n, 2)) < 0.1] = np.nan
    return Episode(
        subject=subject,
        times=np.cumsum(generator.uniform(1, 9, n)),
        values={
            "glucose": glucose,
            "frame": generator.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8),
            "alarm": generator.integers(0, 3, n, dtype=np.int32),
            "pose": pose,
            "meal": generator.uniform(0, 90, n).astype(np.float32),
            "insulin": generator.uniform(0, 9, actions).astype(np.float32),
            "weight": np.float32(generator.uniform(40, 120)),
            "sites": generator.integers(0, 9, 3, dtype=np.uint8),
        },
        masks={"alarm": generator.random(n) < 0.7} if masked else {},
        info={"seed": seed},
    )


def assert_same(found: Episode, expected: Episode) -> None:
    assert found.subject == expected.subject
    assert found.info == expected.info
    np.testing.assert_array_equal(found.times, expected.times)
    assert set(found.values) == set(expected.values)
    for channel in SCHEMA.channels:
        name = channel.name
        mask = expected.masks.get(name)
        assert found.values[name].dtype == channel.dtype
        left, right = found.values[name], np.asarray(expected.values[name])
        assert left.shape == right.shape
        if mask is not None:
            left, right = left[mask], right[mask]
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(found.mask(name), expected.mask(name))
