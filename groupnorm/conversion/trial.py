"""A conversion tried on a copy of the network, before the network itself is changed."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from torch import nn

from groupnorm.conversion.example import Example, evaluating, run


def check_runs(
    model: nn.Module, replaced: Mapping[str, tuple[nn.Module, nn.Module]], example: Example
) -> None:
    """Run a converted copy of a network, and check that no norm runs which it should not have.

    What leads to a norm without being seen in the registered modules, such as a function's closure,
    shows here, and so does a module that reads a norm's statistics.

    Args:
        model: the converted copy.
        replaced: by name, a norm of the copy before, and what stands in its place.
        example: an input, as in `convert`.

    Raises:
        ValueError: it does not run, or a replaced norm still does.
    """
    before = {old: name for name, (old, _) in replaced.items()}
    still: list[str] = []

    def note(module: nn.Module, inputs: Any) -> None:
        if module in before:  # it shares its hooks with what took its place
            still.append(before[module])

    for old in before:
        old.register_forward_pre_hook(note)
    try:
        with evaluating(model):
            run(model, example)
    except ValueError as error:
        norms = {new for _, new in replaced.values()}
        where = _reader(error.__cause__, model, norms)
        raise ValueError(
            f"the converted network does not run, though the one before did: {error}{where}. "
            "Leave the norm that is read there out with `only`"
        ) from error
    if still:
        raise ValueError(
            f"the converted network still runs the old {still[0]}, to which something leads that "
            "is no registered module. Leave it out with `only`"
        )


def _reader(error: BaseException | None, model: nn.Module, norms: set[nn.Module]) -> str:
    """Where the innermost module but the norms stands, of those that ran at an error."""
    if error is None:
        return ""
    names = {module: name for name, module in model.named_modules()}
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    running = [one for one in owners if isinstance(one, nn.Module) and one in names]
    inner = next((one for one in reversed(running) if one not in norms), None)
    if inner is None:
        return ""
    return f", in {names[inner] or 'the network'} ({type(inner).__name__})"
