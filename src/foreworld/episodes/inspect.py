"""What is in a store, as a dictionary and as text to read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from foreworld.episodes.schema import Channel, Kind
from foreworld.episodes.store import EpisodeStore

_LARGE = (Kind.video, Kind.depth, Kind.points)
_LARGE_SAMPLE = 32


class _Running:
    """Count, mean, squared deviations and extremes of values that come in parts (Chan, Golub & LeVeque 1983)."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.steps = 0
        self.missing = 0
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0
        self.low = math.inf
        self.high = -math.inf
        self.categories = np.zeros(len(channel.categories), dtype=np.int64)

    def add(self, values: np.ndarray, mask: np.ndarray | None) -> None:
        """Take in one episode's values [..., *shape] and its mask."""
        present = self.channel.measured(values) if mask is None else mask
        self.steps += present.size
        self.missing += int(present.size - present.sum())
        shown = values[present].reshape(-1)
        if shown.size == 0:
            return
        if self.channel.discrete:
            self.categories += np.bincount(shown.astype(np.int64), minlength=len(self.categories))
        part = shown.astype(np.float64)
        mean = float(part.mean())
        total = self.count + part.size
        shift = mean - self.mean
        self.squares += float(((part - mean) ** 2).sum()) + shift**2 * self.count * part.size / total
        self.mean += shift * part.size / total
        self.count = total
        self.low, self.high = min(self.low, float(part.min())), max(self.high, float(part.max()))

    def result(self) -> dict[str, Any]:
        """What was found; None where nothing was measured."""
        channel, some = self.channel, self.count > 0
        found: dict[str, Any] = {
            "role": str(channel.role),
            "kind": str(channel.kind),
            "shape": list(channel.shape),
            "unit": channel.unit,
            "missing": self.missing / self.steps if self.steps else None,
        }
        if channel.discrete:
            shares = (self.categories / max(self.count, 1)).tolist()
            return {**found, "categories": dict(zip(channel.categories, shares, strict=True))}
        return {
            **found,
            "mean": self.mean if some else None,
            "sd": math.sqrt(self.squares / self.count) if some else None,
            "min": self.low if some else None,
            "max": self.high if some else None,
        }


def summary(path: str | Path) -> dict[str, Any]:
    """Contents of a store.

    Returns:
        `schema`, `episodes`, `subjects`, `steps` (actions in all), `length` (least, median and greatest actions an
        episode), `duration` and `time_unit`, `splits` (subjects and episodes by `division/part`), `statistics` (whether
        they are set), `bytes` on disk, and `channels`: by name role, kind, shape, unit, missing share, and mean, sd,
        min and max, or the share of each category. Video, depth and points are sampled from at most 32 episodes.

    Raises:
        InputError: There is no store at `path`.
        FormatError: A file in it is damaged.
    """
    store = EpisodeStore.open(path)
    running = {channel.name: _Running(channel) for channel in store.schema.channels}
    sampled = set(np.linspace(0, len(store) - 1, _LARGE_SAMPLE).astype(int).tolist()) if len(store) else set()
    duration = 0.0
    small = [c.name for c in store.schema.channels if c.kind not in _LARGE]
    for i in range(len(store)):
        episode = store.episode(i, channels=None if i in sampled else small)
        duration += float(episode.times[-1] - episode.times[0])
        for name, values in episode.values.items():
            running[name].add(values, episode.masks.get(name))
    lengths = store.lengths
    splits = {
        f"{name}/{part}": {"subjects": len(subjects), "episodes": len(store.episodes_of(f"{name}/{part}"))}
        for name, parts in store.splits().items()
        for part, subjects in parts.items()
    }
    return {
        "path": str(store.path),
        "schema": store.schema.name,
        "episodes": len(store),
        "subjects": len(store.subjects),
        "steps": int(lengths.sum()),
        "length": [int(lengths.min()), float(np.median(lengths)), int(lengths.max())] if len(store) else None,
        "duration": duration,
        "time_unit": store.schema.time_unit,
        "splits": splits,
        "statistics": bool(store.schema.statistics),
        "bytes": sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        "channels": {name: one.result() for name, one in running.items()},
    }


def describe(path: str | Path) -> str:
    """The summary of a store as text, one line a channel; raises what `summary` raises."""
    found = summary(path)
    unit = found["time_unit"]
    lines = [
        f"{found['path']}: {found['schema']}, {found['bytes'] / 1e6:.1f} MB",
        f"{found['episodes']} episodes of {found['subjects']} subjects, {found['steps']} steps, "
        f"{found['duration']:g} {unit} in all",
    ]
    if found["length"]:
        lines.append("steps an episode: least {}, median {:g}, greatest {}".format(*found["length"]))
    splits = [
        f"{name} {part['subjects']} subjects ({part['episodes']} episodes)" for name, part in found["splits"].items()
    ]
    lines.append(f"splits: {', '.join(splits) or 'none'}")
    lines.append(f"statistics for normalisation: {'set' if found['statistics'] else 'not set'}")
    table = [["channel", "role", "kind", "unit", "mean", "sd", "min", "max", "missing"]]
    for name, one in found["channels"].items():
        if "categories" in one:
            shares = ", ".join(f"{category} {share:.0%}" for category, share in one["categories"].items())
            figures = [shares, "", "", ""]
        else:
            figures = [_figure(one[key]) for key in ("mean", "sd", "min", "max")]
        missing = "-" if one["missing"] is None else f"{one['missing']:.1%}"
        table.append([name, one["role"], one["kind"], one["unit"] or "-", *figures, missing])
    return "\n".join([*lines, "", *_aligned(table)])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _aligned(table: Iterable[list[str]]) -> list[str]:
    rows = list(table)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
