"""Group Normalization for PyTorch, and the study that compares normalizations.

The names below load on first use, so that `import groupnorm` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groupnorm.lazy import lazy

if TYPE_CHECKING:
    from groupnorm.conversion import convert
    from groupnorm.layers import GroupNorm, GroupNormAct, norm_layer
    from groupnorm.memory import keep_large_blocks, large_blocks_are_kept
    from groupnorm.ops.group_norm import explain, group_norm
    from groupnorm.spec import NormSpec

__all__ = [
    "GroupNorm",
    "GroupNormAct",
    "NormSpec",
    "convert",
    "explain",
    "group_norm",
    "keep_large_blocks",
    "large_blocks_are_kept",
    "norm_layer",
]

__getattr__ = lazy(
    __name__,
    {
        "GroupNorm": "groupnorm.layers",
        "GroupNormAct": "groupnorm.layers",
        "NormSpec": "groupnorm.spec",
        "convert": "groupnorm.conversion",
        "explain": "groupnorm.ops.group_norm",
        "group_norm": "groupnorm.ops.group_norm",
        "keep_large_blocks": "groupnorm.memory",
        "large_blocks_are_kept": "groupnorm.memory",
        "norm_layer": "groupnorm.layers",
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
