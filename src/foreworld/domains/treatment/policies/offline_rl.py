"""The arm `offline_rl`: TD3+BC (Fujimoto and Gu 2021, arXiv:2106.06860) by d3rlpy, on the logged therapy.

    policy = train_offline_rl([history], OfflineRLConfig(), Path("runs/policy"))
    controller = OfflineRL(policy)
    controller.reset(patients)
    trajectory = simulator.run(controller.act)

The comparator of Emerson, Guy and McConville, "Offline reinforcement learning for safer blood glucose control in people
with type 1 diabetes" (J Biomed Inform 2023; 142:104376): no model, a reward for low risk, and a term that holds the
policy near what was logged. It is trained in an environment of its own (`benchmarks/peers/offline_rl`); transitions go
there as arrays, and weights come back.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from foreworld.domains.treatment.dosing import FloatArray
from foreworld.domains.treatment.metrics import high_risk, low_risk
from foreworld.domains.treatment.policies.controller import PolicyController
from foreworld.domains.treatment.policies.network import Policy, load_policy
from foreworld.domains.treatment.policies.state import (
    StateConfig,
    basal_steps,
    decisions,
    relative_dose,
    states,
)
from foreworld.domains.treatment.windows import windows_at
from foreworld.errors import ForeworldError, InputError, MissingDataError
from foreworld.model.belief import History

VERSION = "2.8.1"  # of d3rlpy
FOLDER_VARIABLE = "FOREWORLD_OFFLINE_RL"
DEFAULT_FOLDER = Path("runs/peers/offline_rl")
# The peer's own script is no part of the package: it is run from a checkout.
PEER = Path(__file__).resolve().parents[5] / "benchmarks" / "peers" / "offline_rl"
KIND = "td3+bc"
RISK = 10.0  # what a reward of -1 stands for; the risk of 180 mg/dL is about 8


class OfflineRLConfig(BaseModel):
    """What is exported and how it is trained on; the defaults were chosen on the `tune` cohort, see the peer's README.

    Attributes:
        state: What is read.
        share: Of the decisions without an entry that become transitions.
        ahead: Steps between the two states of a transition; the logged therapy goes on between them.
        gamma: Discount a step.
        alpha: Weight of the value against the imitation; 2.5 in the paper.
        smoothing: Standard deviation of the noise on the target's actions.
        hidden: Widths of the hidden layers of policy and critics.
        steps: Gradient steps.
        batch: Transitions a step.
        lr: Learning rate of both.
        seed: Of the choice, the weights and the batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: StateConfig = StateConfig()
    share: float = Field(default=1.0 / 8.0, gt=0, le=1)
    ahead: int = Field(default=12, ge=1)
    gamma: float = Field(default=0.99, gt=0, lt=1)
    alpha: float = Field(default=5.0, ge=0)
    smoothing: float = Field(default=0.05, ge=0)
    hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1)
    steps: int = Field(default=20000, ge=1)
    batch: int = Field(default=256, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    seed: int = 0


class OfflineRL(PolicyController):
    """A policy of `train_offline_rl` as a `Controller`."""

    def steps(self, output: Tensor) -> FloatArray:
        """See `PolicyController`."""
        return basal_steps(torch.tanh(output)[:, 0].double().numpy(), self.policy.state)


def transitions(histories: Sequence[History], config: OfflineRLConfig) -> dict[str, np.ndarray]:
    """What `train.py` reads.

    The reward is minus the risk of the next reading (`metrics.low_risk`, `high_risk`), in tens, less its mean, times
    `1 - gamma`: TD3+BC weighs the value by its size, which an offset would swamp, and a network learns a value of the
    order of one best. A reading that is missing stands where the last one did.

    Raises:
        InputError: No record is long enough.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    gains = config.gamma ** np.arange(config.ahead)
    window = config.state.window
    longer = window.model_copy(update={"readings": max(window.readings, config.ahead)})
    for one, at in decisions(histories, config.share, config.ahead, np.random.default_rng([config.seed, 43])):
        now, later = windows_at(one, at, window), windows_at(one, at + config.ahead, longer)
        action = relative_dose(one.values["insulin"][0, at[0]].double(), now.basal, config.state)
        reward = -_risk(later.cgm[:, -config.ahead :].numpy()) @ gains
        parts.append((states(now, config.state).numpy(), action.numpy(), reward, states(later, config.state).numpy()))
    if not parts:
        raise InputError(f"no record is longer than {config.ahead} steps; there is nothing to learn from")
    before, actions, rewards, after = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {
        "states": before,
        "actions": actions.astype(np.float32)[:, None],
        "rewards": ((1.0 - config.gamma) * (rewards - rewards.mean())).astype(np.float32),
        "next_states": after,
        "steps": np.full(len(before), config.ahead, dtype=np.int32),
        "terminals": np.zeros(len(before), dtype=np.float32),
    }


def _risk(readings: np.ndarray) -> FloatArray:
    """Risk of each reading, in tens."""
    result: FloatArray = (low_risk(readings[..., None]) + high_risk(readings[..., None])) / RISK
    return result


def offline_rl_folder() -> Path:
    """Where the peer's environment `venv` is looked for."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def install_command(folder: Path | None = None) -> str:
    """The command that makes the peer's environment where it is looked for; torch first, as the build for CPUs."""
    venv = shlex.quote(str((offline_rl_folder() if folder is None else folder) / "venv"))
    pip = f"{venv}/bin/python -m pip install"
    return f"python3 -m venv {venv} && {pip} torch==2.13.0 && {pip} -r benchmarks/peers/offline_rl/requirements.txt"


def require_offline_rl() -> tuple[Path, Path]:
    """The peer's python and its script.

    Raises:
        MissingDataError: d3rlpy is absent or has another version, or this is no checkout.
    """
    folder, script = offline_rl_folder(), PEER / "train.py"
    if not script.is_file():
        raise MissingDataError(f"{script} is missing: offline RL is trained from a checkout of the repository")
    python = folder / "venv" / "bin" / "python"
    found = [
        path.name.removesuffix(".dist-info").split("-")[1]
        for path in folder.glob("venv/lib/python*/site-packages/d3rlpy-*.dist-info")
    ]
    if not python.is_file() or not found:
        raise MissingDataError(
            f"d3rlpy is not installed in {folder / 'venv'}; run: {install_command()} (or name the folder of `venv` in "
            f"{FOLDER_VARIABLE})"
        )
    if found != [VERSION]:
        raise MissingDataError(f"d3rlpy in {folder} is version {found[0]}, not {VERSION}; run: {install_command()}")
    return python, script


def train_offline_rl(histories: Sequence[History], config: OfflineRLConfig, folder: Path) -> Policy:
    """Train by the peer, in a process of its own on one thread, and write the policy to `folder`.

    Raises:
        InputError: No record is long enough.
        MissingDataError: The peer is not installed; the message gives the command.
        ForeworldError: The peer failed; the message has its last words.
    """
    python, script = require_offline_rl()
    training = config.model_dump(mode="json")
    asked = {"state": training.pop("state"), "training": training}
    with tempfile.TemporaryDirectory() as place:
        arrays, settings = Path(place) / "transitions.npz", Path(place) / "settings.json"
        np.savez(arrays, allow_pickle=False, **transitions(histories, config))
        settings.write_text(json.dumps(asked), encoding="utf-8")
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
        done = subprocess.run(
            [python.absolute(), script, arrays, settings, folder.absolute()],
            # Nothing of this process's python reaches the other one's.
            env={"PATH": os.environ.get("PATH", ""), **threads},
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = done.stderr.strip()[-2000:] or "nothing"
        raise ForeworldError(f"training by d3rlpy failed with status {done.returncode}; it said: {said}")
    return load_policy(folder)
