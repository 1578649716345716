"""Exhaustive search: every combination of categories, or of levels of continuous actions even in the unit cube."""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field

from foreworld.errors import InputError
from foreworld.planning.planners.base import Best, Planner
from foreworld.planning.planners.judged import Problem, judge


class ExhaustiveConfig(BaseModel):
    """Settings.

    Attributes:
        levels: Levels of a continuous action within its bounds.
        most: Refuse to enumerate more combinations than this.
        chunk: Candidates judged at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    levels: int = Field(default=5, ge=2)
    most: int = Field(default=100_000, ge=1)
    chunk: int = Field(default=1024, ge=1)


class ExhaustivePlanner(Planner):
    """Judges all combinations; exact for discrete actions."""

    def __init__(self, config: ExhaustiveConfig | None = None) -> None:
        self.config = config or ExhaustiveConfig()

    def search(self, problem: Problem, best: Best) -> None:
        """Enumerate in chunks.

        Raises:
            InputError: There are more combinations than `most`.
        """
        space = problem.space
        blocks, actions = space.shape
        kinds = space.levels or (0,) * actions
        axes = [
            torch.linspace(0, 1, self.config.levels if kind == 0 else kind) for _ in range(blocks) for kind in kinds
        ]
        total = math.prod(len(axis) for axis in axes)
        if total > self.config.most:
            raise InputError(
                f"{total} combinations are more than {self.config.most}; use fewer blocks or levels, or CEM"
            )
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, total, blocks, actions)
        for start in range(0, total, self.config.chunk):
            part = points[:, start : start + self.config.chunk]
            best.take(judge(problem, space.decode(part.expand(len(problem), -1, -1, -1))))
