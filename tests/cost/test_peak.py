"""The memory of a training step: the parts by hand, the peak against a real step."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from groupnorm.cost.peak import StepMemory, TrainingStep
from groupnorm.models import build_model
from tests.tolerances import ALLOCATED


def resnet20(norm):
    return lambda: build_model("resnet20", norm=norm, num_classes=10)


def test_a_chain_by_hand():
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(),
                             nn.Linear(512, 10, bias=False))  # fmt: skip

    found = TrainingStep(build).memory((3, 8, 8), 4)
    weights, logits, maps = 4 * (8 * 27 + 5120), 4 * 4 * 10, 4 * 4 * 8 * 64
    assert (found.weights, found.gradients, found.optimizer) == (weights,) * 3
    assert found.batch == 4 * 4 * 3 * 64 + 4 * 8
    # ReLU's output, which the linear layer keeps too; log-softmax and the number of images.
    assert found.saved == maps + logits + 4
    assert found.transient > 0
    assert TrainingStep(build, optimizer="adam").memory((3, 8, 8), 4).optimizer == 2 * weights + 8


def test_the_fields_add_up_to_the_peak():
    assert StepMemory(1, 7, 20, 300, 4000, 50000).peak == 54321


def test_precision_is_that_of_the_activations():
    whole = TrainingStep(resnet20("gn")).memory((3, 32, 32), 16)
    half = TrainingStep(resnet20("gn"), precision="bfloat16").memory((3, 32, 32), 16)
    assert half.weights == whole.weights
    assert 0.4 < half.saved / whole.saved < 0.6


def test_counting_twice_is_counting_once_and_no_memory_is_taken():
    step = TrainingStep(resnet20("bn"))
    first = step.memory((3, 32, 32), 8)
    huge = step.memory((3, 32, 32), 10**6)
    assert huge.peak > 10**12  # a terabyte
    assert step.memory((3, 32, 32), 8) == first


def test_what_is_not_known_is_named():
    with pytest.raises(ValueError, match="precision is float32 or bfloat16, got 'half'"):
        TrainingStep(resnet20("gn"), precision="half")
    with pytest.raises(ValueError, match="optimizer is sgd or adam, got 'lamb'"):
        TrainingStep(resnet20("gn"), optimizer="lamb")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux's /proc")
@pytest.mark.parametrize("norm", ["gn", "bn", "frn"])
def test_the_peak_is_that_of_a_real_step(norm):
    program = Path(__file__).with_name("training_step.py")
    arguments = [sys.executable, str(program), norm, "64", "32"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    measured = {key: int(value) for key, value in map(str.split, done.stdout.splitlines())}
    step = TrainingStep(resnet20(norm)).memory((3, 32, 32), 64)
    growth = step.peak - step.weights - step.optimizer
    # PyTorch's own allocations: but for a convolution's workspace (1.2 MB of 100 MB), all of them.
    assert measured["allocated"] == pytest.approx(growth, rel=ALLOCATED)
    # What the system gave the process: free blocks between those in use, and oneDNN's own memory.
    assert 0.9 * growth < measured["resident"] < 1.7 * growth


def test_random_generators_are_left_alone():
    before = torch.get_rng_state()
    TrainingStep(resnet20("gn")).memory((3, 32, 32), 2)
    assert torch.equal(torch.get_rng_state(), before)
