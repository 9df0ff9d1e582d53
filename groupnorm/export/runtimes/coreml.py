"""Core ML: .mlpackage folders. They are written here and run on macOS only."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groupnorm.counts import counted
from groupnorm.export.errors import ExportError
from groupnorm.export.programs.exported import Axes, exported
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.quiet import first, quiet

EXTRA = "export-coreml"
TESTED = {"coremltools": ("9.0",)}
_SQUARING = (
    "instance_norm",
    "l2_norm",
    "layer_norm",
    "local_response_norm",
    "pow",
    "reduce_l2_norm",
    "reduce_sum_square",
    "square",
)
"""Operators that compute squares, beside `mul` of a value with itself."""
_STATISTICS = ("real_div", "reduce_mean", "rsqrt", "sqrt", "sub")
"""Operators of norms that stay in float32 beside those of squares."""
_MODERATE = (
    "instance_norm",
    "l2_norm",
    "layer_norm",
    "local_response_norm",
    "real_div",
    "reduce_l2_norm",
    "rsqrt",
    "sigmoid",
    "softmax",
    "sqrt",
    "tanh",
)
"""Operators after which squares are of the size of ordinary values again."""


def versions() -> dict[str, str]:
    """The installed version.

    Raises:
        ExportError: it is missing, or of a version that was never tested.
    """
    return installed_versions("Core ML", EXTRA, TESTED)


def write(
    network: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    dynamic: Axes = (),
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU. One in float16 is written with inputs,
            outputs, the statistics of norms and all squares in float32, and float16 between.
        example: its inputs, in its dtype.
        path: of the .mlpackage folder.
        dynamic: of each input the axes whose size may change.

    Raises:
        ExportError: it cannot be converted, or squares would be computed in float16.
    """
    with quiet():
        import coremltools as ct

        in_half = any(t.dtype == torch.float16 for t in (*network.parameters(), *example))
        network = copy.deepcopy(network).float()
        example = tuple(t.float() if t.is_floating_point() else t for t in example)
        program = exported(network, example, dynamic).run_decompositions({})
        half = ct.transform.FP16ComputePrecision(op_selector=InHalf())
        try:
            model = ct.convert(
                program,
                convert_to="mlprogram",
                compute_precision=half if in_half else ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS16,
            )
            model.save(str(path))
        except Exception as error:
            raise ExportError(
                f"coremltools cannot convert the network: {type(error).__name__}: {first(error)}"
            ) from error
    squares = half_squares(path)
    if squares:
        raise ExportError(
            f"Core ML would compute {counted(squares, 'square')} in float16, which overflow from "
            "256 on"
        )


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the package.

    Raises:
        ExportError: this is no Mac.
    """
    if sys.platform != "darwin":
        raise ExportError("Core ML runs on macOS only: not run on this machine")
    import coremltools as ct

    model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
    names = [one.name for one in model.get_spec().description.input]
    outputs = [one.name for one in model.get_spec().description.output]

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        single = [x.astype(np.float32) if x.dtype == np.float16 else x for x in inputs]
        found = model.predict(dict(zip(names, single, strict=True)))
        return [found[name] for name in outputs]

    return run


def describe(path: Path) -> Description:
    """The operators of the package, without constants."""
    kinds = Counter(op.type for op in _operations(path))
    del kinds["const"]
    return Description(dict(kinds), None)


class InHalf:
    """Says of each operator, in the order in which they run, whether it may be in float16.

    Squares overflow there from 256 on. So they stay in float32, and so does what is computed of
    them until a root, a quotient or the like: a variance has the size of a square too.
    """

    def __init__(self) -> None:
        self._of_squares: set[Any] = set()

    def __call__(self, op: Any) -> bool:
        """Whether an operator of coremltools' program may be computed in float16."""
        makers = {value.op for value in _values(op)}
        squares = op.op_type in _SQUARING or _squares_itself(op)
        if (squares or makers & self._of_squares) and not _gives_moderate(op):
            self._of_squares.add(op)
        return not squares and op not in self._of_squares and op.op_type not in _STATISTICS


def _values(op: Any) -> list[Any]:
    """What an operator takes, each value by itself."""
    lists = [v if isinstance(v, (list, tuple)) else [v] for v in op.inputs.values()]
    return [value for values in lists for value in values]


def _squares_itself(op: Any) -> bool:
    return op.op_type == "mul" and _before_casts(op.x) is _before_casts(op.y)


def _before_casts(value: Any) -> Any:
    while value.op is not None and value.op.op_type == "cast":
        value = value.op.x
    return value


def _gives_moderate(op: Any) -> bool:
    if op.op_type == "pow":  # a root written as a power
        return op.y.val is not None and bool((np.abs(op.y.val) < 1).all())
    return op.op_type in _MODERATE


def half_squares(path: Path) -> int:
    """How many operators of a package compute squares in float16.

    Every `pow` counts, whatever its exponent.
    """
    from coremltools.proto import MIL_pb2

    half = MIL_pb2.DataType.FLOAT16
    operations = list(_operations(path))
    casts = {
        op.outputs[0].name: op.inputs["x"].arguments[0].name
        for op in operations
        if op.type == "cast"
    }

    def source(op: Any, operand: str) -> str:
        name = op.inputs[operand].arguments[0].name
        while name in casts:
            name = casts[name]
        return str(name)

    return sum(
        op.outputs[0].type.tensorType.dataType == half
        for op in operations
        if op.type in _SQUARING or (op.type == "mul" and source(op, "x") == source(op, "y"))
    )


def _operations(path: Path) -> Iterator[Any]:
    """The operators of a package, those of nested blocks behind the one that holds them."""
    with quiet():
        import coremltools as ct

        spec = ct.utils.load_spec(str(path))
    for function in spec.mlProgram.functions.values():
        yield from _of_blocks(function.block_specializations.values())


def _of_blocks(blocks: Iterable[Any]) -> Iterator[Any]:
    for block in blocks:
        for op in block.operations:
            yield op
            yield from _of_blocks(op.blocks)
