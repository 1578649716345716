"""Where episodes of an evaluation start and where their goals lie; nobody has learned from these scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreworld.domains.rooms.behaviour import Expert
from foreworld.domains.rooms.layout import FloatArray
from foreworld.domains.rooms.prepare import scene_seeds
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.way import Way
from foreworld.errors import InputError

TRIES = 200  # times that a start and a goal are drawn anew
LONGEST = 100  # actions of a held-out episode at most, as in the peer's own collection


@dataclass(frozen=True)
class Pairs:
    """Starts and goals.

    Attributes:
        seeds: One a scene.
        start: [N, 2] px.
        goal: [N, 2] px.
    """

    seeds: tuple[int, ...]
    start: FloatArray
    goal: FloatArray

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.seeds)

    def part(self, chosen: slice) -> Pairs:
        """Some of them."""
        return Pairs(self.seeds[chosen], self.start[chosen], self.goal[chosen])


def drawn(config: RoomsConfig, seed: int, count: int, *, doors: int = 1) -> Pairs:
    """Start and goal as the scene draws them: in different rooms, or as the configuration says.

    Args:
        config: Of the scenes.
        seed: Of the evaluation.
        count: Pairs.
        doors: On the way from start to goal, at least; pairs with fewer are drawn anew.

    Raises:
        InputError: No way through the scenes has so many doors.
    """
    seeds = scene_seeds(seed, range(count), held_out=True)
    scenes = Scenes(config, seeds)
    scenes.reset()
    if doors > 1:
        ways = [Way.find(scenes.layouts, n) for n in range(count)]
        for _ in range(TRIES):
            near = [way.between(scenes.position[n], scenes.goal[n]) < doors for n, way in enumerate(ways)]
            if not any(near):
                break
            scenes.restart(np.array(near))
        else:
            raise InputError(f"no start and goal with {doors} doors between them were found; ask for fewer")
    return Pairs(tuple(seeds), scenes.position.copy(), scenes.goal.copy())


def ahead(config: RoomsConfig, seed: int, count: int, steps: int) -> Pairs:
    """Starts in held-out episodes of the noisy expert, with the place `steps` actions later as the goal.

    An episode ends where its own goal is reached, or after `LONGEST` actions, or twice `steps` if that is more; one
    that is shorter than `steps` gives no pair, and the next one is taken.
    """
    longest, number = max(LONGEST, 2 * steps), 0
    seeds: list[int] = []
    starts: list[FloatArray] = []
    goals: list[FloatArray] = []
    while len(seeds) < count:
        part = scene_seeds(seed, range(number, number + max(count, 100)), held_out=True)
        number += len(part)
        scenes, expert = Scenes(config, part), Expert()
        scenes.reset()
        generators = [np.random.default_rng((one, 3)) for one in part]
        expert.start(scenes, generators)
        path, end = [scenes.position.copy()], np.full(len(part), longest)
        for step in range(longest):
            scenes.step(expert.act(scenes))
            path.append(scenes.position.copy())
            end = np.where(scenes.reached & (end == longest), step + 1, end)
        places = np.stack(path)
        for n, one in enumerate(part):
            if end[n] >= steps and len(seeds) < count:
                at = int(generators[n].integers(0, end[n] - steps + 1))
                seeds.append(one)
                starts.append(places[at, n])
                goals.append(places[at + steps, n])
    return Pairs(tuple(seeds), np.stack(starts), np.stack(goals))
