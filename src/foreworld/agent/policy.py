"""The fast mode's policy: a small network that answers at once what the deliberate planner would find.

    teacher = Teacher(CEMPlanner(), policy=None)          # plans as CEM, and notes what it found
    ...                                                   # run episodes with an agent whose planner is `teacher`
    policy = fit_policy(teacher.examples(), FitConfig(steps=2000))
    agent = Agent(forecaster, task, FastPlanner(policy, CEMPlanner()), ...)

Distilled in the manner of DAgger (Ross, Gordon and Bagnell 2011): from the second round on the policy acts and the
planner says what it would have done. Its plans are held to the same guardrails as any candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foreworld.errors import FormatError, InputError
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.progress import Mode
from foreworld.planning.planners.base import Best, Decisions, Planner
from foreworld.planning.planners.fast import FastPlanner
from foreworld.planning.planners.judged import Problem
from foreworld.planning.planners.prior import Prior

FILE = "policy.safetensors"
LEAST, MOST = 0.02, 0.5  # spread of a proposal, as a share of the range


def features(problem: Problem) -> Tensor:
    """[B, F] what a policy reads: the state as the predictor reads it, and what is wanted."""
    context, wanted = problem.imagined.prepared.context, problem.objective.condition()
    return context if wanted is None else torch.cat([context, wanted], dim=-1)


@dataclass(frozen=True)
class Examples:
    """What a planner found.

    Attributes:
        features: [N, F].
        plans: [N, K, A] in the unit cube of the space.
    """

    features: Tensor
    plans: Tensor

    def __len__(self) -> int:
        """Number of plans N."""
        return len(self.features)


class Teacher(Planner):
    """Plans as another planner and notes its plans; refusals are nothing to learn from.

    Args:
        planner: Who is asked.
        policy: Whose plans are done, so that the states are those that it leads to; the planner's own if None.
    """

    def __init__(self, planner: Planner, policy: Prior | None = None) -> None:
        self.planner, self._acting = planner, None if policy is None else FastPlanner(policy, planner)
        self._features: list[Tensor] = []
        self._plans: list[Tensor] = []

    def plan(self, problem: Problem) -> Decisions:
        """What the planner found, or what the policy does about it."""
        found = self.planner.plan(problem)
        kept = found.planned
        self._features.append(features(problem)[kept].clone())
        self._plans.append(problem.space.encode(found.chosen.blocks)[kept, 0].clone())
        return found if self._acting is None else self._acting.plan(problem)

    def search(self, problem: Problem, best: Best) -> None:
        """The planner's."""
        self.planner.search(problem, best)

    def examples(self) -> Examples:
        """All that was noted.

        Raises:
            InputError: Nothing was.
        """
        if not sum(map(len, self._features)):
            raise InputError("the planner made no plan, so there is nothing to learn from")
        return Examples(torch.cat(self._features), torch.cat(self._plans))


class Policy(nn.Module):
    """Plans at once: mean and spread of each block's actions. Answers `planning.planners.prior.Prior`.

    Args:
        width: Of the features.
        shape: Blocks and actions (K, A) of a plan.
        hidden: Width of the two hidden layers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, shape: tuple[int, int], hidden: int = 256) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 2 * shape[0] * shape[1]),
        )

    def forward(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread, both [B, K, A] in the unit cube, of features [B, F]."""
        centre, width = self.layers((read - self.mean) / self.scale).chunk(2, dim=-1)
        spread = LEAST + (MOST - LEAST) * torch.sigmoid(width)
        shape = (*read.shape[:-1], *self.shape)
        return torch.sigmoid(centre).reshape(shape), spread.reshape(shape)

    @torch.no_grad()
    def propose(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """As `Prior.propose`.

        Raises:
            InputError: The policy was distilled from plans of another shape, or from other features.
        """
        read = features(problem)
        if problem.space.shape != self.shape or read.shape[-1] != len(self.mean):
            raise InputError(
                f"the policy plans {self.shape} blocks and actions from {len(self.mean)} numbers; here are "
                f"{problem.space.shape} and {read.shape[-1]}: distil one for this task"
            )
        found: tuple[Tensor, Tensor] = self(read)
        return found

    def save(self, folder: str | Path) -> None:
        """Write `policy.safetensors` into a folder."""
        shape = torch.tensor([*self.shape, self.layers[0].out_features])
        save_file({**self.state_dict(), "shape": shape}, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: str | Path) -> Policy:
        """Read what `save` wrote.

        Raises:
            FormatError: There is no such file, or it holds something else.
        """
        path = Path(folder) / FILE
        try:
            found = load_file(path)
            blocks, actions, hidden = found.pop("shape").tolist()
            policy = cls(len(found["mean"]), (blocks, actions), hidden)
            policy.load_state_dict(found)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise FormatError(f"{path} holds no policy: {error}; distil it again") from error
        return policy.eval()


class _Draws:
    """Random examples without end."""

    def __init__(self, examples: Examples, size: int, seed: int) -> None:
        self._examples, self._size = examples, size
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> Examples:
        rows = torch.randint(len(self._examples), (self._size,), generator=self._generator)
        return Examples(self._examples.features[rows], self._examples.plans[rows])

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._generator.get_state().tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(torch.tensor(state["random"], dtype=torch.uint8))


def fit_policy(
    examples: Examples,
    config: FitConfig,
    *,
    hidden: int = 256,
    batch: int = 512,
    run: str | Path | None = None,
    progress: Mode = "none",
) -> Policy:
    """A policy that answers as the planner did.

    Args:
        examples: Of the planner.
        config: Optimisation.
        hidden: Width of the hidden layers.
        batch: Examples a step.
        run: As in `learning.fit.fit`.
        progress: As there.

    Raises:
        InputError: There is no example.
    """
    if not len(examples):
        raise InputError("there is no example to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = Policy(examples.features.shape[-1], (examples.plans.shape[1], examples.plans.shape[2]), hidden)
    policy.mean.copy_(examples.features.mean(0))
    policy.scale.copy_(examples.features.std(0, correction=0).clamp(min=1e-6))

    def loss(module: Policy, drawn: Examples, generator: torch.Generator) -> dict[str, Tensor]:
        mean, spread = module(drawn.features)
        missed = (mean - drawn.plans).pow(2)
        # The mean learns from squares alone, so that where plans differ it is not dragged to the certain ones; the
        # spread learns how far the mean was off.
        width = (missed.detach() / spread.pow(2) + 2.0 * spread.log()).mean()
        return {"loss": missed.mean() + 0.01 * width, "square": missed.mean(), "width": width}

    fit(policy, _Draws(examples, batch, config.seed), loss, config, run, progress=progress)
    return policy.eval()
