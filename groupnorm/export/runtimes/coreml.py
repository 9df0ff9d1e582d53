"""Core ML: .mlpackage folders. They are written here and run on macOS only."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groupnorm.export.errors import ExportError, NotRunHereError
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.program import exported
from groupnorm.export.runtimes.quiet import first, quiet

EXTRA = "export-coreml"
TESTED = {"coremltools": ("9.0",)}
_STATISTICS = ("square", "reduce_mean", "sub", "rsqrt", "sqrt", "real_div", "instance_norm")
"""Operators that stay in float32 where the rest is float16: squares overflow from 256 on."""


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
    dynamic: Sequence[int] = (),
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU. One in float16 is written with inputs,
            outputs and the statistics of norms in float32, and float16 between.
        example: its inputs, in its dtype.
        path: of the .mlpackage folder.
        dynamic: axes whose size may change.

    Raises:
        ExportError: it cannot be converted, or squares would be computed in float16.
    """
    with quiet():
        import coremltools as ct

        in_half = any(parameter.dtype == torch.float16 for parameter in network.parameters())
        network = copy.deepcopy(network).float()
        example = tuple(t.float() if t.is_floating_point() else t for t in example)
        program = exported(network, example, dynamic).run_decompositions({})
        half = ct.transform.FP16ComputePrecision(
            op_selector=lambda op: op.op_type not in _STATISTICS
        )
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
            f"Core ML would compute {squares} squares in float16, which overflow from 256 on"
        )


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the package.

    Raises:
        NotRunHereError: this is no Mac.
    """
    if sys.platform != "darwin":
        raise NotRunHereError("Core ML runs on macOS only: not run on this machine")
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


def half_squares(path: Path) -> int:
    """How many squares of a package give float16."""
    from coremltools.proto import MIL_pb2

    half = MIL_pb2.DataType.FLOAT16
    return sum(
        op.type == "square" and op.outputs[0].type.tensorType.dataType == half
        for op in _operations(path)
    )


def _operations(path: Path) -> list[Any]:
    with quiet():
        import coremltools as ct

        spec = ct.utils.load_spec(str(path))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return list(block.operations)
