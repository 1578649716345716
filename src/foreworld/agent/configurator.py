"""The configurator: which profile and which limits a decision is made with, and whether a plan may be made at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreworld.agent.memory import Memory
from foreworld.planning.profile import Profile
from foreworld.planning.task import Task


@dataclass(frozen=True)
class Settings:
    """The settings of one decision.

    Attributes:
        profile: Preference profile.
        stale: [B] whether data are too old or too few for a plan.
    """

    profile: Profile
    stale: np.ndarray


class Configurator:
    """Decides the settings of each moment from what memory holds.

    Args:
        profile: The user's preference profile.
        least: Moments that must have been seen before a plan is made.
    """

    def __init__(self, profile: Profile, *, least: int = 1) -> None:
        self.profile, self.least = profile, least

    def configure(self, task: Task, memory: Memory) -> Settings:
        """The settings of the coming decision."""
        stale = np.full(len(memory.subjects), len(memory) < self.least)
        for quantity, age in task.max_age.items():
            stale |= ~(memory.ages(quantity) <= age)
        return Settings(self.profile, stale)
