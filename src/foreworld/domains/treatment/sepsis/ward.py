"""ICU-Sepsis as a user of the environment sees it (Choudhary, Gupta and Thomas 2024, MIT); optional."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from foreworld.episodes.policies import TablePolicy
from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.errors import MissingDataError

STATES, ACTIONS, LEVELS = 716, 25, 5
DEAD = 713  # the first of the three terminal states
INSTALL = "pip install --no-deps icu-sepsis pandas"

SCHEMA = Schema(
    name="icu-sepsis",
    step=1.0,
    time_unit="step",
    channels=(
        Channel(name="state", role=Role.observation, dtype="int32", categories=tuple(map(str, range(STATES)))),
        Channel(name="sofa", role=Role.observation, unit="points", description="Organ failure score, mean of state."),
        Channel(name="admissible", role=Role.observation, dtype="int32", description="Set of treatments, as bits."),
        Channel(name="reward", role=Role.observation, description="1 on arrival in survival, else 0."),
        Channel(
            name="action",
            role=Role.action,
            dtype="int32",
            categories=tuple(f"fluid{a // LEVELS}_vasopressor{a % LEVELS}" for a in range(ACTIONS)),
        ),
    ),
)


@cache
def environment() -> Any:
    """The package's environment; a stand-in serves where it also registers with gym, gymnasium's predecessor.

    Raises:
        MissingDataError: The package is not installed.
    """
    names = ("gym", "gym.spaces", "gym.envs", "gym.envs.registration")
    stand_ins = {} if "gym" in sys.modules else {name: ModuleType(name) for name in names}
    if stand_ins:
        vars(stand_ins["gym"]).update(Env=object, ActionWrapper=object, Space=object, spaces=stand_ins["gym.spaces"])
        vars(stand_ins["gym.envs.registration"]).update(register=lambda **_: None)
    sys.modules.update(stand_ins)
    try:
        from icu_sepsis.envs.sepsis import ICUSepsisEnv
    except ModuleNotFoundError as error:
        raise MissingDataError(f"ICU-Sepsis needs the package {error.name}; run: {INSTALL}") from error
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return ICUSepsisEnv()


class Bedside(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One patient: state and organ failure score as observations, and one number for both doses."""

    def __init__(self, patient: Any) -> None:
        super().__init__(patient)
        score, bits = spaces.Box(0.0, 24.0, (), np.float32), spaces.Box(0, 2**ACTIONS, (), np.int32)
        self.observation_space = spaces.Dict({"state": spaces.Discrete(STATES), "sofa": score, "admissible": bits})
        self.action_space = spaces.Discrete(ACTIONS)

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Admit a patient."""
        state, info = self.env.reset(**options)
        return observed(state, info), info

    def step(self, action: int) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Treat for one step."""
        state, reward, ended, cut, info = self.env.step((action // LEVELS, action % LEVELS))
        return observed(state, info), reward, ended, cut, info


def observed(state: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of a moment: the state, and what the environment tells its user beside it."""
    admissible = sum(1 << action for action in info["admissible_actions"])
    return {"state": state, "sofa": info["sofa_score"], "admissible": admissible}


def bedsides(one: Any) -> Callable[[], gymnasium.Env[Any, Any]]:
    """What makes patients of an environment; they share its tables, which nothing writes."""
    return lambda: Bedside(copy.copy(one))


def here(seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """[B] whether a patient is still in treatment."""
    present: np.ndarray = seen["state"] < DEAD
    return present


def drawn(shares: np.ndarray, seed: int | Sequence[int]) -> TablePolicy:
    """A policy by shares of treatments in each state [STATES, ACTIONS], such as the clinicians'."""
    return TablePolicy(shares, seed, observation="state", action="action")
