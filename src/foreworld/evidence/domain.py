"""`Domain`: what one medical task brings to the engine, and how an installed one is found by its name.

A package adds a domain by an entry point of the group `foreworld.domains`, which names a `Domain` or a function
without arguments that gives one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from foreworld.agent.check import Rule
from foreworld.episodes.schema import Schema
from foreworld.errors import InputError
from foreworld.evidence.safety import Requirement
from foreworld.planning.profile import Profile
from foreworld.planning.task import Task

if TYPE_CHECKING:
    from foreworld.evidence.protocol import Protocol

GROUP = "foreworld.domains"


@dataclass(frozen=True)
class Domain:
    """One medical task.

    Attributes:
        name: Of the entry point; the first half of its protocols' names.
        schema: Channels, units and step.
        task: Objective, guardrails, action space, suggestions, fallback and last resort.
        rules: Of the independent checker.
        profiles: Preference profiles by name; one is called "standard".
        protocols: Experiments, by the second half of their names.
        baselines: By arm: what makes a controller or model to compare with.
        collect: Makes a store of logged episodes, or None where the data are the user's own.
        demo: Collects, trains, calibrates, evaluates and writes a report, or None.
        description: One line for people.
        requirements: Safety requirements of its own, beside the engine's (`evidence.requirements`).
    """

    name: str
    schema: Schema
    task: Task
    rules: tuple[Rule, ...]
    profiles: Mapping[str, Profile]
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    baselines: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    collect: Callable[..., Any] | None = None
    demo: Callable[..., Any] | None = None
    description: str = ""
    requirements: tuple[Requirement, ...] = ()


def installed_domains() -> dict[str, EntryPoint]:
    """Entry points of the installed domains, by name; nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def load_domain(name: str) -> Domain:
    """The installed domain of this name.

    Raises:
        InputError: There is none of this name, it cannot be imported, or its entry point gives no `Domain`.
        MissingExtraError: It needs an extra that is not installed.
    """
    found = installed_domains()
    if name not in found:
        listed = ", ".join(found) or "none; install foreworld itself (pip install -e .)"
        raise InputError(f"no domain {name!r} is installed; installed: {listed}")
    entry = found[name]
    try:
        loaded = entry.load()
    except AttributeError as error:
        raise InputError(f"entry point {entry.value} of domain {name!r} does not exist: {error}") from error
    domain = loaded if isinstance(loaded, Domain) else loaded() if callable(loaded) else loaded
    if not isinstance(domain, Domain):
        raise InputError(
            f"entry point {entry.value} of domain {name!r} gives {type(domain).__name__}, expected a Domain or a "
            "function without arguments that makes one"
        )
    return domain
