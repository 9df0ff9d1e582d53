"""Group normalization and weight standardization in JAX, channels last; torch is not needed.

What belongs to flax loads on first use, so that JAX alone is enough for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groupnorm.frameworks.arguments import WS_FORMS
from groupnorm.frameworks.jax.group_norm import group_norm
from groupnorm.frameworks.jax.weight_standardization import standardize
from groupnorm.lazy import lazy

if TYPE_CHECKING:
    from groupnorm.frameworks.jax.flax import GroupNorm
    from groupnorm.frameworks.jax.weights import from_torch, to_torch

__all__ = ["WS_FORMS", "GroupNorm", "from_torch", "group_norm", "standardize", "to_torch"]

__getattr__ = lazy(
    __name__,
    {
        "GroupNorm": "groupnorm.frameworks.jax.flax",
        "from_torch": "groupnorm.frameworks.jax.weights",
        "to_torch": "groupnorm.frameworks.jax.weights",
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
