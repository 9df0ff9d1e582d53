"""Norms followed by modules, for networks that take a norm and its activation as one layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from groupnorm.layers.batch_norm import BatchNorm, SyncBatchNorm
from groupnorm.layers.batch_renorm import BatchRenorm
from groupnorm.layers.calibrated_group_norm import CalibratedGroupNorm
from groupnorm.layers.evonorm import EvoNormS0
from groupnorm.layers.filter_response_norm import FilterResponseNorm
from groupnorm.layers.frozen_batch_norm import FrozenBatchNorm
from groupnorm.layers.group_norm import GroupNorm
from groupnorm.layers.layer_norm import LayerNorm2d
from groupnorm.ops.group_norm.activations import LEAKY_SLOPE


class _WithActivation(nn.Module):
    """What the classes below add to a norm: act(drop(norm(input))), with the norm's keys.

    PyTorch's and timm's `convert_sync_batchnorm` make a plain `torch.nn.SyncBatchNorm` of such a
    batch norm and lose its activation; build the network with `syncbn` instead.
    """

    def __init__(self, *args: Any, drop: nn.Module, act: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drop = drop
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        """The norm's output after `drop` and `act`."""
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class GroupNormWithActivation(_WithActivation, GroupNorm):
    """`GroupNorm` and an activation that its kernels do not have."""


class CalibratedGroupNormWithActivation(_WithActivation, CalibratedGroupNorm):
    """`CalibratedGroupNorm` and an activation."""


class LayerNorm2dWithActivation(_WithActivation, LayerNorm2d):
    """`LayerNorm2d` and an activation."""


class BatchNormWithActivation(_WithActivation, BatchNorm):
    """`BatchNorm` and an activation."""


class SyncBatchNormWithActivation(_WithActivation, SyncBatchNorm):
    """`SyncBatchNorm` and an activation."""


class FrozenBatchNormWithActivation(_WithActivation, FrozenBatchNorm):
    """`FrozenBatchNorm` and an activation."""


class BatchRenormWithActivation(_WithActivation, BatchRenorm):
    """`BatchRenorm` and an activation."""


class FilterResponseNormWithDrop(_WithActivation, FilterResponseNorm):
    """`FilterResponseNorm`, which has its activation, and what drops a part of its output."""


class EvoNormS0WithDrop(_WithActivation, EvoNormS0):
    """`EvoNormS0`, which has its activation, and what drops a part of its output."""


class IdentityWithActivation(_WithActivation, nn.Identity):
    """An activation where the norm is left out."""


_FOLLOWED: dict[type[nn.Module], type[nn.Module]] = {
    GroupNorm: GroupNormWithActivation,
    CalibratedGroupNorm: CalibratedGroupNormWithActivation,
    LayerNorm2d: LayerNorm2dWithActivation,
    BatchNorm: BatchNormWithActivation,
    SyncBatchNorm: SyncBatchNormWithActivation,
    FrozenBatchNorm: FrozenBatchNormWithActivation,
    BatchRenorm: BatchRenormWithActivation,
    FilterResponseNorm: FilterResponseNormWithDrop,
    EvoNormS0: EvoNormS0WithDrop,
    nn.Identity: IdentityWithActivation,
}


def followed_by(
    norm: type[nn.Module], drop: nn.Module | None, act: nn.Module | None
) -> Callable[..., nn.Module]:
    """What builds `norm` followed by `drop` and `act`; the class itself where there is neither."""
    if drop is None and act is None:
        return norm
    follows = {"drop": drop or nn.Identity(), "act": act or nn.Identity()}
    return functools.partial(_FOLLOWED[norm], **follows)


def activation_of_name(name: str) -> Callable[..., nn.Module]:
    """What makes the activation that timm calls `name`.

    Raises:
        ValueError: timm has none of this name.
    """
    from timm.layers.create_act import get_act_layer

    try:
        found: Callable[..., nn.Module] = get_act_layer(name)
    except KeyError:
        raise ValueError(
            "act_layer must make a module or be timm's name of an activation, such as 'relu' or "
            f"'silu', got {name!r}"
        ) from None
    return found


def activation_module(
    act_layer: Callable[..., nn.Module], act_kwargs: dict[str, Any] | None, inplace: bool
) -> nn.Module:
    """The activation as timm makes it: `inplace` is left out where it is not taken."""
    kwargs = {"inplace": inplace, **(act_kwargs or {})}
    try:
        act = act_layer(**kwargs)
    except TypeError:
        kwargs.pop("inplace")
        act = act_layer(**kwargs)
    return act


def fused_activation(act: nn.Module) -> str | None:
    """The name by which `group_norm` has this activation; None for one that it has not."""
    if type(act) is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}[act.approximate]
    if type(act) is nn.LeakyReLU:
        return "leaky_relu" if act.negative_slope == LEAKY_SLOPE else None
    names = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Mish: "mish", nn.Hardswish: "hardswish"}
    return names.get(type(act))
