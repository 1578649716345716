"""Checkpoints: what was saved comes back exactly, and what is damaged or foreign is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.model.toy import CONFIG, SCHEMA, episode, make_model

import foreworld.model.checkpoint as checkpoint
from foreworld.episodes import Schema
from foreworld.errors import FormatError, InputError, SchemaError
from foreworld.model.belief import History
from foreworld.model.checkpoint import load, read_extra, save


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(make_model(1), tmp_path_factory.mktemp("saved") / "model", card="Toys.", extra={"radius": [0.1, 2]})


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(folder, *, seal=True, **changes):
    """Change the configuration; with a new digest, as a newer foreworld or a forger would write it."""
    content = json.loads((folder / "config.json").read_text())
    content.update(changes)
    if seal:
        content["digest"] = checkpoint._digest(content)
    (folder / "config.json").write_text(json.dumps(content))


def test_a_loaded_model_is_the_saved_one(saved):
    model, found = make_model(1), load(saved, SCHEMA)
    assert found.config == CONFIG
    assert found.schema == SCHEMA
    assert not found.training
    history = History.from_episodes(SCHEMA, [episode(0, 12)])
    a, b = model.encode(history), found.encode(history)
    plan = torch.rand(1, 2, len(CONFIG.grid), 4)
    assert torch.equal(model.predict(a, plan), found.predict(b, plan))
    assert read_extra(saved) == {"radius": [0.1, 2]}
    card = (saved / "README.md").read_text()
    assert "not a medical device" in card
    assert "Toys." in card
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_loading_leaves_the_random_state_alone(saved):
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_replaces_an_older_one_and_leaves_nothing_beside_it(copy):
    save(make_model(2), copy)
    assert torch.equal(load(copy).project.weight, make_model(2).project.weight)
    assert read_extra(copy) == {}
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("broken", ["save_file", "sync_tree", "_card"])
def test_a_save_that_fails_leaves_the_older_checkpoint(copy, monkeypatch, broken):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, broken, fail)
    with pytest.raises(OSError, match="no space"):
        save(make_model(2), copy)
    assert torch.equal(load(copy).project.weight, make_model(1).project.weight)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("done", [0, 1])
def test_a_save_that_is_killed_between_its_renames_leaves_one_of_the_two(copy, monkeypatch, done):
    renames = []

    def replace(source, target):
        if len(renames) == done:
            raise KeyboardInterrupt
        renames.append(source)
        Path(source).rename(target)

    monkeypatch.setattr(checkpoint.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(make_model(2), copy)
    monkeypatch.undo()
    assert torch.equal(load(copy).project.weight, make_model(1).project.weight)
    save(make_model(2), copy)
    assert torch.equal(load(copy).project.weight, make_model(2).project.weight)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["model.safetensors", "config.json"]))
def test_any_altered_byte_is_refused(copy, data, name):
    path = copy / name
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    altered = bytearray(original)
    altered[at] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(altered)
        if name == "config.json":
            try:
                same = json.loads(altered) == json.loads(original)
            except ValueError:
                same = False
            if same:  # A space for a line break, say.
                load(copy)
                return
        with pytest.raises(FormatError):
            load(copy)
    finally:
        path.write_bytes(original)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["model.safetensors", "config.json"]))
def test_any_truncation_is_refused(copy, share, name):
    path = copy / name
    original = path.read_bytes()
    try:
        path.write_bytes(original[: int(share * len(original))])
        with pytest.raises(FormatError, match=r"truncated|damaged|altered"):
            load(copy)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        load(copy)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_changed_statistic_is_refused(copy):
    schema = json.loads((copy / "config.json").read_text())["schema"]
    schema["statistics"]["glucose"]["mean"] += 1.0
    edit(copy, seal=False, schema=schema)
    with pytest.raises(FormatError, match="digest does not match"):
        load(copy)
    edit(copy, schema=schema)
    assert load(copy).schema.statistics["glucose"].mean == SCHEMA.statistics["glucose"].mean + 1.0


def test_a_newer_format_is_refused_before_anything_else_is_read(copy):
    edit(copy, seal=False, format=2, config="of a new kind")
    with pytest.raises(FormatError, match="newer version"):
        load(copy)


@pytest.mark.parametrize("name", ["Ensemble", "os.system", None])
def test_another_class_is_refused(copy, name):
    edit(copy, **{"class": name})
    with pytest.raises(FormatError, match="allowed are WorldModel"):
        load(copy)


def test_tensors_that_do_not_fit_the_configuration_are_refused(copy):
    edit(copy, config={**json.loads(CONFIG.model_dump_json()), "width": 20})
    with pytest.raises(FormatError, match="does not fit"):
        load(copy)


def test_a_setting_of_another_version_is_refused(copy):
    edit(copy, config={**json.loads(CONFIG.model_dump_json()), "dropout": 0.5})
    with pytest.raises(FormatError, match="dropout"):
        load(copy)


def test_another_schema_is_refused_with_the_differences(saved):
    channels = (SCHEMA.channels[0].model_copy(update={"unit": "mmol/L"}), *SCHEMA.channels[1:-1])
    with pytest.raises(
        SchemaError, match=r"unexpected channel sex; channel glucose: unit is 'mg/dL', expected 'mmol/L'"
    ):
        load(saved, Schema(name="toy", step=5.0, channels=channels))
    with pytest.raises(SchemaError, match="another order"):
        load(saved, Schema(name="toy", step=5.0, channels=SCHEMA.channels[::-1]))


def test_statistics_of_the_schema_expected_do_not_matter(saved):
    bare = Schema(name="toy", step=5.0, channels=SCHEMA.channels)
    assert load(saved, bare).schema.statistics == SCHEMA.statistics


@pytest.mark.parametrize("extra", [{"radius": float("nan")}, {"radius": np.float32(1)}, {"model": object()}])
def test_extra_that_is_not_json_is_refused_and_nothing_is_written(tmp_path, extra):
    with pytest.raises(InputError, match="not JSON"):
        save(make_model(), tmp_path / "model", extra=extra)
    assert not list(tmp_path.iterdir())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_extra_comes_back_as_it_was(tmp_path, extra):
    save(make_model(), tmp_path / "model", extra=extra)
    assert read_extra(tmp_path / "model") == extra


def test_a_folder_with_anything_else_in_it_is_not_replaced(tmp_path):
    for name in ("thesis.tex", "README.md"):
        folder = tmp_path / name[:3]
        folder.mkdir()
        (folder / name).write_text("years of work")
        with pytest.raises(InputError, match=name):
            save(make_model(), folder)
        assert (folder / name).read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        save(make_model(), tmp_path / "file")


def test_only_a_class_that_can_be_loaded_is_saved(tmp_path):
    class Other(type(make_model())):
        pass

    other = make_model()
    other.__class__ = Other
    with pytest.raises(InputError, match="Other cannot be saved"):
        save(other, tmp_path / "model")
