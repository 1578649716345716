"""README and docs: every link leads somewhere, every command line parses, every example runs."""

import re
import shlex
from pathlib import Path

import pytest

from foreworld.cli import app, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
EXAMPLE = re.compile(r"Example: `(foreworld [^`]+)`")


def blocks(page, language):
    return [text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands():
    """Every `foreworld ...` line of the pages and of the help, with where it stands."""
    found = [
        (page.name, line.split("  #")[0])
        for page in PAGES
        for text in blocks(page, "sh")
        for line in text.splitlines()
        if line.startswith("foreworld ")
    ]
    for module in (ROOT / "src" / "foreworld" / "cli").glob("*.py"):
        found += [(module.name, line) for line in EXAMPLE.findall(module.read_text(encoding="utf-8"))]
    return found


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, part = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if part:
            assert part in map(anchor, HEADING.findall(file.read_text(encoding="utf-8"))), f"{page.name}: {target}"


def test_there_are_commands_to_check():
    assert len(commands()) > 20


@pytest.mark.parametrize(("where", "line"), commands())
def test_every_command_line_parses(where, line):
    tokens = shlex.split(line)[1:]
    app.parse_args(tokens, exit_on_error=False, print_error=False)
    for token in tokens:
        if token.startswith("docs/"):
            assert (ROOT / token).is_file()


def test_commands_that_would_not_parse_are_found():
    with pytest.raises(Exception, match="polish"):
        app.parse_args(["plan", "--model", "m", "--input", "i", "--polish"], exit_on_error=False, print_error=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder in which the pages' paths hold."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_on_own_data_runs(place, capsys):
    page = ROOT / "docs" / "own-data.md"
    for text in blocks(page, "sh"):
        for line in text.splitlines():
            assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    for text in blocks(page, "python"):
        exec(compile(text, page.name, "exec"), {})
    assert (place / "runs" / "walks-model" / "model.safetensors").is_file()


def test_the_page_on_encoders_runs_and_says_what_was_not(place, capsys):
    page = ROOT / "docs" / "encoders.md"
    for text in blocks(page, "python"):
        exec(compile(text, page.name, "exec"), {})
    assert "x read, R2" in capsys.readouterr().out
    for text in blocks(page, "py"):
        assert text.startswith("# not run here: no weights on this machine")
        compile(text, page.name, "exec")


def test_the_example_of_the_api_page_runs(place, capsys):
    for text in blocks(ROOT / "docs" / "api.md", "python"):
        exec(compile(text, "api.md", "exec"), {})
    assert capsys.readouterr().out == "1/min ('speed',)\n"
