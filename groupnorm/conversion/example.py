"""One run of a network on an example, without leaving a trace in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from groupnorm.files import first_line

Example: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | Callable[[nn.Module], Any]"


def run(model: nn.Module, example: Example) -> Any:
    """The network's output on an example.

    Args:
        example: its input, a tuple of its arguments, or a callable that runs the model it gets, for
            models that take something else. A list is one argument, as detectors take a list of
            images.

    Raises:
        ValueError: the network does not run on it.
    """
    try:
        if isinstance(example, tuple):
            return model(*example)
        if isinstance(example, Tensor | list):
            return model(example)
        return example(model)
    except Exception as error:
        what = first_line(error)
        raise ValueError(f"the network does not run on the example: {what}") from error


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context the network is in evaluation mode, without gradients.

    On leaving the training flags and the global generators are as before.
    """
    flags = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(d.index for d in devices)), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in flags:
            module.training = training


def input_shapes(
    model: nn.Module, modules: Iterable[nn.Module], example: Example
) -> dict[nn.Module, list[tuple[int, ...]]]:
    """The shapes of the inputs that modules get while a copy of the network runs on an example.

    Returns:
        module -> a shape for each time that it ran; none for one that did not.

    Raises:
        ValueError: the network does not run on the example.
    """
    copied = copy.deepcopy(model)
    originals = dict(zip(copied.modules(), model.modules(), strict=True))
    wanted = set(modules)
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {module: [] for module in wanted}

    def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = next((x for x in (*inputs, *named.values()) if isinstance(x, Tensor)), None)
        if given is not None:
            shapes[originals[module]].append(tuple(given.shape))

    for module, original in originals.items():
        if original in wanted:
            module.register_forward_pre_hook(note, with_kwargs=True)
    with evaluating(copied):
        run(copied, example)
    return shapes
