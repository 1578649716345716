"""The way through a scene: which rooms there are between two places, and the doors from one to the next.

For whoever knows the layout: the experts of a log, and whoever draws starts and goals. Planning never does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreworld.domains.rooms.layout import FloatArray, Layouts

NEAR_DOOR = 10.5 / 224  # of the scene's side; within this of a door's centre, the next leg begins


@dataclass(frozen=True)
class Way:
    """Rooms of one scene and the doors between them.

    Attributes:
        doors: By pair of neighbouring rooms: centre of the door between them, px.
        layout: Of the scene.
    """

    doors: dict[tuple[int, int], FloatArray]
    layout: Layouts

    @classmethod
    def find(cls, layouts: Layouts, n: int) -> Way:
        """Look up the doors of scene n."""
        layout = layouts.select(slice(n, n + 1))
        doors: dict[tuple[int, int], FloatArray] = {}
        for wall in range(layout.axis.shape[1]):
            axis, centre, half = int(layout.axis[0, wall]), layout.centre[0, wall], layout.half[0, wall]
            for along in layout.door[0, wall]:
                if np.isnan(along) or np.isnan(centre):
                    continue
                place = np.zeros(2, dtype=np.float32)
                place[axis], place[1 - axis] = centre, along
                away = np.zeros(2, dtype=np.float32)
                away[axis] = half + 1.0
                one, two = (int(layout.rooms((place + side * away)[None])[0]) for side in (-1, 1))
                doors[one, two] = doors[two, one] = place
        return cls(doors, layout)

    def next(self, position: FloatArray, goal: FloatArray) -> FloatArray:
        """Where to head for: the goal, or the centre of the first door on the way to it."""
        here, there = (int(room) for room in self.layout.rooms_of(np.stack([position, goal])))
        rooms = self._path(here, there)
        if len(rooms) < 2:
            return goal
        door = self.doors[rooms[0], rooms[1]]
        if np.linalg.norm(door - position) > NEAR_DOOR * self.layout.size:
            return door
        return self.doors[rooms[1], rooms[2]] if len(rooms) > 2 else goal

    def between(self, start: FloatArray, goal: FloatArray) -> int:
        """Doors on the way from a place [2] to another; 0 in the same room, or where there is no way."""
        here, there = (int(room) for room in self.layout.rooms_of(np.stack([start, goal])))
        return len(self._path(here, there)) - 1

    def _path(self, here: int, there: int) -> list[int]:
        """Fewest rooms from one to the other; only the first where there is no way."""
        came = {here: here}
        todo = [here]
        for room in todo:
            for one, two in self.doors:
                if one == room and two not in came:
                    came[two] = room
                    todo.append(two)
        if there not in came:
            return [here]
        path = [there]
        while path[-1] != here:
            path.append(came[path[-1]])
        return path[::-1]
