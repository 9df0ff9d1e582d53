"""One run of a network on an example, without leaving a trace in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from groupnorm.files import first_line

Example: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | Callable[[nn.Module], Any]"
Forward: TypeAlias = "Callable[[nn.Module, Any], Any]"
Shapes: TypeAlias = "list[tuple[int, ...]]"
T = TypeVar("T")


class NotRunError(ValueError):
    """A network does not run on what it was given."""


def run(model: nn.Module, example: Example) -> Any:
    """The network's output on an example.

    Args:
        example: its input, a tuple of its arguments, or a callable that runs the model it gets, for
            models that take something else. A list is one argument, as detectors take a list of
            images.

    Raises:
        NotRunError: the network does not run on it.
        TypeError: it is none of these.
    """
    if not (isinstance(example, Tensor | tuple | list) or callable(example)):
        raise TypeError(
            "an example is a tensor, a tuple of arguments, a list, or a callable that runs the "
            f"model it gets (lambda model: model(x=...)), got {type(example).__name__}"
        )
    return _run(model, example, "the example")


def _run(model: nn.Module, example: Example, what: str) -> Any:
    try:
        if isinstance(example, tuple):
            return model(*example)
        if isinstance(example, Tensor | list):
            return model(example)
        return example(model)
    except NotRunError:  # of a run within this one, which says more
        raise
    except Exception as error:
        reason = first_line(error)
        raise NotRunError(f"the network does not run on {what}: {reason}") from error


def run_batch(model: nn.Module, batch: Any, forward: Forward | None = None) -> Any:
    """The network's output on a batch, as data loaders yield it.

    Args:
        batch: without `forward` the network's input, or a list or tuple that begins with it, as
            images before their labels.
        forward: runs a network on a batch, where that is something else:
            `lambda model, batch: model(batch["images"], batch["sizes"])`.

    Raises:
        NotRunError: the network does not run on it.
        TypeError: `forward` is needed.
    """
    if forward is None:
        input = input_of(batch)
        shape = tuple(input.shape)
        what = f"a batch of shape {shape}, whose first dimension counts the samples"
        return _run(model, input, what)
    return _run(model, lambda network: forward(network, batch), "a batch")


def input_of(batch: Any) -> Tensor:
    """The tensor that a batch is, or begins with.

    Raises:
        TypeError: there is none.
    """
    several = isinstance(batch, list | tuple)
    first = batch[0] if several and batch else batch
    if isinstance(first, Tensor):
        return first
    found = type(batch).__name__
    if several:
        found = f"a {found} of {type(first).__name__}" if batch else f"an empty {found}"
    raise TypeError(
        f"a batch is a tensor, or a list or tuple that begins with one, got {found}; "
        "forward=lambda model, batch: ... runs the network on anything else"
    )


def check_not_compiled(model: nn.Module) -> None:
    """Check that no part of a network is a wrapper of torch.compile, which runs what it was.

    Raises:
        ValueError: one is.
    """
    for name, module in model.named_modules():
        if "_orig_mod" not in module._modules:
            continue
        if name:
            raise ValueError(
                f"{name} is compiled by torch.compile: put {name}._orig_mod in its place, and "
                "compile it afterwards"
            )
        raise ValueError(
            "the network is compiled by torch.compile: give the network itself (model._orig_mod), "
            "and compile it afterwards"
        )


def check_batches(batches: object) -> None:
    """Check that what a caller gives as batches is not one tensor, whose rows are no batches.

    Raises:
        TypeError: it is, or cannot be gone through.
    """
    if isinstance(batches, Tensor):
        raise TypeError(
            f"batches are a list or a data loader, got one tensor {tuple(batches.shape)}; "
            "its batches of 32 are tensor.split(32)"
        )
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches are a list or a data loader, got {type(batches).__name__}")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in an output: of containers, mappings and dataclasses, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def floats_in(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in an output, as `tensors_in`."""
    return (tensor for tensor in tensors_in(value) if tensor.is_floating_point())


def copied(network: T, otherwise: str = "") -> T:
    """A deep copy of a network, or of one and what belongs to it.

    Args:
        otherwise: what a caller can do where it cannot be copied.

    Raises:
        ValueError: it cannot be copied.
    """
    try:
        with torch.no_grad():  # or copies of parameters in TorchScript would be no leaves
            made = copy.deepcopy(network)
    except Exception as error:
        advice = f"; {otherwise}" if otherwise else ""
        raise ValueError(f"the network cannot be copied ({first_line(error)}){advice}") from error
    if isinstance(made, nn.Module) and isinstance(network, nn.Module):
        for new, old in zip(made.parameters(), network.parameters(), strict=True):
            new.requires_grad_(old.requires_grad)  # which TorchScript does not copy so
    return made


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context the network is in evaluation mode, without gradients.

    On leaving its modes and the global generators are as before.
    """
    with kept_modes(model), kept_generators(model), torch.no_grad():
        model.eval()
        yield


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """On leaving this context each module is in training or evaluation mode as before.

    A module's own `train` puts it back, since some do more in it than set a flag: adapters merge
    their weights for evaluation and take them out for training.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training  # where that of another module, or a constant, set it


@contextmanager
def kept_generators(model: nn.Module) -> Iterator[None]:
    """On leaving this context the global generators of the network's devices are as before."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(d.index for d in devices)):
        yield


def input_shapes(
    model: nn.Module, modules: Iterable[nn.Module], example: Example
) -> dict[nn.Module, Shapes]:
    """The shapes of the inputs that modules get while a copy of the network runs on an example.

    Returns:
        module -> a shape for each time that it ran; none for one that did not.

    Raises:
        ValueError: the network does not run on the example, or cannot be copied.
        TypeError: it is no example.
    """
    network = copied(model, "without an example it need not be")
    originals = dict(zip(network.modules(), model.modules(), strict=True))
    wanted = set(modules)
    shapes: dict[nn.Module, Shapes] = {module: [] for module in wanted}

    def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = first_input(inputs, named)
        if given is not None:
            shapes[originals[module]].append(tuple(given.shape))

    for module, original in originals.items():
        if original in wanted and not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            module.register_forward_pre_hook(note, with_kwargs=True)
    with evaluating(network):
        run(network, example)
    return shapes


def first_input(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """The first tensor among the arguments of a call, by position or by name."""
    return next((x for x in (*inputs, *named.values()) if isinstance(x, Tensor)), None)
