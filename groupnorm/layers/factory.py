"""NormSpec -> a picklable callable(num_channels) that builds layers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from groupnorm.layers.batch_norm import BatchNorm, SyncBatchNorm
from groupnorm.layers.group_norm import GroupNorm
from groupnorm.layers.weight_standardization import WSConv2d
from groupnorm.ops.activations import check_activation
from groupnorm.spec import NormSpec

IMPLEMENTED = ("gn", "ln", "in", "bn", "syncbn", "none")
"""The kinds of NormSpec that have a layer."""


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
        """For `bn`, the images whose statistics belong together; None for all."""
        batch_per_worker: int | None = self.keywords["batch_per_worker"]
        return batch_per_worker


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
        apply_act: False leaves the activation out; timm's EfficientNet asks for it.
        inplace: for timm too; the layer never overwrites its input.
    """
    eps = spec.eps if spec.eps is not None else 1e-5
    if spec.kind in ("gn", "ln", "in"):
        groups = spec.num_groups(num_channels)
        activation = activation if apply_act else None
        return GroupNorm(
            groups, num_channels, eps, spec.affine, device, dtype, activation=activation
        )
    if spec.kind == "bn":
        return BatchNorm(
            num_channels,
            eps,
            affine=spec.affine,
            device=device,
            dtype=dtype,
            batch_per_worker=batch_per_worker,
        )
    if spec.kind == "syncbn":
        return SyncBatchNorm(num_channels, eps, affine=spec.affine, device=device, dtype=dtype)
    return nn.Identity()


def norm_layer(
    spec: str | NormSpec | NormLayer,
    *,
    batch_per_worker: int | None = None,
    activation: str | None = None,
) -> NormLayer:
    """The factory of a spec; a factory is returned as it is.

    The factory goes wherever a `callable(num_channels)` is taken:

        >>> norm_layer("gn:groups=8")(64)
        GroupNorm(8, 64, eps=1e-05, affine=True, bias=True, num_groups=8, channels_per_group=8)

    Args:
        batch_per_worker: for `bn`, the images whose statistics belong together; None for all.
        activation: for `gn`, `ln` and `in`: applied after the norm, in the same kernel. For
            networks that expect a norm with its activation, such as timm's EfficientNet.

    Raises:
        NormSpecError: the spec cannot be read.
        ValueError: its kind has no layer in this version, or none with an activation;
            `batch_per_worker` is not positive, or differs from that of the factory given.
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
    if parsed.kind not in IMPLEMENTED:
        raise ValueError(
            f"{parsed.kind} has no layer in this version; kinds with one: {', '.join(IMPLEMENTED)}"
        )
    if activation is not None and parsed.kind not in ("gn", "ln", "in"):
        raise ValueError(f"an activation goes with gn, ln and in, not with {parsed.kind}")
    check_activation(activation)
    return NormLayer(
        build_norm, spec=parsed, batch_per_worker=batch_per_worker, activation=activation
    )


def conv_layer(spec: str | NormSpec | NormLayer) -> Callable[..., nn.Conv2d]:
    """The convolution that goes with a spec: `WSConv2d` with `+ws`, else `torch.nn.Conv2d`.

    Raises:
        NormSpecError: the spec cannot be read.
    """
    parsed = spec.spec if isinstance(spec, NormLayer) else NormSpec.parse(spec)
    return WSConv2d if parsed.ws else nn.Conv2d
