"""Distillation: it brings outputs nearer and says by what."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.distill import distill
from groupnorm.conversion.output_error import OutputError


def networks(last=3):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Linear(16, last))
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[2].weight.add_(0.3 * torch.randn(last, 16))
    return teacher.eval(), student.eval()


@torch.no_grad()
def error_of(student, teacher, x):
    error = OutputError()
    error.add(teacher(x), student(x))
    return error.value


def data(seed=0):
    x = torch.randn(64, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    return Batches(x, None, torch.device("cpu"))


@pytest.mark.parametrize(("last", "kind"), [(3, "divergence of the logits"), (1, "squared error")])
def test_outputs_come_nearer(last, kind):
    teacher, student = networks(last)
    before = copy.deepcopy(student.state_dict())
    old = copy.deepcopy(teacher.state_dict())
    x = torch.cat(data(1).pieces)
    error = error_of(student, teacher, x)
    note = distill(teacher, student, data(), 200)
    assert note == (
        f"Distilled over 200 steps, by the {kind}{' of the outputs' * (last == 1)}. Errors and "
        "offset shares of layers are those before it, the calibration output error is that after "
        "it."
    )
    assert error_of(student, teacher, x) < 0.8 * error
    assert all(torch.equal(old[key], value) for key, value in teacher.state_dict().items())
    assert not torch.equal(before["0.weight"], student.state_dict()["0.weight"])


def test_the_same_seed_trains_the_same_and_frozen_parameters_stay():
    found = []
    for seed in (0, 0, 1):
        teacher, student = networks()
        student[0].requires_grad_(False)
        distill(teacher, student, data(), 5, seed=seed)
        assert torch.equal(student[0].weight, teacher[0].weight)
        found.append(student[2].weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_cannot_be_trained():
    teacher, student = networks()
    with pytest.raises(ValueError, match="no parameter"):
        distill(teacher, student.requires_grad_(False), data(), 1)
    with pytest.raises(ValueError, match="not the same shapes"):
        distill(teacher, networks(4)[1], data(), 1)
    teacher, student = networks()
    with torch.no_grad():
        teacher[2].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite at step 1"):
        distill(teacher, student, data(), 1)
