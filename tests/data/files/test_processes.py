"""Worker processes: how far they go ahead, and how much memory they may take."""

import mmap
import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.data import Dataset

from groupnorm.data.files import processes
from groupnorm.data.files.processes import in_processes


class Item(NamedTuple):
    number: int
    process: int
    refused: bool
    failure: str = ""


class Items(Dataset):
    """Each leaves a file behind, and asks for `size` bytes of address space."""

    def __init__(self, folder, size=0):
        self.folder, self.size = folder, size

    def __getitem__(self, number):
        (self.folder / str(number)).touch()
        refused = False
        try:
            if self.size:
                mmap.mmap(-1, self.size)  # an array might get what an earlier one gave back
        except OSError:
            refused = True
        return Item(number, os.getpid(), refused)


@pytest.mark.parametrize(
    ("largest", "used", "ahead"),
    [(None, 2, 4), (1, 2, 4), (60, 2, 4), (80, 2, 2), (100, 2, 2), (1000, 1, 1)],
)
def test_no_more_is_made_ahead_than_memory_is_meant_for(
    tmp_path, monkeypatch, largest, used, ahead
):
    monkeypatch.setattr(processes, "AHEAD", 250)
    made = in_processes(Items(tmp_path), range(20), 2, "cpu", largest)
    assert next(made).number == 0
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) <= ahead + 1
    found = list(made)
    assert [item.number for item in found] == list(range(1, 20)), "all of them, in order"
    assert len({item.process for item in found}) == used


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no one knows what it takes")
@pytest.mark.parametrize(("largest", "refused"), [(None, False), (1 << 20, True), (1 << 28, False)])
def test_a_process_does_not_get_far_more_memory_than_its_batches_need(
    tmp_path, monkeypatch, largest, refused
):
    monkeypatch.setattr(processes, "ROOM", 200 << 20)
    (item,) = in_processes(Items(tmp_path, 600 << 20), range(1), 1, "cpu", largest)
    assert item.refused is refused
    assert torch.empty(600 << 20, dtype=torch.uint8).numel(), "this process is not limited"


def test_a_lower_limit_stays(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    lower, upper = resource.getrlimit(resource.RLIMIT_AS)
    found = []
    monkeypatch.setattr(resource, "setrlimit", lambda *given: found.append(given))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 20, upper))
    processes._limit_memory(1 << 20, 0)
    assert found == []
    assert not processes.memory_is_limited()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (lower, resource.RLIM_INFINITY))
    monkeypatch.setattr(processes, "_limits", [])
    processes._limit_memory(1 << 20, 0)
    assert [kind for kind, _ in found] == [resource.RLIMIT_AS]
    assert processes.memory_is_limited()
