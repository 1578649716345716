"""The audit log: a hash chain that notices every change, survives a crash, and replays bit for bit."""

import hashlib
import json
import math
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import foreworld.agent.audit as audit
from foreworld.agent.audit import GENESIS, AuditLog, read, replay, verify
from foreworld.agent.canonical import decode, encode
from foreworld.errors import AuditError, FormatError, InputError

SOURCE = Path(audit.__file__).parents[2]


def decide(record, arrays):
    """A decision that depends on every input bit."""
    return {"insulin": float(np.nansum(arrays["cgm"])) / record["seed"], "plan": [record["seed"] * 0.1, math.nan]}


def fill(folder, records=5):
    """A log of that many decisions; returns its heads."""
    heads = [GENESIS]
    with AuditLog.open(folder) as log:
        for seed in range(1, records + 1):
            arrays = {"cgm": np.array([100.0 + seed, math.nan, 1 / 3]), "known": np.array([True, False])}
            record = {"seed": seed, "reason": 'naïve "}}} quote" \\', "decision": decide({"seed": seed}, arrays)}
            heads.append(log.append(record, arrays))
    return heads


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit"


def lines_of(folder):
    return (folder / "log.jsonl").read_bytes().splitlines(keepends=True)


def put(folder, lines):
    (folder / "log.jsonl").write_bytes(b"".join(lines))


# --- Round trip ---------------------------------------------------------------------------------------------------


def test_reads_back_what_was_appended(folder):
    heads = fill(folder)
    report = verify(folder, heads[-1])
    assert (report.records, report.head, report.inputs) == (5, heads[-1], 5)
    for index, entry in enumerate(read(folder)):
        assert (entry.index, entry.previous, entry.hash) == (index, heads[index], heads[index + 1])
        assert entry.record["seed"] == index + 1
        np.testing.assert_array_equal(entry.arrays()["cgm"], [101.0 + index, math.nan, 1 / 3])
        assert entry.arrays()["known"].dtype == bool


def test_goes_on_where_it_stopped(folder):
    heads = fill(folder, 2)
    with AuditLog.open(folder) as log:
        assert (log.head, log.records, log.torn) == (heads[-1], 2, None)
        log.append({"note": "on"})
    assert verify(folder).records == 3


def test_hash_is_over_the_canonical_json_without_the_hash(folder):
    fill(folder, 1)
    (line,) = lines_of(folder)
    content = json.loads(line)
    digest = content.pop("hash")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    assert line == json.dumps({**content, "hash": digest}, sort_keys=True, separators=(",", ":")).encode() + b"\n"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=64) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def same_bits(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, dict) and isinstance(b, dict):
        return set(a) == set(b) and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=300)
@given(json_values)
def test_every_value_comes_back_bit_for_bit(value):
    text = encode(value)
    assert same_bits(decode(text), value)
    assert encode(decode(text)) == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1))
def test_every_float64_comes_back_bit_for_bit(bits):
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))
    assert same_bits(decode(encode(value)), value)


def test_keys_that_look_like_the_encoding_come_back():
    value = {"$float": "nan", "$": 1, "$$float": {"$x": math.nan}, "a": {"$float": math.inf}}
    assert same_bits(decode(encode(value)), value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", ">f8"])
def test_arrays_come_back_bit_for_bit(folder, dtype):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        raw = np.array([math.nan, -math.inf, -0.0, 5e-324, *rng.normal(size=8)]).astype(dtype).reshape(3, 4)
    else:
        raw = rng.integers(0, 2, (3, 4)).astype(dtype)
    arrays = {"whole": raw, "turned": raw.T, "strided": raw[::2, ::3], "none": raw[:0], "point": raw[0, 0]}
    with AuditLog.open(folder) as log:
        log.append({}, arrays)
    back = next(read(folder)).arrays()
    for name, values in arrays.items():
        expected = np.asarray(values)
        assert back[name].shape == expected.shape
        assert back[name].dtype == expected.dtype.newbyteorder("=")
        assert back[name].tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()


def test_nan_payloads_in_arrays_survive(folder):
    bits = np.array([0x7FF8000000000001, 0xFFF8DEADBEEF0000], dtype=np.uint64)
    with AuditLog.open(folder) as log:
        log.append({}, {"x": bits.view(np.float64)})
    assert next(read(folder)).arrays()["x"].view(np.uint64).tolist() == bits.tolist()


def test_equal_inputs_are_stored_once_and_for_the_owner_only(folder):
    with AuditLog.open(folder) as log:
        for _ in range(3):
            log.append({}, {"x": np.arange(4)})
    (stored,) = (folder / "inputs").iterdir()
    assert stat.S_IMODE(stored.stat().st_mode) == stat.S_IMODE((folder / "log.jsonl").stat().st_mode) == 0o600


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(folder):
    circle = {}
    circle["self"] = circle
    with AuditLog.open(folder) as log:
        for record, match in (
            ({"a": {"b": [object()]}}, r"record.a.b\[0\]"),
            ({"a": np.zeros(2)}, "arrays"),
            ({1: 2}, "key 1"),
            (circle, "nested"),
            ({"n": 10**5000}, "JSON"),
        ):
            with pytest.raises(InputError, match=match):
                log.append(record)
        for array in (np.array(["text"]), np.array([1j]), np.array([None])):
            with pytest.raises(InputError, match="array x"):
                log.append({}, {"x": array})
        assert (log.head, log.records) == (GENESIS, 0)
    assert (folder / "log.jsonl").read_bytes() == b""


def test_only_one_process_at_a_time_appends(folder):
    with AuditLog.open(folder), pytest.raises(AuditError, match="elsewhere"):
        AuditLog.open(folder)
    AuditLog.open(folder).close()
    log = AuditLog.open(folder)
    log.close()
    with pytest.raises(AuditError, match="closed"):
        log.append({})


def test_failed_or_interrupted_write_leaves_the_log_as_it_was(folder, monkeypatch):
    heads = fill(folder, 2)
    before = (folder / "log.jsonl").read_bytes()
    for fault, raised in (
        (OSError(28, "No space left on device"), AuditError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        with AuditLog.open(folder) as log, monkeypatch.context() as patch:

            def fail(descriptor, fault=fault):
                raise fault

            patch.setattr(os, "fsync", fail)
            with pytest.raises(raised):
                log.append({"x": 1})
            patch.undo()
            assert (log.head, (folder / "log.jsonl").read_bytes()) == (heads[-1], before)
            log.append({"x": 2})
        verify(folder)
        (folder / "log.jsonl").write_bytes(before)


# --- Tampering ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A log that nobody changes, its bytes and its head; the tests below work on a copy."""
    place = tmp_path_factory.mktemp("sealed") / "audit"
    heads = fill(place, 4)
    copy = place.parent / "copy"
    shutil.copytree(place, copy)
    return copy, (place / "log.jsonl").read_bytes(), heads


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_noticed_without_the_head(sealed, data):
    copy, content, _ = sealed
    at = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    (copy / "log.jsonl").write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
    line = content[:at].count(b"\n")
    with pytest.raises(AuditError, match=f"record {line} "):
        verify(copy)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_byte_is_never_taken_for_a_crash(sealed, data):
    copy, content, _ = sealed
    at = data.draw(st.integers(0, len(content) - 1))
    (copy / "log.jsonl").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(AuditError, match="altered"):
        AuditLog.open(copy)


@pytest.mark.parametrize(("change", "match"), [
    (lambda a: [a[0], *a[2:]], "record 1 .*record 2 stands there.*removed"),
    (lambda a: a[1:], "record 0 .*removed"),
    (lambda a: [a[0], a[2], a[1], *a[3:]], "record 1 .*record 2 stands there"),
    (lambda a: [a[0], a[0], *a[1:]], "record 1 .*record 0 stands there.*reordered or doubled"),
    (lambda a: [a[0], a[1].replace(b'"seed":2', b'"seed":3'), *a[2:]], "record 1 was altered"),
    (lambda a: [a[0], a[1].replace(b":", b": "), *a[2:]], "record 1 was altered"),
    (lambda a: [a[0], b"\n", *a[1:]], "record 1 was altered"),
    (lambda a: [*a, b"{}\n"], "record 5 was altered"),
    (lambda a: [*a, b"[" * 100_000 + b"\n"], "record 5 was altered"),
])  # fmt: skip
def test_names_the_first_broken_record(folder, change, match):
    fill(folder)
    put(folder, change(lines_of(folder)))
    for look in (lambda: verify(folder), lambda: list(read(folder)), lambda: AuditLog.open(folder)):
        with pytest.raises(AuditError, match=match):
            look()


def test_record_rewritten_with_a_valid_hash_of_its_own_breaks_the_chain(folder):
    heads = fill(folder)
    lines = lines_of(folder)
    forged, _ = audit.build_line(1, heads[1], encode({"seed": 99}), None)
    put(folder, [lines[0], forged, *lines[2:]])
    with pytest.raises(AuditError, match="record 2 does not follow"):
        verify(folder)


def test_removing_the_last_records_shows_against_the_printed_head(folder):
    heads = fill(folder)
    put(folder, lines_of(folder)[:-1])
    assert verify(folder).records == 4
    with pytest.raises(AuditError, match=r"ends at record 3 .*removed"):
        verify(folder, heads[-1])
    with pytest.raises(AuditError, match="that of record 1; 2 records were added"):
        verify(folder, heads[2])
    put(folder, [])
    with pytest.raises(AuditError, match="removed"):
        verify(folder, heads[-1])
    (folder / "log.jsonl").unlink()
    with pytest.raises(AuditError, match="no audit log"):
        verify(folder)


def test_missing_or_altered_inputs_are_named(folder):
    fill(folder)
    victim = list(read(folder))[2]
    path = folder / "inputs" / f"{victim.inputs}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AuditError, match=r"record 2: its inputs .* altered"):
        verify(folder)
    path.unlink()
    with pytest.raises(AuditError, match=r"record 2: its inputs .* missing"):
        verify(folder)


def test_inputs_cannot_point_outside_the_folder(folder):
    fill(folder, 1)
    line, _ = audit.build_line(0, GENESIS, encode({}), "../../secret")
    put(folder, [line])
    with pytest.raises(AuditError, match="record 0 was altered"):
        verify(folder)


def test_newer_format_is_said_to_be_newer(folder):
    newer = {"format": 2, "index": 0, "inputs": None, "previous": GENESIS, "record": {}, "more": 1}
    newer["hash"] = hashlib.sha256(encode(newer).encode()).hexdigest()
    folder.mkdir()
    put(folder, [encode(newer).encode() + b"\n"])
    with pytest.raises(FormatError, match="format 2"):
        verify(folder)


def test_flipped_format_version_is_tampering(folder):
    fill(folder, 1)
    put(folder, [lines_of(folder)[0].replace(b'"format":1', b'"format":2')])
    with pytest.raises(AuditError, match="record 0 was altered"):
        verify(folder)


# --- Crash --------------------------------------------------------------------------------------------------------


def test_line_torn_anywhere_is_told_from_tampering_and_kept_aside(folder):
    heads = fill(folder, 3)
    lines = lines_of(folder)
    for length in range(1, len(lines[2]) - 1):
        put(folder, [*lines[:2], lines[2][:length]])
        with pytest.raises(AuditError, match="record 2 is torn"):
            verify(folder)
        with AuditLog.open(folder) as log:
            assert (log.head, log.records) == (heads[2], 2)
            assert log.torn is not None
            assert log.torn.read_bytes() == lines[2][:length]
            log.torn.unlink()
        assert verify(folder, heads[2]).records == 2


def test_whole_line_without_its_line_end_is_kept(folder):
    heads = fill(folder, 3)
    put(folder, [b"".join(lines_of(folder))[:-1]])
    with pytest.raises(AuditError, match="torn"):
        verify(folder)
    with AuditLog.open(folder) as log:
        assert (log.head, log.records, log.torn) == (heads[3], 3, None)
        head = log.append({"note": "next"})
    assert verify(folder, head).records == 4


def test_line_padded_with_zeros_by_the_file_system_is_torn(folder):
    fill(folder, 2)
    lines = lines_of(folder)
    for tail in (b"\0" * 100, lines[1][:50] + b"\0" * 50):
        put(folder, [lines[0], tail])
        AuditLog.open(folder).close()
        assert verify(folder).records == 1


WRITER = """
import sys, numpy as np
from foreworld.agent.audit import AuditLog
with AuditLog.open(sys.argv[1]) as log:
    while True:
        print(log.records, log.append({"text": "x" * 20000}, {"a": np.full(2000, log.records)}), flush=True)
"""


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.05])
def test_killed_while_appending_loses_nothing_that_was_acknowledged(folder, wait):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(3)]
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
    heads = [line.split()[1] for line in acknowledged if line.endswith("\n")]
    assert len(heads) >= 3
    with AuditLog.open(folder) as log:
        found = [entry.hash for entry in read(folder)]
        assert found[: len(heads)] == heads
        assert len(found) <= len(heads) + 1
        head = log.append({"note": "after the crash"})
    assert verify(folder, head).records == len(found) + 1


# --- Replay -------------------------------------------------------------------------------------------------------


def test_replay_recomputes_every_decision(folder):
    heads = fill(folder)
    with AuditLog.open(folder) as log:
        head = log.append({"note": "no decision here"})
    report = replay(folder, decide, head=head)
    assert (report.records, report.replayed, report.head) == (6, 5, head)
    assert head not in heads


def test_replay_withholds_the_recorded_decision(folder):
    fill(folder, 1)
    with pytest.raises(KeyError, match="decision"):
        replay(folder, lambda record, arrays: record["decision"])


@pytest.mark.parametrize(("wrong", "match"), [
    (lambda d: {**d, "insulin": np.nextafter(d["insulin"], 0)}, r"record 2: .*decision\.insulin"),
    (lambda d: {**d, "plan": [d["plan"][0], -math.nan]}, r"record 2: .*decision\.plan\[1\]"),
    (lambda d: {**d, "plan": d["plan"][:1]}, r"record 2: .*decision\.plan: 2 values"),
    (lambda d: {**d, "more": 1}, r"record 2: .*decision\.more: only the replay"),
    (lambda d: {"plan": d["plan"]}, r"record 2: .*decision\.insulin: only the log"),
])  # fmt: skip
def test_replay_names_the_first_difference(folder, wrong, match):
    fill(folder)
    with pytest.raises(AuditError, match=match):
        replay(folder, lambda r, a: wrong(decide(r, a)) if r["seed"] >= 3 else decide(r, a))


def test_replay_stops_at_tampering(folder):
    fill(folder)
    lines = lines_of(folder)
    put(folder, [*lines[:1], *lines[2:]])
    with pytest.raises(AuditError, match="removed"):
        replay(folder, decide)
