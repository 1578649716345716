"""Far goals: a graph of latent waypoints that somebody has passed, and how many blocks it takes from one to another.

    graph = WaypointGraph.build(clips, nodes=600)             # latents [N, F, D] of clips, one block apart
    objective = GoalObjective(profile, goals, graph.distance)

The distance of two scenes in a latent space is that of the bird, not of the walker: it leads a short plan against the
wall behind which the goal lies. The graph knows ways that were walked (compare Savinov et al. 2018, semi-parametric
topological memory; Eysenbach et al. 2019, search on the replay buffer). It is made of observed transitions alone.

A search looks for the places where a model is wrong: a plan that is imagined half through a wall is near waypoints of
the other side, and seems to be a short cut. So a plan may be told to stay near what was seen (`astray`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foreworld.errors import FormatError, InputError

NEAR = 4  # waypoints that count as being near a scene
UNREACHED = 1e4  # blocks; what nobody has come from


@dataclass(frozen=True)
class Waypoints:
    """Places that somebody has passed.

    Attributes:
        nodes: [M, D] latents.
        pace: Latent distance that a block usually covers.
        known: Blocks; what is farther from every waypoint is no place that anybody has seen, and a plan that leads
            there leads nowhere.
    """

    nodes: Tensor
    pace: float
    known: float = field(default=math.inf, kw_only=True)

    file: ClassVar[str]

    def save(self, folder: str | Path) -> None:
        """Write all of it into a folder."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors = {
            name: torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
            for name, value in values.items()
        }
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / self.file)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: There is no such file, or it holds something else.
        """
        path = Path(folder) / cls.file
        try:
            found = load_file(path)
            found.setdefault("known", torch.tensor(math.inf))  # earlier files have none
            given: dict[str, Any] = {one.name: found[one.name] for one in fields(cls)}
            return cls(**given | {name: float(found[name]) for name in ("pace", "known")})
        except (OSError, SafetensorError, KeyError) as error:
            raise FormatError(f"{path} holds no {path.stem}: {error}; make them again") from error

    @cached_property
    def _half(self) -> Tensor:
        """[M] half the squared lengths of the nodes."""
        return 0.5 * self.nodes.pow(2).sum(-1)

    def counted(self, latents: Tensor) -> Tensor:
        """What of latents [..., D] counts for where somebody is; the nodes hold nothing else."""
        return latents

    def near(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks to the nearest waypoints and which they are, both [B, N, NEAR], of latents [B, N, D]."""
        latents = self.counted(latents)
        closeness = torch.addmm(-self._half, latents.flatten(0, 1), self.nodes.T).reshape(*latents.shape[:2], -1)
        best, at = closeness.topk(min(NEAR, len(self.nodes)), dim=-1)
        away = (latents.pow(2).sum(-1, keepdim=True) - 2.0 * best).clamp(min=0.0).sqrt() / self.pace
        # One that lies more than a block beyond the nearest may be on the other side of a wall.
        return torch.where(away <= away[..., :1] + 1.0, away, UNREACHED), at


@dataclass(frozen=True)
class WaypointGraph(Waypoints):
    """Waypoints and the blocks between them.

    Attributes:
        blocks: [M, M] least number of blocks from one to another by transitions that were seen; `UNREACHED` where none
            was.
    """

    blocks: Tensor

    file = "waypoints.safetensors"

    @classmethod
    def build(
        cls,
        clips: Tensor,
        *,
        nodes: int = 600,
        seen: int = 2,
        rounds: int = 8,
        seed: int = 0,
        astray: float | None = None,
    ) -> WaypointGraph:
        """From latents of clips, one block apart.

        Args:
            clips: [N, F, D].
            nodes: Waypoints M, at most.
            seen: How often a transition must have been seen to count.
            rounds: Of k-means.
            seed: Of its start.
            astray: Waypoints are spaced evenly instead, and a plan leads nowhere that is so many times farther from
                all of them than anything seen is; at least 1.

        Raises:
            InputError: There are fewer latents than waypoints, or `astray` is less than 1.
        """
        points, pace, known = clips.flatten(0, 1), pace_of(clips), math.inf
        if astray is None:
            centres = centres_of(points, nodes, rounds=rounds, seed=seed)
        elif astray < 1.0:
            raise InputError(f"astray is {astray:g}: what was seen would be astray itself; give at least 1")
        else:
            centres, farthest = spaced(points, nodes, seed=seed)
            known = astray * farthest / pace
        at = _nearest(points, centres).reshape(clips.shape[:2])
        pairs = at[:, :-1].flatten() * len(centres) + at[:, 1:].flatten()
        often = torch.bincount(pairs, minlength=len(centres) ** 2).reshape(len(centres), -1)
        return cls(centres, pace, _shortest(often >= seen), known=known)

    def distance(self, latents: Tensor, goals: Tensor) -> Tensor:
        """[E, B, S, H, G] blocks from latents [E, B, S, H, D] to goals [B, G, D]; see `Towards`."""
        return self.towards(goals)(latents, goals)

    def towards(self, goals: Tensor, barred: Tensor | None = None) -> Towards:
        """The ways to goals [B, G, D].

        Args:
            goals: Latents.
            barred: [B, M] waypoints where nobody may be, for each subject; ways through them do not count.

        Raises:
            InputError: The shape of `barred` is wrong.
        """
        away, at = self.near(goals)
        if barred is None:
            onwards = (self.blocks[:, at] + away).amin(-1).permute(1, 2, 0)
            return Towards(self, onwards)
        if barred.shape != (len(goals), len(self.nodes)):
            raise InputError(f"barred has shape {tuple(barred.shape)}, expected {(len(goals), len(self.nodes))}")
        direct = (self.blocks == 1).float()
        onwards = torch.full((*goals.shape[:2], len(self.nodes)), UNREACHED)
        onwards.scatter_reduce_(2, at, away, "amin")
        shut = barred[:, None].expand_as(onwards)
        onwards = torch.where(shut, UNREACHED, onwards)
        # One transition more in each round, until nothing is nearer (Bellman 1958, Ford 1956).
        step = torch.where(direct > 0, 1.0, UNREACHED)
        for _ in range(len(self.nodes)):
            nearer = torch.stack([(step + row[None]).amin(1) for row in onwards.flatten(0, 1)]).reshape(onwards.shape)
            nearer = torch.where(shut, UNREACHED, torch.minimum(nearer, onwards))
            if torch.equal(nearer, onwards):
                break
            onwards = nearer
        return Towards(self, onwards)


@dataclass(frozen=True)
class Towards:
    """Ways to certain goals, worked out once; a distance for `GoalObjective`.

    Attributes:
        graph: Waypoints.
        onwards: [B, G, M] blocks from each waypoint to each goal.
    """

    graph: Waypoints
    onwards: Tensor

    def __call__(self, latents: Tensor, goals: Tensor) -> Tensor:
        """[E, B, S, H, G] blocks from latents [E, B, S, H, D]: to a waypoint, and on from there.

        Within a block of the goal it is the way there directly. From where a plan goes astray it leads nowhere.
        """
        shape = latents.shape[:-1]
        flat = latents.transpose(0, 1).flatten(1, 3)  # [B, E S H, D]
        # Latent distances of far scenes tell nothing, so only the waypoints around either end count.
        away, at = self.graph.near(flat)
        direct = torch.cdist(self.graph.counted(flat), self.graph.counted(goals)) / self.graph.pace
        found = []
        for g in range(goals.shape[1]):
            by_way = (away + self.onwards[:, g].gather(1, at.flatten(1)).reshape(at.shape)).amin(-1)
            found.append(torch.where(by_way <= 2.0, torch.minimum(by_way, direct[..., g]), by_way))
        whole = torch.stack(found, dim=-1).reshape(shape[1], shape[0], *shape[2:], -1).transpose(0, 1)
        if math.isinf(self.graph.known):
            return whole
        astray = (away[..., 0] > self.graph.known).reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)
        # Behind a wall it was gone through there are waypoints again.
        return whole + UNREACHED * (astray.cumsum(-1) > 0)[..., None]

    def left(self, latents: Tensor) -> Tensor:
        """[B, G] whether a way from latents [B, D] to each goal is left."""
        away, at = self.graph.near(latents[:, None])
        near = self.onwards.gather(2, at.expand(-1, self.onwards.shape[1], -1))
        return (near + away).amin(-1) < UNREACHED


def centres_of(points: Tensor, count: int, *, rounds: int = 8, seed: int = 0) -> Tensor:
    """[count, D] centres of latents [N, D] by k-means (Lloyd 1982).

    Raises:
        InputError: There are fewer latents.
    """
    if len(points) < count:
        raise InputError(f"{len(points)} latents give no {count} waypoints; record more, or ask for fewer")
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = _nearest(points, centres)
        often = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(often > 0, sums / often.clamp(min=1), centres)
    return centres


def spaced(points: Tensor, count: int, *, seed: int = 0) -> tuple[Tensor, float]:
    """[count, D] of latents [N, D], each the farthest from those before it, and how far any is from all of them.

    A farthest-first traversal (Gonzalez 1985): where somebody passed seldom and fast, such as in a door, there are as
    many as where everybody was.

    Raises:
        InputError: There are fewer latents.
    """
    if len(points) < count:
        raise InputError(f"{len(points)} latents give no {count} waypoints; record more, or ask for fewer")
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    away = (points - points[chosen[0]]).pow(2).sum(-1)
    for _ in range(count - 1):
        chosen.append(int(away.argmax()))
        away = torch.minimum(away, (points - points[chosen[-1]]).pow(2).sum(-1))
    return points[chosen].clone(), float(away.max().sqrt())


def pace_of(clips: Tensor) -> float:
    """Latent distance that a block usually covers, of latents [N, F, D] one block apart."""
    return float((clips[:, 1:] - clips[:, :-1]).norm(dim=-1).quantile(0.75))


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """[N] index of the nearest centre."""
    half = 0.5 * centres.pow(2).sum(-1)
    return torch.cat([(half - part @ centres.T).argmin(-1) for part in torch.split(points, 8192)])


def _shortest(direct: Tensor) -> Tensor:
    """[M, M] least number of transitions (Floyd 1962, Warshall 1962)."""
    far = np.where(direct.numpy(), 1.0, UNREACHED).astype(np.float32)
    np.fill_diagonal(far, 0.0)
    for k in range(len(far)):
        np.minimum(far, far[:, k, None] + far[None, k], out=far)
    return torch.from_numpy(np.minimum(far, UNREACHED))
