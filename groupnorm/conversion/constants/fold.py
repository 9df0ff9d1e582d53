"""Constant norms into the convolutions and linear layers in front of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from groupnorm.conversion.calibration.affine import fold_affine
from groupnorm.conversion.constants.freeze import stored_row
from groupnorm.conversion.constants.producers import LINEAR_LAYERS, LinearLayer, find_producers
from groupnorm.conversion.example import Example, evaluating, floats_in, run
from groupnorm.conversion.report import (
    ConversionReport,
    ConvertedLayer,
    raise_for_nothing,
)
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import (
    Filters,
    FoundNorm,
    changed_keys,
    find_norms,
    has_hooks,
    irreplaceable,
    parameter_owners,
    read_chosen,
    skipped_row,
    swap,
    working_copy,
)
from groupnorm.layers import norm_layer


def fold(
    model: nn.Module, example: Example, *, only: Filters = None
) -> tuple[nn.Module, ConversionReport]:
    """A copy of a network whose constant norms are part of the layers in front of them.

    With scale k = weight / sqrt(var + eps) of a norm, each output channel of the convolution,
    transposed convolution or linear layer in front becomes k times itself, its bias
    (bias - mean) * k + shift, and the norm an identity. What makes each norm's input is found by
    running the network on the example. A layer whose output anything else takes keeps its norm, and
    so does one whose hooks would see other values. The folded network is compared with the model on
    the example, norm by norm.

    Constant norms are frozen batch norms, and batch norms in evaluation mode. A folded network is
    made for inference: its training is unstable.

    Args:
        model: in evaluation mode, as a rule.
        example: an input, as in `convert`.
        only: which norms, as in `convert`.

    Returns:
        The folded network and the report.

    Raises:
        ValueError: nothing can be folded (the message has the reasons), the folded network computes
            something else, or the example does not run.
        TypeError: as `convert`.
    """
    folded = working_copy(model)
    norms = find_norms(folded, only)
    impossible = irreplaceable(folded, norms)
    producers = find_producers(folded, [norm.module for norm in norms], example)
    names = {module: name for name, module in folded.named_modules()}
    owners = parameter_owners(folded)
    replacements, rows, skipped = [], [], []
    new_keys: list[str] = []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
            _check_constant(source)
            layer = layer_for(source, producers[norm.module], names, owners)
            weight, bias = folded_weights(layer, source)
            check_finite(names[layer], weight, bias)
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
            continue
        if layer.bias is None:
            new_keys.append(f"{names[layer]}.bias")
        set_weights(layer, weight, bias)
        new = norm_layer("none")(source.channels, **source.arguments)
        new.training = norm.module.training
        replacements.append((norm, new))
        rows.append(_row(norm, source, new, names[layer]))
    if not replacements:
        raise_for_nothing("folded", skipped)
    removed_keys = changed_keys(replacements)[1]
    folded = swap(folded, replacements)
    # a copy of the model, for a network may change as it runs
    _compare(working_copy(model), folded, example, [row.name for row in rows])
    return folded, ConversionReport("none", rows, skipped, new_keys, removed_keys, None)


def folded_weights(layer: LinearLayer, norm: SourceNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that computes what the layer and a constant norm do.

    Args:
        layer: one of `LINEAR_LAYERS`, with as many output channels as the norm has.
        norm: with stored statistics.

    Returns:
        weight of the layer's shape and bias (C,), both in the layer's dtype.
    """
    assert norm.mean is not None
    assert norm.var is not None
    scale = torch.rsqrt(norm.var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    groups = layer.groups if isinstance(layer, _ConvTransposeNd) else None
    return fold_affine(layer.weight, layer.bias, scale, shift, transposed_groups=groups)


def _check_constant(source: SourceNorm) -> None:
    if source.groups is not None or isinstance(
        source.module, nn.modules.instancenorm._InstanceNorm
    ):
        raise Refusal("its statistics are those of each sample, which no weights can hold")
    if isinstance(source.module, _BatchNorm) and source.module.training:
        raise Refusal("is in training mode, where its statistics move; call eval() or freeze first")


def layer_for(
    norm: SourceNorm,
    producer: LinearLayer | str,
    names: Mapping[nn.Module, str],
    owners: Mapping[int, int],
) -> LinearLayer:
    """The layer in front of a norm, whose weights can take up what is done to the norm's input.

    Args:
        norm: the norm.
        producer: of its input, or why there is none, as `find_producers` returns it.
        names: of the modules.
        owners: as `parameter_owners` returns them.

    Raises:
        Refusal: there is none, its weights cannot, or hooks of the norm would see another input.
    """
    if has_hooks(norm.module):
        raise Refusal("its hooks would see another input")
    if isinstance(producer, str):
        raise Refusal(producer)
    check_layer(producer, names[producer], norm, owners)
    return producer


def check_layer(layer: LinearLayer, name: str, norm: SourceNorm, owners: Mapping[int, int]) -> None:
    """Check that a layer's weights can take up a norm.

    Raises:
        Refusal: its weights are computed or shared, or its forward is its own.
    """
    if type(layer).forward not in {kind.forward for kind in LINEAR_LAYERS}:
        raise Refusal(f"{name} is a {type(layer).__name__} with a forward of its own")
    if parametrize.is_parametrized(layer) or layer._parameters.get("weight") is None:
        raise Refusal(f"the weights of {name} are computed; remove the parametrization first")
    if any(owners[id(p)] > 1 for p in layer.parameters(recurse=False)):
        raise Refusal(f"another module has the parameters of {name} too")
    if layer.weight.device != norm.device:
        raise Refusal(f"{name} lies on another device")


def check_finite(name: str, weight: Tensor, bias: Tensor) -> None:
    """Raise Refusal unless the layer of this name would have finite values."""
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise Refusal(f"the weights of {name} would not be finite")


def set_weights(layer: LinearLayer, weight: Tensor, bias: Tensor) -> None:
    """Give a layer these values, and a bias if it has none."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is None:
            layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
        else:
            layer.bias.copy_(bias)


def _row(norm: FoundNorm, source: SourceNorm, new: nn.Module, layer: str) -> ConvertedLayer:
    return replace(
        stored_row(norm, source, new),
        affine=f"in {layer}",
        statistics=f"in {layer}",
        trainable=source.trainable,
    )


def _compare(model: nn.Module, folded: nn.Module, example: Example, names: list[str]) -> None:
    """Compare what each folded norm gives, and the output.

    Raises:
        ValueError: the first that differs by more than rounding.
    """
    before = outputs_by_name(model, example, names)
    after = outputs_by_name(folded, example, names)
    if [name for name, _ in before] != [name for name, _ in after]:
        raise ValueError(
            "the folded network does not run the same layers; leave some out with `only`"
        )
    for name, difference, largest in differing(before, after):
        raise ValueError(
            f"the folded network does not compute the same: {name or 'its output'} differs by "
            f"{difference:.2g} where the largest value is {largest:.2g}. Leave that norm out "
            "with `only`"
        )


_ZERO = 16 * torch.finfo(torch.float64).eps
"""Some roundings in float64 of numbers near 1: what may be left where an output should be 0."""


def differing(
    before: Sequence[tuple[str, Tensor]], after: Sequence[tuple[str, Tensor]]
) -> Iterator[tuple[str, float, float]]:
    """What differs by more than rounding: its name, by how much, and the largest value.

    Args:
        before: as `outputs_by_name` returns it.
        after: the same names.
    """
    for (name, want), (_, got) in zip(before, after, strict=True):
        difference, largest = _difference(want, got)
        tolerance = 0.3 * math.sqrt(torch.finfo(want.dtype).eps)
        if not difference <= tolerance * largest + _ZERO:
            yield name, difference, largest


def _difference(want: Tensor, got: Tensor) -> tuple[float, float]:
    """The largest distance between finite values, and the largest of these.

    The distance is infinite where the shapes differ, or which values are infinite or NaN.
    """
    finite = want.isfinite()
    largest = float(want[finite].abs().max()) if finite.any() else 0.0
    if want.shape != got.shape or not torch.equal(got.isfinite(), finite):
        return math.inf, largest
    if not torch.allclose(want[~finite], got[~finite], equal_nan=True):
        return math.inf, largest
    return float((want - got)[finite].abs().max()) if finite.any() else 0.0, largest


def outputs_by_name(
    model: nn.Module, example: Example, names: Sequence[str]
) -> list[tuple[str, Tensor]]:
    """What the modules of these names give, in the order in which they run, then the output."""
    found: list[tuple[str, Tensor]] = []
    handles = []
    for name in names:

        def note(module: nn.Module, args: object, output: Tensor, name: str = name) -> None:
            found.append((name, output.detach().clone()))

        handles.append(model.get_submodule(name).register_forward_hook(note))
    try:
        with evaluating(model):
            output = run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return found + [("", tensor) for tensor in floats_in(output)]
