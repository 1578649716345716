"""The arm `clone`: behaviour cloning, a network that imitates the logged therapy.

    policy = train_clone([history], CloneConfig(seed=0))
    controller = Clone(policy)
    controller.reset(patients)
    trajectory = simulator.run(controller.act)

Most doses are basal and few are boluses, so one squared error would give neither. The network says how likely a bolus
is, how large it would be, and what is delivered otherwise. A bolus that is likelier than not is given whole; the
expectation of a rarer one is delivered beside the basal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.policies.controller import PolicyController
from foreworld.domains.treatment.policies.network import Network, Policy, standard
from foreworld.domains.treatment.policies.state import BOLUS, STEPS_AN_HOUR, StateConfig, decisions, states
from foreworld.domains.treatment.windows import windows_at
from foreworld.errors import InputError
from foreworld.model.belief import History

KIND = "clone"


class CloneConfig(BaseModel):
    """Sizes and training.

    Attributes:
        state: What is read.
        hidden: Widths of the hidden layers.
        steps: Gradient steps.
        batch: Decisions a step.
        lr: Peak learning rate of AdamW, with a cosine decay.
        share: Of the decisions without an entry that are learned from.
        seed: Of the weights and the batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: StateConfig = StateConfig(insulin="none")
    hidden: tuple[int, ...] = Field(default=(192, 192), min_length=1)
    steps: int = Field(default=6000, ge=1)
    batch: int = Field(default=512, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    share: float = Field(default=1.0 / 8.0, gt=0, le=1)
    seed: int = 0


class Clone(PolicyController):
    """A policy of `train_clone` as a `Controller`."""

    def steps(self, output: Tensor) -> FloatArray:
        """See `PolicyController`."""
        found: FloatArray = imitated(output).double().numpy()
        return found


def imitated(out: Tensor) -> Tensor:
    """[B] doses in profile basals of one step, from outputs [B, 3]: logit of a bolus, its size, the rest."""
    chance, size = torch.sigmoid(out[:, 0]), torch.expm1(out[:, 1])
    rest = out[:, 2].clamp(0.0, BOLUS)
    return torch.where(chance > 0.5, torch.maximum(size, rest), rest + chance * (size - rest).clamp(min=0.0))


def train_clone(histories: Sequence[History], config: CloneConfig) -> Policy:
    """Imitate logged therapy.

    Args:
        histories: Logged records in batches.
        config: Sizes and steps.

    Raises:
        InputError: No decision can be learned from.
    """
    x, dose = _decided(histories, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Network(config.state.size, config.hidden, 3)
    centre, spread = standard(x)
    network.centre.copy_(centre)
    network.spread.copy_(spread)
    bolus = dose > BOLUS
    with torch.no_grad():
        # Starting at the averages spares the network the way there.
        network.last.bias.copy_(torch.tensor([math.log(bolus.float().mean() + 1e-4), 3.0, 1.0]))
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-3)
    for step in range(config.steps):
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
        optimiser.param_groups[0]["lr"] = config.lr * rate
        pick = torch.randint(len(x), (config.batch,), generator=generator)
        loss = _loss(network(x[pick]), dose[pick], bolus[pick])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Policy(KIND, config.state, network.eval(), config.model_dump(mode="json"))


def _loss(out: Tensor, dose: Tensor, bolus: Tensor) -> Tensor:
    given, size, rest = bolus.float(), torch.log1p(dose), dose
    error = (
        functional.binary_cross_entropy_with_logits(out[:, 0], given, reduction="none")
        + given * (out[:, 1] - size) ** 2
        + (1.0 - given) * (out[:, 2] - rest) ** 2
    )
    return error.mean()


def _decided(histories: Sequence[History], config: CloneConfig) -> tuple[Tensor, Tensor]:
    """States [N, F], and the doses that followed, [N] in profile basals of one step."""
    seen: list[Tensor] = []
    done: list[Tensor] = []
    for one, at in decisions(histories, config.share, 1, np.random.default_rng([config.seed, 41])):
        window = windows_at(one, at, config.state.window)
        seen.append(states(window, config.state))
        done.append((one.values["insulin"][0, at[0]].double() * STEPS_AN_HOUR / window.basal).float())
    if not seen:
        raise InputError("no decision to learn from; the records must hold at least one dose")
    return torch.cat(seen), torch.cat(done)
