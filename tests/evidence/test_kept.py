"""Finished runs are taken again only where nothing that shapes them has changed."""

import json
import shutil
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest

from foreworld.domains.treatment import identity as shared
from foreworld.domains.treatment import tables, track_protocol
from foreworld.domains.treatment.closed_loop import Job
from foreworld.domains.treatment.protocols import PROTOCOLS
from foreworld.errors import FormatError, InputError
from foreworld.evidence import kept as module
from foreworld.evidence import sampled
from foreworld.evidence.kept import Kept, folder_digest
from foreworld.evidence.protocol import Request, Samples
from foreworld.evidence.sampled import run_sampled


def samples(seed=0, value=0.25):
    made = Samples((seed,))
    made.add("bb", "time_in_range", seed, ["a", "b"], [value, 0.75], [("unseen",), ()], weights=[1.0, 2.0])
    made.add("bb", "rmse_30", seed, ["a", "b"], [4.0, 9.0], unit="mg/dL", how="rms")
    return made


def identity():
    track = track_protocol.TRACKS[0]
    return track_protocol._identity(track, Job("bb", 0, ("adult#004",), track.config))


def test_samples_come_back_as_they_were_through_json():
    whole, one, two = Samples((0, 1)), samples(0), samples(1, 1 / 3)
    for part in (one, two):
        whole.extend(json.loads(json.dumps(part.parts())))
    again = Samples((0, 1))
    again.extend(whole.parts())
    assert again.rows() == whole.rows()
    np.testing.assert_array_equal(whole.by_subject("bb", "time_in_range"), [[0.25, 0.75], [1 / 3, 0.75]])
    with pytest.raises(InputError, match="twice"):
        whole.extend(one.parts())


def test_a_run_is_taken_only_for_the_same_identity_and_source(tmp_path, monkeypatch):
    kept, found = Kept(tmp_path / "runs"), Samples((0,))
    assert not kept.load("bb", {"seed": 0}, found)
    kept.save("bb", {"seed": 0}, samples())
    assert not kept.load("bb", {"seed": 1}, found)
    assert not kept.load("pid", {"seed": 0}, found)
    assert kept.load("bb", {"seed": 0}, found)
    assert found.rows() == samples().rows()
    assert kept.notes == ()

    monkeypatch.setattr(module, "source_digest", lambda: "f" * 64)
    assert not Kept(tmp_path / "runs").load("bb", {"seed": 0}, Samples((0,)))
    trusting = Kept(tmp_path / "runs", trusted=("bb",))
    assert trusting.load("bb", {"seed": 0}, Samples((0,)))
    (note,) = trusting.notes
    assert note.startswith("bb: runs kept from foreworld source") and "f" * 12 in note


def test_a_damaged_or_newer_run_says_which_file(tmp_path):
    kept = Kept(tmp_path)
    kept.save("bb", {"seed": 0}, samples())
    (path,) = tmp_path.glob("bb-*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(FormatError, match=r"bb-.*format 2, not 1; delete it"):
        kept.load("bb", {"seed": 0}, Samples((0,)))
    path.write_text(path.read_text()[:40])
    with pytest.raises(FormatError, match=r"bb-.*damaged"):
        kept.load("bb", {"seed": 0}, Samples((0,)))


def test_a_folder_is_known_by_what_its_files_hold(tmp_path):
    assert folder_digest(None) is None
    with pytest.raises(InputError, match="no folder"):
        folder_digest(tmp_path / "none")
    (tmp_path / "a").write_text("1")
    first = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == first
    (tmp_path / "a").write_text("2")
    assert folder_digest(tmp_path) != first
    # A store's arrays are large; its index changes whenever they do.
    (tmp_path / "zarr.json").write_text("{}")
    indexed = folder_digest(tmp_path)
    (tmp_path / "a").write_text("3")
    assert folder_digest(tmp_path) == indexed


def test_an_interrupted_track_goes_on_where_it_was(tmp_path, monkeypatch):
    protocol, asked = PROTOCOLS["treatment/t1d-announced"], []
    run_all = sampled.run_all

    def counted(work, jobs, workers=None):
        asked.extend(job.arm for job in jobs)
        return run_all(work, jobs, workers)

    monkeypatch.setattr(sampled, "run_all", counted)

    def evaluate(*arms, trusted=()):
        asked.clear()
        kept = Kept(tmp_path / "runs", trusted)
        return protocol.evaluate(Request(arms=arms, seeds=(0,), subjects=2, quick=True, kept=kept))

    first = evaluate("bb")
    assert asked == ["bb"]
    both = evaluate("bb", "nothing")
    assert asked == ["nothing"]
    assert [row for row in both.rows if row.arm == "bb"] == list(first.rows)
    assert both.notes == () and "notes" not in both.to_dict()
    monkeypatch.setattr(module, "source_digest", lambda: "f" * 64)
    mixed = evaluate("bb", "nothing", trusted=("bb",))
    assert asked == ["nothing"]
    (note,) = mixed.notes
    assert note.startswith("bb: ") and note in mixed.table()
    assert type(mixed).from_json(mixed.to_json(), protocol.names).notes == mixed.notes
    with pytest.raises(InputError, match="trusted arm 'nobody'"):
        evaluate("bb", trusted=("nobody",))


def test_rows_do_not_depend_on_which_runs_were_kept(tmp_path):
    jobs = [SimpleNamespace(arm="bb", seed=0, who=f"p{i}", value=(0.1, 0.9, 0.4)[i]) for i in (2, 0, 1)]

    def add(into, job, value):
        into.add(job.arm, "time_in_range", job.seed, [job.who], [value])

    def rows():
        made, ran, kept = Samples((0,)), [], Kept(tmp_path)
        for job, _ in run_sampled(
            lambda job: job.value, jobs, add, made, identity=lambda job: {"who": job.who}, kept=kept, workers=1
        ):
            ran.append(job.who)
        return made.parts(), ran

    whole, ran = rows()
    assert ran == ["p2", "p0", "p1"]
    kept = Kept(tmp_path)
    kept._path("bb", {"who": "p2"}).unlink()
    again, ran = rows()
    # Intervals draw subjects by their order: that of the jobs, and not of who was kept.
    assert ran == ["p2"] and again == whole


@pytest.mark.parametrize("package", ["torch", "numpy", "numba", "scipy", "simglucose"])
def test_a_run_is_another_with_another_version_of_what_computes_it(monkeypatch, package):
    assert identity() == identity()
    before, installed = identity(), shared.version
    monkeypatch.setattr(shared, "version", lambda name: "0" if name == package else installed(name))
    assert identity() != before

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(shared, "version", missing)
    assert identity()["versions"][package] is None


def test_a_run_of_oref0_is_another_with_another_oref0_or_node(monkeypatch):
    track = track_protocol.TRACKS[0]

    def of(arm, versions):
        monkeypatch.setattr(track_protocol, "oref0_versions", lambda: versions)
        return track_protocol._identity(track, Job(arm, 0, ("adult#004",), track.config))

    first, other = {"oref0": "0.7.1", "node": "v20.1.0"}, {"oref0": "0.7.1", "node": "v22.0.0"}
    for arm in ("oref0", "oref0_smb"):
        assert of(arm, first) == of(arm, dict(first)) != of(arm, other)
    assert of("bb", first) == of("bb", other)


@pytest.mark.parametrize("name", ["vpatient_params.csv", "Quest.csv"])
def test_a_run_is_another_with_other_patients_behind_the_same_names(tmp_path, monkeypatch, name):
    before = identity()
    copy = shutil.copytree(tables.table_folder(), tmp_path / "params")
    monkeypatch.setattr(tables, "table_folder", lambda: copy)
    assert identity() == before
    (copy / name).write_text((copy / name).read_text().replace("1", "2", 1))
    assert identity() != before


def test_a_protocol_that_keeps_nothing_says_so(tmp_path):
    protocol = PROTOCOLS["treatment/counterfactual"]
    with pytest.raises(InputError, match="keeps no finished runs"):
        protocol.evaluate(Request(seeds=(0,), kept=Kept(tmp_path)))


def test_a_place_that_is_no_folder_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep runs in .*give a folder"):
        Kept(tmp_path / "file")
