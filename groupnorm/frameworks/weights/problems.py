"""What does not fit between two models, and the error that lists it."""

from __future__ import annotations

from collections.abc import Iterable
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


def differing(values: Iterable[tuple[str, Any, Any]]) -> list[str]:
    """One line for each module whose setting is another one in PyTorch.

    Args:
        values: path of a module, its value, and the value in PyTorch.
    """
    return [
        f"{path or 'the model itself'}: {own}, in PyTorch {torch_value}"
        for path, own, torch_value in values
        if own != torch_value
    ]
