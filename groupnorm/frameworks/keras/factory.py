"""The strings of `NormSpec` as Keras layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras import layers

from groupnorm.frameworks.keras.layers import GroupNormalization, WSConv1D, WSConv2D, WSConv3D
from groupnorm.spec import NormSpec

_KINDS = ("gn", "ln", "in", "bn", "none")  # any of them may end in +ws
_MOMENTUM = 0.9  # of running statistics: what PyTorch calls 0.1
_CONVOLUTIONS = {
    1: (layers.Conv1D, WSConv1D),
    2: (layers.Conv2D, WSConv2D),
    3: (layers.Conv3D, WSConv3D),
}


def norm_layer(spec: str | NormSpec) -> Callable[..., Any]:
    """A callable that builds a spec's layer for a number of channels, as in PyTorch.

    `norm_layer("gn:groups=16")(48)` is a `GroupNormalization` of 16 groups. The groups are the
    largest divisor of the channels that is at most the number asked for, and **epsilon is the
    spec's, 1e-5 if it says nothing**, where Keras's layers have 1e-3. "bn" is Keras's
    `BatchNormalization` with PyTorch's epsilon and momentum (0.9 here, 0.1 there); its running
    variance is the biased one, PyTorch's the unbiased.

    Args:
        spec: of kind gn, ln (one group), in (a group for each channel), bn or none.

    Returns:
        A callable of the number of channels, and of `axis`, `name` and `dtype` of the layer.

    Raises:
        groupnorm.spec.NormSpecError: the spec cannot be read.
        ValueError: its kind has no layer here.
    """
    return functools.partial(_build, _checked(spec))


def conv_layer(spec: str | NormSpec, *, dims: int = 2) -> Callable[..., Any]:
    """The convolution that goes with a spec: `WSConv2D` with +ws, else Keras's `Conv2D`.

    Args:
        spec: as in `norm_layer`.
        dims: spatial axes, 1 to 3.

    Raises:
        groupnorm.spec.NormSpecError: the spec cannot be read.
        ValueError: its kind has no layer here, or dims is not 1, 2 or 3.
    """
    if dims not in _CONVOLUTIONS:
        raise ValueError(f"a convolution has 1, 2 or 3 dimensions, got dims={dims}")
    plain, standardized = _CONVOLUTIONS[dims]
    return standardized if _checked(spec).ws else plain


def _checked(spec: str | NormSpec) -> NormSpec:
    parsed = NormSpec.parse(spec)
    if parsed.kind not in _KINDS or parsed.nf:
        raise ValueError(
            f"{parsed} has no layer in Keras; those that have are {', '.join(_KINDS)}, each with "
            "or without +ws"
        )
    return parsed


def _build(spec: NormSpec, num_channels: int, *, axis: int = -1, **options: Any) -> Any:
    if spec.kind == "none":
        return layers.Identity(**options)
    shared: dict[str, Any] = {
        "axis": axis,
        "epsilon": spec.eps,
        "center": spec.affine,
        "scale": spec.affine,
    }
    if spec.kind == "bn":
        return layers.BatchNormalization(momentum=_MOMENTUM, **shared, **options)
    return GroupNormalization(spec.num_groups(num_channels), **shared, **options)
