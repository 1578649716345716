"""Our agent in the peer's `World.evaluate`, and in our own loop, from the same starts to the same goals.

    python benchmarks/peers/stable_worldmodel/evaluator.py --seeds 70 --n 50 [--tasks two-room,two-room-far]

Starts and goals are those of our protocols (held-out episodes of a noisy expert, the goal 25 or 100 steps ahead, 50 or
150 actions). They go to the peer as a data set in its own HDF5 format: two rows an episode, start and goal, painted by
its environment. `World.evaluate` places its environments there, hands the agent its own frames (224 px, which the agent
reduces to 64) and calls an episode a success when it terminates. The agent sees those frames, the goal's frame and
nothing else. Beside it stand the floors: nobody moves, random actions, and straight for the goal (which knows places).

What is solved at its start is counted and left out of the shares; the peer's own percentage, which counts it, is
printed, too. The difference between the two loops is paired by start; intervals are 95 %. That of the difference is
Newcombe's; the share that ends unlike has an exact one (Clopper-Pearson), and the difference cannot be larger. `same
actions` is the share of episodes in which ours did the same bit for bit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from peer import ROOT, run, seeds_of, table, tell, write_report

from foreworld.errors import InputError

TASKS = ("two-room", "two-room-far")
ARMS = ("foreworld", "nothing", "random", "straight_line")
CALLS = [
    {"method": "_set_state", "args": {"state": {"value": "proprio"}}},
    {"method": "_set_goal_state", "args": {"goal_state": {"value": "goal_proprio"}}},
]


class Shown:
    """What `Planned.begin` needs of scenes, and no more: how many there are and their goals' frames."""

    def __init__(self, goals: Any) -> None:
        self._goals = goals

    def __len__(self) -> int:
        return len(self._goals)

    def goal_frames(self) -> Any:
        """[N, 64, 64, 3]."""
        return self._goals


class Visitor:
    """A player of ours as a policy of theirs: `set_env` and `get_action` are all that `World` asks for.

    Attributes:
        player: Ours.
        actions: [T, N, 2] what was done.
        frames: [N, 64, 64, 3] what was seen first.
    """

    def __init__(self, player: Any, resize: str) -> None:
        self.player, self.resize, self.actions, self.frames = player, resize, [], None

    def set_env(self, env: Any) -> None:
        """Part of their protocol."""
        self.env = env

    def get_action(self, infos: Any) -> Any:
        """[N, 2] for those that go on."""
        import numpy as np

        going = ~np.asarray(infos["terminated"], dtype=bool)[:, 0]
        if self.frames is None:
            self.frames = self._seen(infos["pixels"])
            self.player.begin(self._shown(infos), self.frames)
            going[:] = True  # they say nothing of who ended before the first step, and step everybody
            seen = self.frames
        else:
            seen = self._seen(infos["pixels"])
        action = self.player.act(seen, going)
        self.actions.append(action.copy())
        return action

    def _shown(self, infos: Any) -> Any:
        return Shown(self._seen(infos["goal"]))

    def _seen(self, frames: Any) -> Any:
        """Frames [N, 1, S, S, 3] of theirs as [N, 64, 64, 3]."""
        import numpy as np

        from foreworld.domains.rooms.render import reduce

        given = np.ascontiguousarray(np.asarray(frames)[:, 0])
        return reduce(given, 64) if self.resize == "ours" else given


class KnowingVisitor(Visitor):
    """The same for floors, which may know places: they get scenes of ours that stand where theirs do."""

    def get_action(self, infos: Any) -> Any:
        """[N, 2]."""
        import numpy as np

        from foreworld.domains.rooms.scene import RoomsConfig, Scenes

        position = np.asarray(infos["proprio"])[:, 0].astype(np.float32)  # `state` is that of the reset
        if self.frames is None:
            self.scenes = Scenes(RoomsConfig(), range(len(position)))
            self.scenes.position, self.scenes.goal = (
                position,
                np.asarray(infos["goal_proprio"])[:, 0].astype(np.float32),
            )
            self.frames = self.scenes.frames()
            self.player.begin(self.scenes, self.frames)
        self.scenes.position = position
        action = self.player.act(self.frames, np.ones(len(position), dtype=bool))
        self.actions.append(action.copy())
        return action


def main(given: argparse.Namespace) -> None:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    seeds, tasks = seeds_of(given.seeds), tuple(given.tasks.split(","))
    chosen = tuple(given.arms.split(","))
    for option, asked, known in (("tasks", tasks, TASKS), ("arms", chosen, ARMS)):
        if unknown := [one for one in asked if one not in known]:
            raise InputError(f"--{option} are {', '.join(known)}; there is no {', '.join(unknown)}")
    if given.n < 1:
        raise InputError("--n is at least 1")
    os.environ.setdefault("FOREWORLD_RUNS", str(ROOT / "runs"))
    report: dict[str, Any] = {"seeds": list(seeds), "n": given.n, "resize": given.resize, "tasks": {}}
    rows = [("task, arm", "n", "solved at start", "success in theirs, %", "success in ours, %", "difference, points",
             "end unlike, %", "same actions, %", "World says, %")]  # fmt: skip
    for task in tasks:
        arms: dict[str, Any] = {}
        for arm in chosen:
            parts = [evaluate(task, arm, seed, given.n, given.resize) for seed in seeds]
            both = {name: np.concatenate([part[name] for part in parts]) for name in ("solved", "theirs", "ours")}
            arms[arm] = summary(both, [part["world_says"] for part in parts])
            arms[arm]["by_seed"] = [
                {"seed": seed, **{k: [int(x) for x in part[k]] for k in ("solved", "theirs", "ours")},
                 "world_says": part["world_says"], "same_first_frames": part["same_first_frames"],
                 "same_actions": part["same_actions"], "counted": int((~part["solved"]).sum())}
                for seed, part in zip(seeds, parts, strict=True)
            ]  # fmt: skip
            report["tasks"][task] = arms
            rows.append(row_of(f"{task}, {arm}", arms[arm]))
            write_report("evaluator", report, given.json)
    place = write_report("evaluator", report, given.json)
    print(table(rows))
    print(f"\nseeds {given.seeds}, {given.n} starts each; {place}")


def evaluate(task: str, arm: str, seed: int, count: int, resize: str) -> dict[str, Any]:
    """One arm on one seed's starts, in both loops."""
    import numpy as np

    from foreworld.domains.rooms.floors import UNLEARNED
    from foreworld.domains.rooms.loop import TOGETHER, run_pairs
    from foreworld.domains.rooms.making import runs
    from foreworld.domains.rooms.prepare import prepare
    from foreworld.domains.rooms.protocols import TASKS, pairs_of, player_of
    from foreworld.domains.rooms.running import Job

    config = TASKS[task][1]
    pairs, folder = pairs_of(config, seed, count), runs() / config.recipe.key(seed)
    prepared = prepare(folder, config.recipe, seed=seed, report=tell) if arm not in UNLEARNED else None
    job = Job(arm, seed, config, folder, count)
    found: dict[str, list[Any]] = {name: [] for name in ("solved", "theirs", "ours")}
    says, frames_equal, actions_equal = [], [], []
    for at in range(0, count, TOGETHER):
        part = slice(at, min(at + TOGETHER, count))
        tell(f"{task}, {arm}, seed {seed}: starts {part.start} to {part.stop - 1} of {count}")
        here = Watched(player_of(job, prepared))
        outcome = run_pairs(here, config.rooms.of(seed), pairs.part(part), config.budget)
        visitor = (KnowingVisitor if arm in UNLEARNED else Visitor)(player_of(job, prepared), resize)
        result = their_evaluation(visitor, pairs.start[part], pairs.goal[part], config.ahead, config.budget)
        found["solved"].append(outcome.solved)
        found["ours"].append(outcome.reached | outcome.solved)
        found["theirs"].append(np.asarray(result["episode_successes"], dtype=bool))
        says.append(float(result["success_rate"]) * (part.stop - part.start))
        frames_equal.append(bool((here.frames == visitor.frames).all()))
        actions_equal.append(same_actions(here.actions, visitor.actions, ~outcome.solved))
    joined = {name: np.concatenate(each) for name, each in found.items()}
    same = {"same_first_frames": all(frames_equal), "same_actions": float(np.concatenate(actions_equal).mean())}
    return joined | same | {"world_says": sum(says) / count}


class Watched:
    """A player that remembers what it saw first and what it did."""

    def __init__(self, player: Any) -> None:
        self.player, self.actions, self.frames = player, [], None

    @property
    def refused(self) -> Any:
        """As the player's."""
        return getattr(self.player, "refused", 0)

    def begin(self, scenes: Any, frames: Any) -> None:
        """As the player's."""
        self.frames = frames.copy()
        self.player.begin(scenes, frames)

    def act(self, frames: Any, going: Any) -> Any:
        """As the player's."""
        action = self.player.act(frames, going)
        self.actions.append(action.copy())
        return action


def same_actions(ours: list[Any], theirs: list[Any], counted: Any) -> Any:
    """[N] whether an episode's actions were the same bit for bit, as long as both went on; of those counted."""
    import numpy as np

    steps = min(len(ours), len(theirs))
    one, other = np.stack(ours[:steps]), np.stack(theirs[:steps])
    return (one == other).all((0, 2))[counted]


def their_evaluation(policy: Any, start: Any, goal: Any, ahead: int, budget: int) -> dict[str, Any]:
    """`World.evaluate` from a data set that holds start and goal of each episode."""
    import contextlib
    import io

    import stable_worldmodel as swm
    from stable_worldmodel.data import HDF5Dataset

    size = 64 if getattr(policy, "resize", "ours") == "theirs" else 224
    count = len(start)
    world = swm.World("swm/TwoRoom-v1", num_envs=count, image_shape=(size, size), max_episode_steps=2 * budget)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.h5"
        write_pairs(path, world.envs.envs[0], start, goal)
        world.set_policy(policy)
        with contextlib.redirect_stdout(io.StringIO()):
            # The two rows of an episode are `ahead` steps apart in the episode that they were taken from.
            result = world.evaluate(
                dataset=HDF5Dataset(path=path), episodes_idx=list(range(count)), start_steps=[0] * count, goal_offset=1,
                eval_budget=budget, callables=CALLS,
            )  # fmt: skip
    world.close()
    return result


def write_pairs(path: Path, env: Any, start: Any, goal: Any) -> None:
    """Two rows an episode in their format, painted by their environment and resized by its wrappers."""
    import numpy as np
    from stable_worldmodel.data.formats.hdf5 import HDF5Writer

    painter = env
    while not hasattr(painter, "_get_pixels"):
        painter = painter.env
    env.reset(seed=0)
    with HDF5Writer(path) as writer:
        for pair in zip(start, goal, strict=True):
            pixels = []
            for place in pair:
                env.unwrapped._set_state(place)
                pixels.append(painter._get_pixels()[0]["pixels"])
            writer.write_episode({"pixels": pixels, "proprio": [np.asarray(place, dtype=np.float32) for place in pair]})


def summary(both: dict[str, Any], says: list[float]) -> dict[str, Any]:
    """Shares, agreement and the paired difference, of starts that are not solved; points are hundredths."""
    import numpy as np

    from foreworld.evidence.statistics import clopper_pearson, newcombe, wilson

    left = ~both["solved"]
    theirs, ours = both["theirs"][left].astype(float), both["ours"][left].astype(float)
    return {
        "n": int(left.sum()),
        "solved_at_start": int(both["solved"].sum()),
        "success_theirs": list(wilson(float(theirs.sum()), float(left.sum()))),
        "success_ours": list(wilson(float(ours.sum()), float(left.sum()))),
        "unlike": list(clopper_pearson(float((theirs != ours).sum()), float(left.sum()))),
        "difference_points": [100.0 * bound for bound in newcombe(theirs, ours)],
        "world_says_percent": float(np.mean(says)),
    }


def row_of(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    shares = [
        "{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in found[k])) for k in ("success_theirs", "success_ours")
    ]
    apart = "{:.1f} ({:.1f} to {:.1f})".format(*found["difference_points"])
    unlike = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in found["unlike"]))
    same = sum(one["same_actions"] * one["counted"] for one in found["by_seed"]) / found["n"]
    return (name, f"{found['n']:,}", f"{found['solved_at_start']:,}", *shares, apart, unlike, f"{100 * same:.1f}",
            f"{found['world_says_percent']:.1f}")  # fmt: skip


if __name__ == "__main__":
    run(
        main,
        __doc__,
        seeds={"default": "70", "help": "models and starts, such as 70,71"},
        n={"type": int, "default": 50, "help": "starts a seed"},
        tasks={"default": "two-room", "help": ", ".join(TASKS)},
        arms={"default": ",".join(ARMS), "help": "who moves"},
        resize={
            "choices": ("ours", "theirs"), "default": "ours",
            "help": "who makes 64 px of their frames: we, by the mean over areas, or World, by a bilinear filter",
        },
        json={"default": None, "help": "where to write, instead of benchmarks/results/peer-evaluator.json"},
    )  # fmt: skip
