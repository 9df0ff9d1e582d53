"""Group Normalization for PyTorch, and the study that compares normalizations.

The names below load on first use, so that `import groupnorm` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groupnorm.layers import GroupNorm, GroupNormAct, norm_layer
    from groupnorm.ops.group_norm import explain, group_norm
    from groupnorm.spec import NormSpec

__all__ = ["GroupNorm", "GroupNormAct", "NormSpec", "explain", "group_norm", "norm_layer"]

_HOME = {
    "GroupNorm": "groupnorm.layers",
    "GroupNormAct": "groupnorm.layers",
    "NormSpec": "groupnorm.spec",
    "explain": "groupnorm.ops.group_norm",
    "group_norm": "groupnorm.ops.group_norm",
    "norm_layer": "groupnorm.layers",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'groupnorm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
