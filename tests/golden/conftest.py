"""One thread: small tensors gain nothing from more, and on a busy machine threads wait for each other for minutes."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
