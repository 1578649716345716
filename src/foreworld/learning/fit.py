"""`fit`: minimise a loss of any module over a stream of batches, exactly resumable, on one process or many.

fit(model, batches, lambda model, batch, generator: prediction_loss(model, batch, LossConfig(), generator),
    FitConfig(steps=5000), run=Path("runs/first"))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from foreworld.episodes.files import one_writer
from foreworld.errors import InputError, ModelError
from foreworld.learning.distributed import Ranks, batch_size, current
from foreworld.learning.metrics import MetricsLog
from foreworld.learning.progress import Mode, Progress
from foreworld.learning.resume import State, pack, read_state, unpack, write_state

Batch = TypeVar("Batch")
Produced = TypeVar("Produced", covariant=True)
Module = TypeVar("Module", bound=nn.Module)


class Stream(Protocol[Produced]):
    """Endless batches that go on where they stopped."""

    def next(self) -> Produced:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state from which the batches after the last one given go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""


Loss = Callable[[Module, Batch, torch.Generator], Mapping[str, Tensor]]


class FitConfig(BaseModel):
    """How to optimise: AdamW (Loshchilov and Hutter 2019), linear warm-up, cosine decay (idem 2017).

    Attributes:
        steps: Optimiser steps of the whole run.
        lr: Peak learning rate.
        warmup: Steps over which the rate rises to `lr`.
        floor: Rate at the last step, as a share of `lr`.
        weight_decay: Decoupled, of matrices only, not of biases and other vectors.
        betas: Decay of the first and second moments.
        clip: Largest norm of the gradient, or None.
        ema: Decay of the moving average of the weights, or None. With it, the module holds the average after
            `fit`, as Polyak and Juditsky (1992); the average forgets its start faster at first.
        bf16: bfloat16 autocast.
        seed: Of the generator given to the loss and of torch's own during the run.
        threads: CPU threads; None leaves them. A run is exactly repeatable only with one number of threads.
        log_every: Steps a row of the log; a row is the mean over them.
        save_every_seconds: Time between two saved states.
    """

    # bf16 pays only where the processor multiplies it in hardware, and then the more the larger the model. Measured
    # with `WorldModel` and `prediction_loss` (64 windows of 289 moments) on one core of an AMD EPYC, torch 2.13, in ms
    # a step, float32 then bf16: width 96 (0.2 M weights) 160, 129; width 256 (1.3 M) 583, 296; width 512 (5.1 M)
    # 2110, 866; the loss the same to 1 in 1,000. With oneDNN kept from its bf16 instructions (ONEDNN_MAX_CPU_ISA),
    # width 96: 162, 190 with AVX-512 and 178, 995 with AVX2. So it is off unless asked for.
    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    lr: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    floor: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    bf16: bool = False
    seed: int = 0
    threads: int | None = Field(default=None, ge=1)
    log_every: int = Field(default=50, ge=1)
    save_every_seconds: float = Field(default=60.0, ge=0)

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.lr * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True)
class Fitted:
    """What a call of `fit` did.

    Attributes:
        steps: Steps of the run.
        resumed: Steps that an earlier process had done.
        seconds: Wall-clock time of this call.
        metrics: The last row of the log.
    """

    steps: int
    resumed: int
    seconds: float
    metrics: dict[str, float | None]


def fit(
    module: Module,
    batches: Stream[Batch],
    loss: Loss[Module, Batch],
    config: FitConfig,
    run: Path | str | None = None,
    *,
    progress: Mode = "auto",
    tensorboard: bool = False,
) -> Fitted:
    """Train `module` in place.

    A run folder that holds a state goes on from it, to the weights that an uninterrupted run would have reached, bit
    for bit on one machine with one number of threads; a finished one only gives the module its weights. Under
    `torchrun`, inside `with processes()`, every process draws the same batches and takes its slice, and the first
    one alone writes.

    Args:
        module: Trained on the device that it is on.
        batches: Gives whole batches, on all processes the same.
        loss: Called with the module, a batch and a generator in the same state on all processes; "loss" is what is
            minimised, other scalars are logged.
        config: How.
        run: Folder of `state.safetensors` and `metrics.jsonl`; None keeps nothing.
        progress: See `Progress`.
        tensorboard: Also write event files, if TensorBoard is installed.

    Raises:
        InputError: The run folder is of another module, of other options, or in use.
        FormatError: The state in the run folder is damaged.
        ModelError: The loss or its gradient is not finite; the state saved last stays as it was.
    """
    began = monotonic()
    ranks = current()
    folder = None if run is None else Path(run)
    with ExitStack() as stack:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if ranks.main:
                stack.enter_context(one_writer(folder / ".lock"))
            ranks.wait()
        stack.enter_context(_settings(module, config, ranks))
        training = _Training(module, batches, loss, config, folder, ranks)
        first = training.step
        log = MetricsLog(folder if ranks.main else None, first, tensorboard=tensorboard and ranks.main)
        stack.callback(log.close)
        shown = stack.enter_context(Progress(progress if ranks.main else "none", config.steps, first))
        training.run(log, shown)
        training.use_average()
    return Fitted(config.steps, first, monotonic() - began, log.last)


@contextmanager
def _settings(module: nn.Module, config: FitConfig, ranks: Ranks) -> Iterator[None]:
    """Threads, determinism, random state and training mode of a run; put back afterwards."""
    threads, mode = torch.get_num_threads(), module.training
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    device = _device(module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            # Without it the gradient of an indexing is summed in the order in which threads arrive.
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = False
            # Dropout must differ between the processes, whose shares of a batch differ too.
            torch.manual_seed(config.seed + ranks.rank)
            module.train()
            yield
        finally:
            module.train(mode)
            memory.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(strict, warn_only=warn)
            torch.set_num_threads(threads)


def _device(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    if parameter is None or not any(p.requires_grad for p in module.parameters()):
        raise InputError(f"{type(module).__name__} has no parameter to train")
    return parameter.device


class _Training(Generic[Module, Batch]):
    """One run: what changes from step to step, and how it is saved and restored."""

    def __init__(
        self,
        module: Module,
        batches: Stream[Batch],
        loss: Loss[Module, Batch],
        config: FitConfig,
        folder: Path | None,
        ranks: Ranks,
    ) -> None:
        self.module, self.batches, self.loss, self.config = module, batches, loss, config
        self.folder, self.ranks = folder, ranks
        self.device = _device(module)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = _optimizer(module, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.sums: dict[str, float] = {}
        self.average: dict[str, Tensor] = {}
        state = None if folder is None else read_state(folder)
        if state is None:
            ranks.broadcast(module)
        if config.ema is not None:
            self.average = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
        if folder is not None and state is not None:
            self._restore(folder, state)

    def run(self, log: MetricsLog, shown: Progress) -> None:
        """All steps that are left."""
        config, saved = self.config, monotonic()
        while self.step < config.steps:
            due = self.folder is not None and monotonic() - saved >= config.save_every_seconds
            row, windows, due = self._one(due)
            self.step += 1
            for name, value in {**row, "_steps": 1.0}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._log(log)
            shown.update(self.step, row["loss"], windows)
            if due or self.step == config.steps:
                self._save(log)
                saved = monotonic()

    def use_average(self) -> None:
        """Give the module the averaged weights, if an average is kept."""
        if self.average:
            self.module.load_state_dict(self.average, strict=False)

    def _one(self, due: bool) -> tuple[dict[str, float], int, bool]:
        config, rate = self.config, self.config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches.next()
        windows = batch_size(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            parts = self.loss(self.module, self.ranks.shard(batch), self.generator)
        value = parts["loss"]
        # Together: a process that stopped alone would leave the others waiting. The first one's clock decides.
        broken, due = self.ranks.any(not bool(torch.isfinite(value)), due and self.ranks.main)
        if broken:
            raise self._not_finite("loss")
        value.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(self.module)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, config.clip or math.inf))
        if not math.isfinite(norm):
            raise self._not_finite("gradient")
        self.optimizer.step()
        self._follow()
        row = {name: float(part.detach()) for name, part in parts.items()}
        return {**row, "gradient_norm": norm, "rate": rate}, windows, due

    def _not_finite(self, what: str) -> ModelError:
        kept = "nothing was saved"
        if self.folder is not None:
            kept = f"the state saved last in {self.folder} is intact"
        return ModelError(
            f"the {what} of step {self.step + 1} is not finite (NaN or infinite); {kept}. "
            "Lower lr or clip, or look for bad values in the data"
        )

    @torch.no_grad()
    def _follow(self) -> None:
        if self.config.ema is None:
            return
        # Early on the average would be mostly the random start: it forgets that first.
        decay = min(self.config.ema, (1.0 + self.step) / (10.0 + self.step))
        for name, parameter in self.module.named_parameters():
            if name in self.average:
                self.average[name].lerp_(parameter, 1.0 - decay)

    def _log(self, log: MetricsLog) -> None:
        count = self.sums.pop("_steps")
        names = sorted(self.sums)
        means = self.ranks.mean(torch.tensor([self.sums[name] / count for name in names], dtype=torch.float64))
        log.write(self.step, dict(zip(names, means.tolist(), strict=True)))
        self.sums = {}

    # --- saving and restoring ----------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude={"threads", "save_every_seconds"})

    def _save(self, log: MetricsLog) -> None:
        if self.folder is None:
            return
        tensors = pack(self.module, self.optimizer, self.average)
        tensors["random/loss"] = self.generator.get_state()
        tensors["random/torch"] = self.ranks.gather(torch.get_rng_state())
        if self.device.type == "cuda":
            tensors["random/cuda"] = self.ranks.gather(torch.cuda.get_rng_state(self.device))
        sums = self.ranks.gather(torch.tensor([self.sums[name] for name in sorted(self.sums)], dtype=torch.float64))
        facts = {
            "options": self._options(),
            "processes": self.ranks.size,
            "batches": self.batches.state_dict(),
            "logged": sorted(self.sums),
        }
        tensors["log/sums"] = sums
        if self.ranks.main:
            log.sync()
            write_state(self.folder, State(self.step, tensors, facts))
        # No process goes on, or returns to read the folder, while the first one is still writing.
        self.ranks.wait()

    def _restore(self, folder: Path, state: State) -> None:
        found, wanted = {**state.facts["options"], "processes": state.facts["processes"]}, self._options()
        wanted["processes"] = self.ranks.size
        for name in wanted:
            if found.get(name) != wanted[name]:
                raise InputError(
                    f"the run in {folder} was started with {name} = {found.get(name)}, now it is {wanted[name]}; "
                    "use the same options to go on, or another run folder"
                )
        unpack(state, self.module, self.optimizer, self.average, source=folder)
        self.generator.set_state(state.tensors["random/loss"])
        # Copies: torch 2.13 crashes on a random state that is a view into a larger tensor.
        torch.set_rng_state(state.tensors["random/torch"][self.ranks.rank].clone())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors["random/cuda"][self.ranks.rank].clone(), self.device)
        sums = state.tensors["log/sums"][self.ranks.rank].tolist()
        self.sums = dict(zip(state.facts["logged"], sums, strict=True))
        self.batches.load_state_dict(state.facts["batches"])
        self.step = state.step


def _optimizer(module: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim < 2 or name.endswith("bias")]
    plain_ids = {id(p) for p in plain}
    decayed = [p for _, p in named if id(p) not in plain_ids]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
