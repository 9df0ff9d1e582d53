"""Weight standardization (Qiao et al., arXiv 1903.10520) of flax's kernels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from groupnorm.frameworks.arguments import check_form, check_kernel


def standardize(kernel: Any, form: str = "timm", eps: float | None = None) -> Array:
    """Every output channel's filter with mean 0 and, up to eps, variance 1; same shape.

    A filter w of fan-in many values becomes, in the three forms in use::

        timm, bit   (w - mean(w)) / sqrt(biased var(w) + eps)     eps 1e-6, 1e-10
        original    (w - mean(w)) / (unbiased std(w) + eps)       eps 1e-5

    A filter of equal values gives zeros, never NaN, in value and gradient. Half kernels are
    standardized in float32. A convolution of flax takes the function that convolves::

        def convolve(x, kernel, *args, **kwargs):
            return jax.lax.conv_general_dilated(x, standardize(kernel), *args, **kwargs)

        nnx.Conv(16, 32, (3, 3), conv_general_dilated=convolve, rngs=rngs)

    Args:
        kernel: (*kernel, in_channels / groups, out_channels), as `nnx.Conv` and
            `nnx.ConvTranspose(transpose_kernel=False)` have it: a filter extends over all axes but
            the last.
        form: "timm", "bit" (Kolesnikov et al., arXiv 1912.11370) or "original" (the authors'
            code).
        eps: None takes the form's.

    Raises:
        ValueError: unknown form, eps outside (0, 1), filters of one weight, or a kernel that is not
            of floating-point numbers.
    """
    eps = check_form(form, eps)
    kernel = jnp.asarray(kernel)
    check_kernel(kernel.shape, kernel.dtype.name)
    w = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    axes = tuple(range(w.ndim - 1))
    centred = w - w.mean(axes, keepdims=True)
    if form == "original":
        variance = centred.var(axes, ddof=1, keepdims=True)
        equal = variance == 0  # the root has no slope there
        deviation = jnp.where(equal, 0, jnp.sqrt(jnp.where(equal, 1, variance)))
        w = centred / (deviation + eps)
    else:
        w = centred / jnp.sqrt(centred.var(axes, keepdims=True) + eps)
    return w.astype(kernel.dtype)
