"""Per-sample gradients by PyTorch's ExpandedWeights (`call_for_per_sample_grads`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from groupnorm.ops.group_norm.activations import activate

_IMPLEMENTATION = "torch.nn.utils._expanded_weights.expanded_weights_impl"


class _GroupNorm:
    """What ExpandedWeights calls in place of `group_norm`: PyTorch's function, which it knows."""

    @staticmethod
    def apply(keywords: tuple[str, ...], function: Any, *values: Any) -> Tensor:
        """The result for `values`: input, num_groups, and the values of the keywords."""
        input, num_groups, *rest = values
        given = dict(zip(keywords, rest, strict=True))
        y = F.group_norm(input, num_groups, given["weight"], given["bias"], given["eps"])
        if given["residual"] is not None:
            y = y + given["residual"]
        return activate(y, given["activation"])


def register(group_norm: Callable[..., Tensor]) -> None:
    """Tell ExpandedWeights, if it was ever imported, how to run `group_norm`."""
    if implementation := sys.modules.get(_IMPLEMENTATION):
        implementation.HANDLED_FUNCTIONS.setdefault(group_norm, _GroupNorm)
