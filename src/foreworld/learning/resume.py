"""The state of a training run on disk, whole and exact: after kill -9 it goes on as if nothing had happened.

One safetensors file, replaced atomically, holds all of it: weights, optimiser moments, moving average and random
generators as tensors; step, options, position in the data and sums for the log as JSON in the file's header. So the
two can never be of different moments, and reading it executes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foreworld.episodes.files import sync_folder
from foreworld.errors import FormatError, InputError

FORMAT_VERSION = 1
STATE_FILE = "state.safetensors"
_HEADER = "foreworld"


@dataclass(frozen=True)
class State:
    """A run after `step` steps.

    Attributes:
        step: Steps done.
        tensors: By "group/name"; the groups are weights, optimizer, average and random.
        facts: Everything else, JSON-able.
    """

    step: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, by their names in it."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def write_state(run: Path, state: State) -> None:
    """Replace the state in the run folder; a crash at any moment leaves the old one or the new one.

    Raises:
        InputError: `facts` has something that JSON has not.
    """
    try:
        text = json.dumps({"format": FORMAT_VERSION, "step": state.step, "facts": state.facts}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the state of the batches cannot be saved: {error}; state_dict() must give JSON") from error
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.tensors.items()}
    # One name, as a run has one writer: what a killed process left of it is overwritten.
    temporary = run / f".{STATE_FILE}.new"
    save_file(tensors, temporary, metadata={_HEADER: text})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, run / STATE_FILE)
    sync_folder(run)


def read_state(run: Path) -> State | None:
    """The state in the run folder, or None if the run has not saved any.

    Raises:
        FormatError: The file is truncated, is no state, or has a newer format.
    """
    path = run / STATE_FILE
    if not path.is_file():
        return None
    advice = f"restore it from a copy, or delete it to train {run} from the start"
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            version = header["format"]
            if version > FORMAT_VERSION:
                raise FormatError(
                    f"{path} has format {version}; this foreworld reads up to {FORMAT_VERSION}: install a newer version"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return State(int(header["step"]), tensors, dict(header["facts"]))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(f"{path} is truncated or damaged ({error}); {advice}") from error


def pack(module: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, optimiser moments and moving average as the tensors of a `State`."""
    tensors = {f"weights/{name}": value for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    tensors.update({f"average/{name}": value for name, value in average.items()})
    return tensors


def unpack(
    state: State, module: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], *, source: Path
) -> None:
    """Put the tensors of a state back where `pack` took them from.

    Raises:
        InputError: The state is of another module; the message names the first tensor that differs.
    """
    weights, kept = state.group("weights"), module.state_dict()
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in kept.items()}
    if found != wanted:
        name = sorted(dict(found.items() ^ wanted.items()))[0]
        raise InputError(
            f"the run in {source} is of another module: {name} is {found.get(name)} there and {wanted.get(name)} here; "
            "use another run folder"
        )
    module.load_state_dict(weights)
    moments = state.group("optimizer")
    for name, parameter in module.named_parameters():
        own = {key.removesuffix(f"/{name}"): value for key, value in moments.items() if key.split("/", 1)[1] == name}
        if own:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in own.items()}
    for name, value in state.group("average").items():
        average[name].copy_(value)
