"""LiteRT, once TensorFlow Lite, on the CPU: .tflite files, which XNNPACK takes.

Images are transposed where they go in and out, and attention's views around each block of it.

Its converter pins PyTorch and has older versions of packages that others need: it belongs into an
environment of its own.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from groupnorm.export.errors import ExportError
from groupnorm.export.programs.exported import Axes, exported
from groupnorm.export.programs.graphs import module_of, rewrite
from groupnorm.export.programs.slices import without_slices
from groupnorm.export.programs.xnnpack import means_with_axes, pads_of_channels_joined
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.quiet import first, quiet
from groupnorm.files import write_atomic

TESTED = {"litert-torch": ("0.10",), "ai-edge-litert": ("2.3",)}


def versions() -> dict[str, str]:
    """The installed versions.

    Raises:
        ExportError: something is missing, or of a version that was never tested.
    """
    try:
        return installed_versions("LiteRT", None, TESTED)
    except ExportError as error:
        raise ExportError(
            f"{error}. Give it an environment of its own: it pins PyTorch and other packages"
        ) from None


def write(
    network: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    dynamic: Axes = (),
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU, in float32.
        example: its inputs.
        path: of the file.
        dynamic: empty; other sizes are refused.

    Raises:
        ExportError: it cannot be converted.
    """
    if dynamic:
        raise ExportError(
            f"dynamic axes {tuple(dynamic)}: LiteRT's converter fails on sizes that may "
            "change; write one file for each size"
        )
    halves = {str(t.dtype) for t in (*network.state_dict().values(), *example)} & {
        "torch.float16", "torch.bfloat16",
    }  # fmt: skip
    if halves:
        raise ExportError(
            f"LiteRT's converter has no convolution in half types, got {', '.join(halves)}: "
            "export in float32"
        )
    module = _in_its_layout(network, example)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        import litert_torch

        try:
            content = litert_torch.convert(module, example).model_content()
        except Exception as error:
            raise ExportError(
                f"LiteRT cannot convert the network: {type(error).__name__}: {first(error)}"
            ) from error
    write_atomic(path, content)


def _in_its_layout(network: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The network in operators that the converter takes channels last, and XNNPACK as well."""
    module = module_of(means_with_axes(exported(network, example)))
    rewrite(module, without_slices, pads_of_channels_joined)
    return module


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the file on one thread of the CPU.

    Args:
        path: of the file.

    Raises:
        ExportError: it cannot be loaded. So does the function for inputs of another shape or dtype
            than the file's, but that it takes int64 where the file has int32.
    """
    interpreter = _interpreter(path)
    wanted = interpreter.get_input_details()
    outputs_of = [one["index"] for one in interpreter.get_output_details()]

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        for one, value in zip(wanted, inputs, strict=True):
            if value.dtype == np.int64:
                value = value.astype(one["dtype"])
            try:
                interpreter.set_tensor(one["index"], value)
            except ValueError as error:
                raise ExportError(f"LiteRT cannot run {path}: {first(error)}") from error
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs_of]

    return run


def describe(path: Path) -> Description:
    """The operators of the file, and how many parts XNNPACK takes when it is loaded."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    kinds = [names[max(one.builtinCode, one.deprecatedBuiltinCode)] for one in model.operatorCodes]
    operators = Counter(
        kinds[operator.opcodeIndex] for graph in model.subgraphs for operator in graph.operators
    )
    loaded = Counter(one["op_name"] for one in _interpreter(path)._get_ops_details())
    return Description(dict(operators), loaded["DELEGATE"])


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT cannot load {path}: {first(error)}") from error
    return interpreter
