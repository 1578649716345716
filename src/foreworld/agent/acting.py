"""An agent as a policy for `record` and for comparisons on the same episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from foreworld.agent.agent import ACTORS, Actor, Agent
from foreworld.episodes.schema import Role


class AgentPolicy:
    """Decides for those episodes of a batch that go on, of a fully observed task.

    There the present says all, so the agent starts afresh at every decision with the subjects who are still here.

    Args:
        agent: Whose model learned from single moments (`TrainConfig.window` of 1) and is not recurrent.
        going: From what is seen, which of the B episodes go on.

    Attributes:
        decisions: Number of decisions so far.
        refused: How many of them the planner refused.
        cpu_seconds: What they took, encoding included.
    """

    def __init__(self, agent: Agent, going: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> None:
        self.agent, self._going = agent, going
        self.decisions, self.refused, self.cpu_seconds = 0, 0, 0.0

    def __call__(self, seen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Actions [B] by channel; zero where an episode has ended."""
        going = self._going(seen)
        rows, schema = np.flatnonzero(going), self.agent.forecaster.model.schema
        actions = {c.name: np.zeros(len(going), dtype=c.dtype) for c in schema.by_role(Role.action)}
        if not len(rows):
            return actions
        started = time.process_time()
        self.agent.start([str(row) for row in rows], {})
        step = self.agent.decide(0.0, {name: array[rows] for name, array in seen.items()})
        self.cpu_seconds += time.process_time() - started
        self.decisions += len(rows)
        self.refused += int((step.actors != ACTORS.index(Actor.planner)).sum())
        for k, name in enumerate(actions):
            actions[name][rows] = step.actions[:, k]
        return actions
