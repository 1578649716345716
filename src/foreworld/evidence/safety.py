"""Safety requirements: the hazard that each answers, where it is enforced and which tests show it.

A registry in code, in the spirit of ISO 14971 (risk management) and IEC 62304 (software life cycle): identifiers,
hazards with a severity, controls, verification. It claims conformity with neither. The page docs/safety.md is written
from it, and a test checks that all that it names is there and that no guardrail, rule or reason to refuse is without
one.
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foreworld.errors import InputError
from foreworld.planning.plan import Reason

if TYPE_CHECKING:
    from foreworld.evidence.domain import Domain

IDENTIFIER = re.compile(r"FW-S-\d{3}")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One safety requirement.

    Attributes:
        id: `FW-S-` and three digits; never used again for another one.
        hazard: What could go wrong, and whom it would harm.
        severity: Of that harm, 1 (negligible) to 5 (catastrophic).
        text: What the software shall do.
        enforced: Where, each as `package.module:object` below `foreworld`.
        tests: What shows it, each as `tests/path.py::name`.
        covers: Guardrails, rules and reasons that it answers for, as `needed` names them.
    """

    id: str
    hazard: str
    severity: int
    text: str
    enforced: tuple[str, ...]
    tests: tuple[str, ...]
    covers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not IDENTIFIER.fullmatch(self.id):
            raise InputError(f"requirement {self.id!r} must be named FW-S- and three digits")
        if not 1 <= self.severity <= 5:
            raise InputError(f"requirement {self.id}: severity {self.severity} must lie in 1..5")
        if not (self.hazard and self.text and self.enforced and self.tests):
            raise InputError(f"requirement {self.id} needs a hazard, a text, where it is enforced, and a test")


def needed(domain: Domain) -> tuple[str, ...]:
    """What some requirement must answer for: every guardrail, every checker rule, every reason to refuse."""
    rails = [f"guardrail {guardrail.name}" for guardrail in domain.task.guardrails]
    rules = [f"rule {rule.name}" for rule in domain.rules]
    return (*rails, *rules, *(f"refusal {reason}" for reason in Reason))


def findings(requirements: Sequence[Requirement], names: Iterable[str], root: Path) -> list[str]:
    """What is wrong with a registry: doubled identifiers, things that are not there, and gaps.

    Args:
        requirements: All of them.
        names: Of `needed`.
        root: Of the source tree, which holds the tests.
    """
    ids = [requirement.id for requirement in requirements]
    found = [f"{name} is given twice" for name in sorted({name for name in ids if ids.count(name) > 1})]
    known, covered = set(names), {name for requirement in requirements for name in requirement.covers}
    found += [f"no requirement covers {name}" for name in sorted(known - covered)]
    tests: dict[str, set[str]] = {}
    for requirement in requirements:
        found += [f"{requirement.id} covers {n}, which is not there" for n in requirement.covers if n not in known]
        found += [
            f"{requirement.id} names {where}, which is not there"
            for where in requirement.enforced
            if not _is_there(where)
        ]
        for test in requirement.tests:
            path, _, name = test.partition("::")
            if path not in tests:
                tests[path] = _tests_of(root / path)
            if name not in tests[path]:
                found.append(f"{requirement.id} names test {test}, which is not there")
    return found


def page(domain: Domain, engine: Sequence[Requirement]) -> str:
    """The page of docs/safety.md, in Markdown.

    Args:
        domain: Whose requirements follow the engine's.
        engine: Requirements that hold in every domain.
    """
    both = (*engine, *domain.requirements)
    lines = [
        "# Safety requirements",
        "",
        *_wrapped(
            "Written by `foreworld safety --out docs/safety.md` from the registry in the code "
            "(`evidence/requirements.py`, and `safety.py` of a domain); do not edit it by hand. It is in the spirit of "
            "ISO 14971 and IEC 62304 and claims conformity with neither. A test checks that every module and test "
            "named here is there, and that every guardrail, rule and reason to refuse has a requirement. Severity is "
            "that of the harm, 1 (negligible) to 5 (catastrophic). What is shown, is shown in software and on virtual "
            "patients."
        ),
        "",
        "Research software, not a medical device.",
        "",
        "```sh",
        "foreworld safety --out docs/safety.md",
        "```",
        "",
        "## The engine",
        "",
        *_table(engine),
        "",
        f"## The domain {domain.name}",
        "",
        *_table(domain.requirements),
        "",
        "## What answers for what",
        "",
        "| guardrail, rule or reason to refuse | requirements |",
        "|---|---|",
        *(f"| {name} | {', '.join(r.id for r in both if name in r.covers)} |" for name in needed(domain)),
    ]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def _table(requirements: Sequence[Requirement]) -> list[str]:
    lines = ["| id | hazard | sev. | requirement | enforced in | shown by |", "|---|---|--:|---|---|---|"]
    for r in requirements:
        enforced = "<br>".join(f"`{where}`" for where in r.enforced)
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in r.tests)
        lines.append(f"| {r.id} | {_cell(r.hazard)} | {r.severity} | {_cell(r.text)} | {enforced} | {tests} |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _is_there(where: str) -> bool:
    module, _, name = where.partition(":")
    try:
        found: object = importlib.import_module(f"foreworld.{module}")
        for part in name.split(".") if name else ():
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


def _tests_of(file: Path) -> set[str]:
    """Names of the test functions that pytest collects from a file, without importing it."""
    if not file.is_file() or not file.name.startswith("test_"):
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
