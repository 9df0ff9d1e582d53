"""Commands that run in this process leave it as it was."""

import signal

import pytest
import torch


@pytest.fixture(autouse=True)
def _signals_and_threads():
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)
