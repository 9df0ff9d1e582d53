"""Devices by name, as the command line and the configurations' callers write them."""

from __future__ import annotations

import re

import torch


def check_device(device: str, *, here: bool = True) -> None:
    """Check the name of a device and, where the work runs `here`, that torch finds it.

    Raises:
        ValueError: another name than cpu, cuda or cuda:N.
        RuntimeError: torch finds no such GPU; the message says what to do.
    """
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", device):
        raise ValueError(f"unknown device {device!r}; known: cpu, cuda, and cuda:N for GPU N")
    if device == "cpu" or not here:
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found <= int(device.partition(":")[2] or 0):
        devices = "no CUDA device" if not found else f"{found} CUDA device{'s' * (found > 1)}"
        raise RuntimeError(
            f"device {device!r} was asked for, but torch finds {devices}; {_advice(found)}"
        )


def _advice(found: int) -> str:
    if found:
        return f"use cpu, or {' or '.join(f'cuda:{number}' for number in range(found))}"
    if torch.version.cuda is None and torch.version.hip is None:
        return "use cpu, or install a PyTorch that is built for CUDA"
    return "use cpu, or see that nvidia-smi lists a GPU: its driver may be missing"
