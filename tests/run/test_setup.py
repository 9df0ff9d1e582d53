"""What the setups of all tasks share."""

import pytest
import torch

from groupnorm.run import setup


@pytest.mark.parametrize(
    ("threads", "processes", "expected"),
    [
        (8, None, 8),  # a process alone
        (64, None, 16),
        (1, None, 1),  # a trial that runs beside others
        (1, "1", 1),
        (1, "4", 6),  # one of torchrun's
        (8, "4", 8),
        (1, "32", 1),
        (1, "no number", 1),
    ],
)
def test_processes_of_torchrun_share_the_cores_for_decoding(
    monkeypatch, threads, processes, expected
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(setup, "_cores", lambda: 24)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert setup.decoders() == expected
