"""The allocator's thresholds and the peak of memory."""

import subprocess
import sys

import pytest

from groupnorm.training.memory import keep_large_blocks, peak_memory_bytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_large_blocks_are_kept_from_step_to_step():
    """Page faults per step, counted in a process of its own with and without the setting.

    The first steps fault either way: an aligned block does not fit where one of the same size was
    freed until its neighbours are free too.
    """
    code = (
        "import resource, sys, torch\n"
        "from groupnorm.training.memory import keep_large_blocks\n"
        "if sys.argv[1] == 'keep': assert keep_large_blocks()\n"
        "def steps(count):\n"
        "    for _ in range(count): torch.empty(12_000_000).fill_(1)\n"
        "steps(30)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "steps(10)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )

    def faults(mode):
        done = subprocess.run(
            [sys.executable, "-c", code, mode], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults("keep") < faults("default") / 10


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_large_blocks() is False


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    block = bytearray(b"x" * (before + 50_000_000))
    assert peak_memory_bytes() >= before + 40_000_000
    del block
