"""Group norms that a network calls as functions, which no form can take the place of."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from groupnorm.conversion.example import Example, evaluating, run
from groupnorm.conversion.sources import is_norm
from groupnorm.counts import counted
from groupnorm.export.preparation.report import KEPT, PreparedLayer


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the group norms that run within each module which is no norm.

    Attributes:
        running: the modules that run now, by name, and whether each is a norm.
        found: name of a module -> how many ran in it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[tuple[str, bool]] = []
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if "group_norm" in str(func) and not any(norm for _, norm in self.running):
            self.found[self.running[-1][0] if self.running else ""] += 1
        return func(*args, **(kwargs or {}))


def called_group_norms(network: nn.Module, example: Example) -> list[PreparedLayer]:
    """A row for each module that calls group norm as a function, which stays as it is.

    Raises:
        ValueError: the network does not run on the example.
    """
    calls = _Calls()
    handles = []
    for name, module in network.named_modules():

        def enter(module: nn.Module, args: Any, name: str = name) -> None:
            calls.running.append((name, is_norm(module)))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            calls.running.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        with evaluating(network), calls:
            run(network, example)
    finally:
        for handle in handles:
            handle.remove()
    return [
        PreparedLayer(
            name,
            KEPT,
            f"calls group norm as a function {counted(count, 'time')}; write it as a "
            "GroupNorm module to have it in the runtime's form",
        )
        for name, count in calls.found.items()
    ]
