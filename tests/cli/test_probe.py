"""`foreworld probe` on a model that has learned next to nothing, and `inspect` of it."""

import json

import pytest
from tests.cli.commands import run
from tests.domains.rooms.test_sighted import TINY

from foreworld.cli.app import INPUT, UNFIT
from foreworld.domains.rooms.prepare import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    return folder / "model", prepare(folder, TINY, seed=3, progress="none").store


def test_a_model_that_is_not_fit_is_shown_and_says_so_by_its_exit_code(made, tmp_path, capsys):
    code, out, err = run(capsys, "probe", *made, "--picture", tmp_path / "probe.png")
    assert code == UNFIT and "not fit for use" in err.splitlines()[-1]
    assert "open-loop error" in out and "x read, R2" in out
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_json_holds_the_figures(made, capsys):
    _, out, _ = run(capsys, "probe", *made, "--json")
    found = json.loads(out)
    assert len(found["error"]) == len(found["persistence"]) and set(found["linear"]) == {"x", "y"}


def test_a_picture_needs_a_folder_that_exists(made, tmp_path, capsys):
    code, _, err = run(capsys, "probe", *made, "--picture", tmp_path / "no" / "probe.png")
    assert code == INPUT and "in a folder that exists" in err


def test_a_latent_model_is_inspected(made, capsys):
    code, out, _ = run(capsys, "inspect", made[0])
    assert code == 0 and "LatentModel" in out and "load_any" in out


def test_a_film_is_refused_before_anything_is_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for protocol, place, words in (
        ("treatment/forecast", tmp_path, "nothing to film"),
        ("rooms/random-layout", tmp_path / "file", "which is a file"),
    ):
        code, out, err = run(capsys, "evaluate", protocol, "--quick", "--film", place)
        assert code == INPUT and not out and words in err.splitlines()[-1]


def test_a_model_of_another_kind_or_part_is_named(made, tmp_path, capsys):
    assert run(capsys, "probe", tmp_path / "no", made[1])[0] == INPUT
    code, _, err = run(capsys, "probe", *made, "--split", "default/none")
    assert code == INPUT and "it has default/fit, default/check" in err
