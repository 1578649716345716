"""Episodes as a GIF: what is seen, what the agent considers and imagines next, the goal, and where nobody may be.

save_film(Path("film.gif"), record(player, scenes, budget=100))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from foreworld.domains.rooms.layout import FloatArray
from foreworld.domains.rooms.loop import Planned
from foreworld.domains.rooms.render import ByteArray
from foreworld.domains.rooms.scene import Scenes
from foreworld.domains.rooms.source import PLACE
from foreworld.domains.rooms.zones import Zones
from foreworld.errors import InputError, MissingExtraError
from foreworld.planning.planners.base import Best, Decisions, Planner
from foreworld.planning.planners.judged import Judged, Problem

SIDE = 192  # px of a scene in the film
HOLD = 8  # frames that the end is shown for
MS = 80  # a frame
SHOWN = 12  # candidates of each decision that are drawn
WALKED, IMAGINED, REJECTED, GOAL, ZONE, CANDIDATE = "#1f77b4", "#d62728", "#ff9f1c", "#2ca02c", "#d62728", "#b8a4d6"
NOTE = "blue: walked; red: imagined; violet: considered; orange: rejected; green: goal"


@dataclass(frozen=True)
class Shot:
    """One moment of N scenes.

    Attributes:
        frames: [N, H, W, 3] uint8, what is seen.
        position: [N, 2] px, where the agents are.
        imagined: [N, H, 2] px, the chosen plan as it is read out; NaN where nothing moves any more.
        rejected: [N, H, 2] px, the cheapest plan that a guardrail rejected; NaN where there was none.
        candidates: [N, C, H, 2] px, some of the plans that were considered; NaN likewise.
        refused: [N] whether the planner refused.
    """

    frames: ByteArray
    position: FloatArray
    imagined: FloatArray
    rejected: FloatArray
    candidates: FloatArray
    refused: np.ndarray


@dataclass(frozen=True)
class Reel:
    """N episodes.

    Attributes:
        shots: One a step.
        goal: [N, 2] px.
        reach: px within which it is reached.
        size: px of a scene.
        zones: Where nobody may be, or None.
    """

    shots: Sequence[Shot]
    goal: FloatArray
    reach: float
    size: int
    zones: Zones | None


class _Noting(Best):
    """The best of all, and all that they were chosen from."""

    def take(self, judged: Judged, count: int | None = None) -> None:
        """As `Best`."""
        super().take(judged, count)
        self.all = [*getattr(self, "all", []), judged]


class Onlooker(Planner):
    """Searches as another planner does, and keeps where its candidates lead: `places` [B, C, H, 2] px."""

    def __init__(self, planner: Planner, shown: int = SHOWN) -> None:
        self.planner, self.shown = planner, shown
        self.places: FloatArray | None = None

    def plan(self, problem: Problem) -> Decisions:
        """As any planner; where nothing is searched for there are no candidates."""
        self.places = None
        return super().plan(problem)

    def search(self, problem: Problem, best: Best) -> None:
        """The planner's."""
        names = [field.name for field in fields(Best)]
        noting = _Noting(**{name: getattr(best, name) for name in names})
        self.planner.search(problem, noting)
        for name in names:
            setattr(best, name, getattr(noting, name))
        each = [np.stack([one.forecast.mean[name].numpy() for name in PLACE], axis=-1) for one in noting.all]
        found = np.concatenate(each, axis=1)
        # Of the whole search, from the first wide draw to the last narrow one.
        self.places = found[:, np.linspace(0, found.shape[1] - 1, min(self.shown, found.shape[1])).astype(int)]


def record(player: Planned, scenes: Scenes, budget: int) -> Reel:
    """Run an episode of each scene, placed or reset, and keep what it looked like.

    Raises:
        InputError: The model reads out no places.
    """
    if set(PLACE) - set(player.prepared.model.quantities):
        raise InputError("a film shows where the model imagines the agent: give the recipe the quantities x and y")
    onlooker = Onlooker(player.planner)
    player = replace(player, planner=onlooker)
    seen = scenes.frames()
    player.begin(scenes, seen)
    done, shots = scenes.reached.copy(), []
    count, nothing = len(scenes), np.full((len(scenes), player.horizon, 2), np.nan, dtype=np.float32)
    none = np.full((count, SHOWN, player.horizon, 2), np.nan, dtype=np.float32)
    for _ in range(budget):
        if done.all():
            break
        action = player.act(seen, ~done)
        imagined, rejected, candidates = nothing.copy(), nothing.copy(), none.copy()
        decisions, rows = player.last.decisions, np.flatnonzero(~done)
        if decisions is not None:
            for into, judged in ((imagined, decisions.chosen), (rejected, decisions.rejected)):
                into[rows] = np.stack([judged.forecast.mean[name][:, 0].numpy() for name in PLACE], axis=-1)
            rejected[rows[~decisions.rejected_any.numpy()]] = np.nan
            if onlooker.places is not None:
                candidates[rows, : onlooker.places.shape[1]] = onlooker.places
        shots.append(Shot(seen, scenes.position.copy(), imagined, rejected, candidates, player.refused.copy()))
        before = scenes.position.copy()
        seen = scenes.step(np.where(done[:, None], 0.0, action))
        scenes.position[done] = before[done]
        done |= scenes.reached
    shots += [Shot(seen, scenes.position.copy(), nothing, nothing, none, np.zeros(count, int))] * HOLD
    return Reel(shots, scenes.goal, scenes.config.reach, scenes.layouts.size, player.zones)


def save_film(path: Path, reel: Reel) -> None:
    """Write a GIF.

    Raises:
        MissingExtraError: Pillow is not installed; it comes with the extra `report`.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError("Pillow", "report") from error
    count, scale = len(reel.goal), SIDE / reel.size
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    pictures = []
    for time, shot in enumerate(reel.shots):
        sheet = Image.new("RGB", (columns * SIDE, rows * SIDE + 14), "white")
        for n in range(count):
            tile = Image.fromarray(shot.frames[n]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            draw = ImageDraw.Draw(tile)
            if reel.zones is not None:
                box = [*(scale * reel.zones.low[n]), *(scale * reel.zones.high[n])]
                draw.rectangle([float(x) for x in box], outline=ZONE, width=2)
            x, y = scale * reel.goal[n]
            around = scale * reel.reach
            draw.ellipse([x - around, y - around, x + around, y + around], outline=GOAL, width=2)
            walked = _dots(np.stack([scale * one.position[n] for one in reel.shots[: time + 1]]))
            if len(walked) > 1:
                draw.line(walked, fill=WALKED, width=2)
            for ahead in shot.candidates[n]:
                if not np.isnan(ahead).any():
                    draw.line([walked[-1], *_dots(scale * ahead)], fill=CANDIDATE, width=1)
            for ahead, colour in ((shot.rejected[n], REJECTED), (shot.imagined[n], IMAGINED)):
                if not np.isnan(ahead).any():
                    line = [walked[-1], *_dots(scale * ahead)]
                    draw.line(line, fill=colour, width=2)
                    for px, py in line[1:]:
                        draw.ellipse([px - 2, py - 2, px + 2, py + 2], fill=colour)
            if shot.refused[n]:
                draw.text((4, 2), "refused", fill=ZONE)
            sheet.paste(tile, (SIDE * (n % columns), SIDE * (n // columns)))
        ImageDraw.Draw(sheet).text((4, rows * SIDE + 1), NOTE, fill="black")
        pictures.append(sheet.quantize(64))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=MS, loop=0, optimize=True)


def _dots(places: np.ndarray) -> list[tuple[float, float]]:
    """Places [K, 2] as Pillow takes them."""
    return [(float(x), float(y)) for x, y in places]
