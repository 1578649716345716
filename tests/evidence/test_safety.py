"""The registry of safety requirements: nothing in it is made up, and nothing that needs a requirement lacks one."""

import ast
import dataclasses
from pathlib import Path

import pytest

from foreworld.errors import InputError
from foreworld.evidence.domain import load_domain
from foreworld.evidence.requirements import ENGINE
from foreworld.evidence.safety import Requirement, findings, needed, page

ROOT = Path(__file__).parents[2]
DOMAIN = load_domain("treatment")
ALL = (*ENGINE, *DOMAIN.requirements)
# What runs what it reads. `safetensors` and JSON do not.
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "torch.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load"}


def test_every_guardrail_rule_and_refusal_is_covered_and_all_that_is_named_is_there():
    assert findings(ALL, needed(DOMAIN), ROOT) == []


def test_the_page_is_up_to_date():
    written = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    assert written == page(DOMAIN, ENGINE), "run: foreworld safety --out docs/safety.md"


def test_the_page_claims_no_conformity_and_shows_every_requirement():
    text = page(DOMAIN, ENGINE)
    assert "claims conformity with neither" in " ".join(text.split())
    assert all(f"| {requirement.id} |" in text for requirement in ALL)


def changed(**fields):
    return (dataclasses.replace(ALL[0], **fields), *ALL[1:])


@pytest.mark.parametrize(
    ("registry", "words"),
    [
        (changed(id=ALL[1].id), f"{ALL[1].id} is given twice"),
        (
            changed(tests=("tests/agent/test_check.py::test_nothing",)),
            "test_check.py::test_nothing, which is not there",
        ),
        (changed(tests=("tests/agent/absent.py::test_a",)), "absent.py::test_a, which is not there"),
        (changed(tests=("tests/agent/tiny.py::make_past",)), "make_past, which is not there"),
        (changed(enforced=("planning.planners.judged:judges",)), "judged:judges, which is not there"),
        (changed(enforced=("planning.plans",)), "planning.plans, which is not there"),
        (changed(covers=("rule of_thumb",)), "covers rule of_thumb, which is not there"),
        (tuple(r for r in ALL if "rule max_iob" not in r.covers), "no requirement covers rule max_iob"),
        (tuple(r for r in ALL if "guardrail predicted_low" not in r.covers), "covers guardrail predicted_low"),
        (tuple(r for r in ALL if "refusal novel state" not in r.covers), "covers refusal novel state"),
    ],
)
def test_what_is_wrong_with_a_registry_is_found(registry, words):
    assert any(words in finding for finding in findings(registry, needed(DOMAIN), ROOT))


@pytest.mark.parametrize(
    "fields", [{"id": "S-1"}, {"id": "FW-S-1234"}, {"severity": 0}, {"hazard": ""}, {"tests": ()}, {"enforced": ()}]
)
def test_a_requirement_that_says_too_little_is_refused(fields):
    whole = {"id": "FW-S-900", "hazard": "h", "severity": 3, "text": "t", "enforced": ("a",), "tests": ("b",)}
    Requirement(**whole)
    with pytest.raises(InputError, match="requirement"):
        Requirement(**(whole | fields))


def dangerous(text):
    """Imports and calls in a source text that unpickle or execute."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield ast.unparse(node)
        yield from (name for name in names if name in MODULES)


def test_nothing_is_unpickled_or_executed_on_load():
    files = list((ROOT / "src").rglob("*.py"))
    found = [f"{file.name}: {what}" for file in files for what in dangerous(file.read_text(encoding="utf-8"))]
    assert len(files) > 100 and found == []
    for line in ("import pickle", "from joblib import load", "x = torch.load(f)", "exec(text)", "def f(): eval(x)"):
        assert list(dangerous(line))
