"""`check_dataset`: replay a store; find broken episodes, leaking splits, wrong statistics, and shifted actions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from foreworld.conformance.report import Report, Review
from foreworld.episodes.episode import Episode
from foreworld.episodes.schema import Channel, Role, Schema, Statistics, fit_statistics
from foreworld.episodes.store import EpisodeStore
from foreworld.errors import ForeworldError, FormatError

# Of the part whose episodes the statistics must come from.
TRAIN = "train"
# A correlation of actions with the change before them that is this strong, and this many times that with the change
# after them, does not come about where actions are where they belong and act at once.
STRONG, TIMES = 0.4, 2.0


def check_dataset(store: EpisodeStore | str | Path) -> Report:
    """Replay a store.

    Warnings, in the report: nothing stored, statistics not fitted yet, subjects in no part, constant or empty
    channels, a typical time step far from the schema's, and actions that look shifted by one step.

    Args:
        store: A store, or the folder of one.

    Raises:
        ConformanceError: With every finding.
    """
    review = Review(f"dataset {store.path if isinstance(store, EpisodeStore) else store}")
    opened: EpisodeStore | None = None
    with review.check("opens"):
        try:
            opened = store if isinstance(store, EpisodeStore) else EpisodeStore.open(store)
        except FormatError as error:
            review.expect(False, "a readable store", str(error), "restore the damaged file from a copy")
    if opened is None:
        return review.close()
    series = _Series(opened.schema)
    with review.check("episodes are valid"):
        _episodes(opened, series, review)
    with review.check("splits share nobody"):
        _splits(opened, series, review)
    with review.check("statistics come from training subjects"):
        _statistics(opened, series, review)
    with review.check("channels carry something"):
        series.report_empty(review)
    with review.check("actions come before their effects"):
        series.report_shift(review)
    return review.close()


class _Series:
    """What one pass over the episodes gathers."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.content: dict[str, dict[str, int]] = {}
        self.range: dict[str, tuple[float, float]] = {}
        self.steps: list[float] = []
        self.broken: set[int] = set()
        pairs = [(a, o) for a in _scalars(schema, Role.action) for o in _scalars(schema, Role.observation)]
        # By pair: sums of [n, x, y, xx, yy, xy] with the change before the action, and with the one after.
        self.sums = {(a.name, o.name): np.zeros((2, 6)) for a, o in pairs}

    def add(self, i: int, episode: Episode) -> None:
        self.content.setdefault(_fingerprint(episode), {})[episode.subject] = i
        self.steps += np.diff(episode.times).tolist()
        for channel in self.schema.channels:
            values = np.asarray(episode.values[channel.name])
            if values.dtype.kind == "f":
                values = values[np.isfinite(values)]
            if values.size:
                low, high = self.range.get(channel.name, (np.inf, -np.inf))
                self.range[channel.name] = min(low, float(values.min())), max(high, float(values.max()))
        for (action, observation), sums in self.sums.items():
            done = np.asarray(episode.values[action], dtype=np.float64)
            level = np.where(episode.mask(observation), episode.values[observation], np.nan).astype(np.float64)
            change = np.diff(level)
            for k, (x, y) in enumerate(((done[1:], change[:-1]), (done, change))):
                sums[k] += _moments(x, y)

    def report_empty(self, review: Review) -> None:
        for channel in self.schema.channels:
            low, high = self.range.get(channel.name, (np.nan, np.nan))
            if not low <= high:
                review.warn(f"channel {channel.name} is empty: it holds no measured value; leave it out of the schema")
            elif low == high and channel.role is not Role.static:
                review.warn(
                    f"channel {channel.name} is constant at {low:g} {channel.unit}; a model learns nothing of it"
                )
        if self.steps:
            typical = float(np.median(self.steps))
            if not 0.5 <= typical / self.schema.step <= 2.0:
                review.warn(
                    f"time stamps lie {typical:g} apart (median), the schema's step is {self.schema.step:g} "
                    f"{self.schema.time_unit}; check the unit of time"
                )

    def report_shift(self, review: Review) -> None:
        for (action, observation), sums in self.sums.items():
            before, after = _correlation(sums[0]), _correlation(sums[1])
            if abs(before) >= STRONG and abs(before) > TIMES * abs(after):
                review.warn(
                    f"action {action} goes with the change of {observation} just before it (correlation {before:.2f}) "
                    f"more than with the one just after (correlation {after:.2f}): the actions may be shifted by one "
                    "step. action[t] must be what was chosen after observation[t] and led to observation[t + 1]. "
                    "(A policy that answers each change at once, with a slow effect, looks alike.)"
                )


def _scalars(schema: Schema, role: Role) -> list[Channel]:
    return [c for c in schema.by_role(role) if c.shape == () and not c.discrete]


def _moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n, x, y, xx, yy, xy] over the pairs that are there, centred within the episode."""
    there = np.isfinite(x) & np.isfinite(y)
    if there.sum() < 3:
        return np.zeros(6)
    x, y = x[there] - x[there].mean(), y[there] - y[there].mean()
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def _correlation(sums: np.ndarray) -> float:
    spread = float(np.sqrt(sums[3] * sums[4]))
    return float(sums[5]) / spread if spread > 0 else 0.0


def _fingerprint(episode: Episode) -> str:
    """Equal for episodes with equal series, whoever's they are said to be."""
    digest = hashlib.sha256()
    for name in sorted(episode.values):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(episode.values[name]).tobytes())
    return digest.hexdigest()


def _episodes(store: EpisodeStore, series: _Series, review: Review) -> None:
    if not len(store):
        review.warn("the store holds no episode")
    for message in store.damaged:
        review.expect(False, "every segment to be readable", message, "restore the damaged file from a copy")
    for i in range(len(store)):
        try:
            episode = store.episode(i)
            episode.validate(store.schema)
        except ForeworldError as error:
            series.broken.add(i)
            review.expect(False, f"episode {i} to be valid", str(error), "correct the source and store it again")
            continue
        series.add(i, episode)
        for name, mask in episode.masks.items():
            values, channel = np.asarray(episode.values[name]), store.schema[name]
            if values.dtype.kind == "f" and bool((mask & ~channel.measured(values)).any()):
                review.expect(
                    False,
                    f"the mask of {name} to be False where the value is NaN",
                    f"True in episode {i} of subject {episode.subject}",
                    "derive masks from the data, or leave them out: NaN means missing",
                )


def _splits(store: EpisodeStore, series: _Series, review: Review) -> None:
    subjects = set(store.subjects)
    for name, parts in store.splits().items():
        owner: dict[str, str] = {}
        for part, members in parts.items():
            for subject in members:
                known = subject in subjects
                review.expect(
                    known, f"subjects of {name}/{part} to be stored", f"{subject!r}, who is not", "make the split again"
                )
                twice = subject in owner
                review.expect(
                    not twice,
                    f"every subject in one part of split {name}",
                    f"{subject!r} in both {owner.get(subject)!r} and {part!r}",
                    "split by subject: EpisodeStore.split",
                )
                owner[subject] = part
        for twins in series.content.values():
            owners = sorted({owner[s] for s in twins if s in owner})
            review.expect(
                len(owners) < 2,
                f"an episode to be in one part of split {name}",
                f"the same series of subjects {', '.join(sorted(twins))} in parts {', '.join(owners)}",
                "store each episode once, under one name of its subject",
            )
        outside = sorted(subjects - set(owner))
        if outside:
            review.warn(f"{len(outside)} subjects are in no part of split {name}, the first is {outside[0]!r}")


def _statistics(store: EpisodeStore, series: _Series, review: Review) -> None:
    schema, fitted = store.schema, store.schema.statistics
    if not fitted:
        review.warn("no statistics are stored; fit them on the training subjects (fit_statistics) before learning")
        return
    lacking = [c.name for c in schema.channels if not c.discrete and c.shape == () and c.name not in fitted]
    review.expect(
        not lacking, "statistics of every numeric channel", f"none of {', '.join(lacking)}", "fit them: fit_statistics"
    )
    trained = [name for name, parts in store.splits().items() if TRAIN in parts]
    if not trained:
        return
    candidates = {name: _refit(store, series, store.episodes_of(f"{name}/{TRAIN}")) for name in trained}
    if any(_equal(fitted, again) for again in candidates.values()):
        return
    everybody = _refit(store, series, range(len(store)))
    again = candidates[trained[0]]
    worst = max((name for name in fitted if name in again), key=lambda name: _off(fitted[name], again[name]))
    leaked = _equal(fitted, everybody)
    review.expect(
        False,
        f"statistics fitted on the subjects of {trained[0]}/{TRAIN}: mean {again[worst].mean:g} and standard deviation "
        f"{again[worst].std:g} of {worst}",
        f"mean {fitted[worst].mean:g} and standard deviation {fitted[worst].std:g}"
        + (", which are those of all subjects: test subjects leak into training" if leaked else ""),
        "store.set_statistics(fit_statistics(schema, episodes of the training subjects))",
    )


def _refit(store: EpisodeStore, series: _Series, indices: Iterator[int] | list[int] | range) -> dict[str, Statistics]:
    return fit_statistics(store.schema, (store.episode(i) for i in indices if i not in series.broken))


def _off(a: Statistics, b: Statistics) -> float:
    return max(abs(a.mean - b.mean), abs(a.std - b.std)) / b.std


def _equal(fitted: dict[str, Statistics], again: dict[str, Statistics]) -> bool:
    return all(name in again and _off(fitted[name], again[name]) <= 1e-6 for name in fitted)
