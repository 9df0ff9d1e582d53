"""Whether a written network computes what the network does in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from groupnorm.export.errors import ExportError
from groupnorm.export.inputs import Inputs

Array = np.ndarray[Any, Any]
Run = Callable[[Sequence[Array]], list[Array]]

TIMES, PLUS = 4, 1e-5
"""Allowed is TIMES the error of PyTorch, and PLUS in float32 or TIMES a rounding in half types."""


@dataclass(frozen=True)
class Expected:
    """What a network gives in float64.

    Attributes:
        name: of the inputs.
        inputs: in the network's dtype.
        outputs: in float64.
        pytorch: largest absolute error of PyTorch in the network's dtype; infinite where it is not
            finite.
        allowed: largest absolute error of what was written.
    """

    name: str
    inputs: list[Array]
    outputs: list[Array]
    pytorch: float
    allowed: float


@dataclass(frozen=True)
class Check:
    """How far a written network is from the network in float64, on some inputs.

    Attributes:
        name: of the inputs.
        error: largest absolute difference of any output; infinite where one is not finite.
        pytorch: the same of PyTorch in the network's dtype.
        largest: largest absolute output.
        allowed: what `error` may be.
    """

    name: str
    error: float
    pytorch: float
    largest: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is finite and not above what is allowed."""
        return math.isfinite(self.error) and self.error <= self.allowed


def outputs_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of a network, in their order.

    Raises:
        ExportError: it does not run, or gives something other than tensors.
    """
    try:
        with torch.no_grad():
            found = tree_leaves(network(*(tensor.clone() for tensor in inputs)))
    except Exception as error:
        raise ExportError(
            f"the network does not run on inputs of shape {[tuple(t.shape) for t in inputs]}: "
            f"{type(error).__name__}: {error}"
        ) from error
    others = [type(one).__name__ for one in found if not isinstance(one, Tensor)]
    if others or not found:
        raise ExportError(f"the network must give tensors, got {', '.join(others) or 'nothing'}")
    return found


def expect(
    inputs: Inputs,
    exact: nn.Module,
    networks: Sequence[nn.Module],
    dtype: torch.dtype,
    tolerance: float | None,
) -> Expected:
    """What a network gives in float64, and how far from that a file may be.

    Args:
        inputs: in the network's dtype.
        exact: the network in float64.
        networks: in the network's dtype: as it was given, and as it was prepared. The smaller error
            of the two is PyTorch's.
        dtype: of the network.
        tolerance: allowed in place of the rule, or None.

    Raises:
        ExportError: the network does not run on the inputs, or its outputs are not finite.
    """
    doubled = tuple(t.double() if t.is_floating_point() else t for t in inputs.tensors)
    outputs = [one.double().numpy() for one in outputs_of(exact, doubled)]
    if not all(np.isfinite(one).all() for one in outputs):
        raise ExportError(f"{inputs.name}: outputs of the network are not finite in float64")
    own = min(_error(network, inputs.tensors, outputs) for network in networks)
    largest = max(float(np.abs(one).max(initial=0)) for one in outputs)
    plus = PLUS if dtype == torch.float32 else TIMES * torch.finfo(dtype).eps / 2 * largest
    allowed = TIMES * own + plus if math.isfinite(own) else plus
    return Expected(
        inputs.name, [tensor.numpy() for tensor in inputs.tensors], outputs, own,
        allowed if tolerance is None else tolerance,
    )  # fmt: skip


def compare(run: Run, expected: Expected) -> Check:
    """Run a written network and compare what it gives.

    Raises:
        ExportError: it does not run, or gives more or fewer outputs, or of other shapes.
    """
    try:
        found = run(expected.inputs)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{expected.name}: the file does not run on inputs of shape "
            f"{[one.shape for one in expected.inputs]}: {type(error).__name__}: {error}"
        ) from error
    largest = max(float(np.abs(one).max(initial=0)) for one in expected.outputs)
    off = difference(found, expected.outputs)
    return Check(expected.name, off, expected.pytorch, largest, expected.allowed)


def difference(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest absolute difference; infinite where a number is not finite.

    Raises:
        ExportError: there are more or fewer outputs, or of other shapes.
    """
    shapes = [tuple(one.shape) for one in found], [tuple(one.shape) for one in expected]
    if shapes[0] != shapes[1]:
        raise ExportError(f"outputs of shapes {shapes[1]} were expected, got {shapes[0]}")
    largest = 0.0
    for one, exact in zip(found, expected, strict=True):
        if not np.isfinite(one).all():
            return math.inf
        largest = max(largest, float(np.abs(one.astype(np.float64) - exact).max(initial=0)))
    return largest


def _error(network: nn.Module, inputs: tuple[Tensor, ...], expected: Sequence[Array]) -> float:
    return difference([one.double().numpy() for one in outputs_of(network, inputs)], expected)
