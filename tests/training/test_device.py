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
        (0, "cuda", "torch finds no CUDA device; use cpu, or see that nvidia-smi lists a GPU"),
        (1, "cuda:1", "torch finds 1 CUDA device; use cpu, or cuda:0$"),
        (2, "cuda:7", "torch finds 2 CUDA devices; use cpu, or cuda:0 or cuda:1$"),
    ],
)
def test_a_gpu_that_is_not_there(monkeypatch, found, asked, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RuntimeError, match=told):
        check_device(asked)
    check_device(asked, here=False)
    check_device("cpu")
    if found:
        check_device("cuda")
        check_device(f"cuda:{found - 1}")


def test_a_pytorch_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = "torch finds no CUDA device; use cpu, or install a PyTorch that is built for CUDA"
    with pytest.raises(RuntimeError, match=told):
        check_device("cuda")
