"""The allocator's thresholds: large blocks stay with the process."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groupnorm.memory import keep_large_blocks, large_blocks_are_kept, release_free_blocks
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


@pytest.mark.usefixtures("_fork_server")
@pytest.mark.xdist_group("processes")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_gaps_between_blocks_are_given_back():
    held, after = in_child(resident_bytes_with_gaps)
    assert after < held - 150_000_000


def resident_bytes_with_gaps(note):
    assert keep_large_blocks()  # so that they lie in the heap
    blocks = [torch.ones(5_000_000) for _ in range(20)]
    del blocks[::2]
    held = resident_bytes()
    assert release_free_blocks()
    return held, resident_bytes()


def resident_bytes():
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * resource.getpagesize()


TOLD = {
    "nothing": ("", {}, False),
    "the call": ("keep_large_blocks(); ", {}, True),
    "one threshold": ("", {"MALLOC_MMAP_THRESHOLD_": "1000000000"}, False),
    "the environment": (
        "",
        {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"},
        True,
    ),
    "tunables": (
        "",
        {
            "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000000:"
            "glibc.malloc.trim_threshold=1000000000"
        },
        True,
    ),
    "too late": ("import os; os.environ['MALLOC_MMAP_THRESHOLD_'] = '1000000000'; ", {}, False),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
@pytest.mark.parametrize("how", TOLD)
def test_whether_blocks_are_kept_is_known_however_it_came(how):
    call, environment, kept = TOLD[how]
    code = (
        "from groupnorm.memory import keep_large_blocks, large_blocks_are_kept\n"
        f"{call}print(large_blocks_are_kept())"
    )
    clean = {
        name: value
        for name, value in os.environ.items()
        if name != "GLIBC_TUNABLES" and not name.startswith("MALLOC_")
    }
    told = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert told.stdout.strip() == str(kept)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_large_blocks() is False
    assert large_blocks_are_kept() is False
    assert release_free_blocks() is False
