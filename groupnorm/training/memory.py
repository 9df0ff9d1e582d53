"""The peak memory of a computation."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def watch_peak(device: torch.device) -> Callable[[], int | None]:
    """Begin to watch the memory of a computation; the function returned ends it.

    That function gives the bytes at the fullest moment since, beyond those in use before: what the
    computation takes for itself, without the process, the data, weights and optimizer state that
    were there already.

    - On CUDA: of the tensors on `device`, as PyTorch's allocator counts them.
    - On the CPU under Linux: of the process's resident memory, whose peak is reset through
      `/proc/self/clear_refs`. Memory that malloc had kept free is given back to the system first,
      so that what the computation takes of it counts. Other threads of the process count, too.
    - Elsewhere, or where the system does not let the peak be reset: None, and nothing is guessed.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        used = torch.cuda.memory_allocated(device)
        return lambda: int(torch.cuda.max_memory_allocated(device)) - used
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return lambda: None
    _trim()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return lambda: None
    resident = _status_bytes("VmRSS")
    return lambda: None if resident is None else _beyond(resident)


def _beyond(resident: int) -> int | None:
    peak = _status_bytes("VmHWM")
    return None if peak is None else max(0, peak - resident)


def _trim() -> None:
    """Give the memory that glibc keeps free back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(key: str) -> int | None:
    """A number of kB of `/proc/self/status` in bytes; None where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    fields = [line.split() for line in lines if line.startswith(f"{key}:")]
    return int(fields[0][1]) * 1024 if fields else None
