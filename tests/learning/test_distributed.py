"""Two processes under torchrun give the gradients and the weights of one process on the same whole batches."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.learning.worker import TERMS

from foreworld.errors import InputError
from foreworld.learning.distributed import Ranks, batch_size, processes

ROOT = Path(__file__).parents[2]


def run(folder: Path, *launcher: str) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    # The host's own name need not resolve on a machine without a network.
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    command = [sys.executable, "-W", "error::FutureWarning:torch", *launcher, str(ROOT / "tests/learning/worker.py")]
    done = subprocess.run(
        [*command, str(folder)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run(folder / "one"), run_two(folder / "two")


def run_two(folder: Path, tries: int = 3) -> dict[str, torch.Tensor]:
    """Under torchrun; somebody else may take a port between finding it free and using it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        return run(
            folder, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
            f"--master-port={port}",
        )  # fmt: skip
    except AssertionError as error:
        if "EADDRINUSE" not in str(error) or tries == 1:
            raise
        return run_two(folder, tries - 1)


def test_there_are_two_processes(found):
    _, one, two = found
    assert one["size"] == 1
    assert two["size"] == 2


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_is_that_of_one_process_on_the_whole_batch(found, term):
    _, one, two = found
    names = [name for name in one if name.startswith(f"{term}/")]
    assert names == [name for name in two if name.startswith(f"{term}/")]
    for name in names:
        assert one[name].norm() > 0 or name.endswith("bias")
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6 * float(one[name].abs().max()) + 1e-9)


def test_the_weights_after_some_steps_are_those_of_one_process(found):
    _, one, two = found
    for name in (name for name in one if name.startswith("weights/")):
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)


def test_the_first_process_alone_writes_the_log(found):
    folder, _, _ = found
    logs = [(folder / which / "run/metrics.jsonl").read_text().splitlines() for which in ("one", "two")]
    assert [json.loads(line)["step"] for line in logs[1]] == [5, 10, 12]
    for first, second in zip(*logs, strict=True):
        assert json.loads(second) == pytest.approx(json.loads(first), rel=1e-3)


@dataclass(frozen=True)
class Pair:
    first: np.ndarray
    second: dict[str, list[torch.Tensor]]


def test_a_batch_of_any_make_is_cut_in_order():
    batch = Pair(np.arange(6), {"a": [torch.arange(12).reshape(6, 2)]})
    assert batch_size(batch) == 6
    parts = [Ranks(rank, 3).shard(batch) for rank in range(3)]
    assert np.concatenate([part.first for part in parts]).tolist() == list(range(6))
    assert torch.equal(torch.cat([part.second["a"][0] for part in parts]), batch.second["a"][0])


@pytest.mark.parametrize("batch", [{"a": torch.ones(4), "b": torch.ones(5)}, {"a": torch.tensor(1.0)}, {}])
def test_a_batch_without_a_common_size_is_refused(batch):
    with pytest.raises(InputError, match="must share one"):
        batch_size(batch)


def test_a_batch_of_unknown_make_is_refused():
    with pytest.raises(InputError, match="not <class 'str'>"):
        batch_size({"a": "text"})


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(InputError, match="multiple of 2"):
        Ranks(0, 2).shard(torch.ones(5))


def test_without_torchrun_there_is_one_process_and_with_half_of_its_variables_an_error(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with processes() as ranks:
        assert ranks == Ranks(0, 1)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="RANK set but not WORLD_SIZE"), processes():
        pass
