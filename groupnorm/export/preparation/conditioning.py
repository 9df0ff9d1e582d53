"""Inputs of group norms near 0 and of spread 1, by weights and biases of the layers in front.

Group norm ignores a constant added to all channels of a group and, with eps scaled along, a factor.
So each group's mean over calibration images is subtracted from the bias of the layer in front, and
its spread is divided out of the weights as a power of two. In real arithmetic the network is the
same on any input, with zero padding too, for both act on the layer's output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from groupnorm.conversion.calibration.affine import fold_affine, outputs_first
from groupnorm.conversion.constants.fold import check_finite, layer_for, set_weights
from groupnorm.conversion.constants.producers import LinearLayer, find_producers
from groupnorm.conversion.example import Example, Shapes, input_shapes
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import parameter_owners
from groupnorm.export.forms import FORMS, PooledGroupNorm
from groupnorm.export.preparation.calibration import NormInputs
from groupnorm.export.preparation.own_statistics import group_norms
from groupnorm.export.preparation.report import CONDITIONED, NOT_CONDITIONED, PreparedLayer

_WEIGHTS = 10
"""Exponents of 2 that a group's largest weight may come to, either way: half precision has numbers
from 2^-14 to 2^16, and a weight that is small among its neighbours needs some room below."""


def condition(
    network: nn.Module, example: Example, inputs: Mapping[str, NormInputs], each_group: bool
) -> tuple[list[PreparedLayer], dict[nn.Module, Tensor]]:
    """Condition the inputs of the group norms of a network; the network is changed.

    A layer whose output goes to anything else than the norm stays as it is. A layer without a bias
    gets one.

    Args:
        network: in evaluation mode, on the CPU.
        example: an input, as in `groupnorm.convert`.
        inputs: of the norms on calibration images, by name.
        each_group: a factor for each group, which needs an eps for each; else one for each norm,
            whose own eps is changed.

    Returns:
        A row for each norm, and the eps (G,) of those that need one for each group.

    Raises:
        ValueError: the network does not run on the example.
    """
    norms = group_norms(network)
    modules = [norm.module for norm, _ in norms]
    producers = find_producers(network, modules, example) if modules else {}
    shapes = input_shapes(network, modules, example) if modules else {}
    names = {module: name for name, module in network.named_modules()}
    owners = parameter_owners(network)
    rows: list[PreparedLayer] = []
    group_eps: dict[nn.Module, Tensor] = {}
    for norm, source in norms:
        name = norm.names[0]
        try:
            if name not in inputs:
                raise Refusal("it does not run on the calibration images")
            layer = _checked(source, producers[norm.module], names, owners, shapes[norm.module])
            exponents = _exponents(layer, inputs[name], each_group)
            means = inputs[name].means / inputs[name].samples
            _move(layer, names[layer], source, means, exponents)
        except Refusal as refusal:
            rows.append(PreparedLayer(name, NOT_CONDITIONED, str(refusal)))
            continue
        eps = source.eps * torch.exp2(2 * exponents)
        module = norm.module
        assert isinstance(module, nn.GroupNorm)
        if bool((eps == eps[0]).all()):
            module.eps = float(eps[0])
        else:
            group_eps[module] = eps
        rows.append(PreparedLayer(name, CONDITIONED, _detail(names[layer], means, exponents)))
    return rows, group_eps


def _checked(
    source: SourceNorm,
    producer: LinearLayer | str,
    names: Mapping[nn.Module, str],
    owners: Mapping[int, int],
    shapes: Shapes,
) -> LinearLayer:
    """The layer in front, which can be changed.

    Raises:
        Refusal: it cannot.
    """
    layer = layer_for(source, producer, names, owners)
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if outputs != source.channels or {len(shape) for shape in shapes} != {layer.weight.dim()}:
        raise Refusal("its channels are not the outputs of the layer in front")
    return layer


def _exponents(layer: LinearLayer, inputs: NormInputs, each_group: bool) -> Tensor:
    """Whole exponents of 2, (G,), of the factors that bring each group's spread near 1.

    The spread is sqrt(var + eps), so that a group that hardly varies is not blown up. One factor
    for all groups goes by their root mean square.
    """
    groups = inputs.groups
    squared = inputs.variances / inputs.samples + inputs.eps
    transposed = layer.groups if isinstance(layer, _ConvTransposeNd) else None
    by_output = outputs_first(layer.weight.detach(), transposed)
    largest = by_output.double().abs().flatten(1).amax(1).view(groups, -1).amax(1)
    if not each_group:
        squared, largest = squared.mean().expand(groups), largest.max().expand(groups)
    wanted = torch.round(-torch.log2(squared) / 2)
    room = torch.log2(largest)  # -inf of a group whose weights are 0, which has no spread
    bounded = wanted.clamp(torch.ceil(-_WEIGHTS - room), torch.floor(_WEIGHTS - room))
    return torch.where((largest > 0) & squared.isfinite() & (squared > 0), bounded, 0.0)


def _move(
    layer: LinearLayer, name: str, source: SourceNorm, means: Tensor, exponents: Tensor
) -> None:
    """Subtract means (G,) from a layer's outputs and multiply them with powers of two.

    Raises:
        Refusal: its weights would not be finite.
    """
    each = source.channels // len(means)
    factors = torch.exp2(exponents)
    scale, shift = (v.repeat_interleave(each) for v in (factors, -means * factors))
    transposed = layer.groups if isinstance(layer, _ConvTransposeNd) else None
    weight, bias = fold_affine(layer.weight, layer.bias, scale, shift, transposed_groups=transposed)
    check_finite(name, weight, bias)
    set_weights(layer, weight, bias)


def _detail(layer: str, means: Tensor, exponents: Tensor) -> str:
    """What the layer in front took up."""
    low, high = int(exponents.min()), int(exponents.max())
    factors = f"2^{low}" if low == high else f"2^{low} to 2^{high}"
    largest = float(means.abs().max())
    return f"in {layer}: means up to {largest:.3g} subtracted, then times {factors}"


def takes_group_eps(form: str) -> bool:
    """Whether a form of group norm has an eps for each group."""
    return issubclass(FORMS[form], PooledGroupNorm)
