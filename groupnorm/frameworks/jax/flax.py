"""GroupNorm for `flax.nnx`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from groupnorm.frameworks.arguments import check_activation, whole_number
from groupnorm.frameworks.jax.group_norm import group_norm


class GroupNorm(nnx.Module):
    """Group normalization over x (N, *, C), with an activation if wanted.

    Takes the place of `flax.nnx.GroupNorm`: arguments of the same names mean the same, and the
    parameters are `scale` and `bias`. Its `reduction_axes`, `axis_name`, `axis_index_groups`,
    `use_fast_variance`, `promote_dtype`, `bias_metadata` and `scale_metadata`, and the `mask` of a
    call, are refused with a TypeError. What differs: the variance is that of centred values
    (flax's fast one loses all digits where means are far above the spread); half x gives half
    output whatever the dtype of the parameters; and **epsilon is 1e-5, as in PyTorch, where flax
    has 1e-6**. Give it where weights come from a model that was trained with another one.

    Args:
        num_features: C.
        num_groups: number of groups, a divisor of C; None with `group_size`.
        group_size: channels of a group, with `num_groups=None`.
        epsilon: added to the biased variance inside the root.
        dtype: x is converted to it first; None leaves it.
        param_dtype: of the parameters: that of x, or float32 with half x.
        use_bias: add a learned shift.
        use_scale: multiply by a learned scale.
        bias_init: of the shift; by default zeros.
        scale_init: of the scale; by default ones.
        activation: applied to the result; see `groupnorm.frameworks.jax.group_norm`.
        rngs: for the initializers.

    Raises:
        ValueError: groups that do not divide C, or an unknown activation.
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = 32,
        group_size: int | None = None,
        *,
        epsilon: float = 1e-5,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros,
        scale_init: Callable[..., jax.Array] = nnx.initializers.ones,
        activation: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_activation(activation)
        self.num_features = num_features
        self.num_groups = _groups(num_features, num_groups, group_size)
        self.group_size = num_features // self.num_groups
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.activation = activation
        shape = (num_features,)
        self.scale: nnx.Param[jax.Array] | None = nnx.data(None)
        self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
        if use_scale:
            self.scale = nnx.Param(scale_init(rngs.params(), shape, param_dtype))
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), shape, param_dtype))

    def __call__(self, x: Any) -> jax.Array:
        """activation(GN(x)), of x's shape and dtype (or `dtype`, if given)."""
        x = jnp.asarray(x, self.dtype)
        if x.ndim < 2 or x.shape[-1] != self.num_features:
            raise ValueError(
                f"expected x of shape (N, *, {self.num_features}), got {x.shape}; channels are last"
            )
        if x.size == x.shape[0] * self.num_groups > 0:
            warnings.warn(
                f"each of the {self.num_groups} groups holds one value of x {x.shape}, so the "
                "output is the bias whatever x is; use fewer groups",
                stacklevel=2,
            )
        scale = None if self.scale is None else self.scale[...]
        bias = None if self.bias is None else self.bias[...]
        return group_norm(x, self.num_groups, scale, bias, self.epsilon, self.activation)


def _groups(num_features: int, num_groups: int | None, group_size: int | None) -> int:
    if (num_groups is None) == (group_size is None):
        raise ValueError(
            "give num_groups or group_size (and then num_groups=None), got "
            f"num_groups={num_groups} and group_size={group_size}"
        )
    name, value = ("num_groups", num_groups) if group_size is None else ("group_size", group_size)
    number = whole_number(value)
    if number is None or number < 1 or num_features < 1 or num_features % number:
        raise ValueError(
            f"num_features must be a positive multiple of {name}, got {num_features} features and "
            f"{name}={value!r}"
        )
    return number if group_size is None else num_features // number
