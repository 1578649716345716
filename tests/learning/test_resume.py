"""A run that was killed ends with the weights and the log of one that was not, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.learning.toy import Draws, Net, loss

from foreworld.episodes.files import one_writer
from foreworld.errors import FormatError, InputError
from foreworld.learning.fit import FitConfig, fit
from foreworld.learning.resume import STATE_FILE, State, read_state, write_state

CONFIG = FitConfig(steps=60, lr=1e-2, warmup=5, ema=0.9, log_every=7, save_every_seconds=0, threads=1, seed=3)
ROOT = Path(__file__).parents[2]
# Slowed down so that the kill falls into the run; a state is saved after every step.
VICTIM = """
import sys, time
from tests.learning.test_resume import CONFIG, Draws, Net, fit, loss
def slow(module, batch, generator):
    print("step", flush=True)
    time.sleep(0.004)
    return loss(module, batch, generator)
fit(Net(dropout=0.3), Draws(), slow, CONFIG.model_copy(update={"threads": int(sys.argv[2])}), sys.argv[1])
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder, net = tmp_path_factory.mktemp("whole"), Net(dropout=0.3)
    fit(net, Draws(), loss, CONFIG, folder)
    return folder, net


def assert_same(folder, net, uninterrupted):
    whole, expected = uninterrupted
    for name, value in net.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    first, second = read_state(folder), read_state(whole)
    assert first.facts == second.facts
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_a_run_killed_twice_ends_as_an_uninterrupted_one(tmp_path, uninterrupted):
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    reached = []
    for steps in (9, 20):
        command = [sys.executable, "-c", VICTIM, str(tmp_path), str(CONFIG.threads)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as victim:
            for _ in range(steps):
                assert victim.stdout.readline() == "step\n"
            time.sleep(0.003)
            victim.send_signal(signal.SIGKILL)
        reached.append(read_state(tmp_path).step)
    assert 0 < reached[0] < reached[1] < CONFIG.steps
    net = Net(dropout=0.3, seed=99)
    done = fit(net, Draws(), loss, CONFIG, tmp_path)
    assert done.resumed == reached[1]
    assert_same(tmp_path, net, uninterrupted)


@pytest.mark.parametrize("at", [1, 7, 13, 59])
def test_a_run_stopped_by_an_error_ends_as_an_uninterrupted_one(tmp_path, uninterrupted, at):
    calls = 0

    def stopping(module, batch, generator):
        nonlocal calls
        calls += 1
        if calls > at:
            raise KeyboardInterrupt
        return loss(module, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(Net(dropout=0.3), Draws(), stopping, CONFIG, tmp_path)
    # What a killed process may leave behind: rows after the state, half a row, half a state.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1000, "loss": 1.0}\n{"step": 10')
    (tmp_path / f".{STATE_FILE}.new").write_bytes(b"half")
    net = Net(dropout=0.3, seed=99)
    assert fit(net, Draws(), loss, CONFIG, tmp_path).resumed == at
    assert_same(tmp_path, net, uninterrupted)


def test_a_run_stopped_before_its_first_state_starts_again(tmp_path, uninterrupted):
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "loss": 1.0}\n')
    net = Net(dropout=0.3)
    assert fit(net, Draws(), loss, CONFIG, tmp_path).resumed == 0
    assert_same(tmp_path, net, uninterrupted)


def test_a_finished_run_only_gives_its_weights(uninterrupted):
    folder, expected = uninterrupted

    def never(module, batch, generator):
        raise AssertionError("trained again")

    net = Net(seed=99)
    done = fit(net, Draws(), never, CONFIG, folder)
    assert done.resumed == CONFIG.steps
    assert done.metrics["loss"] > 0
    assert torch.equal(net.head.weight, expected.head.weight)


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"steps": 70}, {"seed": 4}, {"ema": None}])
def test_a_run_with_other_options_is_refused(uninterrupted, change):
    folder, _ = uninterrupted
    name = next(iter(change))
    with pytest.raises(InputError, match=f"started with {name} = "):
        fit(Net(), Draws(), loss, CONFIG.model_copy(update=change), folder)


def test_a_run_of_another_module_is_refused(uninterrupted):
    folder, _ = uninterrupted
    net = Net()
    net.head = torch.nn.Linear(8, 2)
    with pytest.raises(InputError, match=r"head\.\w+ is \(1,.*another run folder"):
        fit(net, Draws(), loss, CONFIG, folder)


def test_a_run_folder_has_one_writer(tmp_path):
    with one_writer(tmp_path / ".lock"), pytest.raises(InputError, match="another writer"):
        fit(Net(), Draws(), loss, CONFIG, tmp_path)


def test_batches_whose_state_is_not_json_are_refused(tmp_path):
    class Odd(Draws):
        def state_dict(self):
            return {"generator": self.generator}

    with pytest.raises(InputError, match="must give JSON"):
        fit(Net(), Odd(), loss, FitConfig(steps=1), tmp_path)


def test_a_damaged_state_is_refused(tmp_path):
    write_state(tmp_path, State(3, {"weights/a": torch.ones(100)}, {"options": {}}))
    path = tmp_path / STATE_FILE
    content = path.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(FormatError, match="truncated or damaged"):
            read_state(tmp_path)
    save_file({"weights/a": torch.ones(3)}, path)
    with pytest.raises(FormatError, match="truncated or damaged"):
        read_state(tmp_path)


def test_a_state_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("foreworld.learning.resume.FORMAT_VERSION", 2)
    write_state(tmp_path, State(3))
    monkeypatch.undo()
    with pytest.raises(FormatError, match="newer version"):
        read_state(tmp_path)


def test_tied_weights_are_saved_and_restored(tmp_path):
    net = Net()
    net.head.weight = torch.nn.Parameter(net.body[3].weight[:1, :8].detach().clone())
    net.twin = net.head
    fit(net, Draws(), loss, FitConfig(steps=2), tmp_path)
    again = Net(seed=5)
    again.twin = again.head
    fit(again, Draws(), loss, FitConfig(steps=2), tmp_path)
    assert torch.equal(net.head.weight, again.head.weight)
