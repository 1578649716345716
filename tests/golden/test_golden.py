"""Files written by each released version are read by this one, and give what they gave then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.golden import make

from foreworld.agent import audit, chain
from foreworld.episodes import EpisodeStore
from foreworld.errors import AuditError
from foreworld.model import checkpoint

HERE = Path(__file__).parent
VERSIONS = sorted(HERE.glob("v*"), key=lambda path: int(path.name[1:]))


def expected(folder):
    return json.loads((folder / "expected.json").read_text())


def compare(found, wanted, where):
    """Numbers within 1e-5, relative to their size where that is above 1; all else equal."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), where
        for key in wanted:
            compare(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], float | list):
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-5, atol=1e-5, err_msg=where)
    elif isinstance(wanted, float):
        assert abs(found - wanted) <= 1e-5 * max(1.0, abs(wanted)), where
    else:
        assert found == wanted, where


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_store_and_checkpoint_give_what_they_gave(folder):
    wanted = expected(folder)
    found = make.results(folder)
    compare(found, {key: value for key, value in wanted.items() if key in found}, folder.name)
    assert set(wanted) == {"format", "head", *found}


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_the_golden_forecast_says_something(folder):
    # A comparison of constants would not fail: plans, people and horizons differ, and something is novel.
    wanted = expected(folder)
    mean = np.array(wanted["forecast"]["mean"]["glucose"])
    assert (
        mean.shape[:2] == (4, 3) and (np.ptp(mean, axis=0) > 1e-2).all() and (np.ptp(mean, axis=1)[:, -1] > 1e-3).all()
    )
    assert (np.array(wanted["forecast"]["upper"]["pulse"]) > np.array(wanted["forecast"]["lower"]["pulse"])).all()
    assert len(np.unique(np.array(wanted["novelty"]).round(4))) > 3


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_the_audit_log_verifies(folder):
    head = expected(folder)["head"]
    report = audit.verify(folder / "audit", head)
    assert (report.records, report.inputs) == (3, 3)
    entries = list(audit.read(folder / "audit"))
    assert entries[2].record["decision"] == {"dose": 0.2, "margin": -np.inf}
    np.testing.assert_array_equal(entries[1].arrays()["glucose"], [101.0, np.nan])
    assert audit.replay(folder / "audit", lambda r, a: {"dose": 0.1 * r["seed"], "margin": -np.inf}).replayed == 3


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_an_altered_golden_log_does_not_verify(folder, tmp_path):
    shutil.copytree(folder / "audit", tmp_path / "audit")
    log = tmp_path / "audit" / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"seed":1', b'"seed":7'))
    with pytest.raises(AuditError):
        audit.verify(tmp_path / "audit", expected(folder)["head"])


def test_every_format_that_is_written_today_has_golden_files(tmp_path):
    assert VERSIONS[-1].name == f"v{checkpoint.FORMAT_VERSION}"
    assert expected(VERSIONS[-1])["format"] == checkpoint.FORMAT_VERSION == chain.FORMAT_VERSION
    # What is written today has the layout of the newest golden files: a change of format must rise its version.
    make.write(tmp_path / "now")
    now, golden = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "now", VERSIONS[-1])
    )
    layout = {name for name in now if "inputs/" not in name}
    assert layout == {name for name in golden if "inputs/" not in name}
    ours, theirs = (
        json.loads((path / "checkpoint" / "config.json").read_text()) for path in (tmp_path / "now", VERSIONS[-1])
    )
    assert set(ours) == set(theirs) and ours["format"] == theirs["format"]
    assert set(ours["config"]) == set(theirs["config"]) and ours["schema"].keys() == theirs["schema"].keys()
    assert EpisodeStore.open(tmp_path / "now" / "store").splits() == EpisodeStore.open(VERSIONS[-1] / "store").splits()


def test_golden_files_stay_small():
    assert (
        sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        < 200_000
    )
