"""Devices by name: what is no name, and what is not there."""

import pytest
import torch

from groupnorm.training.device import check_device


@pytest.mark.parametrize("name", ["", " ", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0"])
@pytest.mark.parametrize("here", [True, False])
def test_what_is_no_device(name, here):
    with pytest.raises(ValueError, match=r"unknown device .*; known: cpu, cuda, and cuda:N"):
        check_device(name, here=here)


@pytest.mark.parametrize(
    ("found", "asked", "told"),
    [
        (0, "cuda", "torch finds no CUDA device"),
        (1, "cuda:1", "torch finds 1 CUDA device$"),
        (2, "cuda:7", "torch finds 2 CUDA devices$"),
    ],
)
def test_a_gpu_that_is_not_there(monkeypatch, found, asked, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(RuntimeError, match=told):
        check_device(asked)
    check_device(asked, here=False)
    check_device("cpu")
    if found:
        check_device("cuda")
        check_device(f"cuda:{found - 1}")
