"""NormSpec -> a picklable callable(num_channels) that builds layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from groupnorm.layers.batch_norm import BatchNorm, SyncBatchNorm
from groupnorm.layers.batch_renorm import BatchRenorm
from groupnorm.layers.evonorm import EvoNormS0
from groupnorm.layers.filter_response_norm import FilterResponseNorm
from groupnorm.layers.frozen_batch_norm import FrozenBatchNorm
from groupnorm.layers.group_norm import GroupNorm
from groupnorm.layers.layer_norm import LayerNorm2d
from groupnorm.layers.scaled_weight_standardization import ScaledWSConv2d
from groupnorm.layers.weight_standardization import (
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
)
from groupnorm.ops.activations import check_activation
from groupnorm.spec import NormSpec


class NormLayer(functools.partial[nn.Module]):
    """Builds the norm of a spec for a number of channels: `build_norm` with its keywords bound.

    A `functools.partial`, because that is what timm takes beside classes and functions.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NormLayer) and self.keywords == other.keywords

    def __hash__(self) -> int:
        return hash(tuple(self.keywords.items()))

    @property
    def spec(self) -> NormSpec:
        """What is built."""
        spec: NormSpec = self.keywords["spec"]
        return spec

    @property
    def batch_per_worker(self) -> int | None:
        """For `bn` and `brn`, the images whose statistics belong together; None for all."""
        batch_per_worker: int | None = self.keywords["batch_per_worker"]
        return batch_per_worker

    @property
    def brings_activation(self) -> bool:
        """True when what is built ends in an activation: the kind's own, or the one asked for."""
        return self.spec.brings_activation or self.keywords["activation"] is not None


def build_norm(
    num_channels: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    spec: NormSpec,
    batch_per_worker: int | None = None,
    activation: str | None = None,
    apply_act: bool = True,
    inplace: bool = False,
) -> nn.Module:
    """A new layer for input (N, num_channels, *).

    Args:
        activation: for `gn`, `ln` and `in`: applied after the norm, in the same kernel.
        apply_act: False leaves out the activation, also one that the norm brings, for a norm that
            an addition follows; timm's EfficientNet asks for it too.
        inplace: for timm; the layer never overwrites its input.
    """
    eps, affine = spec.eps, spec.affine
    assert eps is not None
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    match spec.kind:
        case "gn" | "ln" | "in":
            groups = spec.num_groups(num_channels)
            act = activation if apply_act else None
            return GroupNorm(groups, num_channels, eps, affine, **place, activation=act)
        case "ln2d":
            return LayerNorm2d(num_channels, eps, affine, **place)
        case "bn":
            return BatchNorm(
                num_channels, eps, affine=affine, **place, batch_per_worker=batch_per_worker
            )
        case "syncbn":
            return SyncBatchNorm(num_channels, eps, affine=affine, **place)
        case "frozenbn":
            return FrozenBatchNorm(num_channels, eps, **place)
        case "brn":
            assert spec.r is not None
            assert spec.d is not None
            return BatchRenorm(
                num_channels, eps, affine=affine, **place,
                r_max=spec.r, d_max=spec.d, ramp_steps=spec.ramp or 0,
                batch_per_worker=batch_per_worker,
            )  # fmt: skip
        case "frn":
            return FilterResponseNorm(
                num_channels, eps, affine, **place, learn_eps=spec.learn_eps, apply_act=apply_act
            )
        case "evonorm_s0":
            groups = spec.num_groups(num_channels)
            return EvoNormS0(groups, num_channels, eps, affine, **place, apply_act=apply_act)
        case "none":
            return nn.Identity()
    raise AssertionError(spec.kind)


def norm_layer(
    spec: str | NormSpec | NormLayer,
    *,
    batch_per_worker: int | None = None,
    activation: str | None = None,
) -> NormLayer:
    """The factory of a spec; a factory is returned as it is.

    The factory goes wherever a `callable(num_channels)` is taken. `frn` and `evonorm_s0` end in an
    activation of their own: a network that adds another one applies two (`norm_and_activation` is
    for networks that should take any norm).

        >>> norm_layer("gn:groups=8")(64)
        GroupNorm(8, 64, eps=1e-05, affine=True, bias=True, num_groups=8, channels_per_group=8)

    Args:
        batch_per_worker: for `bn` and `brn`, the images whose statistics belong together; None for
            all.
        activation: for `gn`, `ln` and `in`: applied after the norm, in the same kernel. For
            networks that expect a norm with its activation, such as timm's EfficientNet.

    Raises:
        NormSpecError: the spec cannot be read.
        ValueError: its kind takes no activation; `batch_per_worker` is not positive, or differs
            from that of the factory given.
    """
    if batch_per_worker is not None and batch_per_worker < 1:
        raise ValueError(f"batch_per_worker must be at least 1, got {batch_per_worker}")
    if isinstance(spec, NormLayer):
        if batch_per_worker not in (None, spec.batch_per_worker):
            raise ValueError(
                f"the factory has batch_per_worker={spec.batch_per_worker}, got "
                f"{batch_per_worker}; give its spec instead: norm_layer(factory.spec, ...)"
            )
        return spec
    parsed = NormSpec.parse(spec)
    if activation is not None and parsed.kind not in ("gn", "ln", "in"):
        raise ValueError(f"an activation goes with gn, ln and in, not with {parsed.kind}")
    check_activation(activation)
    return NormLayer(
        build_norm, spec=parsed, batch_per_worker=batch_per_worker, activation=activation
    )


def norm_and_activation(
    norm: NormLayer, num_channels: int, activation: Callable[[], nn.Module] = nn.ReLU
) -> tuple[nn.Module, nn.Module]:
    """The norm and what follows it: the activation, or nothing where the norm brings its own.

    Models build their pairs of norm and activation with it, so that each has exactly one. A norm
    that an addition follows is `norm(num_channels, apply_act=False)`; the activation after the
    addition is then the model's own, whatever the norm.

    Args:
        activation: makes the module that follows a norm without its own.
    """
    follows = nn.Identity() if norm.brings_activation else activation()
    return norm(num_channels), follows


_CONVOLUTIONS: dict[tuple[int, bool], tuple[type[nn.Module], type[nn.Module]]] = {
    # (dims, transposed): plain, weight-standardized
    (1, False): (nn.Conv1d, WSConv1d),
    (2, False): (nn.Conv2d, WSConv2d),
    (3, False): (nn.Conv3d, WSConv3d),
    (1, True): (nn.ConvTranspose1d, WSConvTranspose1d),
    (2, True): (nn.ConvTranspose2d, WSConvTranspose2d),
    (3, True): (nn.ConvTranspose3d, WSConvTranspose3d),
}


def conv_layer(
    spec: str | NormSpec | NormLayer,
    activation: str | None = None,
    *,
    dims: int = 2,
    transposed: bool = False,
) -> Callable[..., nn.Module]:
    """The convolution that goes with a spec, called as PyTorch's of the same name is.

    `WSConv2d` (form "timm") with `+ws`, `ScaledWSConv2d` with `+nf`, else `torch.nn.Conv2d`, and
    so on for the other dimensions.

    Args:
        activation: for `+nf`: the one that made the convolution's input.
        dims: spatial axes, 1 to 3.
        transposed: the transposed convolution.

    Raises:
        NormSpecError: the spec cannot be read.
        ValueError: dims is not 1, 2 or 3; `+nf` with any but plain convolutions of 2 dimensions.
    """
    parsed = spec.spec if isinstance(spec, NormLayer) else NormSpec.parse(spec)
    if (dims, transposed) not in _CONVOLUTIONS:
        raise ValueError(f"a convolution has 1, 2 or 3 dimensions, got dims={dims}")
    if parsed.nf:
        if dims != 2 or transposed:
            raise ValueError(
                f"{parsed} has plain convolutions of 2 dimensions only, got dims={dims}, "
                f"transposed={transposed}"
            )
        return functools.partial(ScaledWSConv2d, activation=activation)
    plain, standardized = _CONVOLUTIONS[dims, transposed]
    return standardized if parsed.ws else plain
