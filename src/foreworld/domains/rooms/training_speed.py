"""How fast a recipe trains: frames a CPU second on one core, what a step is made of, and what a second core adds.

`fit` itself is timed, over real batches of a store and with the recipe's own loss; random weights cost what others do.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from foreworld.episodes import EpisodeStore
from foreworld.errors import ForeworldError
from foreworld.evidence.parallel import cores
from foreworld.learning.clips import ClipStream, clips_of
from foreworld.learning.distributed import processes
from foreworld.learning.fit import fit
from foreworld.learning.latent import TrainLatentConfig
from foreworld.model.latent_loss import Clips, LatentLearner
from foreworld.model.latent_model import LatentModel

WARM_UP = 3  # steps in which kernels are chosen and memory is taken
PATIENCE = 600.0  # seconds that another process may take
# Which call counts as what; of calls within one another the outer one.
PARTS = {"embed": "encode", "step": "predict", "roll": "predict", "around": "predict"}
Mode = Literal["one", "threads", "processes", "apart"]


@dataclass(frozen=True)
class Trained:
    """What some steps took.

    Attributes:
        cpu_seconds: A step.
        wall_seconds: A step.
        parts: CPU seconds a step of reading, encoding, predicting, regularising, and of the rest: gradients, the
            optimiser and what else the loss asks.
    """

    cpu_seconds: float
    wall_seconds: float
    parts: dict[str, float]


class _Watched:
    """A stream that notes when each batch was asked for, and what it took to read."""

    def __init__(self, stream: ClipStream) -> None:
        self._stream = stream
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.read: list[float] = []

    def next(self) -> Clips:
        self.cpu.append(time.process_time())
        self.wall.append(time.monotonic())
        batch = self._stream.next()
        self.read.append(time.process_time() - self.cpu[-1])
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)


def learner_of(store: str | Path, config: TrainLatentConfig) -> tuple[LatentLearner, ClipStream]:
    """A learner of random weights and its batches, as `train_latent` begins."""
    data = EpisodeStore.open(store)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        model = LatentModel(data.schema, config.model)
        learner = LatentLearner(model, config.loss, config.group)
    model.fit_pixels(clips_of(data, model, config.split, frames=config.frames, count=64, seed=1).frames[:, 0])
    stream = ClipStream(
        data, model, config.split, frames=config.frames, clips=config.clips, group=config.group, seed=config.fit.seed
    )
    return learner, stream


def train_some(store: str | Path, config: TrainLatentConfig, steps: int, threads: int = 1) -> Trained:
    """Train for some steps after a few that are not counted."""
    learner, stream = learner_of(store, config)
    watched, spent = _Watched(stream), dict.fromkeys(("encode", "predict", "regular"), 0.0)
    counting: list[bool] = []

    def timed(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if len(watched.cpu) <= WARM_UP or counting:
                return call(*args, **options)
            counting.append(True)
            began = time.process_time()
            found = call(*args, **options)
            spent[part] += time.process_time() - began
            counting.pop()
            return found

        return counted

    for name, part in PARTS.items():
        object.__setattr__(learner.model, name, timed(getattr(learner.model, name), part))
    regular = timed(learner._regular, "regular")
    object.__setattr__(learner, "_regular", regular)

    def loss(module: LatentLearner, clips: Clips, generator: torch.Generator) -> dict[str, Tensor]:
        return module.loss(clips, generator)

    count = steps + WARM_UP + 1  # the last one shows only when the step before it ended
    settings = config.fit.model_copy(update={"steps": count, "warmup": 1, "threads": threads, "log_every": count})
    fit(learner, watched, loss, settings, progress="none")
    cpu = (watched.cpu[-1] - watched.cpu[WARM_UP]) / steps
    # The last step is not within the clock's span, and neither must its parts be.
    parts = {part: seconds / (steps + 1) for part, seconds in spent.items()}
    parts["read"] = sum(watched.read[WARM_UP:-1]) / steps
    parts["rest"] = max(0.0, cpu - sum(parts.values()))
    return Trained(cpu, (watched.wall[-1] - watched.wall[WARM_UP]) / steps, parts)


def step_flops(store: str | Path, config: TrainLatentConfig) -> float:
    """Floating-point operations of matrix products and convolutions of a step, forwards and backwards."""
    learner, stream = learner_of(store, config)
    with FlopCounterMode(display=False) as counter:
        learner.loss(stream.next(), torch.Generator().manual_seed(0))["loss"].backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def two_cores(store: str | Path, config: TrainLatentConfig, steps: int) -> Mapping[Mode, float] | None:
    """Seconds a step by the clock, on one core and on two; None where there is one core.

    On two: with two threads, as two processes that share each batch, and as two that share nothing and train `apart`,
    each a whole batch a step: more than twice a batch in that time no way of sharing gives on this machine. Each
    process is pinned: threads that move between cores, or are more than these, are several times slower.

    Raises:
        ForeworldError: A process ended without an answer.
    """
    if cores() < 2:
        return None
    modes: tuple[Mode, ...] = ("one", "threads", "processes", "apart")
    return {mode: _in_processes(Path(store), config, steps, mode) for mode in modes}


def _in_processes(store: Path, config: TrainLatentConfig, steps: int, mode: Mode) -> float:
    chosen, count = sorted(os.sched_getaffinity(0))[:2], 2 if mode in ("processes", "apart") else 1
    sharing = 1 if mode == "apart" else count
    context, port = get_context("spawn"), _free_port()
    with ExitStack() as stack:
        pipes = []
        for rank in range(count):
            here, there = context.Pipe(duplex=False)
            pins = chosen if mode == "threads" else chosen[rank : rank + 1]
            child = context.Process(target=_child, args=(store, config, steps, pins, rank, sharing, port, there))
            child.start()
            there.close()
            stack.callback(child.join)
            stack.callback(child.terminate)
            pipes.append(here)
        found = []
        for here in pipes:
            try:
                if not here.poll(PATIENCE):
                    raise EOFError
                found.append(float(here.recv()))
            except EOFError as error:
                raise ForeworldError(f"a process that trains on {mode} ended without an answer; see above") from error
    return max(found)


def _child(
    store: Path, config: TrainLatentConfig, steps: int, pins: list[int], rank: int, sharing: int, port: int,
    answer: Connection,
) -> None:  # fmt: skip
    os.sched_setaffinity(0, set(pins))
    if sharing > 1:
        places = {"RANK": rank, "WORLD_SIZE": sharing, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in places.items()})
    with processes():
        answer.send(train_some(store, config, steps, threads=len(pins)).wall_seconds)
    answer.close()
    # Gloo's threads may outlive the interpreter, which then aborts.
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def matmul_flops(size: int = 1536, repeats: int = 5) -> float:
    """What a core can do: operations a CPU second of a large product in bfloat16, the best of some."""
    one, two = torch.randn(2, size, size).to(torch.bfloat16)
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        one @ two
        best = min(best, time.process_time() - began)
    return 2.0 * size**3 / best
