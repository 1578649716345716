"""Ways through a scene that nobody has walked: what the model imagines of it, put together.

    moved = moved_by_actions(model, latents, around)          # of some scenes: [D]
    places = Places.gather(clips, moved, count=1500)          # latents [N, F, D], one block apart, of other scenes
    towards = imagine_ways(model, places, now, around, goals)
    objective = GoalObjective(profile, goals, towards)

A graph of observed transitions tells the way in scenes where somebody has been. Where each scene has walls of its own,
places can be taken over from others and ways cannot: from each place the model is asked once where eight moves of one
block lead in *this* scene, and what it answers is put together to the number of blocks from each place to the goal
(value iteration, Bellman 1957). A search looks for the places where a model is wrong, and within a wall nothing was
ever learned; so only places count that the model takes for ones where somebody could be (`Sight.present`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from foreworld.errors import InputError
from foreworld.model.latent_model import LatentModel
from foreworld.planning.hierarchy import UNREACHED, Towards, Waypoints, centres_of, pace_of

ENDS = 3  # places that a move may end at
WITHIN = 0.5  # blocks from where it ends
SURE = 0.35  # the same where a way that is none would be worse than one that is missed
STILL = 0.25  # blocks; who is led less far was held by something, and places around are not reached by rounding
USUAL = 0.99  # share of what was seen that is no farther from places than what counts as seen
MOVED = 0.1  # share of the most that any number of the latent is moved by actions
LEAST = 0.06  # share of one's own among those alike (`Sight.present`) from which on somebody could be there

Bars = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Places(Waypoints):
    """Places in the latent space, and how far a block leads, in whichever scene.

    Attributes:
        moved: [D] bool, the numbers of a latent that actions move; the others, such as where somebody else is, are no
            place of one's own, and 0 in the nodes.
    """

    moved: Tensor

    file = "places.safetensors"

    @classmethod
    def gather(
        cls, clips: Tensor, moved: Tensor, *, count: int = 1500, seed: int = 0, astray: float | None = None
    ) -> Places:
        """From latents of clips [N, F, D], one block apart, and which numbers of them count, [D].

        Args:
            clips: Of any scenes; of the very scene, or others with the same walls, if `astray` is given.
            moved: See `Places`.
            count: Places M, at most.
            seed: Of their choice.
            astray: Where nobody was is no place to be: neither a plan nor a move leads anywhere that is so many times
                farther from all places than 99 in 100 latents that were seen are; at least 1.

        Raises:
            InputError: There are fewer latents than places, nothing counts, or `astray` is less than 1.
        """
        if not moved.any():
            raise InputError("no number of the latent is moved by actions; the model does not heed them")
        if astray is not None and astray < 1.0:
            raise InputError(f"astray is {astray:g}: what was seen would be astray itself; give at least 1")
        mine = clips * moved
        points, pace, known = mine.flatten(0, 1), pace_of(mine), math.inf
        nodes = centres_of(points, count, seed=seed)
        if astray is not None:
            away = torch.cat([torch.cdist(part, nodes).amin(1) for part in torch.split(points, 4096)])
            known = astray * float(away.quantile(USUAL)) / pace
        return cls(nodes, pace, moved, known=known)

    def counted(self, latents: Tensor) -> Tensor:
        """What actions move; 0 elsewhere."""
        # Not a product: what is missing stays missing, and nothing else becomes so.
        return torch.where(self.moved, latents, 0.0)


@torch.no_grad()
def moved_by_actions(model: LatentModel, latents: Tensor, around: Tensor) -> Tensor:
    """[D] which numbers of a latent depend on what is done, by the model's own word.

    Args:
        model: Of the scenes.
        latents: [B, D].
        around: [B, C, H, W] of the same scenes.
    """
    moves = _moves(len(model.centre))[:, None].expand(-1, model.block, -1)
    spread = model.fan(latents, moves, around).var(2).mean((0, 1))
    return spread > MOVED * spread.max()


@torch.no_grad()
def imagine_ways(
    model: LatentModel,
    places: Places,
    now: Tensor,
    around: Tensor,
    goals: Tensor,
    *,
    barred: Tensor | None = None,
    bars: Bars | None = None,
    least: float = LEAST,
) -> Towards:
    """The ways to goals [B, G, D] in B scenes.

    Args:
        model: Sees what is around.
        places: To go by.
        now: [B, D] where the scenes are.
        around: [B, C, H, W] of the scenes (`LatentModel.around`).
        goals: Latents; NaN where a subject has fewer.
        barred: [B, M] places where nobody may be, for each subject; ways through them do not count.
        bars: From a subject and moves, from latents [M, D] to places [E, M, S, K, D], to which of them [E, M, S, K]
            lead through where nobody may be: a move may lead across what is narrower than it. Places are then taken
            for a move's end within `SURE` alone: half a block on, somebody is round the corner of a wall.
        least: See `LEAST`.

    Raises:
        InputError: The model is blind, or the shape of `barred` is wrong.
    """
    if model.sight is None:
        raise InputError("a model that sees nothing around has no ways of a scene's own; train one with `sight`")
    if barred is None:
        barred = torch.zeros(len(goals), len(places.nodes), dtype=torch.bool)
    if barred.shape != (len(goals), len(places.nodes)):
        raise InputError(f"barred has shape {tuple(barred.shape)}, expected {(len(goals), len(places.nodes))}")
    found = [
        _of_one(model, places, now[b], around[b : b + 1], goals[b], barred[b], least, bars and partial(bars, b))
        for b in range(len(goals))
    ]
    return Towards(places, torch.stack(found))


def _of_one(
    model: LatentModel, places: Places, now: Tensor, around: Tensor, goals: Tensor, barred: Tensor, least: float,
    bars: Callable[[Tensor, Tensor], Tensor] | None,
) -> Tensor:  # fmt: skip
    """[G, M] blocks from each place to each goal in one scene."""
    nodes, sight = places.nodes, model.sight
    assert sight is not None
    goals, still = places.counted(goals), torch.where(places.moved, 0.0, now)
    known = torch.cat([places.counted(now)[None], goals[~torch.isnan(goals).any(-1)]])
    free = torch.sigmoid(sight.present(nodes + still, around)) > least
    # Somebody is here, and the goal was seen there: whatever the model takes these for.
    free[torch.cdist(known, nodes).argmin(-1)] = True
    free &= ~barred
    moves = _moves(len(model.centre))
    ends = places.counted(model.fan(nodes + still, moves[:, None].expand(-1, model.block, -1), around))
    held = (ends - nodes[:, None]).norm(dim=-1) < STILL * places.pace
    half = 0.5 * nodes.pow(2).sum(-1)
    best, at = (ends @ nodes.T - half).topk(min(ENDS, len(nodes)), dim=-1)
    # The worst of the ensemble is believed: a way that one member denies is none.
    away = (ends.pow(2).sum(-1, keepdim=True) - 2.0 * best).clamp(min=0.0).sqrt() / places.pace
    within = min(WITHIN if bars is None else SURE, places.known)
    leads = (away <= within) & ~held[..., None] & free[at] & free[None, :, None, None]
    if bars is not None:
        leads &= ~bars(nodes + still, (nodes + still)[at])
    away = torch.where(leads, away, UNREACHED)
    shut = torch.where(free, 0.0, UNREACHED)
    ways = []
    for goal in goals:
        if torch.isnan(goal).any():
            ways.append(torch.full((len(nodes),), UNREACHED))
            continue
        apart = torch.cdist(goal[None], nodes)[0] / places.pace
        onwards = torch.full((len(nodes),), UNREACHED)
        nearest = apart.topk(min(ENDS, len(nodes)), largest=False).indices
        onwards[nearest] = apart[nearest]
        onwards = torch.maximum(onwards, shut)
        for _ in range(len(nodes)):
            through = 1.0 + (away + onwards[at]).amin(-1).amin(-1).amax(0)
            nearer = torch.maximum(torch.minimum(onwards, through), shut)
            if torch.equal(nearer, onwards):
                break
            onwards = nearer
        ways.append(onwards.clamp(max=UNREACHED))
    return torch.stack(ways)


def _moves(actions: int) -> Tensor:
    """[8, 2] of two actions, normalised: all that goes one way or another; of A, [3^A - 1, A]."""
    line = torch.tensor([-1.0, 0.0, 1.0])
    every = torch.cartesian_prod(*[line] * actions).reshape(-1, actions)
    return every[every.abs().amax(-1) > 0]
