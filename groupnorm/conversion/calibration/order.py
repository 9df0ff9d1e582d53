"""The order of a norm's channels: those that move together share a group, where the network allows.

A channel changes its place in the outputs of the layer in front of the norm and in the inputs of
the layers behind; in between, every channel is treated alike. Channels of one group whose sample
means move together cancel once signs are free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from groupnorm.conversion.calibration.moments import LayerMoments
from groupnorm.conversion.walk import has_hooks, parameter_owners

_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_ALIKE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softplus, nn.Identity,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool")
_ALIKE_NAMES = {
    "relu", "relu_", "relu6", "leaky_relu", "elu", "silu", "gelu", "mish", "hardswish", "sigmoid",
    "hardsigmoid", "tanh", "hardtanh", "softplus", "contiguous",
    *(f"{pool}{axes}d" for pool in _POOLS for axes in (1, 2, 3)),
}  # fmt: skip
"""Names of functions and methods that treat channels alike, as the modules of `_ALIKE`."""


def readers(
    norm: fx.Node, root: nn.Module, calls_of: Callable[[str], list[fx.Node]]
) -> list[_ConvNd]:
    """The convolutions that alone take a norm's output, through what treats channels alike.

    Args:
        norm: the operation.
        root: of the modules.
        calls_of: the operations that are a module's runs.

    Returns:
        Dense ones; none where anything else takes the output, or something else their weights.
    """
    owners = parameter_owners(root)
    found: list[_ConvNd] = []
    waiting = [norm]
    while waiting:
        node = waiting.pop()
        if not node.users:
            return []
        for user in node.users:
            if user.all_input_nodes != [node]:
                return []
            if user.op == "call_module":
                module = root.get_submodule(str(user.target))
                if type(module) in _ALIKE and not has_hooks(module):
                    waiting.append(user)
                    continue
                once = len(calls_of(str(user.target))) == 1
                if not (once and _dense(module) and owners[id(module.weight)] == 1):
                    return []
                assert isinstance(module, _ConvNd)
                found.append(module)
            elif _name(user) in _ALIKE_NAMES:
                waiting.append(user)
            else:
                return []
    return found


def _dense(layer: nn.Module) -> bool:
    """Whether each output of a convolution takes all inputs, with weights of its own."""
    return bool(type(layer) in _CONVOLUTIONS and layer.groups == 1 and not has_hooks(layer))


def _name(node: fx.Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def can_reorder(layer: Any) -> bool:
    """Whether the outputs of the layer in front of a norm can change places."""
    return isinstance(layer, nn.Linear) or _dense(layer)


def order_of(moments: LayerMoments, groups: int) -> Tensor:
    """Channels (C,) in an order in which those whose sample means move together are neighbours.

    Group by group: the pair with the largest magnitude of correlation that is left, and then the
    channel whose correlations with the group's are the largest on average.

    Args:
        moments: of the rows to fit on.
        groups: G, a divisor of the channels.
    """
    centred = moments.mean_x - moments.mean_x.mean(0)
    centred = centred / centred.norm(dim=0).clamp(min=1e-300)
    alike = (centred.T @ centred).abs()
    alike.fill_diagonal_(0)
    size = moments.channels // groups
    left = torch.ones(moments.channels, dtype=torch.bool)
    order: list[int] = []
    for _ in range(groups):
        among = alike * left.outer(left)
        first = int(among.sum(1).argmax()) if size == 1 else int(among.max(1).values.argmax())
        first = first if left[first] else int(left.nonzero()[0])
        group = [first]
        left[first] = False
        while len(group) < size:
            near = alike[group].mean(0).masked_fill(~left, -1.0)
            group.append(int(near.argmax()))
            left[group[-1]] = False
        order += group
    return torch.tensor(order)


@torch.no_grad()
def reorder_outputs(layer: Any, order: Tensor) -> None:
    """Give a layer's outputs other places.

    Args:
        layer: one that `can_reorder`.
        order: (C,), the channel that comes to each place.
    """
    dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
    _select(layer.weight, dim, order)
    if layer.bias is not None:
        _select(layer.bias, 0, order)


@torch.no_grad()
def reorder_inputs(layer: _ConvNd, order: Tensor) -> None:
    """Let a convolution take inputs that have other places; as `reorder_outputs`."""
    _select(layer.weight, 0 if isinstance(layer, _ConvTransposeNd) else 1, order)


def _select(parameter: Tensor, dim: int, order: Tensor) -> None:
    parameter.copy_(parameter.index_select(dim, order.to(parameter.device)))
