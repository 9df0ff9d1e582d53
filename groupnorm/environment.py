"""What a record needs besides its configuration: versions, the machine, digests of the code."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from groupnorm.ops.group_norm import explain


def environment() -> dict[str, Any]:
    """What a record needs besides its configuration: versions, digests, machine, threads.

    The GPU is named where there is one.
    """
    found = {
        **software(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "group_norm": cpu_kernels(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def software() -> dict[str, Any]:
    """The versions, and the digests of the code; asks nothing of a GPU."""
    return {
        "groupnorm": version("groupnorm"),
        "sources": sources_digest(),
        "kernels": kernels_digest(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def cpu_kernels() -> str:
    """The backend that group normalization has on this machine's processor, and what it is."""
    kernels = explain()
    return f"{kernels.backend}: {kernels.reason}"


@functools.cache
def sources_digest() -> str:
    """Twelve hexadecimal digits of the hash of the package's Python files."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def kernels_digest() -> str | None:
    """The same of the compiled kernels; None when there are none."""
    spec = importlib.util.find_spec("groupnorm.ops.group_norm.native._native")
    if spec is None or spec.origin is None:
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]


def cpu_name() -> str:
    """The processor's name as the system tells it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        return name.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
