"""Writing decisions to the audit log so that they can be recomputed bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreworld import __version__
from foreworld.agent import audit
from foreworld.episodes.schema import Schema
from foreworld.errors import AuditError, InputError
from foreworld.model.belief import Belief, History
from foreworld.planning.planners.base import Problem

if TYPE_CHECKING:
    from foreworld.agent.agent import Agent, Step


class Recorder:
    """Appends every decision of an agent, with all that it was made from.

    Args:
        folder: Of the audit log.
        model_hash: Hash of the checkpoint that decides.
    """

    def __init__(self, folder: str | Path, model_hash: str) -> None:
        self.log, self.model_hash = audit.AuditLog.open(Path(folder)), model_hash

    def append(self, time: float, agent: Agent, problem: Problem, stale: np.ndarray, step: Step) -> str:
        """Write one decision; returns the head hash of the log."""
        belief = problem.imagined.belief
        if not isinstance(belief, Belief):
            raise InputError(f"decisions of a {type(belief).__name__} cannot be recorded; only a WorldModel's can")
        arrays = {f"belief.{f.name}": _plain(getattr(belief, f.name)) for f in fields(belief)}
        arrays |= {f"history.{name}": _plain(value) for name, value in problem.history.values.items()}
        arrays |= {"history_times": _plain(problem.history.times), "keys": _plain(problem.keys), "stale": stale}
        if problem.suggestions is not None:
            arrays["suggestions"] = _plain(problem.suggestions)
        memory = agent.memory
        record: dict[str, Any] = {
            "time": time,
            "subjects": list(memory.subjects) if memory is not None else [],
            "foreworld": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "model": self.model_hash,
            "checker": agent.checker.digest if agent.checker is not None else "",
            "profile": problem.objective.profile.model_dump(mode="json"),
            "seed": agent.seed,
            "decision": decision_of(step),
        }
        return self.log.append(record, arrays)

    def close(self) -> None:
        """Release the log."""
        self.log.close()


def decision_of(step: Step) -> dict[str, Any]:
    """What is compared on replay: every number of a decision."""
    chosen = step.decisions.chosen
    return {
        "actions": step.actions.tolist(),
        "actors": step.actors.tolist(),
        "reasons": [None if reason is None else str(reason) for reason in step.reasons],
        "accepted": [None if verdict is None else verdict.accepted for verdict in step.verdicts],
        "margins": {name: step.margins[:, k].tolist() for k, name in enumerate(step.guardrails)},
        "cost": chosen.cost[:, 0].double().tolist(),
        "novelty": chosen.forecast.novelty[:, 0].double().tolist(),
        "guardrails": step.decisions.provenance["guardrails"],
    }


def replay(folder: str | Path, agent: Agent, model_hash: str, *, head: str | None = None) -> audit.Report:
    """Recompute every decision of a log with this agent and compare bit for bit.

    Raises:
        AuditError: The log is broken, was made by another model, or a decision differs.
    """

    def decide(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        if record["model"] != model_hash:
            raise AuditError(
                f"the decision at time {record['time']:g} was made by model {record['model'][:12]}, "
                f"not {model_hash[:12]}; give the checkpoint that decided"
            )
        threads = torch.get_num_threads()
        torch.set_num_threads(int(record["threads"]))
        try:
            problem = _problem(agent, arrays)
            return decision_of(agent.resolve(problem, arrays["stale"]))
        finally:
            torch.set_num_threads(threads)

    return audit.replay(Path(folder), decide, head=head)


def _problem(agent: Agent, arrays: Mapping[str, np.ndarray]) -> Problem:
    schema: Schema = agent.forecaster.model.schema
    belief = Belief(**{f.name: torch.from_numpy(arrays[f"belief.{f.name}"]) for f in fields(Belief)})
    values = {name: arrays[f"history.{name}"] for name in schema.names()}
    history = History.from_arrays(schema, arrays["history_times"], values)
    suggestions = arrays.get("suggestions")
    return Problem(
        agent.forecaster,
        agent.forecaster.begin(belief),
        agent.task.objective(agent.configurator.profile),
        tuple(agent.task.guardrails),
        agent.task.space(agent.forecaster.model.config.grid, history),
        history,
        torch.from_numpy(arrays["keys"]),
        None if suggestions is None else torch.from_numpy(suggestions),
    )


def _plain(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array
