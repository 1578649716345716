"""How an agent moves: by its action times its speed, and no farther than a wall or the border lets it.

The rules are those of `swm/TwoRoom-v1`: an agent whose centre would come nearer to a wall than its radius is set back
half a pixel from there, on the side that it came from, unless it is in a door; it slides along what it touches.
"""

from __future__ import annotations

import numpy as np

from foreworld.domains.rooms.layout import FloatArray, Layouts

PUSHED_BACK = 0.5  # px


def move(
    layouts: Layouts, position: FloatArray, action: FloatArray, radius: FloatArray, speed: FloatArray
) -> FloatArray:
    """[N, 2] positions one step later.

    Args:
        layouts: Of N scenes.
        position: [N, 2] px.
        action: [N, 2]; each part counts within -1 to 1.
        radius: [N] of the agents, px.
        speed: [N] px a step at an action of 1.
    """
    wanted = position + np.clip(action, -1.0, 1.0).astype(np.float32) * speed[:, None]
    low, high = layouts.border + radius[:, None], layouts.size - layouts.border - radius[:, None]
    after = np.clip(wanted, low, high).astype(np.float32)
    rows = np.arange(len(layouts))
    for wall in range(layouts.axis.shape[1]):
        axis, centre = layouts.axis[:, wall], layouts.centre[:, wall]
        reach = layouts.half[:, wall] + radius
        before, across, along = position[rows, axis], after[rows, axis], after[rows, 1 - axis]
        from_low = before < centre
        hit = np.where(from_low, across > centre - reach, across < centre + reach)
        hit &= ~np.isnan(centre) & ~layouts.through(wall, along)
        held = np.where(from_low, centre - reach - PUSHED_BACK, centre + reach + PUSHED_BACK)
        after[rows, axis] = np.where(hit, held, across)
    return after
