"""Writing decisions to the audit log so that they can be recomputed bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel

from foreworld import __version__
from foreworld.agent import audit
from foreworld.agent.check import Measured
from foreworld.episodes.schema import Schema
from foreworld.errors import AuditError, InputError
from foreworld.model.belief import Belief, History
from foreworld.planning.plan import Reason
from foreworld.planning.planners.judged import Problem
from foreworld.planning.profile import Profile

if TYPE_CHECKING:
    from foreworld.agent.agent import Agent, Step


_REASONS = tuple(Reason)
Past = tuple[np.ndarray, Mapping[str, np.ndarray]]
"""Times, and values by channel, as `Memory.arrays` gives them."""


class Recorder:
    """Appends every decision of an agent, with all that it was made from.

    Args:
        folder: Of the audit log.
        model_hash: Hash of the checkpoint that decides.
    """

    def __init__(self, folder: str | Path, model_hash: str) -> None:
        self.log, self.model_hash = audit.AuditLog.open(Path(folder)), model_hash

    def append(
        self, time: float, agent: Agent, problem: Problem, barred: Sequence[Reason | None], past: Past, step: Step
    ) -> str:
        """Write one decision; returns the head hash of the log.

        Args:
            time: Its stamp.
            agent: That decided.
            problem: Posed to the planner.
            barred: [B] as in `Agent.resolve`.
            past: `Memory.arrays` of that moment, from which history and checker's data were made, and are on replay.
            step: What was decided.
        """
        belief = problem.imagined.belief
        if not isinstance(belief, Belief):
            raise InputError(f"decisions of a {type(belief).__name__} cannot be recorded; only a WorldModel's can")
        arrays = {f"belief.{f.name}": _plain(getattr(belief, f.name)) for f in fields(belief)}
        times, values = past
        arrays |= {f"history.{name}": values[name] for name in agent.forecaster.model.schema.names()}
        arrays |= {"history_times": np.tile(times, (len(belief), 1)), "keys": _plain(problem.keys)}
        arrays["barred"] = np.array([0 if reason is None else 1 + _REASONS.index(reason) for reason in barred])
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
            **_settings(agent, problem.objective.profile),
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
        AuditError: The log is broken, was made by another model, seed, profile, planner or checker, or a decision
            differs.
    """

    def decide(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        lacking = sorted({"time", "subjects", "threads", "model", "seed"} - set(record))
        if lacking:
            raise AuditError(f"a decision of the log has no {lacking[0]}; it was not written by a Recorder")
        at = f"the decision at time {record['time']:g}"
        if record["model"] != model_hash:
            raise AuditError(
                f"{at} was made by model {record['model'][:12]}, not {model_hash[:12]}; "
                "give the checkpoint that decided"
            )
        for name, value in _settings(agent, agent.configurator.profile).items():
            if record.get(name) != value:
                raise AuditError(f"{at} was made with {name} {record.get(name)!r}, not {value!r}; replay with the same")
        if arrays.get("keys", np.zeros(0)).tolist() != keys_of(record["subjects"], agent.seed, record["time"]).tolist():
            raise AuditError(f"{at} has random keys that are not those of its subjects, seed and time")
        threads = torch.get_num_threads()
        torch.set_num_threads(int(record["threads"]))
        try:
            problem, past = _problem(agent, arrays, at)
            barred = [None if code == 0 else _REASONS[code - 1] for code in arrays["barred"].tolist()]
            measured = tuple(Measured.each(agent.forecaster.model.schema, *past))
            return decision_of(agent.resolve(problem, barred, measured))
        finally:
            torch.set_num_threads(threads)

    return audit.replay(Path(folder), decide, head=head)


def _settings(agent: Agent, profile: Profile) -> dict[str, Any]:
    """What of an agent shapes its decisions besides model and inputs."""
    config = getattr(agent.planner, "config", None)
    return {
        "checker": agent.checker.digest if agent.checker is not None else "",
        "planner": {
            "name": type(agent.planner).__name__,
            "config": config.model_dump(mode="json") if isinstance(config, BaseModel) else {},
        },
        "profile": profile.model_dump(mode="json"),
        "seed": agent.seed,
        "pack": agent.pack.note() if agent.pack is not None else None,
    }


def _problem(agent: Agent, arrays: Mapping[str, np.ndarray], at: str) -> tuple[Problem, Past]:
    """What the planner was asked, and the arrays [B, T] of the memory that it was made from."""
    schema: Schema = agent.forecaster.model.schema
    needed = [f"belief.{f.name}" for f in fields(Belief)] + [f"history.{name}" for name in schema.names()]
    lacking = [name for name in (*needed, "history_times", "keys", "barred") if name not in arrays]
    if lacking:
        raise AuditError(f"{at} lacks its input {lacking[0]}; it was not written by a Recorder of this schema")
    belief = Belief(**{f.name: torch.from_numpy(arrays[f"belief.{f.name}"]) for f in fields(Belief)})
    values = {name: arrays[f"history.{name}"] for name in schema.names()}
    past = arrays["history_times"], values
    history = History.from_arrays(schema, *past)
    suggestions = arrays.get("suggestions")
    problem = Problem(
        agent.forecaster,
        agent.forecaster.begin(belief),
        agent.task.objective(agent.configurator.profile),
        tuple(agent.task.guardrails),
        agent.task.space(agent.forecaster.model.config.grid, history),
        history,
        torch.from_numpy(arrays["keys"]),
        None if suggestions is None else torch.from_numpy(suggestions),
    )
    return problem, past


def _plain(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def keys_of(subjects: Sequence[str], seed: int, time: float) -> torch.Tensor:
    """[B] int64: the random key of each subject's candidates at a moment."""
    names = torch.tensor([subject_key(name) for name in subjects], dtype=torch.int64)
    return names + 104729 * seed + 7 * round(time)


def subject_key(name: str) -> int:
    """A stable number for a subject's name, for its random candidates."""
    value = 2166136261
    for byte in name.encode():
        value = ((value ^ byte) * 16777619) & 0x7FFFFFFF
    return value
