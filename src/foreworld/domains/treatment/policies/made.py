"""The learned policies of the protocols: trained once for a seed, kept in its prepared folder, run from there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from foreworld.domains.treatment.dosing import Controller
from foreworld.domains.treatment.policies.clone import Clone, CloneConfig, train_clone
from foreworld.domains.treatment.policies.network import load_policy, save_policy
from foreworld.domains.treatment.policies.offline_rl import OfflineRL, OfflineRLConfig, train_offline_rl
from foreworld.domains.treatment.prepare import QUICK, Recipe
from foreworld.domains.treatment.schema import SCHEMA
from foreworld.episodes import EpisodeStore
from foreworld.model.belief import History

POLICY_ARMS = ("clone", "offline_rl")


def policy_config(arm: str, recipe: Recipe, seed: int = 0) -> CloneConfig | OfflineRLConfig:
    """How the policy of an arm is trained; a few steps in the smoke run."""
    few = {"steps": 300, "hidden": (32,)} if recipe.name == QUICK.name else {}
    return (CloneConfig if arm == "clone" else OfflineRLConfig).model_validate({"seed": seed, **few})


def policy_name(arm: str, recipe: Recipe) -> str:
    """The folder of an arm's policy beside the model; another configuration gets another one."""
    text = policy_config(arm, recipe).model_dump_json()
    return f"{arm}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def make_policy(config: CloneConfig | OfflineRLConfig, data: Path, folder: Path) -> None:
    """Train a policy on the part `default/fit` of the store `data` and write it to `folder`, on one thread.

    Raises:
        MissingDataError: The peer that trains `offline_rl` is not installed; the message gives the command.
    """
    store = EpisodeStore.open(data)
    histories = [History.from_episodes(SCHEMA, [store.episode(i)]) for i in store.episodes_of("default/fit")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if isinstance(config, CloneConfig):
            save_policy(folder, train_clone(histories, config))
        else:
            train_offline_rl(histories, config, folder)
    finally:
        torch.set_num_threads(threads)


def load_controller(arm: str, folder: Path) -> Controller:
    """The controller of an arm with the policy in `folder`."""
    return (Clone if arm == "clone" else OfflineRL)(load_policy(folder))
