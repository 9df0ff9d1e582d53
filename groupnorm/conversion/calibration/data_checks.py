"""Whether data are what a network can be fitted to."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.tape import same
from groupnorm.conversion.example import first_input, floats_in

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


class _Stop(BaseException):  # passes by the handlers of whoever calls the network
    """The first norm is about to run."""


def odd_variance(model: nn.Module, batches: Batches) -> str:
    """What is to say about data that vary much more or less than those of the training, or "".

    The variance of the input of the first norm to run, whether it is to be converted or not, is
    compared with the one that it has stored, by the median over the channels. Other photographs,
    darker ones or a subset change it by less.

    Raises:
        ValueError: the data hardly vary, so that nothing can be fitted to them.
    """
    inputs: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = first_input(args, named)
        if given is not None and given.dim() > 1:
            x = given.transpose(0, 1).flatten(1).double()
            inputs.append((module, x.mean(1).cpu(), x.square().mean(1).cpu()))
        raise _Stop

    norms = {
        module: name
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
        and module._buffers.get("running_var") is not None
    }
    handles = [norm.register_forward_pre_hook(note, with_kwargs=True) for norm in norms]
    try:
        for i in range(len(batches)):
            with suppress(_Stop):
                batches.run(model, i)
    finally:
        for handle in handles:
            handle.remove()
    if not inputs:
        return ""
    first = inputs[0][0]
    stored = first.get_buffer("running_var").double().cpu()
    alive = stored > float(getattr(first, "eps", 0.0))
    untrained = bool((stored == 1).all())
    seen = [(mean, square) for norm, mean, square in inputs if norm is first]
    if untrained or not bool(alive.any()) or seen[0][0].shape != stored.shape:
        return ""
    mean, square = (torch.stack(values).mean(0) for values in zip(*seen, strict=True))
    ratio = float(((square - mean.square()).clamp(min=0) / stored)[alive].median())
    said = (
        f"the input of {norms[first]}, the first norm, varies {ratio:.2g} times as much on the "
        "data as in the training: are the data normalized as they were there?"
    )
    if ratio < _LEAST_RATIO:
        raise ValueError(said)
    if not math.isfinite(ratio) or 1 / _ODD <= ratio <= _ODD:  # the fit names what is not finite
        return ""
    return said[0].upper() + said[1:]
