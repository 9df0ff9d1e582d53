"""Whether data are what a network can be fitted to."""

from __future__ import annotations

import torch
from torch import nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.moments import LayerMoments
from groupnorm.conversion.calibration.tape import same
from groupnorm.conversion.example import floats_in
from groupnorm.conversion.sources import SourceNorm

_ODD = 10.0  # factor of the median variance that is worth a warning, either way
_LEAST_RATIO = 1e-3  # of the median variance, below which no fit means anything
_AGAIN = 1e-2  # of the largest output: how far apart two runs on the same data may be


def check_repeatable(model: nn.Module, batches: Batches) -> None:
    """Check that a network gives the same output each time that it runs on the same data.

    Raises:
        ValueError: it does not, so that there is nothing to be fitted to.
    """
    first, second = (list(floats_in(batches.example(model))) for _ in range(2))
    alike = len(first) == len(second)
    if not alike or not all(same(a, b, _AGAIN) for a, b in zip(first, second, strict=True)):
        raise ValueError(
            "the network gives another output each time that it runs on the same data: "
            "turn off what it draws in evaluation mode, as dropout with training=True"
        )


def odd_variance(name: str, source: SourceNorm, seen: LayerMoments) -> str:
    """What is to say about data that vary much more or less than those of the training, or "".

    The variance of the norm's input is read off its output, and compared with the stored one by the
    median over the channels. Other photographs, darker ones or a subset change it by less.

    Args:
        name: of the norm that runs first.
        source: the norm.
        seen: y is its output.

    Raises:
        ValueError: the data hardly vary, so that nothing can be fitted to them.
    """
    if source.var is None or bool((source.var == 1).all()):  # of a network that was not trained
        return ""
    stored = source.var.detach().double().cpu()
    weight = torch.ones_like(stored)
    if source.weight is not None:
        weight = source.weight.detach().double().cpu()
    alive = (weight != 0) & (stored > source.eps)
    if not bool(alive.any()):
        return ""
    outputs = seen.var_y.mean(0) + seen.mean_y.var(0, correction=0)
    inputs = outputs.cpu() / weight.square() * (stored + source.eps)
    ratio = float((inputs / stored)[alive].median())
    said = (
        f"the input of {name}, the first norm, varies {ratio:.2g} times as much on the data as in "
        "the training: are the data normalized as they were there?"
    )
    if ratio < _LEAST_RATIO:
        raise ValueError(said)
    if 1 / _ODD <= ratio <= _ODD:
        return ""
    return said[0].upper() + said[1:]
