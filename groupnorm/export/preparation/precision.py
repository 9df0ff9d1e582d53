"""A network in float64 while it is changed, so that each weight is rounded once, at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from groupnorm.conversion.example import Example, NotRunError, evaluating, run
from groupnorm.conversion.walk import working_copy
from groupnorm.export.forms import GroupNormForm
from groupnorm.files import first_line

WORKING = torch.float64


class Dtypes:
    """The dtypes that a network's tensors have, for those that take their place.

    Attributes:
        usual: the one that most values have.
    """

    def __init__(self, model: nn.Module) -> None:
        self._of_tensor: dict[str, torch.dtype] = {}
        self._of_module: dict[str, torch.dtype] = {}
        values: Counter[torch.dtype] = Counter()
        for name, tensor in _floats(model):
            owner = name.rpartition(".")[0].partition(".parametrizations")[0]
            self._of_tensor[name] = tensor.dtype
            self._of_module.setdefault(owner, tensor.dtype)
            values[tensor.dtype] += tensor.numel()
        most = values.most_common(1)
        self.usual = most[0][0] if most else torch.get_default_dtype()

    def of_module(self, name: str) -> torch.dtype:
        """That of a module, or of the nearest one around it that had values of its own."""
        while name and name not in self._of_module:
            name = name.rpartition(".")[0]
        return self._of_module.get(name, self.usual)

    def restore(self, model: nn.Module) -> None:
        """Give the tensors of a changed network these dtypes."""
        for name, module in model.named_modules():
            if isinstance(module, GroupNormForm):  # which knows what its buffers need
                module.to(self.of_module(name))
                continue
            prefix = f"{name}." if name else ""
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None and tensor.is_floating_point():
                        own = self._of_tensor.get(prefix + key, self.of_module(name))
                        tensor.data = tensor.data.to(own)


def _floats(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return ((name, tensor) for name, tensor in tensors if tensor.is_floating_point())


def on_cpu(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode on the CPU.

    Raises:
        ValueError: it cannot be copied, or is wrapped for several processes.
    """
    return working_copy(model).eval().cpu()


def in_float64(network: nn.Module, example: Example) -> tuple[nn.Module, torch.dtype | None, str]:
    """The network in float64, where it runs in it.

    Args:
        network: a copy to be changed.
        example: as in `prepare`.

    Returns:
        The network, float64 or, where it does not run in it, None for its own dtypes, and why.

    Raises:
        ValueError: it does not run on the example in its own dtypes either.
    """
    check_runs(network, moved(example, None))
    doubled = working_copy(network).double()
    try:
        check_runs(doubled, moved(example, WORKING))
    except NotRunError as error:
        return network, None, first_line(error.__cause__ or error)
    return doubled, WORKING, ""


def check_runs(network: nn.Module, example: Example) -> None:
    """Run a copy of a network, for one may change as it runs.

    Raises:
        NotRunError: it does not run on the example.
    """
    trial = working_copy(network)
    with evaluating(trial):
        run(trial, example)


def moved(example: Example, dtype: torch.dtype | None) -> Example:
    """An example on the CPU, its floating-point tensors in another dtype, or None for their own.

    What a callable gives to the network is moved when it calls it.

    Raises:
        TypeError: it is no example.
    """

    if not (isinstance(example, Tensor | tuple | list) or callable(example)):
        raise TypeError(
            "an example is a tensor, a tuple of arguments, a list, or a callable that runs the "
            f"model it gets (lambda model: model(x=...)), got {type(example).__name__}"
        )

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        # a copy, for a network may change its input in place
        wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
        return value.detach().to("cpu", wanted, copy=True)

    def moved_call(
        module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        return tree_map(move, args), tree_map(move, dict(kwargs))

    inside: Callable[[nn.Module], Any]
    if callable(example) and not isinstance(example, Tensor):
        inside = example
    else:

        def inside(model: nn.Module) -> Any:
            return run(model, example)

    def call(model: nn.Module) -> Any:
        handle = model.register_forward_pre_hook(moved_call, with_kwargs=True)
        try:
            return inside(model)
        finally:
            handle.remove()

    return call
