"""Computed weights as ordinary ones: standardized, parametrized, or made by a hook."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from groupnorm.conversion.calibration.tape import same
from groupnorm.conversion.constants.producers import LINEAR_LAYERS, LinearLayer
from groupnorm.conversion.example import Example, evaluating, first_input, run
from groupnorm.export.preparation.report import BAKED, KEPT, PreparedLayer

_FUNCTIONS = {
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.linear,
}  # fmt: skip
_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)
_OTHER_INPUT = 1.5  # what a second input is made of the first with


def bake_weights(network: nn.Module, example: Example) -> list[PreparedLayer]:
    """Write computed weights into a network as ordinary parameters; the network is changed.

    Those of parametrizations (`torch.nn.utils.parametrize`) and of the older hooks for weight norm,
    spectral norm and pruning; and those that convolutions and linear layers with a forward of their
    own compute in it, as weight standardization does. The latter become PyTorch's layer if the
    forward is seen to be that layer with other weights: it makes one convolution, of its input,
    whose output it gives, with weights that stay the same for another input.

    Args:
        network: in evaluation mode.
        example: an input, as in `groupnorm.convert`.

    Returns:
        A row for each layer whose weights were computed.

    Raises:
        ValueError: the network does not run on the example.
    """
    rows = []
    for name, module in network.named_modules():
        rows += _bake_parametrized(name, module)
        rows += _bake_hooked(name, module)
    own_forward: dict[nn.Module, str] = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, LINEAR_LAYERS) and plain_kind(module).forward != type(module).forward
    }
    return rows + _bake_own(network, own_forward, example)


def plain_kind(module: nn.Module) -> type[nn.Module]:
    """PyTorch's class that a convolution or linear layer is derived from."""
    return next(kind for kind in type(module).__mro__ if kind in LINEAR_LAYERS)


@torch.no_grad()
def _bake_parametrized(name: str, module: nn.Module) -> list[PreparedLayer]:
    """The layer's tensors without their parametrizations.

    Not by `remove_parametrizations`, which takes the property from a class that deep copies share.
    """
    if not parametrize.is_parametrized(module):
        return []
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    rows, values, trained = [], {}, {}
    for key, one in lists.items():
        values[key] = getattr(module, key).detach().clone()
        trained[key] = [p.requires_grad for p in one.parameters(recurse=False)]
        kinds = ", ".join(type(part).__name__ for part in one.children())
        rows.append(PreparedLayer(name, BAKED, f"{key} of {kinds}"))
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for key, value in values.items():
        if trained[key]:
            module.register_parameter(key, nn.Parameter(value, requires_grad=any(trained[key])))
        else:
            module.register_buffer(key, value)
    return rows


def _bake_hooked(name: str, module: nn.Module) -> list[PreparedLayer]:
    """The layer's tensors without the hooks that compute them."""
    rows = []
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _HOOKS):
            hook.remove(module)
            del module._forward_pre_hooks[key]
            tensor = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight")
            rows.append(PreparedLayer(name, BAKED, f"{tensor} of {type(hook).__name__}"))
    return rows


class _Call(NamedTuple):
    """One call of a function of `_FUNCTIONS` within a layer's forward."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor


class _Calls(TorchFunctionMode):
    """Notes the convolutions and matrix products that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _FUNCTIONS:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.seen.append(_Call(given["input"], given["weight"], given.get("bias"), output))
        return output


def _bake_own(
    network: nn.Module, layers: dict[nn.Module, str], example: Example
) -> list[PreparedLayer]:
    """The rows of layers with a forward of their own, of which some become PyTorch's."""
    inputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = first_input(args, kwargs)
        if given is not None:
            inputs.setdefault(module, given.detach().clone())

    if not layers:
        return []
    handles = [one.register_forward_pre_hook(note, with_kwargs=True) for one in layers]
    try:
        with evaluating(network):
            run(network, example)
    finally:
        for handle in handles:
            handle.remove()
    rows = []
    for module, name in layers.items():
        assert isinstance(module, LinearLayer)
        was = type(module).__name__
        if module not in inputs:
            rows.append(PreparedLayer(name, KEPT, f"{was}: it does not run on the example"))
            continue
        found = _weights(module, inputs[module])
        if isinstance(found, str):
            rows.append(PreparedLayer(name, KEPT, f"{was}: {found}"))
        elif found.weight is not module._parameters.get("weight"):
            _make_plain(module, found)
            rows.append(PreparedLayer(name, BAKED, f"{was} to {type(module).__name__}"))
    return rows


def _weights(layer: LinearLayer, x: Tensor) -> _Call | str:
    """What the forward of a layer gives to its convolution, or why that is not all that it does."""
    inputs = x, x.flip(0) * _OTHER_INPUT - 1
    first, other = (_alone(layer, one) for one in inputs)
    if isinstance(first, str):
        return first
    if isinstance(other, str) or not (
        torch.equal(first.weight, other.weight) and _equal(first.bias, other.bias)
    ):
        return "its weights depend on its input"
    trial = copy.deepcopy(layer)
    _make_plain(trial, first)
    for one, call in zip(inputs, (first, other), strict=True):
        try:
            with torch.no_grad():
                forward: Any = plain_kind(trial).forward
                output = forward(trial, one)
        except (RuntimeError, ValueError):
            output = None
        if output is None or not same(output, call.output):
            return "its forward computes more than a layer of PyTorch's with other weights"
    return first


def _alone(layer: LinearLayer, x: Tensor) -> _Call | str:
    """The one convolution or matrix product of a layer's forward, which is all that it does."""
    calls = _Calls()
    forward: Any = type(layer).forward
    given = x.clone()
    with torch.no_grad(), calls:
        output = forward(layer, given)
    if len(calls.seen) != 1:
        return f"its forward makes {len(calls.seen)} convolutions or matrix products"
    call = calls.seen[0]
    padded = getattr(layer, "padding_mode", "zeros") != "zeros"
    if output is not call.output or not (padded or call.input is given):
        return "its forward computes more than a convolution of its input"
    return call


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _make_plain(layer: LinearLayer, call: _Call) -> None:
    """Turn a layer into PyTorch's with the weights of a call; it stays the same object."""
    trained = {key: p.requires_grad for key, p in layer.named_parameters(recurse=False)}
    layer.__class__ = plain_kind(layer)  # type: ignore[assignment]
    for tensors in (layer._parameters, layer._buffers, layer._modules):
        tensors.clear()
    for key, value in (("weight", call.weight), ("bias", call.bias)):
        made = None
        if value is not None:
            made = nn.Parameter(value.detach().clone(), requires_grad=trained.get(key, True))
        layer.register_parameter(key, made)
    vars(layer).pop("__module__", None)  # which a layer of this package has for torch.fx
