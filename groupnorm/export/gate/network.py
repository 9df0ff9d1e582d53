"""Whether a written network computes what the network does in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from groupnorm.export.errors import ExportError
from groupnorm.export.gate.double import in_double
from groupnorm.export.gate.inputs import Inputs
from groupnorm.files import first_line

Array = np.ndarray[Any, Any]

TIMES, PLUS = 4, 1e-5
LEAST = 1e-3
"""Allowed is TIMES the error of PyTorch and, in float32, PLUS times the largest number of the
output, at least LEAST and at most 1; in half types TIMES a rounding of that number instead."""


@dataclass(frozen=True)
class Exact:
    """What a network gives in float64 on some inputs.

    Attributes:
        inputs: in the network's dtype.
        outputs: in float64.
        errors: of PyTorch in the network's dtype: of each output the largest absolute error,
            infinite where it is not finite.
    """

    inputs: Inputs
    outputs: list[Array]
    errors: list[float]


@dataclass(frozen=True)
class Expected:
    """What a written network is compared with.

    Attributes:
        name: of the inputs.
        inputs: in the network's dtype.
        outputs: in float64.
        pytorch: of each output the largest absolute error of PyTorch in the network's dtype;
            infinite where it is not finite.
        allowed: of each output the largest absolute error of what was written.
    """

    name: str
    inputs: list[Array]
    outputs: list[Array]
    pytorch: list[float]
    allowed: list[float]


def closeness(error: float, allowed: float) -> float:
    """How much of what is allowed an error takes up; above 1 it is too large."""
    return error / allowed if allowed else math.inf if error else 0.0


class Bounded:
    """An error and what it may be."""

    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is finite and not above what is allowed."""
        return math.isfinite(self.error) and self.error <= self.allowed

    @property
    def closeness(self) -> float:
        """How much of what is allowed the error takes up."""
        return closeness(self.error, self.allowed)


@dataclass(frozen=True)
class Check(Bounded):
    """How far a written network is from the network in float64, on some inputs.

    Attributes:
        name: of the inputs.
        output: which output comes nearest to what is allowed, or exceeds it most.
        error: its largest absolute error; infinite where a number is not finite.
        pytorch: the same of PyTorch in the network's dtype.
        largest: its largest absolute number.
        allowed: what `error` may be.
    """

    name: str
    output: int
    error: float
    pytorch: float
    largest: float
    allowed: float


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


class Reference:
    """A network, and itself in float64.

    Args:
        network: in evaluation mode, on the CPU, in float32.
        dtype: that it is to be exported in.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self._double = copy.deepcopy(network).double()
        self._own = copy.deepcopy(network).to(dtype)

    def on(self, inputs: Inputs) -> Exact:
        """What it gives on some inputs.

        Raises:
            ExportError: it does not run on them, or gives values that are not finite.
        """
        exact = self._in_float64(inputs)
        for number, one in enumerate(exact):
            if not np.isfinite(one).all():
                of = f" {number}" if len(exact) > 1 else ""
                raise ExportError(
                    f"{inputs.name}: output{of} of the network is not finite in float64"
                )
        return Exact(inputs, exact, errors_of(self._own, inputs, exact))

    def check_repeats(self, before: Exact) -> None:
        """Check that the network gives again what it gave.

        Raises:
            ExportError: it draws random numbers, or changes as it runs.
        """
        again = self._in_float64(before.inputs)
        if not all(np.array_equal(a, b) for a, b in zip(before.outputs, again, strict=True)):
            raise ExportError(
                "the network gives other outputs each time that it runs: nothing can be compared "
                "with it. Take out what draws random numbers or keeps a state"
            )

    def _in_float64(self, inputs: Inputs) -> list[Array]:
        doubled = tuple(t.double() if t.is_floating_point() else t for t in inputs.tensors)
        try:
            with in_double():
                found = outputs_of(self._double, doubled)
        except ExportError as error:
            outputs_of(self._own, inputs.tensors)  # which may say more
            raise ExportError(
                "the network does not run in float64, with which a file is compared "
                f"({inputs.name}: {first_line(error.__cause__ or error)})"
            ) from error
        return [one.double().numpy() for one in found]


def expect(
    exact: Exact, prepared: nn.Module, dtype: torch.dtype, tolerance: float | None
) -> Expected:
    """What a file is compared with, and how far from it the file may be.

    Args:
        exact: of the network.
        prepared: the network that is written, in its dtype. The smaller error of the two is
            PyTorch's.
        dtype: of the network.
        tolerance: allowed in place of the rule, or None.

    Raises:
        ExportError: what was prepared does not run.
    """
    ready = errors_of(prepared, exact.inputs, exact.outputs)
    pytorch = [min(pair) for pair in zip(exact.errors, ready, strict=True)]
    allowed = [
        _allowed(error, _largest(output), dtype) if tolerance is None else tolerance
        for error, output in zip(pytorch, exact.outputs, strict=True)
    ]
    given = [tensor.numpy() for tensor in exact.inputs.tensors]
    return Expected(exact.inputs.name, given, exact.outputs, pytorch, allowed)


def _allowed(pytorch: float, largest: float, dtype: torch.dtype) -> float:
    if dtype == torch.float32:
        plus = PLUS * min(1.0, max(LEAST, largest))
    else:
        plus = TIMES * torch.finfo(dtype).eps / 2 * largest
    return TIMES * pytorch + plus if math.isfinite(pytorch) else plus


def _largest(output: Array) -> float:
    return float(np.abs(output).max(initial=0))


def errors_of(network: nn.Module, inputs: Inputs, exact: Sequence[Array]) -> list[float]:
    """The largest absolute error of each output of a network in PyTorch."""
    return differences([one.double().numpy() for one in outputs_of(network, inputs.tensors)], exact)


def compare(found: Sequence[Array] | ExportError, expected: Expected) -> Check:
    """Compare what a written network gave with what the network gives.

    Raises:
        ExportError: it did not run, or gave more or fewer outputs, or of other shapes.
    """
    if isinstance(found, ExportError):
        raise ExportError(
            f"{expected.name}: the file does not run on inputs of shape "
            f"{[one.shape for one in expected.inputs]}: {found}"
        ) from found
    rows = [
        Check(expected.name, number, error, pytorch, _largest(output), allowed)
        for number, (error, pytorch, output, allowed) in enumerate(
            zip(
                differences(found, expected.outputs), expected.pytorch, expected.outputs,
                expected.allowed, strict=True,
            )
        )
    ]  # fmt: skip
    return max(rows, key=lambda row: row.closeness)


def differences(found: Sequence[Array], expected: Sequence[Array]) -> list[float]:
    """The largest absolute difference of each output; infinite where a number is not finite.

    Raises:
        ExportError: there are more or fewer outputs, or of other shapes.
    """
    shapes = [tuple(one.shape) for one in found], [tuple(one.shape) for one in expected]
    if shapes[0] != shapes[1]:
        raise ExportError(f"outputs of shapes {shapes[1]} were expected, got {shapes[0]}")
    return [_difference(one, exact) for one, exact in zip(found, expected, strict=True)]


def _difference(found: Array, exact: Array) -> float:
    if not np.isfinite(found).all():
        return math.inf
    return float(np.abs(found.astype(np.float64) - exact).max(initial=0))
