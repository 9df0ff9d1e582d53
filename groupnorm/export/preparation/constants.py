"""Norms that are constants: into the layer in front of them, or PyTorch's batch norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from groupnorm.conversion.constants.fold import (
    check_finite,
    folded_weights,
    layer_for,
    set_weights,
)
from groupnorm.conversion.constants.producers import LinearLayer, find_producers
from groupnorm.conversion.example import Example, Shapes, input_shapes
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import (
    carry_over,
    find_norms,
    irreplaceable,
    parameter_owners,
    read_chosen,
    swap,
)
from groupnorm.export.preparation.report import FOLDED, KEPT, PLAIN, PreparedLayer
from groupnorm.layers import norm_layer

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def fold_constants(network: nn.Module, example: Example) -> tuple[nn.Module, list[PreparedLayer]]:
    """Fold the norms with stored statistics of a network; the network is changed.

    Those are batch norms in evaluation mode, frozen batch norms and instance norms with stored
    statistics. Each goes into the convolution or linear layer in front where
    `groupnorm.conversion.fold` could put it there; elsewhere it becomes PyTorch's batch norm.

    Args:
        network: in evaluation mode.
        example: an input, as in `groupnorm.convert`.

    Returns:
        The network, or what takes its place where it is a norm; and a row for each such norm.

    Raises:
        ValueError: the network does not run on the example.
    """
    norms = find_norms(network, None)
    impossible = irreplaceable(network, norms)
    rows, sources = [], {}
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
        except Refusal as refusal:
            if "running_mean" in norm.module._buffers:
                rows.append(PreparedLayer(norm.names[0], KEPT, str(refusal)))
            continue
        if source.groups is None:
            sources[norm] = source
    if not sources:
        return network, rows
    modules = [norm.module for norm in sources]
    producers = find_producers(network, modules, example)
    shapes = input_shapes(network, modules, example)
    names = {module: name for name, module in network.named_modules()}
    owners = parameter_owners(network)
    replacements = []
    for norm, source in sources.items():
        kind = type(norm.module).__name__
        try:
            layer = _fold(source, producers[norm.module], names, owners)
            new = norm_layer("none")(source.channels, **source.arguments)
            row = PreparedLayer(norm.names[0], FOLDED, f"{kind} into {layer}")
        except Refusal as refusal:
            made = batch_norm_of(source, shapes[norm.module])
            if isinstance(made, str):
                rows.append(PreparedLayer(norm.names[0], KEPT, f"{kind}: {made}"))
                continue
            if type(norm.module) is type(made):
                detail = f"{kind} as it was: {refusal}"
                rows.append(PreparedLayer(norm.names[0], KEPT, detail))
                continue
            new = made
            row = PreparedLayer(norm.names[0], PLAIN, f"{kind} to {_shown(new)}: {refusal}")
        carry_over(norm.module, new)
        new.eval()
        replacements.append((norm, new))
        rows.append(row)
    return swap(network, replacements), rows


def _fold(
    source: SourceNorm,
    producer: LinearLayer | str,
    names: Mapping[nn.Module, str],
    owners: Mapping[int, int],
) -> str:
    """Put a norm into the layer in front; the layer's name.

    Raises:
        Refusal: that cannot take it.
    """
    layer = layer_for(source, producer, names, owners)
    weight, bias = folded_weights(layer, source)
    check_finite(names[layer], weight, bias)
    set_weights(layer, weight, bias)
    return names[layer]


def batch_norm_of(source: SourceNorm, shapes: Shapes) -> nn.Module | str:
    """PyTorch's batch norm that computes what a norm with stored statistics does.

    Args:
        source: the norm.
        shapes: of the inputs that it got.

    Returns:
        The layer, with what follows the norm within its own; or why there is none.
    """
    ranks = {len(shape) for shape in shapes}
    if not ranks:
        return "it does not run on the example"
    if len(ranks) > 1 or not 2 <= min(ranks) <= 5 or unbatched(source.module, min(ranks)):
        return f"no batch norm of PyTorch's takes its inputs, {', '.join(map(str, shapes))}"
    kind = _BATCH_NORMS[max(min(ranks) - 3, 0)]
    own: nn.Module = kind(source.channels, source.eps, device=source.device, dtype=source.dtype)
    values = {"weight": source.weight, "bias": source.bias,
              "running_mean": source.mean, "running_var": source.var}  # fmt: skip
    with torch.no_grad():
        for key, value in values.items():
            if value is not None:
                tensor = getattr(own, key)
                assert isinstance(tensor, Tensor)
                tensor.copy_(value)
    return followed(own.eval(), source.drop, source.act)


def unbatched(module: nn.Module, rank: int) -> bool:
    """Whether an instance norm gets an input without a batch dimension."""
    if not isinstance(module, _InstanceNorm):
        return False
    return rank == module._get_no_batch_dim()  # type: ignore[no-untyped-call, no-any-return]


def followed(norm: nn.Module, drop: nn.Module | None, act: nn.Module | None) -> nn.Module:
    """A norm and what follows it, without what does nothing in evaluation mode."""
    layers = [("drop", drop), ("act", act)]
    kept = [(key, one) for key, one in layers if one is not None and type(one) not in _IDLE]
    return nn.Sequential(OrderedDict([("norm", norm), *kept])) if kept else norm


def _shown(layer: nn.Module) -> str:
    """The classes of a layer."""
    parts = list(layer.children()) if isinstance(layer, nn.Sequential) else [layer]
    return " and ".join(type(part).__name__ for part in parts)
