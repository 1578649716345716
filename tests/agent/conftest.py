"""One thread: small tensors gain nothing from more, and on a busy machine threads wait for each other for minutes."""

import pytest
import torch
from tests.agent.tiny import make_forecaster, make_past


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def forecaster(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = make_forecaster(tmp_path_factory.mktemp("tiny"))
    torch.set_num_threads(threads)
    return made


@pytest.fixture(scope="session")
def past():
    return make_past()
