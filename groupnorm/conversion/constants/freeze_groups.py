"""Group norms as constants, with what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.conversion.constants.freeze import frozen_layer, stored_row
from groupnorm.conversion.example import Example, evaluating, run, tensors_in
from groupnorm.conversion.report import ConversionReport, raise_for_nothing
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import (
    Filters,
    changed_keys,
    find_norms,
    irreplaceable,
    read_chosen,
    skipped_row,
    swap,
    working_copy,
)


@dataclass
class _Fit:
    """Sums for the line through a norm's input and output in each channel, (C,) in float64.

    Means, and sums of squares and products about them, merged batch by batch (Chan et al. 1979).
    """

    values: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Fit:
        """The sums of one batch, input and output (N, C, *)."""
        x, y = (one.detach().double().transpose(0, 1).flatten(1) for one in (x, y))
        mean_x, mean_y = x.mean(1), y.mean(1)
        x, y = x - mean_x[:, None], y - mean_y[:, None]
        products = (x * x).sum(1), (x * y).sum(1), (y * y).sum(1)
        return cls(x.shape[1], mean_x, mean_y, *products)

    def add(self, other: _Fit) -> None:
        """Merge the sums of another batch into these."""
        total = self.values + other.values
        share = self.values * other.values / total
        dx, dy = other.x - self.x, other.y - self.y
        self.xx += other.xx + dx * dx * share
        self.xy += other.xy + dx * dy * share
        self.yy += other.yy + dy * dy * share
        self.x += dx * (other.values / total)
        self.y += dy * (other.values / total)
        self.values = total

    def slope(self) -> Tensor:
        """Least squares: what one unit of the input adds to the output."""
        return torch.where(self.xx > 0, self.xy / self.xx.clamp_min(1e-300), 0.0)

    def error(self) -> float:
        """What the lines leave, over what there is about each channel's mean."""
        left = (self.yy - self.slope() * self.xy).clamp_min(0).sum()
        return float(left / self.yy.sum().clamp_min(1e-300))


def freeze_groups(
    model: nn.Module, batches: Iterable[Example], *, only: Filters = None
) -> tuple[nn.Module, ConversionReport]:
    """A copy of a network whose group norms are constants, fitted to data, for fast inference.

    Each group norm, or instance norm without stored statistics, becomes a `FrozenBatchNorm`: in
    each channel the line through its inputs and outputs on the batches with the least squared
    error. What an image's own statistics do to its output is lost; the report has, measured on the
    batches, each layer's error and that of the network's output. Measure the task's metric too.
    `fold` then takes the constants into the convolutions.

    Args:
        model: runs in evaluation mode.
        batches: inputs, each as `example` of `convert`; gone through twice.
        only: which norms, as in `convert`.

    Returns:
        The network and the report.

    Raises:
        ValueError: nothing can be frozen (the message has the reasons), there are no batches, or
            the network does not run on them.
        TypeError: `only` is none of what `convert` takes, or `batches` can be gone through once
            only.
    """
    if iter(batches) is batches:
        raise TypeError("the batches are gone through twice: give a list or a data loader")
    frozen = working_copy(model, inplace=False)
    norms = find_norms(frozen, only)
    impossible = irreplaceable(frozen, norms)
    sources, skipped = {}, []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
            if source.groups is None:
                raise Refusal("has stored statistics; freeze makes it constant")
            if getattr(norm.module, "activation", None) is not None:
                raise Refusal("its activation is part of its kernel")
            sources[norm] = source
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
    if not sources:
        raise_for_nothing("changed", skipped)
    fits = _fits(frozen, sources.values(), batches)
    replacements, rows = [], []
    for norm, source in sources.items():
        fit = fits.get(norm.module)
        if fit is None:
            skipped.append(skipped_row(norm, Refusal("it does not run on the batches")))
            continue
        new = frozen_layer(_constants(source, fit))
        replacements.append((norm, new))
        rows.append(replace(stored_row(norm, source, new), affine="fitted", statistics="fitted",
                            error=fit.error()))  # fmt: skip
    keys = changed_keys(replacements)
    frozen = swap(frozen, replacements)
    error = _output_error(model, frozen, batches)
    return frozen, ConversionReport("frozenbn", rows, skipped, *keys, error)


def _fits(
    model: nn.Module, sources: Iterable[SourceNorm], batches: Iterable[Example]
) -> dict[nn.Module, _Fit]:
    """The lines through the inputs and outputs of each norm, of all batches together.

    Raises:
        ValueError: there are no batches, or none has values.
    """
    fits: dict[nn.Module, _Fit] = {}
    handles = []
    for source in sources:

        def note(module: nn.Module, args: tuple[Tensor, ...], source: SourceNorm = source) -> None:
            x = args[0]
            if x.numel() == 0:
                return
            assert source.groups is not None
            x = x.double()
            weight, bias = (
                None if own is None else own.double() for own in (source.weight, source.bias)
            )
            y = F.group_norm(x, source.groups, weight, bias, source.eps)
            fit = _Fit.of(x, y)
            if module in fits:
                fits[module].add(fit)
            else:
                fits[module] = fit

        handles.append(source.module.register_forward_pre_hook(note))
    try:
        with evaluating(model):
            for batch in batches:
                run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not fits:
        raise ValueError("there are no batches that the group norms run on")
    return fits


def _constants(source: SourceNorm, fit: _Fit) -> SourceNorm:
    """The norm with stored statistics that computes the lines."""
    var = fit.xx / fit.values
    weight = fit.slope() * (var + source.eps).sqrt()
    weight, bias, mean, var = (v.to(source.dtype) for v in (weight, fit.y, fit.x, var))
    return replace(source, groups=None, weight=weight, bias=bias, mean=mean, var=var)


def _output_error(model: nn.Module, frozen: nn.Module, batches: Iterable[Example]) -> float:
    """The squared difference of the outputs over the model's variance about its mean."""
    total: _Fit | None = None
    difference = 0.0
    with evaluating(model), evaluating(frozen):
        for batch in batches:
            for want, got in zip(_outputs(model, batch), _outputs(frozen, batch), strict=True):
                difference += float((want - got).square().sum())
                fit = _Fit.of(want, want)
                if total is None:
                    total = fit
                else:
                    total.add(fit)
    assert total is not None
    return difference / max(float(total.yy.sum()), 1e-300)


def _outputs(model: nn.Module, batch: Example) -> Iterator[Tensor]:
    """Each floating-point output as (values, 1), in float64."""
    for tensor in tensors_in(run(model, batch)):
        if tensor.is_floating_point() and tensor.numel():
            yield tensor.double().reshape(-1, 1)
