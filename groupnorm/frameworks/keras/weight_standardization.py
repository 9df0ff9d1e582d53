"""Weight standardization (Qiao et al., arXiv 1903.10520) of Keras kernels."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from groupnorm.frameworks.arguments import check_form, check_kernel


def standardize(kernel: Any, form: str = "timm", eps: float | None = None) -> Any:
    """Every output channel's filter with mean 0 and, up to eps, variance 1; same shape and dtype.

    A filter w of fan-in many values becomes, in the three forms in use::

        timm, bit   (w - mean(w)) / sqrt(biased var(w) + eps)     eps 1e-6, 1e-10
        original    (w - mean(w)) / (unbiased std(w) + eps)       eps 1e-5

    A filter of equal values gives zeros, never NaN, in value and gradient. Half kernels are
    standardized in float32.

    Args:
        kernel: (*kernel, in_channels / groups, out_channels).
        form: "timm", "bit" (Kolesnikov et al., arXiv 1912.11370) or "original" (the authors'
            code).
        eps: None takes the form's.

    Raises:
        ValueError: unknown form, eps outside (0, 1), filters of one weight, or a kernel that is not
            of floating-point numbers.
    """
    eps = check_form(form, eps)
    kernel = ops.convert_to_tensor(kernel)
    dtype = keras.backend.standardize_dtype(kernel.dtype)
    check_kernel(kernel.shape, dtype)
    axes = tuple(range(len(kernel.shape) - 1))
    count = math.prod(kernel.shape[:-1])
    w = ops.cast(kernel, "float64" if dtype == "float64" else "float32")
    centred = w - ops.mean(w, axes, keepdims=True)
    square = ops.sum(centred * centred, axes, keepdims=True)
    if form == "original":
        # The root has no derivative at 0, where the filter is 0 whatever it is divided by.
        positive = square > 0
        std = ops.sqrt(ops.where(positive, square, 1.0) / (count - 1))
        w = centred / (ops.where(positive, std, 0.0) + eps)
    else:
        w = centred * ops.rsqrt(square / count + eps)
    return ops.cast(w, dtype)
