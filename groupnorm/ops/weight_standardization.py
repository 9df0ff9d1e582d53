"""Weight standardization (Qiao et al., arXiv 1903.10520)."""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.group_norm.memory import shape_of
from groupnorm.ops.group_norm.reference import statistics_dtype

# form -> its eps; the formulas stand in `standardize`
WS_FORMS: dict[str, float] = {"timm": 1e-6, "bit": 1e-10, "original": 1e-5}
"""The forms of eps in use, by where their weights come from, and the eps of each."""


def standardize(
    weight: Tensor,
    form: str = "timm",
    eps: float | None = None,
    *,
    transposed_groups: int | None = None,
) -> Tensor:
    """Every output channel's filter with mean 0 and, up to eps, variance 1; same shape.

    A filter w of fan-in many values becomes, in the three forms in use::

        timm, bit   (w - mean(w)) / sqrt(biased var(w) + eps)     eps 1e-6, 1e-10
        original    (w - mean(w)) / (unbiased std(w) + eps)       eps 1e-5

    A filter of equal values gives zeros, never NaN, in value and gradient. Half weights are
    standardized in float32.

    Args:
        weight: (out_channels, in_channels / groups, *kernel), or, of a transposed convolution,
            (in_channels, out_channels / groups, *kernel).
        form: "timm", "bit" (Kolesnikov et al., arXiv 1912.11370) or "original" (the authors'
            code).
        eps: None takes the form's.
        transposed_groups: for a transposed convolution its `groups`.

    Raises:
        ValueError: unknown form, eps outside (0, 1), or filters of one weight.
    """
    eps = check_form(form, eps)
    w, axes = _filters(weight, transposed_groups)
    centred = w - w.mean(axes, keepdim=True)
    if form == "original":
        w = centred / (centred.std(axes, keepdim=True) + eps)
    else:
        w = centred * torch.rsqrt(centred.var(axes, correction=0, keepdim=True) + eps)
    return w.view(weight.shape).to(weight.dtype)


def filter_moments(
    weight: Tensor,
    form: str = "timm",
    eps: float | None = None,
    *,
    transposed_groups: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and divisor of each filter: `standardize(weight) * divisor + mean` is the weight.

    Args:
        weight: and the others, as in `standardize`.

    Returns:
        Both in the accumulation dtype, in a shape that multiplies the weight.

    Raises:
        ValueError: as `standardize`.
    """
    eps = check_form(form, eps)
    w, axes = _filters(weight, transposed_groups)
    mean = w.mean(axes, keepdim=True)
    if form == "original":
        divisor = w.std(axes, keepdim=True) + eps
    else:
        divisor = (w.var(axes, correction=0, keepdim=True) + eps).sqrt()
    if transposed_groups is None:
        return mean, divisor
    each = (transposed_groups, w.shape[1], *mean.shape[2:])
    shape = (weight.shape[0], *mean.shape[2:])
    return mean.expand(each).reshape(shape), divisor.expand(each).reshape(shape)


def _filters(weight: Tensor, transposed_groups: int | None) -> tuple[Tensor, tuple[int, ...]]:
    """The weight in the accumulation dtype, and the axes that each filter extends over."""
    check_filters(weight, transposed_groups)
    w = weight.to(statistics_dtype(weight.dtype))
    if transposed_groups is None:
        return w, tuple(range(1, w.dim()))
    # (groups, in / groups, out / groups, *kernel)
    w = w.view(transposed_groups, -1, *w.shape[1:])
    return w, (1, *range(3, w.dim()))


def check_form(form: str, eps: float | None) -> float:
    """The eps to use: the one given, or the form's.

    Raises:
        ValueError: unknown form, or eps outside (0, 1).
    """
    if form not in WS_FORMS:
        raise ValueError(
            f"unknown form of weight standardization {form!r}; known: {', '.join(WS_FORMS)}"
        )
    eps = WS_FORMS[form] if eps is None else eps
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie between 0 and 1, got {eps}")
    return eps


def check_filters(weight: Tensor, transposed_groups: int | None = None) -> None:
    """Check that filters can be standardized.

    Args:
        weight: and `transposed_groups`, as in `standardize`.

    Raises:
        ValueError: they have one weight each.
    """
    shape = shape_of(weight)
    inputs = shape[1]
    if transposed_groups is not None:
        inputs = shape[0] // transposed_groups
    if inputs * shape[2:].numel() == 1:
        raise ValueError(
            "a filter of one weight is standardized to 0, got weights of shape "
            f"{tuple(shape)}; leave this convolution as it is"
        )
