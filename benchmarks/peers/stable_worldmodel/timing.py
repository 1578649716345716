"""What a plan costs: the peer's CEM with LeWM at the published sizes and reduced, beside our planner, in one run.

    python benchmarks/peers/stable_worldmodel/timing.py [--seed 70] [--repeats 3]

One core, one thread, process CPU seconds. In each repeat all sides have their turn, so that whatever else the machine
is doing falls on all of them; ratios are taken within a repeat. Cost does not depend on weights: LeWM's are random (the
gates of its adaLN blocks, which start at zero, too), and its success is not measured here: it stands as published.

An episode is 50 steps in two rooms from which nobody gets out early. Theirs runs `WorldModelPolicy` in `World`: a plan
of five blocks of five steps, all of them done before the next, so two plans an episode, and frames transformed at every
step. Ours decides anew at every step. `search alone` has all frames encoded before (theirs: a plan less two frames
encoded). A predictor evaluation is one candidate carried one block on. In bf16, in which they do not plan, the search
alone is timed once. The file is written after each repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peer import ROOT, run, table, tell, write_report

from foreworld.errors import InputError

STEPS = 50
BARS = {"published": 400.0, "reduced": 20.0}  # times less CPU time a plan
WHAT = ("plan", "search", "evaluation", "encode", "episode")


def spent(work: Callable[[], Any], times: int = 1) -> float:
    """CPU seconds of this process for one call, the mean over `times`."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


class Theirs:
    """LeWM of some sizes in their loop."""

    def __init__(self, sizes: Any, bf16: bool = False) -> None:
        import torch
        from lewm import build, parameters

        self.sizes, self.model, self.bf16 = sizes, build(sizes), bf16
        self.parameters = parameters(self.model)
        if bf16:
            cost = self.model.get_cost

            def cheaper(info: Any, candidates: Any) -> Any:
                with torch.autocast("cpu", torch.bfloat16):
                    return cost(info, candidates).float()

            self.model.get_cost = cheaper

    def turn(self) -> dict[str, float]:
        """CPU seconds of each thing; of bf16, which they do not plan in, the search alone."""
        found = self._small()
        if self.bf16:
            return found | {"search": self._search()}
        found |= self._episode()
        return found | {"search": found["plan"] - 2 * found["encode"]}

    def _episode(self) -> dict[str, float]:
        """50 steps of their policy in their World; the goal's place is out of reach, so that it never ends early."""
        import numpy as np
        import stable_worldmodel as swm
        import torch
        from lewm import plan_config, solver_of, transform_of

        side = self.sizes.frame
        world = swm.World("swm/TwoRoom-v1", num_envs=1, image_shape=(side, side), max_episode_steps=10 * STEPS)
        transform = transform_of(side)
        policy = swm.policy.WorldModelPolicy(
            solver_of(self.model), plan_config(), transform={"pixels": transform, "goal": transform}
        )
        world.set_policy(policy)
        world.reset(seed=0)
        world.envs.envs[0].unwrapped.target_position = torch.full((2,), -1000.0)
        goal = np.asarray(world.infos["pixels"]).copy()
        each = []
        for _ in range(STEPS):
            world.infos["goal"] = goal
            began = time.process_time()
            action = policy.get_action(world.infos)
            each.append(time.process_time() - began)
            world.infos = world.envs.step(action)[-1]
        world.close()
        plans = [cost for cost in each if cost > 10.0 * statistics.median(each)]
        if len(plans) != 2:
            raise InputError(f"{len(plans)} of {STEPS} steps were plans, expected 2; the machine is too busy to tell")
        return {"plan": statistics.fmean(plans), "episode": sum(each)}

    def _info(self) -> dict[str, Any]:
        import torch

        side = self.sizes.frame
        frames = {name: torch.rand(1, 1, 3, side, side) for name in ("pixels", "goal")}
        return frames | {"action": torch.zeros(1, 1, 2)}

    def _search(self) -> float:
        """One solve with frame and goal encoded before."""
        import numpy as np
        import torch
        from gymnasium.spaces import Box
        from lewm import plan_config, solver_of

        solver = solver_of(self.model)
        solver.configure(action_space=Box(-1.0, 1.0, (1, 2), dtype=np.float32), n_envs=1, config=plan_config())
        latents = {name: torch.randn(1, 1, self.sizes.width) for name in ("emb", "goal_emb")}
        return spent(lambda: solver.solve(self._info() | latents))

    def _small(self) -> dict[str, float]:
        """Encoding one frame, and one candidate carried one block on, the mean over a rollout of five."""
        import torch
        from lewm import BLOCK, HORIZON, SAMPLES

        frame = {"pixels": self._info()["pixels"]}
        info = {name: part.unsqueeze(1).expand(1, SAMPLES, *part.shape[1:]) for name, part in self._info().items()}
        info["emb"] = torch.randn(1, 1, 1, self.sizes.width).expand(1, SAMPLES, 1, -1)
        actions = torch.randn(1, SAMPLES, HORIZON, 2 * BLOCK)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)
        with torch.inference_mode(), autocast:
            self.model.encode(dict(frame))
            encode = spent(lambda: self.model.encode(dict(frame)), 5)
            rollout = spent(lambda: self.model.rollout(dict(info), actions), 2)
        return {"encode": encode, "evaluation": rollout / (SAMPLES * HORIZON)}


class Ours:
    """The agent of `two-room` in our loop."""

    def __init__(self, seed: int) -> None:
        from foreworld.domains.rooms.making import runs
        from foreworld.domains.rooms.prepare import prepare
        from foreworld.domains.rooms.protocols import TASKS, player_of
        from foreworld.domains.rooms.running import Job

        config = TASKS["two-room"][1]
        folder = runs() / config.recipe.key(seed)
        self.prepared = prepare(folder, config.recipe, seed=seed, report=tell)
        self.config, self.seed = config, seed
        self.player: Any = player_of(Job("foreworld", seed, config, folder, 1), self.prepared)
        model = self.prepared.model
        self.parameters = sum(p.numel() for p in model.parameters())
        if self.prepared.temporal is not None:
            self.parameters += sum(p.numel() for p in self.prepared.temporal.parameters())

    def turn(self) -> dict[str, float]:
        """CPU seconds of each thing; an episode is short, so five of them, and fifty searches."""
        import numpy as np
        import torch

        from foreworld.domains.rooms.scene import Scenes

        episodes, decisions, going = [], [], np.ones(1, dtype=bool)
        for number in range(5):
            scenes = Scenes(self.config.rooms, [1000 * self.seed + number])
            frames = scenes.reset()
            began = time.process_time()
            self.player.begin(scenes, frames)
            each = [time.process_time() - began]
            for _ in range(STEPS):
                began = time.process_time()
                action = self.player.act(frames, going)
                each.append(time.process_time() - began)
                frames = scenes.step(action)
            episodes.append(sum(each))
            decisions += each[1:]
        problem, model = self.player.last.decisions.problem, self.prepared.model
        # A copy of the problem has nothing worked out beforehand.
        search = spent(lambda: self.player.planner.plan(replace(problem)), 50)
        shape = (1, 48, self.config.horizon, 2)
        latent, actions, frame = torch.randn(1, model.config.width), torch.rand(shape) * 2 - 1, torch.from_numpy(frames)
        with torch.inference_mode():
            rollout = spent(lambda: model.predict(latent, actions), 200)
            encode = spent(lambda: model.embed(frame), 50)
        return {
            "plan": statistics.median(decisions), "search": search, "encode": encode,
            "evaluation": rollout / (shape[1] * shape[2]), "episode": statistics.median(episodes),
        }  # fmt: skip

    def evaluations(self) -> int:
        """Candidates carried one block on, in one decision."""
        model, count = type(self.prepared.model), 0
        predict = model.predict

        def counted(this: Any, latent: Any, actions: Any, around: Any = None) -> Any:
            nonlocal count
            count += actions.shape[0] * actions.shape[1] * actions.shape[2]
            return predict(this, latent, actions, around)

        model.predict = counted  # type: ignore[method-assign]
        try:
            self.player.planner.plan(replace(self.player.last.decisions.problem))
        finally:
            model.predict = predict  # type: ignore[method-assign]
        return count


def main(given: argparse.Namespace) -> None:
    import torch
    from lewm import HORIZON, ITERATIONS, PUBLISHED, REDUCED, SAMPLES

    if given.repeats < 1:
        raise InputError("--repeats is at least 1")
    torch.set_num_threads(1)
    os.environ.setdefault("FOREWORLD_RUNS", str(ROOT / "runs"))
    ours = Ours(given.seed)
    sides: dict[str, Any] = {"foreworld": ours, "published": Theirs(PUBLISHED), "reduced": Theirs(REDUCED)}
    sides |= {f"{s.name}, bf16": Theirs(s, bf16=True) for s in (PUBLISHED, REDUCED)} if not given.quick else {}
    if given.quick:
        del sides["published"]
    ours.turn()  # warms what is compiled and cached
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    evaluations = {name: SAMPLES * ITERATIONS * HORIZON for name in sides} | {"foreworld": ours.evaluations()}
    for repeat in range(given.repeats):
        for name, side in sides.items():
            if repeat and "bf16" in name:
                continue
            tell(f"repeat {repeat + 1} of {given.repeats}: {name}")
            with contextlib.redirect_stdout(io.StringIO()):
                turns[name].append(side.turn())
        report = {
            "unit": "process CPU seconds, one thread",
            "weights": "LeWM random, its success stands as published; ours trained (cost does not depend on weights)",
            "seed": given.seed,
            "repeats": repeat + 1,
            "steps_an_episode": STEPS,
            "parameters": {name: side.parameters for name, side in sides.items()},
            "evaluations_a_plan": evaluations,
            "seconds": {name: spread(found) for name, found in turns.items()},
            "times_ours": {name: ratios(turns[name], turns["foreworld"]) for name in sides if name != "foreworld"},
            "bars": BARS,
        }
        place = write_report("timing", report, given.json)
    show(report, place)


def spread(turns: list[dict[str, float]]) -> dict[str, list[float]]:
    """Least, median and greatest over the repeats."""
    found = {}
    for what in WHAT:
        each = [turn[what] for turn in turns if what in turn]
        if each:
            found[what] = [min(each), statistics.median(each), max(each)]
    return found


def ratios(theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, list[float]]:
    """How many times our CPU time theirs is, repeat by repeat: least, median, greatest."""
    pairs = list(zip(theirs, ours, strict=False))  # some have their turn in the first repeat alone
    return spread([{what: one[what] / other[what] for what in one} for one, other in pairs])


def show(report: dict[str, Any], place: Any) -> None:
    """Print what was found."""
    heads = {
        "plan": "plan with encoding, ms", "search": "search alone, ms", "evaluation": "predictor evaluation, us",
        "encode": "encode a frame, ms", "episode": f"episode of {STEPS} steps, s",
    }  # fmt: skip
    scale = {"plan": 1e3, "search": 1e3, "evaluation": 1e6, "encode": 1e3, "episode": 1.0}
    rows: list[tuple[str, ...]] = [("CPU time, median", "parameters", "evaluations a plan", *heads.values())]
    for name, found in report["seconds"].items():
        numbers = [f"{scale[what] * found[what][1]:,.3f}" if what in found else "" for what in WHAT]
        rows.append((name, f"{report['parameters'][name]:,}", f"{report['evaluations_a_plan'][name]:,}", *numbers))
    print(table(rows))
    rows = [("times ours, median (least to greatest)", *WHAT)]
    for name, found in report["times_ours"].items():
        rows.append(
            (name, *("{1:,.0f} ({0:,.0f} to {2:,.0f})".format(*found[what]) if what in found else "" for what in WHAT))
        )
    print("\n" + table(rows) + "\n")
    for name, bar in BARS.items():
        if name in report["times_ours"]:
            least = report["times_ours"][name]["plan"][0]
            verdict = "meets" if least >= bar else "MISSES"
            print(f"{name}: a plan takes {least:,.0f} times ours at least; {verdict} the bar of {bar:g}")
    print(f"random weights for LeWM, whose success stands as published; {report['repeats']} repeats; {place}")


if __name__ == "__main__":
    run(
        main,
        __doc__,
        seed={"type": int, "default": 70, "help": "of our model"},
        repeats={"type": int, "default": 3, "help": "turns of every side"},
        quick={"action": "store_true", "help": "leave the published sizes and bf16 out: a smoke run"},
        json={"default": None, "help": "where to write, instead of benchmarks/results/peer-timing.json"},
    )
