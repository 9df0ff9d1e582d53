"""LiteRT, once TensorFlow Lite, on the CPU: .tflite files, which XNNPACK takes.

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
from torch import Tensor, nn

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.quiet import first, quiet
from groupnorm.files import write_atomic

TESTED = {"litert-torch": ("0.10",), "ai-edge-litert": ("2.3",)}


class _ChannelsLast(nn.Module):
    """The network with its images' channels as the last axis, in inputs and outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        outputs = self.network(*(t.movedim(-1, 1) if t.dim() > 2 else t for t in inputs))
        if isinstance(outputs, Tensor):
            return outputs.movedim(1, -1) if outputs.dim() > 2 else outputs
        return [t.movedim(1, -1) if t.dim() > 2 else t for t in outputs]


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
    dynamic: Sequence[int] = (),
    channels_last: bool = False,
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU, in float32.
        example: its inputs.
        path: of the file.
        dynamic: empty; other sizes are refused.
        channels_last: write a file whose inputs and outputs (N, C, *) are (N, *, C), so that it
            need not transpose them.

    Raises:
        ExportError: it cannot be converted.
    """
    if dynamic:
        raise ExportError(
            f"dynamic={tuple(dynamic)}: LiteRT's converter fails on sizes that may change; write "
            "one file for each size"
        )
    halves = {str(t.dtype) for t in (*network.state_dict().values(), *example)} & {
        "torch.float16", "torch.bfloat16",
    }  # fmt: skip
    if halves:
        raise ExportError(
            f"LiteRT's converter has no convolution in half types, got {', '.join(halves)}: "
            "export in float32"
        )
    if channels_last:
        network = _ChannelsLast(network).eval()
        example = tuple(t.movedim(1, -1).contiguous() if t.dim() > 2 else t for t in example)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        import litert_torch

        try:
            content = litert_torch.convert(network, example).model_content()
        except Exception as error:
            raise ExportError(
                f"LiteRT cannot convert the network: {type(error).__name__}: {first(error)}"
            ) from error
    write_atomic(path, content)


def load(
    path: Path, *, channels_last: bool = False
) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the file on one thread of the CPU.

    Args:
        path: of the file.
        channels_last: as it was written; the function takes and returns (N, C, *) all the same.

    Raises:
        ExportError: it cannot be loaded. So does the function for inputs of another shape or dtype
            than the file's, but that it takes int64 where the file has int32.
    """
    interpreter = _interpreter(path)
    wanted = interpreter.get_input_details()
    outputs_of = [one["index"] for one in interpreter.get_output_details()]

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        if channels_last:
            inputs = [np.moveaxis(x, 1, -1) if x.ndim > 2 else x for x in inputs]
        for one, value in zip(wanted, inputs, strict=True):
            if value.dtype == np.int64:
                value = value.astype(one["dtype"])
            try:
                interpreter.set_tensor(one["index"], value)
            except ValueError as error:
                raise ExportError(f"LiteRT cannot run {path}: {first(error)}") from error
        interpreter.invoke()
        outputs = [interpreter.get_tensor(index) for index in outputs_of]
        return [np.moveaxis(y, -1, 1) if channels_last and y.ndim > 2 else y for y in outputs]

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
