"""Which backends there are, what each supports, and why one is off."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from groupnorm.ops.backend_aten import needs_shift

BACKENDS = ("aten", "reference")
"""In the order in which "auto" tries them."""


@dataclass(frozen=True)
class Choice:
    """The backend that runs, and the reason."""

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


def choose(input: Tensor, backend: str = "auto") -> Choice:
    """The backend for `input` of shape (N, C, *); a backend asked for by name is taken.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: auto, {', '.join(BACKENDS)}")
    asked = "asked for by name; " if backend != "auto" else ""
    if backend == "reference":
        return Choice("reference", f"{asked}plain PyTorch, the specification; slow")
    if needs_shift(input):
        return Choice(
            "aten",
            f"{asked}PyTorch's operator on input shifted to zero mean per group, because on the "
            "CPU it loses digits on input that is not contiguous as (N, C, *)",
        )
    return Choice("aten", f"{asked}PyTorch's operator, accurate for this layout and device")


def explain(input: Tensor, backend: str = "auto") -> str:
    """In words: the backend that `group_norm` runs for `input`, and why.

    Raises:
        ValueError: an unknown backend.
    """
    return str(choose(input, backend))


def report() -> list[dict[str, str | bool]]:
    """Every backend, whether it can run on this machine, and the reason."""
    return [
        {"name": "aten", "available": True, "reason": "on: PyTorch's operator, kept accurate"},
        {"name": "reference", "available": True, "reason": "on: the specification, by name only"},
    ]
