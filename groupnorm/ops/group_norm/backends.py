"""Which backends there are, what each supports, and why one is off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops.group_norm import aten, reference, triton
from groupnorm.ops.group_norm.memory import all_plain, check_memory
from groupnorm.ops.group_norm.native import backend as native
from groupnorm.ops.group_norm.native.launch import instruction_sets, why_off

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Backend:
    """One implementation of the operation.

    Attributes:
        forward: (input, num_groups, weight, bias, eps, activation, residual) -> y.
        dtypes: those of the input that it takes.
        about: what it is, in a few words.
        devices: kinds of device that it runs on; empty for any.
        off: why it cannot run on this machine; empty when it can.
        only_by_name: why "auto" does not choose it; empty when it does.
    """

    name: str
    forward: Callable[..., Tensor]
    dtypes: tuple[torch.dtype, ...]
    about: str
    devices: tuple[str, ...] = ()
    off: str = ""
    only_by_name: str = ""

    def why_not(self, input: Tensor) -> str | None:
        """Why it cannot take `input`; None when it can."""
        if self.off:
            return self.off
        if self.devices and input.device.type not in self.devices:
            return f"runs on {', '.join(self.devices)}, the input is on {input.device.type}"
        if input.dtype in self.dtypes:
            return None
        return f"takes {', '.join(str(d) for d in self.dtypes)}, got {input.dtype}"


def _reference_forward(*args: Any) -> Tensor:
    if not (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None):
        check_memory(*(a for a in args if isinstance(a, Tensor)))
    return reference.forward(*args)[0]


def _triton_forward(*args: Any) -> Tensor:
    from groupnorm.ops.group_norm.triton.backend import forward  # loads Triton

    return forward(*args)


# In the order in which "auto" tries them.
_TABLE = (
    Backend(
        "native",
        native.forward,
        FLOATS,
        f"C++ kernels for {(*instruction_sets(), 'the CPU')[0]}",
        devices=("cpu",),
        off=why_off,
    ),
    Backend(
        "triton",
        _triton_forward,
        (torch.float16, torch.bfloat16, torch.float32),
        "Triton kernels for CUDA, interpreted on the CPU"
        if triton.interpreted
        else "Triton kernels for CUDA",
        devices=("cuda", "cpu") if triton.interpreted else ("cuda",),
        off=triton.why_off,
        only_by_name="its launches cost more than small tensors gain (docs/gpu.md)",
    ),
    Backend("aten", aten.forward, FLOATS, "PyTorch's operator, kept accurate"),
    Backend("reference", _reference_forward, FLOATS, "the specification", only_by_name="slow"),
)
BACKENDS: tuple[str, ...] = tuple(backend.name for backend in _TABLE)
_ASKED = {"auto": tuple(backend for backend in _TABLE if not backend.only_by_name)}
_ASKED |= {backend.name: (backend,) for backend in _TABLE}
_ON_CPU: dict[tuple[str, torch.dtype], Backend] = {}  # what `choose` has found before


def check_backend(name: str) -> None:
    """Raise ValueError, listing the known names, unless `name` is "auto" or a backend's."""
    if name not in _ASKED:
        raise ValueError(f"unknown backend {name!r}; known: auto, {', '.join(BACKENDS)}")


def choose(input: Tensor, backend: str = "auto") -> Backend:
    """The backend that runs for `input` of shape (N, C, *); one asked for by name runs or raises.

    Raises:
        ValueError: an unknown name, or a dtype that the backend does not take.
    """
    key = (backend, input.dtype)
    if input.is_cpu and key in _ON_CPU:
        return _ON_CPU[key]
    check_backend(backend)
    asked = _ASKED[backend]
    for candidate in asked:
        if candidate.why_not(input) is None:
            if input.is_cpu:
                _ON_CPU[key] = candidate
            return candidate
    reasons = "; ".join(f"{b.name} {b.why_not(input)}" for b in asked)
    raise ValueError(f"no backend for this input: {reasons}. Convert the input first")


@dataclass(frozen=True)
class Explanation:
    """Which backend runs and why; `str()` gives it as a line of text for each backend.

    Attributes:
        backend: name of the backend that runs.
        reason: why this one.
        off: name of each other backend, and why it does not run.
    """

    backend: str
    reason: str
    off: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.backend}: {self.reason}"]
        return "\n".join(lines + [f"{name} is off: {why}" for name, why in self.off.items()])


def explain(input: Tensor | None = None, backend: str = "auto") -> Explanation:
    """The backend that `group_norm` runs for `input`, and why each other one is off.

    Args:
        input: tensor (N, C, *); None stands for contiguous float32 images on the CPU.
        backend: as in `group_norm`.

    Raises:
        ValueError: an unknown backend, or input that none takes.

    Example:
        >>> import groupnorm
        >>> groupnorm.explain(backend="aten").backend
        'aten'
    """
    if input is None:
        input = torch.empty(1, 1, 1, 1)
    chosen = choose(input, backend)
    reason = chosen.about
    if chosen.name in ("native", "triton") and not all_plain(input):
        reason = (
            f"the input is not plain memory ({torch._C._dispatch_keys(input)}), so PyTorch's "
            f"operator runs in place of the {chosen.name} kernels"
        )
        chosen = next(other for other in _TABLE if other.name == "aten")
    elif chosen.name == "aten" and aten.needs_shift(input):
        reason += (
            "; each group is shifted to zero mean first, because on the CPU PyTorch loses digits "
            "on channels_last and on half input"
        )
    if backend != "auto":
        reason += "; asked for by name"
    off = {}
    for other in _TABLE:
        if other is not chosen:
            why = other.why_not(input) or _by_name(other)
            off[other.name] = why or f"{chosen.name} comes first"
            if backend != "auto":
                off[other.name] = f"{backend} was asked for"
    return Explanation(chosen.name, reason, off)


def _by_name(backend: Backend) -> str:
    return f"runs only by name: {backend.only_by_name}" if backend.only_by_name else ""


def report() -> list[dict[str, str | bool]]:
    """Every backend, whether it can run on this machine, and what it is."""
    rows: list[dict[str, str | bool]] = []
    for backend in _TABLE:
        off = backend.off
        if not off and backend.devices == ("cuda",) and not torch.cuda.is_available():
            off = "needs a CUDA device, and PyTorch finds none"
        about = "; ".join(filter(None, (backend.about, _by_name(backend))))
        rows.append({"name": backend.name, "available": not off, "reason": off or about})
    return rows
