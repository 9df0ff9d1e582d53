"""ONNX Runtime on the CPU: .onnx files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.quiet import first, quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from groupnorm.export.programs.exported import Axes

EXTRA = "export"
TESTED = {"onnx": ("1.23",), "onnxruntime": ("1.32",), "onnxscript": ("0.7",)}
OPSET = 20
"""The last one in which PyTorch writes group norm as reshape and InstanceNormalization.

From opset 21 on it is `GroupNormalization`, which ONNX Runtime computes from E[x^2] - E[x]^2.
"""


def versions() -> dict[str, str]:
    """The installed versions.

    Raises:
        ExportError: something is missing, or of a version that was never tested.
    """
    return installed_versions("ONNX Runtime", EXTRA, TESTED)


def write(
    network: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    dynamic: Axes = (),
    opset: int = OPSET,
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU.
        example: its inputs, in its dtype.
        path: of the file.
        dynamic: of each input the axes whose size may change.
        opset: of ONNX.

    Raises:
        ExportError: it cannot be converted.
    """
    import torch

    from groupnorm.export.programs.exported import exported

    program = exported(network, example, dynamic)
    with quiet():
        try:
            made = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
            assert made is not None
            made.save(path, external_data=False)
        except Exception as error:
            raise ExportError(
                f"PyTorch cannot write the network as ONNX: {type(error).__name__}: {first(error)}"
            ) from error


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the file on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot load {path}: {first(error)}") from error
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def describe(path: Path) -> Description:
    """The operators of the file, as it is written."""
    import onnx

    model = onnx.load(str(path))
    return Description(dict(Counter(node.op_type for node in model.graph.node)), None)
