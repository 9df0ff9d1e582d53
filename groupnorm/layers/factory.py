"""NormSpec -> a picklable callable(num_channels) that builds layers."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from groupnorm.layers.batch_norm import BatchNorm, SyncBatchNorm
from groupnorm.layers.batch_renorm import BatchRenorm
from groupnorm.layers.conv import (
    ScaledWSConv2d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
)
from groupnorm.layers.evonorm import EvoNormS0
from groupnorm.layers.filter_response_norm import FilterResponseNorm
from groupnorm.layers.frozen_batch_norm import FrozenBatchNorm
from groupnorm.layers.group_norm import GroupNorm
from groupnorm.layers.layer_norm import LayerNorm2d
from groupnorm.layers.with_activation import (
    activation_module,
    activation_of_name,
    followed_by,
    fused_activation,
)
from groupnorm.ops.group_norm.activations import check_activation
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
    def func(self) -> Callable[..., nn.Module]:
        """`build_norm`; timm takes it from here."""
        _register_in_timm()
        return super().func

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


_UNSAID: Any = object()


def build_norm(
    num_features: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    spec: NormSpec,
    batch_per_worker: int | None = None,
    activation: str | None = None,
    eps: float | None = None,
    apply_act: bool | None = None,
    act_layer: Any = _UNSAID,
    act_kwargs: dict[str, Any] | None = None,
    inplace: bool | None = None,
    drop_layer: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """A new layer for input (N, num_features, *).

    The arguments from `eps` on are what timm's networks say when they build a norm. One that says
    `apply_act`, `act_layer`, `act_kwargs`, `inplace` or `drop_layer` expects the norm and its
    activation as one layer and gets that, whatever the kind.

    Args:
        activation: for `gn`, `ln` and `in`: applied after the norm, in the same kernel. It takes
            the place of `act_layer`.
        eps: takes the place of the kind's default; a spec that was given its own keeps that.
        apply_act: False leaves out the activation, also one that the norm brings, for a norm that
            an addition follows.
        act_layer: makes the activation, or is timm's name of it; None leaves it out. Unsaid, it is
            ReLU, as in timm. `frn` and `evonorm_s0` have their own activation instead.
        act_kwargs: arguments of `act_layer`.
        inplace: the activation may overwrite the norm's output. The input is never overwritten.
        drop_layer: makes what drops a part of the norm's output before `act_layer`, or after an
            activation that is part of the norm.

    Raises:
        ValueError: timm has no activation of the name `act_layer`.
    """
    eps = spec.eps if eps is None else spec.own_eps or eps
    assert eps is not None
    affine = spec.affine
    place: dict[str, Any] = {"device": device, "dtype": dtype}

    said = act_layer is not _UNSAID or any(
        argument is not None for argument in (apply_act, act_kwargs, inplace, drop_layer)
    )
    if isinstance(act_layer, str) and act_layer:
        act_layer = activation_of_name(act_layer)
    apply_act = apply_act is not False and act_layer not in (None, "")
    act, drop = None, drop_layer() if drop_layer is not None else None
    if not apply_act:
        activation = None
    elif said and activation is None and not spec.brings_activation:
        act_layer = nn.ReLU if act_layer is _UNSAID else act_layer
        may_overwrite = bool(inplace) and spec.kind != "none"
        act = activation_module(act_layer, act_kwargs, may_overwrite)
        if spec.kind in _FUSED and drop is None:
            activation = fused_activation(act)
            act = act if activation is None else None
    layer = functools.partial(followed_by, drop=drop, act=act)

    match spec.kind:
        case "gn" | "ln" | "in":
            groups = spec.num_groups(num_features)
            return layer(GroupNorm)(
                groups, num_features, eps, affine, **place, activation=activation
            )
        case "ln2d":
            return layer(LayerNorm2d)(num_features, eps, affine, **place)
        case "bn":
            return layer(BatchNorm)(
                num_features, eps, affine=affine, **place, batch_per_worker=batch_per_worker
            )
        case "syncbn":
            return layer(SyncBatchNorm)(num_features, eps, affine=affine, **place)
        case "frozenbn":
            return layer(FrozenBatchNorm)(num_features, eps, **place)
        case "brn":
            assert spec.r is not None
            assert spec.d is not None
            return layer(BatchRenorm)(
                num_features, eps, affine=affine, **place,
                r_max=spec.r, d_max=spec.d, ramp_steps=spec.ramp or 0,
                batch_per_worker=batch_per_worker,
            )  # fmt: skip
        case "frn":
            return layer(FilterResponseNorm)(
                num_features, eps, affine, **place, learn_eps=spec.learn_eps, apply_act=apply_act
            )
        case "evonorm_s0":
            groups = spec.num_groups(num_features)
            return layer(EvoNormS0)(groups, num_features, eps, affine, **place, apply_act=apply_act)
        case "none":
            return layer(nn.Identity)()
    raise AssertionError(spec.kind)


_FUSED = ("gn", "ln", "in")


def _register_in_timm() -> None:
    """Enter `build_norm` among the makers of norms that timm tells the activation it wants.

    timm tells it to those it knows to need it; without that a network that expects norm and
    activation in one may call the norm as one that expects the norm alone.
    """
    timm = sys.modules.get("timm.layers.create_norm_act")
    if timm is None:
        return
    if hasattr(timm, "_NORM_ACT_REQUIRES_ARG"):
        timm._NORM_ACT_REQUIRES_ARG.add(build_norm)
    else:
        warnings.warn(
            "this version of timm does not tell which activation follows a norm: where a network "
            "expects it within the norm, compare the number of activations with batch norm's",
            stacklevel=3,
        )


def norm_layer(
    spec: str | NormSpec | NormLayer,
    *,
    batch_per_worker: int | None = None,
    activation: str | None = None,
) -> NormLayer:
    """The factory of a spec; a factory is returned as it is.

    The factory goes wherever a `callable(num_features)` is taken. `frn` and `evonorm_s0` end in an
    activation of their own: a network that adds another one applies two (`norm_and_activation` is
    for networks that should take any norm).

        >>> norm_layer("gn:groups=8")(64)
        GroupNorm(8, 64, eps=1e-05, affine=True, bias=True, num_groups=8, channels_per_group=8)

    Args:
        batch_per_worker: for `bn` and `brn`, the images whose statistics belong together; None for
            all.
        activation: for `gn`, `ln` and `in`: applied after the norm, in the same kernel. timm's
            networks need none: those that expect a norm with its activation say which one.

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
    if activation is not None and parsed.kind not in _FUSED:
        raise ValueError(f"an activation goes with gn, ln and in, not with {parsed.kind}")
    check_activation(activation)
    _register_in_timm()
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
