"""The network of a learned policy, and the two files that it is kept in: safetensors beside JSON, nothing that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foreworld.domains.treatment.policies.state import StateConfig
from foreworld.episodes.files import read_json, write_json
from foreworld.errors import FormatError

FORMAT = 1
WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
TOLERANCE = 1e-4  # of an action in -1..1, between the peer's arithmetic and this one
FAR = 10.0  # standard deviations at which an input is clipped


class Network(nn.Module):
    """Standardised states through hidden layers with rectifiers to raw outputs.

    Args:
        inputs: Width of a state.
        hidden: Widths of the hidden layers.
        outputs: Width of the output.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        widths = (inputs, *hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the outputs."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, states: Tensor) -> Tensor:
        """[B, outputs] from [B, inputs] states."""
        x = ((states - self.centre) / self.spread).clamp(-FAR, FAR)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def standard(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [F] of states [N, F]; 1 where constant."""
    spread = states.std(0)
    return states.mean(0), torch.where(spread > 1e-6, spread, torch.ones_like(spread))


@dataclass(frozen=True)
class Policy:
    """A learned policy as it is kept.

    Attributes:
        kind: `clone`, or the algorithm of offline reinforcement learning.
        state: What it reads.
        network: Its weights.
        settings: What it was made with.
    """

    kind: str
    state: StateConfig
    network: Network
    settings: dict[str, Any]


def save_policy(folder: Path, policy: Policy) -> None:
    """Write a policy; the description is written last and says that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    network = policy.network
    save_file({name: value.contiguous() for name, value in network.layers.state_dict().items()}, folder / WEIGHTS)
    layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    write_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "kind": policy.kind,
            "state": policy.state.model_dump(mode="json"),
            "widths": [layers[0].in_features, *(layer.out_features for layer in layers)],
            "centre": network.centre.tolist(),
            "spread": network.spread.tolist(),
            "settings": policy.settings,
        },
    )


def load_policy(folder: Path) -> Policy:
    """Read a policy that `save_policy` or a peer wrote.

    Raises:
        FormatError: A file is missing, damaged, of a newer format, the two do not belong together, or the network does
            not do here what the peer wrote that it does in some states.
    """
    content = read_json(folder / DESCRIPTION)
    if content.get("format") != FORMAT:
        raise FormatError(f"{folder / DESCRIPTION} has format {content.get('format')}; this version reads {FORMAT}")
    try:
        state = StateConfig.model_validate(content["state"])
        widths = [int(width) for width in content["widths"]]
        network = Network(widths[0], widths[1:-1], widths[-1])
        network.layers.load_state_dict(load_file(folder / WEIGHTS))
        for name in ("centre", "spread"):
            getattr(network, name).copy_(torch.from_numpy(np.asarray(content[name], dtype=np.float32)))
        if widths[0] != state.size:
            raise ValueError(f"the network reads {widths[0]} numbers and a state has {state.size}")
        if "examples" in content:
            _check(network, content["examples"])
        return Policy(str(content["kind"]), state, network.eval(), dict(content["settings"]))
    except (KeyError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise FormatError(
            f"{folder} holds no policy that can be read ({error}); remove the folder and train again"
        ) from error


def _check(network: Network, examples: dict[str, Any]) -> None:
    with torch.no_grad():
        found = torch.tanh(network(torch.tensor(examples["states"], dtype=torch.float32)))[:, 0]
    off = float((found - torch.tensor(examples["actions"])).abs().max())
    if not off <= TOLERANCE:
        raise ValueError(f"its actions are off by {off:.2g} from those that its peer wrote down")
