"""Episodes of many scenes in closed loop, whoever moves: the agent, or one of the floors that it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch

from foreworld.agent.agent import ACTORS, Actor, Agent
from foreworld.agent.configurator import Configurator
from foreworld.domains.rooms.layout import BoolArray, FloatArray
from foreworld.domains.rooms.pairs import Pairs
from foreworld.domains.rooms.prepare import Prepared
from foreworld.domains.rooms.render import ByteArray
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.source import FRAME, PLACE
from foreworld.domains.rooms.task import STANDARD, GoTo, Reach, WayLeft, keep_out
from foreworld.domains.rooms.zones import Zones
from foreworld.errors import InputError
from foreworld.forecast.forecaster import Calibration, Forecaster
from foreworld.planning.goal import Distance
from foreworld.planning.hierarchy import Towards, WaypointGraph
from foreworld.planning.imagined import Bars, Places, imagine_ways
from foreworld.planning.planners.base import Planner
from foreworld.planning.planners.cem import CEMConfig, CEMPlanner
from foreworld.planning.profile import Profile
from foreworld.planning.zone import KeepOut

TOGETHER = 100  # scenes that are run side by side
SEARCH = CEMConfig.icem(samples=48, iterations=3)
By = Literal["temporal", "waypoints", "imagined", "straight"]


class Player(Protocol):
    """Whoever moves the agents of N scenes."""

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Episodes begin: the first frames [N, H, W, C]."""

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """[N, 2] actions; those of scenes whose episode has ended (`going` [N] is false) do not count."""


@dataclass
class Outcome:
    """What became of N episodes.

    Attributes:
        reached: [N] whether the goal was reached within the budget.
        solved: [N] whether it was reached before anything was done.
        steps: [N] actions until then; the budget where it was not.
        refused: [N] decisions that the planner refused.
        entered: [N] steps that lead into or through a zone that must not be entered.
        decisions: Number of decisions.
        cpu_seconds: What all decisions took, encoding and whatever is worked out at the start included.
        path: [T + 1, N, 2] px.
    """

    reached: BoolArray
    solved: BoolArray
    steps: np.ndarray
    refused: np.ndarray
    entered: np.ndarray
    decisions: int
    cpu_seconds: float
    path: FloatArray


Zone = Callable[[FloatArray, FloatArray], BoolArray]


def run_scenes(
    player: Player, scenes: Scenes, budget: int, *, frames: ByteArray | None = None, zone: Zone | None = None
) -> Outcome:
    """Run one episode of each scene.

    Args:
        player: Who moves.
        scenes: Reset or placed.
        budget: Actions an episode has at most.
        frames: Of now; painted if None.
        zone: From positions [N, 2] px before and after a step, who was where nobody may be.
    """
    seen = scenes.frames() if frames is None else frames
    solved = scenes.reached.copy()
    done, steps = solved.copy(), np.where(solved, 0, budget)
    entered, refused, spent, decisions = np.zeros(len(scenes), int), np.zeros(len(scenes), int), 0.0, 0
    path = [scenes.position.copy()]
    began = time.process_time()
    player.begin(scenes, seen)
    spent += time.process_time() - began
    for step in range(budget):
        if done.all():
            break
        began = time.process_time()
        action = player.act(seen, ~done)
        spent += time.process_time() - began
        decisions += int((~done).sum())
        refused += np.where(done, 0, getattr(player, "refused", 0))
        before = scenes.position.copy()
        seen = scenes.step(np.where(done[:, None], 0.0, action))
        scenes.position[done] = before[done]
        path.append(scenes.position.copy())
        if zone is not None:
            entered += zone(before, scenes.position) & ~done
        new = scenes.reached & ~done
        steps[new] = step + 1
        done |= new
    return Outcome(done & ~solved, solved, steps, refused, entered, decisions, spent, np.stack(path))


def run_pairs(player: Player, rooms: RoomsConfig, pairs: Pairs, budget: int, *, zones: Zones | None = None) -> Outcome:
    """Run an episode from each start to its goal, a part of them at a time; without paths.

    Args:
        player: Who moves; where it is to keep out of zones, they are one a pair.
        rooms: What scenes are like.
        pairs: Starts and goals.
        budget: Actions an episode has at most.
        zones: Where nobody may be, one a pair; who enters is counted, whether it is told of them or not.
    """
    parts = []
    for first in range(0, len(pairs), TOGETHER):
        part = slice(first, first + TOGETHER)
        some, here = pairs.part(part), player
        if isinstance(player, Planned) and player.zones is not None:
            here = replace(player, zones=player.zones.part(part))
        scenes = Scenes(rooms, some.seeds)
        frames = scenes.place(some.start, some.goal)
        crossed = None if zones is None else zones.part(part).crossed
        parts.append(run_scenes(here, scenes, budget, frames=frames, zone=crossed))
    return joined(parts)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Several parts as one; without their paths, which are of different lengths."""
    names = ("reached", "solved", "steps", "refused", "entered")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Outcome(
        **arrays, decisions=sum(part.decisions for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts), path=parts[0].path[:0],
    )  # fmt: skip


@dataclass
class Planned:
    """The agent of foreworld: it sees frames and what was done, and plans towards a goal's frame.

    Args:
        prepared: Model and ways.
        horizon: Blocks that are planned ahead.
        planner: Searches.
        by: How far a goal is: by the learned `temporal` distance, along `waypoints`, along ways `imagined` through this
            very scene, or `straight` in the latent space.
        calibration: Of the model.
        profile: Weights.
        seed: Of the search.
        zones: Where nobody may be, one box a scene; needs waypoints.
        risk: That a plan enters, as claimed.
        watched: Blocks from now on in which a plan must keep out; all that are planned if None. Who can stop at once
            needs one alone, and the nearer moments are foreseen best.
        far: px from a zone from which on it does not matter how far, as in `KeepOut`.
    """

    prepared: Prepared
    horizon: int = 3
    planner: Planner = field(default_factory=lambda: CEMPlanner(SEARCH))
    by: By = "temporal"
    calibration: Calibration | None = None
    profile: Profile = STANDARD
    seed: int = 0
    zones: Zones | None = None
    risk: float = 0.01
    watched: int | None = None
    far: float | None = None

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """Look at the goals' frames."""
        model = self.prepared.model.with_horizon(self.horizon)
        if self.zones is not None:
            graph = self._graph()
            model = model.beside(graph.nodes, graph.moved if isinstance(graph, Places) else None)
        goals = model.embed(torch.from_numpy(scenes.goal_frames()))[:, None]
        self._names = [f"scene{n}" for n in range(len(scenes))]
        self._model, self._goals, self._rows = model, goals.detach(), np.arange(len(scenes))
        self.refused = np.zeros(len(scenes), int)
        self._clock = 0
        seen = torch.from_numpy(frames)
        self._now, self._around = model.embed(seen).detach(), model.around(seen)
        self._towards: Towards | None = None
        forecaster = Forecaster(model, self.calibration)
        self.agent = Agent(
            forecaster,
            self._task(),
            self.planner,
            configurator=Configurator(self.profile),
            checker=None,
            seed=self.seed,
        )
        self.agent.start(self._names, {})

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """Decide for the scenes that go on."""
        rows = np.flatnonzero(going)
        self.keep(rows)
        unknown = {name: np.full(len(rows), np.nan) for name in PLACE}
        step = self.agent.decide(float(self._clock), {FRAME: frames[rows], **unknown})
        self._clock += 1
        self.last = step
        self.refused[:] = 0
        self.refused[rows] = step.actors != ACTORS.index(Actor.planner)
        action = np.zeros((len(going), 2), dtype=np.float32)
        action[rows] = step.actions
        return action

    def keep(self, rows: np.ndarray) -> None:
        """Serve only the scenes at `rows` from now on; of the others all is forgotten."""
        if len(rows) < len(self._rows):
            self.agent.keep([self._names[row] for row in rows])
            self._rows = rows
            self.agent.task = self._task()

    def rail(self, zones: Zones) -> KeepOut:
        """The guardrail of zones, one box a scene."""
        blocks = self.horizon if self.watched is None else self.watched
        if not 1 <= blocks <= self.horizon:
            raise InputError(f"of {self.horizon} blocks that are planned {blocks} cannot be watched")
        return keep_out(*zones.corners(), self.prepared.model.config.grid.points[blocks - 1], self.risk, self.far)

    def _task(self) -> GoTo:
        """The task of the scenes that go on."""
        goals = self._goals[self._rows]
        if self.zones is None:
            return GoTo(goals, distance=self._distance())
        if self._towards is None:
            self._towards = self._ways(self.zones)
            self._left = self._towards.left(self._now)[:, 0]
        rail = self.rail(Zones(self.zones.low[self._rows], self.zones.high[self._rows]))
        towards = Towards(self._towards.graph, self._towards.onwards[self._rows])
        left = tuple(self._left[self._rows].tolist())
        return GoTo(goals, (Reach(), rail, WayLeft(left=left)), distance=towards)

    def _ways(self, zones: Zones) -> Towards:
        """Ways to the goals past waypoints that keep as far from the zone as a plan must."""
        graph = self._graph()
        rail = self.rail(zones)
        place = self._places(graph.nodes).expand(len(self._goals), -1, -1)
        bound = 0.0
        if self.calibration is not None and self.calibration.trajectory:
            bound = float(self.calibration.trajectory_bounds(rail.name, rail.risk).max())
        scale = max(float(self._model.readout.spread(name)) for name in PLACE)
        # What cannot be told (NaN) is barred.
        barred = ~(rail.distance(place) >= bound * scale)
        if not isinstance(graph, Places):
            return graph.towards(self._goals, barred)

        def bars(scene: int, starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            one = self.rail(zones.part(slice(scene, scene + 1)))
            found = one.along(self._places(starts)[None, None, :, None, None], self._places(ends)[None])
            return ~(found[0] >= bound * scale)

        return self._imagined(barred, bars)

    def _graph(self) -> Places | WaypointGraph:
        graph = self.prepared.places if self.by == "imagined" else self.prepared.graph
        if graph is None:
            raise InputError("to keep out of a zone waypoints or places are needed; give the recipe some")
        return graph

    def _places(self, latents: torch.Tensor) -> torch.Tensor:
        """[..., 2] px where latents [..., D] are."""
        read = self._model.read(latents)
        return torch.stack([read[name] for name in PLACE], dim=-1)

    def _distance(self) -> Distance | None:
        if self.by == "straight":
            return None
        if self.by == "waypoints":
            if self.prepared.graph is None:
                raise InputError("no waypoints were made; give the recipe some")
            if self._towards is None:
                self._towards = self.prepared.graph.towards(self._goals)
            return Towards(self._towards.graph, self._towards.onwards[self._rows])
        if self.by == "imagined":
            if self._towards is None:
                self._towards = self._imagined()
            return Towards(self._towards.graph, self._towards.onwards[self._rows])
        if self.prepared.temporal is None:
            raise InputError("no temporal distance was learned; let the recipe learn one")
        return self.prepared.temporal

    def _imagined(self, barred: torch.Tensor | None = None, bars: Bars | None = None) -> Towards:
        """Ways through each scene as the model imagines them, past places and by moves that are not barred."""
        if self.prepared.places is None or self._around is None:
            raise InputError("no places were gathered, or the model sees nothing around; give the recipe both")
        return imagine_ways(
            self._model, self.prepared.places, self._now, self._around, self._goals, barred=barred, bars=bars
        )
