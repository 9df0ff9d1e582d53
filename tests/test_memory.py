"""The allocator's thresholds: large blocks stay with the process."""

import resource
import sys

import pytest
import torch

from groupnorm.memory import keep_large_blocks
from tests.child import in_child


@pytest.mark.usefixtures("_fork_server")
@pytest.mark.xdist_group("processes")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_large_blocks_are_kept_from_step_to_step():
    """Page faults per step, counted in a process of its own with and without the setting.

    The first steps fault either way: an aligned block does not fit where one of the same size was
    freed until its neighbours are free too.
    """
    assert in_child(faults, True) < in_child(faults, False) / 10


def faults(note, keep):
    assert not keep or keep_large_blocks()
    for step in range(40):
        if step == 30:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(12_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_large_blocks() is False
