"""`treatment/icu-sepsis` as a protocol: survival under each way of treating the same new patients."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreworld.agent.acting import AgentPolicy
from foreworld.domains.treatment.sepsis.learn import FULL, QUICK, collect, learn, sepsis_agent
from foreworld.domains.treatment.sepsis.ward import ACTIONS, DEAD, SCHEMA, STATES, bedsides, drawn, environment, here
from foreworld.episodes import EpisodeStore, record
from foreworld.episodes.copies import Copies
from foreworld.episodes.flat import Flat, flatten
from foreworld.evidence.protocol import Protocol, Request, cpu_seconds
from foreworld.evidence.rows import NAMES, Names, Row
from foreworld.evidence.samples import Samples
from foreworld.model.checkpoint import load
from foreworld.model.world_model import WorldModel

ARMS = ("foreworld", "foreworld_log", "clinician", "clone", "random", "nothing", "optimum")
METRICS = ("survival", "steps", "refusals", "cpu_ms_per_decision", "train_cpu_seconds")
# Patients a seed, how many at a time, and what is added to a log's seed for patients who are in no log.
PATIENTS, BEDS, NEW = 7000, 1000, 1_000_000


def protocol() -> Protocol:
    """The protocol."""
    return Protocol(
        name="treatment/icu-sepsis",
        version=1,
        description="ICU-Sepsis 2.0.1: survival, learned from treatments logged under the clinicians' policy.",
        settings={"recipe": FULL.model_dump(mode="json"), "patients": PATIENTS},
        arms=ARMS,
        metrics=METRICS,
        run=run,
    )


def run(request: Request) -> Sequence[Row]:
    """Treat new patients, the same for every arm, with what was learned from each seed's log."""
    samples = Samples(request.seeds, NAMES | Names(frozenset(ARMS), metrics=frozenset(METRICS)))
    recipe, one = QUICK if request.quick else FULL, environment()
    patients = request.subjects or (200 if request.quick else PATIENTS)
    beds, costs = min(BEDS, patients), list[float]()
    for seed in request.seeds:
        model, log, cost = prepare(request, seed)
        shown = flatten(log, ("state", "action"))
        for arm in request.arms or ARMS:
            if planned := arm.startswith("foreworld"):
                agent = sepsis_agent(model, log, recipe, seed, alone=arm == "foreworld_log")
            policy = AgentPolicy(agent, here) if planned else drawn(shares_of(arm, shown, one), seed)
            with tempfile.TemporaryDirectory() as folder:
                ward, resets = Copies(bedsides(one), beds, seed + NEW, SCHEMA), -(-patients // beds)
                store = record(ward, policy, Path(folder) / "ward", seed=seed, episodes=resets, schema=SCHEMA)
                lived = np.nan_to_num((flat := flatten(store, ("reward",))).values["reward"][flat.last])
            names = list(store.subjects)
            samples.add(arm, "survival", seed, names, lived)
            samples.add(arm, "steps", seed, names, store.lengths, unit="steps")
            if isinstance(policy, AgentPolicy):
                took = 1000 * policy.cpu_seconds / policy.decisions
                samples.add(arm, "refusals", seed, names[:1], [policy.refused / policy.decisions], how="max")
                samples.add(arm, "cpu_ms_per_decision", seed, names[:1], [took], unit="ms", how="max")
        costs.append(cost)
    # What was reused has no cost, and a row needs all seeds.
    for arm in {"foreworld", "foreworld_log"} & set(request.arms or ARMS) if np.isfinite(costs).all() else ():
        for seed, cost in zip(request.seeds, costs, strict=True):
            samples.add(arm, "train_cpu_seconds", seed, [f"seed{seed}"], [cost], unit="s", how="max")
    return samples.rows()


def prepare(request: Request, seed: int) -> tuple[WorldModel, EpisodeStore, float]:
    """The model of a seed, its log, and the CPU seconds that both took; NaN where they, or a part, were there."""
    recipe, before = QUICK if request.quick else FULL, cpu_seconds()
    key = hashlib.sha256(f"{recipe.model_dump_json()} {request.data}".encode()).hexdigest()
    folder = Path(os.environ.get("FOREWORLD_RUNS", "runs")) / "models" / f"icu-sepsis-{seed}-{key[:12]}"
    made = not (folder.is_dir() or request.data or request.model)
    folder.mkdir(parents=True, exist_ok=True)
    store = EpisodeStore.open(request.data, schema=SCHEMA) if request.data else collect(folder / "data", recipe, seed)
    model = load(request.model) if request.model else learn(store.path, folder / "model", recipe, seed)
    return model, store, cpu_seconds() - before if made else float("nan")


def shares_of(arm: str, log: Flat, one: Any) -> np.ndarray:
    """[STATES, ACTIONS] how often an arm without a planner gives each treatment."""
    if arm == "clinician":
        return np.asarray(one.expert_policy, dtype=np.float64)
    if arm == "random":
        return np.ones((STATES, ACTIONS))
    counts = np.zeros((STATES, ACTIONS))
    if arm == "clone":
        np.add.at(counts, (log.values["state"][~log.last], log.values["action"][~log.last]), 1)
    shares = np.zeros((STATES, ACTIONS))
    shares[np.arange(STATES), optimum(one) if arm == "optimum" else counts.argmax(1)] = 1.0
    return shares


def optimum(one: Any, rounds: int = 300) -> np.ndarray:
    """[STATES] the best treatment by value iteration on the environment's own tables: a ceiling, never learned from."""
    tables = one.dynamics
    reward = (tables["tx_mat"] * tables["r_mat"]).sum(-1)
    going = np.where(np.arange(STATES) < DEAD, 1.0, 0.0)
    value = np.zeros(STATES)
    for _ in range(rounds):
        worth = reward + tables["tx_mat"] @ (going * value)
        value = worth.max(1)
    best: np.ndarray = worth.argmax(1)
    return best
