"""Scale and shift of a group norm into the layer behind it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from groupnorm.conversion.constants.fold import check_finite, check_layer, set_weights
from groupnorm.conversion.constants.producers import LinearLayer
from groupnorm.conversion.example import Example, Shapes, input_shapes
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import parameter_owners
from groupnorm.export.preparation.own_statistics import group_norms
from groupnorm.export.preparation.readers import find_readers
from groupnorm.export.preparation.report import SCALE, PreparedLayer

_LARGEST_SHIFT = 1024.0  # in units of the norm's spread; far below what half precision can hold


def fold_scales(network: nn.Module, example: Example) -> list[PreparedLayer]:
    """Fold what can be folded of the group norms into the layers behind; the network is changed.

    Where a convolution, transposed convolution or linear layer alone takes a norm's output, with no
    activation between, its weights take up the norm's scale. They take up the shift too where no
    zeros are padded, which the shift would not reach; elsewhere the norm keeps shift / scale.

    Args:
        network: in evaluation mode.
        example: an input, as in `groupnorm.convert`.

    Returns:
        A row for each norm that was changed.

    Raises:
        ValueError: the network does not run on the example.
    """
    norms = [
        (norm, source)
        for norm, source in group_norms(network)
        if source.weight is not None and getattr(norm.module, "activation", None) is None
    ]
    if not norms:
        return []
    readers = find_readers(network, [norm.module for norm, _ in norms], example)
    shapes = input_shapes(network, [norm.module for norm, _ in norms], example)
    names = {module: name for name, module in network.named_modules()}
    owners = parameter_owners(network)
    rows = []
    for norm, source in norms:
        layer = readers[norm.module]
        if isinstance(layer, str):
            continue
        try:
            both = _fold(source, layer, names, owners, shapes[norm.module])
        except Refusal:
            continue
        what = "scale and shift" if both and source.bias is not None else "scale"
        why = "" if both or source.bias is None else "; the shift stays, for the layer pads zeros"
        rows.append(PreparedLayer(norm.names[0], SCALE, f"{what} into {names[layer]}{why}"))
    return rows


def _fold(
    source: SourceNorm,
    layer: LinearLayer,
    names: Mapping[nn.Module, str],
    owners: Mapping[int, int],
    shapes: Shapes,
) -> bool:
    """Fold the scale, and True if the shift went with it.

    Raises:
        Refusal: the layer cannot take it.
    """
    check_layer(layer, names[layer], source, owners)
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    # a linear layer behind maps takes positions for features, a convolution may get no batch
    ranks = {len(shape) for shape in shapes}
    if inputs != source.channels or ranks != {layer.weight.dim()}:
        raise Refusal("its channels are not the inputs of the layer behind it")
    norm = source.module
    assert isinstance(norm, nn.GroupNorm)
    both = source.bias is None or not pads_zeros(layer)
    kept = None
    if not both:
        assert source.bias is not None
        kept = source.bias.detach() / norm.weight.detach()
        if not bool((kept.abs() <= _LARGEST_SHIFT).all()):
            raise Refusal("its scale is too small for the shift to be divided by it")
    weight, moved = folded_inputs(layer, norm.weight, source.bias if both else None)
    check_finite(names[layer], weight, moved)
    if layer.bias is None and not bool(moved.any()):
        with torch.no_grad():
            layer.weight.copy_(weight)
    else:
        set_weights(layer, weight, moved if layer.bias is None else layer.bias.detach() + moved)
    if kept is None:
        norm.register_parameter("weight", None)
        norm.register_parameter("bias", None)
        norm.affine = False
    else:
        with torch.no_grad():
            norm.weight.fill_(1)
            norm.bias.copy_(kept)
    return both


def pads_zeros(layer: LinearLayer) -> bool:
    """Whether some outputs of a layer are made of fewer inputs than others.

    Padding that copies values of the input has its shift.
    """
    if isinstance(layer, _ConvTransposeNd):
        return True
    if not isinstance(layer, _ConvNd) or layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(size > 0 for size in layer.padding)


def folded_inputs(layer: LinearLayer, scale: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight that makes of x what a layer makes of scale * x + shift, and what its bias gains.

    Computed in float64 and rounded once.

    Args:
        layer: dense, grouped or depthwise.
        scale: (in_channels,).
        shift: (in_channels,), or None for zeros; for layers that pad no zeros.

    Returns:
        weight of the layer's shape, and (out_channels,), both in its dtype.
    """
    weight = layer.weight.detach().double()
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    # (groups, out / groups, in / groups, positions of the kernel)
    if isinstance(layer, _ConvTransposeNd):
        grouped = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(3)
    else:
        grouped = weight.view(groups, -1, weight.shape[1], weight.shape[2:].numel())
    of_inputs = scale.detach().double().view(groups, 1, -1, 1)
    gained = torch.zeros(grouped.shape[0] * grouped.shape[1], dtype=torch.float64)
    if shift is not None:
        shifts = shift.detach().double().view(groups, 1, -1)
        gained = (grouped.sum(3) * shifts).sum(2).flatten().to(gained)
    scaled = grouped * of_inputs
    if isinstance(layer, _ConvTransposeNd):
        scaled = scaled.transpose(1, 2)
    return scaled.reshape(weight.shape).to(layer.weight.dtype), gained.to(layer.weight.dtype)
