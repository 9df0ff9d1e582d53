"""Where values that are infinite or NaN come from: the first layer of a network, and the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from groupnorm.conversion.example import floats_in


class NotFiniteError(ValueError):
    """Values are infinite or NaN, or too large to be squared.

    Attributes:
        sample: the first with such values, counted from 0 over all batches; None where not known.
    """

    def __init__(self, message: str, sample: int | None = None) -> None:
        super().__init__(message)
        self.sample = sample


class _Place(NamedTuple):
    """Values that are not finite: the input or the output of which module, "" for the network."""

    what: str
    module: str
    values: Tensor


class Position(NamedTuple):
    """Where a batch stands in the data: its number, and that of its first sample, if known."""

    batch: int
    sample: int | None


def with_positions(batches: Iterable[Any], before: int = 0) -> Iterator[tuple[Any, Position]]:
    """Each batch with its position.

    Args:
        batches: as in `check_finite`.
        before: samples of earlier batches.
    """
    sample: int | None = before
    for number, batch in enumerate(batches):
        yield batch, Position(number, sample)
        samples = _samples(batch)
        sample = None if sample is None or samples is None else sample + samples


def check_finite(
    network: str,
    model: nn.Module,
    batches: Iterable[Any],
    run: Callable[[nn.Module, Any], Any],
    before: int = 0,
) -> None:
    """Check what every module of a network gets and gives.

    It is gone through once more for that, so that a caller does this where a result is not finite.

    Args:
        network: what it is called in the message.
        model: in the mode in which it is to run.
        batches: whose first dimension counts the samples, where they are tensors or begin with one.
        run: runs the network on a batch.
        before: samples of earlier batches.

    Raises:
        NotFiniteError: the message names the first module to get or give such values, and the first
            sample that has them.
    """
    for batch, position in with_positions(batches, before):
        check_batch(network, model, batch, run, position)


def check_batch(
    network: str,
    model: nn.Module,
    batch: Any,
    run: Callable[[nn.Module, Any], Any],
    position: Position,
) -> None:
    """`check_finite` for the batch at a position of the data.

    Raises:
        NotFiniteError: as there.
    """
    found = _first(model, batch, run)
    if found is None:
        return
    row = _row(found.values, _samples(batch))
    sample = None if row is None or position.sample is None else position.sample + row
    which = f"batch {position.batch}" if sample is None else f"sample {sample}"
    owner = f"{found.module} in {network}" if found.module else network
    raise NotFiniteError(
        f"the {found.what} of {owner} has values that are infinite or NaN, first for {which} of "
        "the data, counted from 0",
        sample,
    )


def all_finite(value: Any) -> bool:
    """Whether the floating-point tensors in an output, at any depth, have finite values alone."""
    return all(bool(tensor.isfinite().all()) for tensor in floats_in(value))


def _first(model: nn.Module, batch: Any, run: Callable[[nn.Module, Any], Any]) -> _Place | None:
    """The first input or output of a module with such values; inner modules end before outer."""
    found: list[_Place] = []

    def note(what: str, module: nn.Module, name: str, values: Any) -> None:
        if found:
            return
        for tensor in floats_in(values):
            if not bool(tensor.isfinite().all()):
                owner = f"{name} ({type(module).__name__})" if name else ""
                found.append(_Place(what, owner, tensor.detach()))
                return

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            continue

        def enter(one: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            note("input", one, name, (args, kwargs))

        def leave(one: nn.Module, args: Any, output: Any, name: str = name) -> None:
            note("output", one, name, output)

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        output = run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not found:  # what is done with the network's output, or a network in TorchScript
        note("output", model, "", output)
    return found[0] if found else None


def _samples(batch: Any) -> int | None:
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    return len(first) if isinstance(first, Tensor) and first.dim() else None


def _row(values: Tensor, samples: int | None) -> int | None:
    """The first sample with such values; None where the first dimension does not count them."""
    if samples is None or values.dim() == 0 or len(values) != samples:
        return None
    bad = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
    return int(bad.nonzero()[0])
