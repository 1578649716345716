"""How far a model of rooms may be trusted: what is familiar, and how near to a zone its chosen plans really come.

Calibrated on what the agent itself visits, in scenes that it neither learned from nor is evaluated on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foreworld.agent.calibrate import Visits, fit_trajectory
from foreworld.domains.rooms.layout import BoolArray, FloatArray
from foreworld.domains.rooms.loop import Planned, run_scenes
from foreworld.domains.rooms.motion import move
from foreworld.domains.rooms.pairs import Pairs, drawn
from foreworld.domains.rooms.render import ByteArray
from foreworld.domains.rooms.scene import RoomsConfig, Scenes
from foreworld.domains.rooms.zones import Zones, zoned
from foreworld.episodes.options import Options
from foreworld.errors import InputError
from foreworld.forecast.conformal import conformal_quantile
from foreworld.forecast.forecaster import Calibration
from foreworld.forecast.novelty import NoveltyModel, fit_gaussian, mahalanobis
from foreworld.model.interface import familiar

CALIBRATION = 10_000_019  # added to a seed: calibration scenes are nobody else's


class CalibrateRoomsConfig(Options):
    """How much is looked at.

    Attributes:
        scenes: Episodes.
        budget: Actions each.
        every: Decisions whose plan is carried out in a branch, one in so many.
        rounds: Calibrate, plan, calibrate again.
        false_alarm: Share of familiar episodes in which anything is called novel, at most.
        risk: That a plan enters a zone.
    """

    scenes: int = 300
    budget: int = 60
    every: int = 4
    rounds: int = 2
    false_alarm: float = 0.05
    risk: float = 0.01


def calibrate_rooms(
    player: Planned, rooms: RoomsConfig, config: CalibrateRoomsConfig | None = None, *, seed: int = 0
) -> Calibration:
    """Calibrate the model of a player, for the horizon that it plans ahead.

    Args:
        player: Its own calibration and zones do not matter; where it has waypoints or places, so are zones.
        rooms: What scenes are like.
        config: How much.
        seed: Of the scenes.

    Raises:
        InputError: Too few scenes for the rates that are asked for.
    """
    config = config or CalibrateRoomsConfig()
    calibration = calibrate_familiar(player, rooms, config, seed=seed)
    pairs, zones, _ = zoned(rooms, seed + CALIBRATION, config.scenes)
    if player.prepared.graph is None and player.prepared.places is None:
        return calibration
    rail = player.rail(zones.part(slice(0, 1)))
    for _ in range(config.rounds):
        visits = walk(replace(player, calibration=calibration, zones=zones), rooms, pairs, zones, config)[1]
        calibration = calibration.model_copy(update={"trajectory": fit_trajectory(visits, [rail])})
    return calibration


def calibrate_familiar(
    player: Planned, rooms: RoomsConfig, config: CalibrateRoomsConfig, *, seed: int = 0
) -> Calibration:
    """Learn what is familiar to the model of a player from what it visits, and nothing of zones.

    Raises:
        InputError: Too few scenes for the rate of false alarms.
    """
    pairs = drawn(rooms, seed + CALIBRATION, config.scenes)
    seen = walk(replace(player, calibration=None, zones=None), rooms, pairs, None, config)[0]
    return Calibration(novelty=fit_familiar(seen, config.false_alarm, player.horizon), subjects=config.scenes)


def fit_familiar(seen: Tensor, false_alarm: float, points: int) -> NoveltyModel:
    """A Gaussian over what was seen in half of the episodes, and a distance that few of the others ever reach.

    Args:
        seen: [T, N, C] of N episodes; NaN after their end.
        false_alarm: Share of familiar episodes in which any moment is farther, at most.
        points: Of the model's grid.

    Raises:
        InputError: Too few episodes for the rate.
    """
    half = seen.shape[1] // 2
    first = seen[:, :half].flatten(0, 1)
    mean, precision = fit_gaussian(first[~torch.isnan(first).any(-1)])
    others = seen[:, half:]
    away = mahalanobis(others.flatten(0, 1), mean, precision).reshape(others.shape[:2])
    limit = float(conformal_quantile(torch.nan_to_num(away, nan=0.0).amax(0), false_alarm))
    if not np.isfinite(limit):
        raise InputError(f"{others.shape[1]} episodes are too few for a false-alarm rate of {false_alarm:g}")
    return NoveltyModel(
        mean=tuple(mean.tolist()),
        precision=tuple(tuple(row) for row in precision.tolist()),
        distance=limit,
        disagreement=(1e-6,) * points,  # a single member never disagrees
        false_alarm=false_alarm,
    )


def walk(
    player: Planned, rooms: RoomsConfig, pairs: Pairs, zones: Zones | None, config: CalibrateRoomsConfig
) -> tuple[Tensor, Visits]:
    """Run episodes, and carry plans out open-loop beside them.

    Returns:
        What novelty is judged by, [T, N, C] with NaN after the end of an episode; and the plans, none without zones.
    """
    scenes = Scenes(rooms, pairs.seeds)
    frames = scenes.place(pairs.start, pairs.goal)
    watcher = Watcher(player, scenes, zones, config.every)
    run_scenes(watcher, scenes, config.budget, frames=frames)
    return torch.stack(watcher.seen), watcher.visits()


class Watcher:
    """A player that is looked over the shoulder."""

    def __init__(self, player: Planned, scenes: Scenes, zones: Zones | None, every: int) -> None:
        self.player, self.scenes, self.zones, self.every = player, scenes, zones, every
        self.seen: list[Tensor] = []
        self._found: list[dict[str, np.ndarray]] = []

    def begin(self, scenes: Scenes, frames: ByteArray) -> None:
        """As the player."""
        self.player.begin(scenes, frames)

    def act(self, frames: ByteArray, going: BoolArray) -> FloatArray:
        """As the player; notes what it saw and what its plans would come to."""
        action, rows = self.player.act(frames, going), np.flatnonzero(going)
        now = familiar(self.player.last.decisions.problem.imagined.prepared)
        seen = torch.full((len(going), now.shape[1]), torch.nan)
        seen[torch.from_numpy(rows)] = now
        if self.zones is not None and len(self.seen) % self.every == 0:
            self._found.append(self._carried_out(rows, self.zones))
        self.seen.append(seen)
        return action

    def _carried_out(self, rows: np.ndarray, zones: Zones) -> dict[str, np.ndarray]:
        """Plans of these scenes: predicted and true least distance from the zone, of those that were plans."""
        chosen, block = self.player.last.decisions.chosen, self.player.prepared.model.block
        rail = self.player.rail(Zones(zones.low[rows], zones.high[rows]))
        least, scale = rail.predicted(chosen.forecast)
        kept = chosen.feasible[:, 0].numpy()
        mine, plans = rows[kept], chosen.blocks[:, 0].numpy()[kept]
        layouts, place = self.scenes.layouts.select(mine), self.scenes.position[mine]
        ends = Zones(zones.low[mine], zones.high[mine])
        radius, speed = (np.full(len(mine), size, np.float32) for size in (self._config.radius, self._config.speed))
        true = np.full(len(mine), np.inf if rail.far is None else rail.far, dtype=np.float32)
        for k in range(rail.horizon // block):
            for _ in range(block):
                before, place = place, move(layouts, place, plans[:, k], radius, speed)
                # Half-way, too: a step may cut the corner of a box.
                for at in (0.5 * (before + place), place):
                    true = np.minimum(true, ends.distance(at))
        return {"least": least[:, 0].numpy()[kept], "scale": scale[:, 0].numpy()[kept], "true": true, "subject": mine}

    @property
    def _config(self) -> RoomsConfig:
        return self.scenes.config

    def visits(self) -> Visits:
        """All plans that were carried out."""
        names = ("least", "scale", "true", "subject")
        joined = {name: np.concatenate([np.zeros(0), *(one[name] for one in self._found)]) for name in names}
        count, rail = len(joined["subject"]), "no_go"
        return Visits(
            least={rail: joined["least"]}, scale={rail: joined["scale"]}, true={rail: joined["true"]},
            whole={rail: joined["true"]}, margin={rail: joined["least"]}, context=torch.zeros(count, 0),
            spread=torch.zeros(count, 0), subject=joined["subject"].astype(np.int64),
            known=np.ones(count, dtype=np.int64), surprise=np.zeros((0, 0)), jump=np.zeros(0),
        )  # fmt: skip
