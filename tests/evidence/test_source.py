"""Evidence names the source that ran, whatever happens to the files meanwhile."""

import pytest

import foreworld
from foreworld.evidence.protocol import Protocol, Request, Row
from foreworld.evidence.source import source_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Files that pass for foreworld's own."""
    (tmp_path / "__init__.py").write_text("one")
    monkeypatch.setattr(foreworld, "__file__", str(tmp_path / "__init__.py"))
    source_digest.cache_clear()
    yield tmp_path
    source_digest.cache_clear()


def again():
    source_digest.cache_clear()
    return source_digest()


def test_the_digest_is_of_the_package_s_files_and_of_nothing_that_comes_and_goes(package):
    first = source_digest()
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_text("x")
    (package / ".module.py.swp").write_text("x")
    assert again() == first
    (package / "module.py").write_text("x")
    second = again()
    assert second != first
    (package / "module.py").rename(package / "other.py")
    assert again() not in (first, second)


def test_evidence_names_the_source_that_was_there_when_it_began(package):
    began = again()
    source_digest.cache_clear()

    def run(request):
        (package / "__init__.py").write_text("two")
        row = {"arm": "random", "group": "all", "metric": "success", "value": 1.0, "n": 1, "unit": "share"}
        return [Row(**row, by_seed=(1.0,))]

    found = Protocol("rooms/toy", 1, "A toy.", {}, ("random",), ("success",), run).evaluate(Request(seeds=(0,)))
    assert found.source == began[:12] != again()[:12]
