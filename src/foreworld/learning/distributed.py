"""Data-parallel training under `torchrun`: every process takes its slice of each batch, gradients are averaged.

    torchrun --nproc-per-node 2 train.py        # with `with processes(): fit(...)` in train.py

Gradients are averaged by hand after the backward pass, and not by `DistributedDataParallel`: a loss here calls
several methods of a module (`encode_all`, `predict`), while DDP prepares its hooks in `forward` alone. The average is
the gradient of one process on the whole batch for a loss that is a mean over samples, each process holding as many,
and for `sigreg` and `vicreg`, which gather the samples of all processes themselves. A mean over *measured* values
weights every process alike, whatever the number of values that each of them measured.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from foreworld.errors import InputError

Batch = TypeVar("Batch")
# What `torchrun` sets.
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; methods other than `shard` are collective where there are several.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def shard(self, batch: Batch) -> Batch:
        """This process's slice of a batch that all processes drew alike.

        Args:
            batch: Tensors, arrays, and mappings, lists, tuples and dataclasses of them; all [B, ...].

        Raises:
            InputError: B is not a multiple of the number of processes.
        """
        if self.size == 1:
            return batch
        count = batch_size(batch)
        if count % self.size:
            raise InputError(
                f"a batch of {count} cannot be split evenly over {self.size} processes; give a multiple of {self.size}"
            )
        share = count // self.size
        return cast(Batch, _sliced(batch, slice(self.rank * share, (self.rank + 1) * share)))

    def broadcast(self, module: nn.Module) -> None:
        """Give all processes the weights and buffers of the first."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over processes.

        A parameter that has a gradient on some processes only counts as zero on the others; one that has none
        anywhere keeps none, so that an optimiser treats it as one process would.
        """
        if self.size == 1:
            return
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            return
        device = parameters[0].device
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        present = [p for p, flag in zip(parameters, used.tolist(), strict=True) if flag]
        if not present:
            return
        # One message for all of them: a small model has many small tensors, and each message costs its latency.
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in present])
        dist.all_reduce(flat)
        flat /= self.size
        for parameter, piece in zip(present, torch.split(flat, [p.numel() for p in present]), strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of a small tensor."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is up on any process."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def wait(self) -> None:
        """Go on only when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def gather(self, tensor: Tensor) -> Tensor:
        """[size, *shape] the tensors of all processes, which must have one shape."""
        if self.size == 1 or not tensor.numel():
            return tensor.expand(self.size, *tensor.shape).clone()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)


def current() -> Ranks:
    """The process group that is running, or the single process where there is none."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextmanager
def processes(timeout_seconds: float = 600.0) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, with gloo, for the length of a `with`; one process without it.

    Args:
        timeout_seconds: How long to wait for a process that does not answer.

    Raises:
        InputError: Only a part of torchrun's environment variables is set.
    """
    found = [name for name in _ENVIRONMENT if name in os.environ]
    if not found:
        yield Ranks()
        return
    if len(found) < len(_ENVIRONMENT):
        missing = ", ".join(name for name in _ENVIRONMENT if name not in os.environ)
        raise InputError(f"{', '.join(found)} set but not {missing}; start with torchrun, or unset all of them")
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_seconds))
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def batch_size(batch: Any) -> int:
    """B of a batch: the length that all its tensors and arrays have in common.

    Raises:
        InputError: There is none.
    """
    sizes = {len(leaf) if leaf.ndim else 0 for leaf in _leaves(batch)}
    if len(sizes) != 1 or sizes == {0}:
        raise InputError(f"the tensors of a batch have first dimensions {sorted(sizes)}; they must share one, [B, ...]")
    return sizes.pop()


def _leaves(batch: Any) -> Iterator[Tensor | np.ndarray]:
    if isinstance(batch, Tensor | np.ndarray):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _leaves(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _leaves(value)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from _leaves(getattr(batch, field.name))
    else:
        raise InputError(f"a batch holds tensors, arrays, mappings, lists, tuples and dataclasses, not {type(batch)}")


def _sliced(batch: Any, part: slice) -> Any:
    if isinstance(batch, Tensor | np.ndarray):
        return batch[part]
    if isinstance(batch, Mapping):
        return {key: _sliced(value, part) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)([_sliced(value, part) for value in batch])
    return dataclasses.replace(
        batch, **{field.name: _sliced(getattr(batch, field.name), part) for field in dataclasses.fields(batch)}
    )
