"""The allocator's thresholds and the peak of memory."""

import subprocess
import sys

import pytest

from groupnorm.training.memory import keep_large_blocks, peak_memory_bytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_large_blocks_are_kept_from_step_to_step():
    """Page faults per step, counted in a process of its own with and without the setting."""
    code = (
        "import resource, sys, torch\n"
        "from groupnorm.training.memory import keep_large_blocks\n"
        "if sys.argv[1] == 'keep': assert keep_large_blocks()\n"
        "def step():\n"
        "    for _ in range(5): torch.empty(12_000_000).fill_(1)\n"
        "step()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )

    def faults(mode):
        done = subprocess.run(
            [sys.executable, "-c", code, mode], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    # The heap cannot grow where the address space was laid out against it: then try again.
    assert min(faults("keep") for _ in range(4)) < faults("default") / 10


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_large_blocks() is False


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    block = bytearray(b"x" * (before + 50_000_000))
    assert peak_memory_bytes() >= before + 40_000_000
    del block
