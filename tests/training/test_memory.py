"""The peak of a computation's memory."""

from pathlib import Path

import pytest
import torch

from groupnorm.training.memory import watch_peak
from tests.training.test_loop import Regression, make, train


def peak_can_be_reset():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


needs_reset = pytest.mark.skipif(not peak_can_be_reset(), reason="the peak cannot be reset here")
CPU = torch.device("cpu")
MEGABYTE = 1_000_000


def fill(megabytes):
    return torch.ones(megabytes * MEGABYTE // 4)


@needs_reset
def test_the_peak_is_that_of_the_computation_alone():
    """Neither what was there before nor an earlier peak counts, and what malloc kept does."""
    there = fill(80)
    del there
    held = fill(40)
    end = watch_peak(CPU)
    assert end() < 5 * MEGABYTE
    end = watch_peak(CPU)
    block = fill(30)
    del block
    assert 29 * MEGABYTE < end() < 40 * MEGABYTE
    assert len(held) == 10 * MEGABYTE


def test_where_the_peak_cannot_be_measured_nothing_is_told(monkeypatch):
    assert watch_peak(torch.device("meta"))() is None

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert watch_peak(CPU)() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_tensors_of_the_computation_count():
    device = torch.device("cuda", torch.cuda.current_device())
    there = fill(80).to(device)
    end = watch_peak(device)
    block = fill(30).to(device)
    del block
    assert 30 * MEGABYTE <= end() < 31 * MEGABYTE
    assert len(there) == 20 * MEGABYTE


@needs_reset
def test_evaluation_and_data_are_not_in_a_steps_memory():
    class Large(Regression):
        def train(self, steps, rows):
            for batch in super().train(steps, rows):
                fill(90)
                yield batch

        def loss(self, model, x, indices):
            fill(25)
            return super().loss(model, x, indices)

        def evaluate(self, model, *, reported):
            fill(120)
            return {}

    config, model = make(epochs=2)
    rows = train(config, model, Large())
    assert all(24 * MEGABYTE < row["timing"]["step_memory_bytes"] < 40 * MEGABYTE for row in rows)
