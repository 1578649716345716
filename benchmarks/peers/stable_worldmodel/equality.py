"""Our two rooms against `swm/TwoRoom-v1`: frame by frame and step by step, on the same places and actions.

    python benchmarks/peers/stable_worldmodel/equality.py [--frames 2000] [--episodes 200] [--steps 200]

Frames: at random places, at walls, door posts and in the door, at 224 px and reduced to 64 px in four ways (our mean
over areas, the box and bilinear filters of Pillow that the peer's wrappers offer, and torchvision's resize, which
LeWM's evaluation applies). Steps: both sides move from the same start by the same actions, each from where it itself
is, so that an error would grow; random, expert-like, wall-hugging and door-seeking. Last the same through their World.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from peer import run, table, tell, write_report

KINDS = ("roam", "expert", "wander", "along walls", "at door posts")
APART = (
    "area mean (ours)",
    "Pillow box",
    "Pillow bilinear (World's default)",
    "torchvision resize (LeWM's evaluation)",
)


def main(given: argparse.Namespace) -> None:
    frames = compare_frames(given.frames, given.seed)
    steps = compare_steps(given.episodes, given.steps, given.seed)
    world = compare_world(given.seed)
    content = {"seed": given.seed, "frames": frames, "steps": steps, "world": world}
    place = write_report("equality", content, given.json)
    rows = [("frames, theirs reduced as", "n", "pixels equal", "largest difference", "mean difference")]
    for name, found in frames.items():
        rows.append(
            (name, f"{found['n']:,}", f"{100 * found['equal']:.4f} %", f"{found['largest']}", f"{found['mean']:.5f}")
        )
    print(table(rows))
    rows = [("steps", "n", "at a wall", "at a door post", "at the border", "through the door", "unequal", "largest, px",
             "reached: unequal")]  # fmt: skip
    for name, found in steps.items():
        numbers = [found[k] for k in ("n", "at_wall", "at_post", "at_border", "through_door", "unequal")]
        rows.append((name, *(f"{n:,}" for n in numbers), f"{found['largest_px']:g}", f"{found['reached_unequal']}"))
    print("\n" + table(rows))
    print()
    for size, found in world.items():
        print(
            f"through World at {size}: {found['n']:,} frames, {100 * found['equal']:.4f} % of pixels equal, largest "
            f"difference {found['largest']}, mean {found['mean']:.5f}; positions differ by {found['largest_px']:g} px"
        )
    moved = all(found["unequal"] == found["reached_unequal"] == 0 for found in steps.values())
    full = frames["224 px"]
    print(
        f"\nsteps are {'equal' if moved else 'NOT EQUAL'}; frames of 224 px differ by {full['largest']} grey level, "
        f"only where it is within {full['unequal_within_of_whole']:.1e} of a whole number; seed {given.seed}\n{place}"
    )


def their_room() -> Any:
    """One of their environments, bare."""
    import gymnasium as gym
    import stable_worldmodel  # noqa: F401  registers it

    room = gym.make("swm/TwoRoom-v1").unwrapped
    room.reset(seed=0)
    return room


def their_frame(room: Any, place: Any) -> Any:
    """[224, 224, 3] uint8."""
    import torch

    return room._render_frame(torch.from_numpy(place)).numpy().transpose(1, 2, 0)


def places_of(count: int, generator: Any) -> Any:
    """[count, 2]: half anywhere, a quarter at the wall, an eighth at the door, an eighth at the border; some whole."""
    import numpy as np

    x, y = generator.uniform(21.0, 203.0, (2, count))
    part = np.arange(count) % 8
    x = np.where((part == 4) | (part == 5), np.where(generator.random(count) < 0.5, 99.5, 124.5), x)
    door = part == 6
    x, y = np.where(door, generator.uniform(95.0, 129.0, count), x), np.where(door, generator.uniform(33, 65, count), y)
    edge = part == 7
    y = np.where(edge, np.where(generator.random(count) < 0.5, 21.0, 203.0), y)
    found = np.stack([x, y], axis=1).astype(np.float32)
    return np.where((np.arange(count) % 5 == 0)[:, None], np.round(found), found).astype(np.float32)


def reductions() -> dict[str, Callable[[Any], Any]]:
    """How a frame of theirs becomes one of 64 px."""
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    from foreworld.domains.rooms.render import reduce

    resize = v2.Resize(64, antialias=True)

    def pillow(how: int) -> Callable[[Any], Any]:
        return lambda frame: np.asarray(Image.fromarray(frame).resize((64, 64), how))

    def torchvision(frame: Any) -> Any:
        return resize(torch.from_numpy(frame).permute(2, 0, 1)).permute(1, 2, 0).numpy()

    each = (lambda frame: reduce(frame, 64), pillow(Image.BOX), pillow(Image.BILINEAR), torchvision)
    return dict(zip(APART, each, strict=True))


class Difference:
    """Of grey levels, over many frames."""

    def __init__(self) -> None:
        self.n = self.pixels = self.equal = self.largest = 0
        self.total = 0.0

    def add(self, one: Any, other: Any) -> None:
        """Take in a pair of frames [..., H, W, 3]."""
        import numpy as np

        apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
        self.n += int(np.prod(apart.shape[:-3]))
        self.pixels += apart[..., 0].size
        self.equal += int((apart.max(-1) == 0).sum())
        self.largest = max(self.largest, int(apart.max()))
        self.total += float(apart.sum())

    def found(self) -> dict[str, float | int]:
        """Frames, share of pixels equal in all colours, largest and mean difference in grey levels of 255."""
        return {
            "n": self.n,
            "equal": self.equal / self.pixels,
            "largest": self.largest,
            "mean": self.total / self.pixels / 3,
        }


def compare_frames(count: int, seed: int) -> dict[str, Any]:
    """The same places painted by both."""
    import numpy as np

    from foreworld.domains.rooms.layout import two_rooms
    from foreworld.domains.rooms.render import Camera

    tell(f"painting {count} places by both")
    room, places = their_room(), places_of(count, np.random.default_rng((seed, 0)))
    cameras = {size: Camera(two_rooms(1), size) for size in (224, 64)}
    ways, found = reductions(), {name: Difference() for name in ("224 px", *APART)}
    radius, furthest = np.array([7.0], dtype=np.float32), 0.0
    floor = cameras[224].frames(np.full((1, 2), np.nan, dtype=np.float32), radius)[0]
    for place in places:
        theirs = their_frame(room, place)
        ours = {size: camera.frames(place[None], radius)[0] for size, camera in cameras.items()}
        found["224 px"].add(ours[224][None], theirs[None])
        if (unequal := ours[224] != theirs).any():
            furthest = max(furthest, float(from_whole(floor, place)[unequal].max()))
        for name, way in ways.items():
            found[name].add(ours[64][None], way(theirs)[None])
    done: dict[str, Any] = {name: one.found() for name, one in found.items()}
    done["224 px"]["unequal_within_of_whole"] = furthest
    return done


def from_whole(floor: Any, place: Any) -> Any:
    """[224, 224, 3] how far a red agent's grey levels on `floor` are from whole numbers before they are cut off.

    Where both sides paint another level, it is because they round the same number to either side of a whole one.
    """
    import numpy as np

    at = np.arange(224.0)
    near = np.clip(np.round(place), 0, 223) - place
    squared = [(at - float(c)) ** 2 - float(n) ** 2 for c, n in zip(place, near, strict=True)]
    seen = np.exp(-(squared[1][:, None, None] + squared[0][None, :, None]) / 98.0)
    level = floor * (1.0 - seen) + np.array([255.0, 0.0, 0.0]) * seen
    return np.abs(level - np.round(level))


def actions_of(kind: str, scenes: Any, state: dict[str, Any]) -> Any:
    """[N, 2] what a kind of mover does next."""
    import numpy as np

    if kind in ("roam", "expert", "wander"):
        return state["behaviour"].act(scenes)
    generator, position = state["generator"], scenes.position
    if kind == "along walls":  # against the wall, up and down along it
        push = np.where(position[:, :1] < 112.0, 1.0, -1.0)
        drift = state.setdefault("drift", generator.choice([-1.0, 1.0], len(position)))
        drift = state["drift"] = np.where(generator.random(len(position)) < 0.05, -drift, drift)
        action = np.concatenate([push * generator.uniform(-0.2, 1.0, push.shape), drift[:, None]], axis=1)
    else:  # in and out of the door, often at a post
        side = state.setdefault("side", np.where(position[:, 0] < 112.0, 1.0, -1.0))
        beyond = np.where(side > 0, position[:, 0] > 135.0, position[:, 0] < 89.0)
        side = state["side"] = np.where(beyond, -side, side)
        goal = np.stack([112.0 + 40.0 * side, 49.0 + generator.uniform(-22.0, 22.0, len(side))], axis=1)
        near = np.abs(position[:, 1] - 49.0) > 18.0
        goal[near, 0] = position[near, 0]
        towards = goal - position
        action = 1.5 * towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-6)
        action = action + generator.normal(0.0, 0.4, action.shape)
    # Beyond the bounds now and then: both cut actions to -1 to 1.
    return np.asarray(action * np.where(generator.random((len(action), 1)) < 0.1, 2.0, 1.0), dtype=np.float32)


def compare_steps(episodes: int, steps: int, seed: int) -> dict[str, Any]:
    """Both sides moved by the same actions, by kind of mover."""
    import numpy as np

    from foreworld.domains.rooms.behaviour import Expert, Roam, Wander
    from foreworld.domains.rooms.scene import RoomsConfig, Scenes

    found: dict[str, Any] = {}
    rooms = [their_room() for _ in range(episodes)]
    for number, kind in enumerate(KINDS):
        tell(f"moving {episodes} agents for {steps} steps: {kind}")
        seeds = [int(s) for s in np.random.SeedSequence((seed, 1, number)).generate_state(episodes)]
        scenes = Scenes(RoomsConfig(), seeds)
        scenes.reset()
        state: dict[str, Any] = {"generator": np.random.default_rng((seed, 2, number))}
        if kind in ("roam", "expert", "wander"):
            state["behaviour"] = {"roam": Roam(), "expert": Expert(), "wander": Wander()}[kind]
            state["behaviour"].start(scenes, [np.random.default_rng((s, 1)) for s in seeds])
        for n, room in enumerate(rooms):
            room._set_state(scenes.position[n])
            room._set_goal_state(scenes.goal[n])
        tally = {
            name: 0 for name in ("n", "at_wall", "at_post", "at_border", "through_door", "unequal", "reached_unequal")
        }
        largest = 0.0
        for _ in range(steps):
            action, before = actions_of(kind, scenes, state), scenes.position.copy()
            wanted = before + 5.0 * np.clip(action, -1.0, 1.0)
            scenes.step(action)
            ended = np.array([room.step(action[n])[2] for n, room in enumerate(rooms)])
            theirs = np.stack([room.agent_position.numpy() for room in rooms])
            apart = np.abs(theirs - scenes.position).max(1)
            largest = max(largest, float(apart.max()))
            tally["n"] += episodes
            tally["unequal"] += int((apart > 0).sum())
            tally["reached_unequal"] += int((ended != scenes.reached).sum())
            tally["at_wall"] += int(np.isin(theirs[:, 0], np.float32([99.5, 124.5])).sum())
            post = np.abs(np.abs(theirs[:, 1] - 49.0) - 15.75) < 3.0
            tally["at_post"] += int((post & (np.abs(theirs[:, 0] - 112.0) <= 12.5)).sum())
            tally["at_border"] += int(((wanted < 21.0) | (wanted > 203.0)).any(1).sum())
            tally["through_door"] += int(((before[:, 0] < 112.0) != (theirs[:, 0] < 112.0)).sum())
        found[kind] = {**tally, "largest_px": largest}
    return found


def compare_world(seed: int, *, count: int = 8, steps: int = 60) -> dict[str, Any]:
    """Their expert in their World, wrappers and all; ours is given the same actions."""
    import numpy as np
    import stable_worldmodel as swm
    from stable_worldmodel.envs.two_room import ExpertPolicy

    from foreworld.domains.rooms.render import reduce
    from foreworld.domains.rooms.scene import RoomsConfig, Scenes

    found: dict[str, Any] = {}
    for size in (224, 64):
        tell(f"their expert through World at {size} px")
        world = swm.World("swm/TwoRoom-v1", num_envs=count, image_shape=(size, size), max_episode_steps=10 * steps)
        policy = ExpertPolicy(action_noise=1.0, seed=seed)
        world.set_policy(policy)
        world.reset(seed=seed)
        scenes = Scenes(RoomsConfig(frame=224), range(count))
        start = np.stack([env.unwrapped.agent_position.numpy() for env in world.envs.envs])
        frames = scenes.place(start, np.stack([env.unwrapped.target_position.numpy() for env in world.envs.envs]))
        apart, largest = Difference(), 0.0
        for _ in range(steps):
            shown = np.asarray(world.infos["pixels"])[:, 0]
            apart.add(frames if size == 224 else reduce(frames, 64), shown)
            action = policy.get_action(world.infos)
            _, world.rewards, world.terminateds, world.truncateds, world.infos = world.envs.step(action)
            frames = scenes.step(action)
            theirs = np.asarray(world.infos["state"])[:, 0]
            largest = max(largest, float(np.abs(theirs - scenes.position).max()))
        world.close()
        found[f"{size} px"] = {**apart.found(), "largest_px": largest}
    return found


if __name__ == "__main__":
    run(
        main,
        __doc__,
        frames={"type": int, "default": 2000, "help": "places that both paint"},
        episodes={"type": int, "default": 200, "help": "agents of each kind"},
        steps={"type": int, "default": 200, "help": "steps each"},
        seed={"type": int, "default": 70, "help": "of places and movers"},
        json={"default": None, "help": "where to write, instead of benchmarks/results/peer-equality.json"},
    )
