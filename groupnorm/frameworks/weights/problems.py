"""What does not fit between two models, and the error that lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Problems = dict[str, list[str]]
"""What does not fit: a heading -> one line for each thing."""


class WeightsError(ValueError):
    """Weights that do not fit a model; the message lists every one."""


def refuse(problems: Problems) -> None:
    """Raise if there are any problems.

    Raises:
        WeightsError: it lists them all.
    """
    if any(problems.values()):
        listed = [
            f"  {heading}:\n" + "\n".join(f"    {line}" for line in sorted(lines))
            for heading, lines in problems.items()
            if lines
        ]
        raise WeightsError("the weights do not fit, nothing was loaded:\n" + "\n".join(listed))


def differing(own: Mapping[str, Any], torch_values: Mapping[str, Any]) -> list[str]:
    """One line for each module whose setting is another one in PyTorch.

    Args:
        own: path of the module -> its value, and `torch_values` the same in PyTorch.
    """
    return [
        f"{module or 'the model itself'}: {own[module]}, in PyTorch {value}"
        for module, value in torch_values.items()
        if own[module] != value
    ]
