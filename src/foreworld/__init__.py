"""foreworld: world models that plan inside guardrails. Research software, not a medical device.

The names below are the public API (docs/api.md); they are imported when they are first used, so that the package and
its command line start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreworld.agent.agent import Agent as Agent
    from foreworld.agent.agent import Step as Step
    from foreworld.agent.check import Checker as Checker
    from foreworld.agent.configurator import Configurator as Configurator
    from foreworld.agent.record import Recorder as Recorder
    from foreworld.episodes.episode import Episode as Episode
    from foreworld.episodes.importers import import_csv as import_csv
    from foreworld.episodes.record import record as record
    from foreworld.episodes.schema import Channel as Channel
    from foreworld.episodes.schema import Kind as Kind
    from foreworld.episodes.schema import Role as Role
    from foreworld.episodes.schema import Schema as Schema
    from foreworld.episodes.schema import fit_statistics as fit_statistics
    from foreworld.episodes.store import EpisodeStore as EpisodeStore
    from foreworld.errors import ForeworldError as ForeworldError
    from foreworld.evidence.domain import Domain as Domain
    from foreworld.evidence.domain import load_domain as load_domain
    from foreworld.evidence.protocol import Protocol as Protocol
    from foreworld.evidence.protocol import Request as Request
    from foreworld.evidence.rows import Evidence as Evidence
    from foreworld.forecast.forecaster import Calibration as Calibration
    from foreworld.forecast.forecaster import Forecast as Forecast
    from foreworld.forecast.forecaster import Forecaster as Forecaster
    from foreworld.learning.fit import FitConfig as FitConfig
    from foreworld.learning.train import TrainConfig as TrainConfig
    from foreworld.learning.train import train as train
    from foreworld.model.belief import Belief as Belief
    from foreworld.model.belief import History as History
    from foreworld.model.checkpoint import load as load_model  # noqa: F401
    from foreworld.model.checkpoint import save as save_model  # noqa: F401
    from foreworld.model.dynamics import HorizonGrid as HorizonGrid
    from foreworld.model.world_model import WorldModel as WorldModel
    from foreworld.model.world_model import WorldModelConfig as WorldModelConfig
    from foreworld.planning.guardrail import Guardrail as Guardrail
    from foreworld.planning.guardrail import StateGuardrail as StateGuardrail
    from foreworld.planning.objective import Objective as Objective
    from foreworld.planning.plan import Plan as Plan
    from foreworld.planning.plan import Refusal as Refusal
    from foreworld.planning.planners.cem import CEMPlanner as CEMPlanner
    from foreworld.planning.planners.exhaustive import ExhaustivePlanner as ExhaustivePlanner
    from foreworld.planning.planners.mppi import MPPIPlanner as MPPIPlanner
    from foreworld.planning.profile import Profile as Profile
    from foreworld.planning.task import Task as Task

__version__ = "0.1.0"

# By module: the public names, with the name there where it is another.
_PUBLIC: dict[str, tuple[str, ...]] = {
    "agent.agent": ("Agent", "Step"),
    "agent.check": ("Checker",),
    "agent.configurator": ("Configurator",),
    "agent.record": ("Recorder",),
    "episodes.episode": ("Episode",),
    "episodes.importers": ("import_csv",),
    "episodes.record": ("record",),
    "episodes.schema": ("Channel", "Kind", "Role", "Schema", "fit_statistics"),
    "episodes.store": ("EpisodeStore",),
    "errors": ("ForeworldError",),
    "evidence.domain": ("Domain", "load_domain"),
    "evidence.protocol": ("Protocol", "Request"),
    "evidence.rows": ("Evidence",),
    "forecast.forecaster": ("Calibration", "Forecast", "Forecaster"),
    "learning.fit": ("FitConfig",),
    "learning.train": ("TrainConfig", "train"),
    "model.belief": ("Belief", "History"),
    "model.checkpoint": ("load_model=load", "save_model=save"),
    "model.dynamics": ("HorizonGrid",),
    "model.world_model": ("WorldModel", "WorldModelConfig"),
    "planning.guardrail": ("Guardrail", "StateGuardrail"),
    "planning.objective": ("Objective",),
    "planning.plan": ("Plan", "Refusal"),
    "planning.planners.cem": ("CEMPlanner",),
    "planning.planners.exhaustive": ("ExhaustivePlanner",),
    "planning.planners.mppi": ("MPPIPlanner",),
    "planning.profile": ("Profile",),
    "planning.task": ("Task",),
}
_WHERE = {
    entry.partition("=")[0]: (module, entry.partition("=")[2] or entry)
    for module, entries in _PUBLIC.items()
    for entry in entries
}

__all__ = sorted(["__version__", *_WHERE])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'foreworld' has no attribute {name!r}; its public names are in docs/api.md")
    module, inner = _WHERE[name]
    value = getattr(import_module(f"foreworld.{module}"), inner)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_WHERE})
