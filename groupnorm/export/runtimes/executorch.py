"""ExecuTorch on the CPU: .pte files, whose operators XNNPACK takes where it has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groupnorm.export.errors import ExportError
from groupnorm.export.programs.exported import Axes, exported
from groupnorm.export.programs.xnnpack import gelu_written_out, means_with_axes, rewritten
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.quiet import first, quiet
from groupnorm.files import write_atomic

EXTRA = "export-executorch"
TESTED = {"executorch": ("1.5",)}
GROWTH = 2
"""How many times the example's size a dynamic axis may have: ExecuTorch reserves memory ahead."""


def versions() -> dict[str, str]:
    """The installed version.

    Raises:
        ExportError: it is missing, or of a version that was never tested.
    """
    return installed_versions("ExecuTorch", EXTRA, TESTED)


def write(
    network: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    dynamic: Axes = (),
    portable: bool = False,
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU.
        example: its inputs, in its dtype.
        path: of the file.
        dynamic: of each input the axes whose size may change, up to `GROWTH` times; 4 where the
            example has 1.
        portable: leave everything to the portable operators, nothing to XNNPACK.

    Raises:
        ExportError: it cannot be converted.
    """
    program = exported(network, example, dynamic, growth=GROWTH)
    if not portable:
        program = means_with_axes(gelu_written_out(program))
        module = rewritten(program)
        if module is not None:
            program = exported(module, example, dynamic, growth=GROWTH)
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            lowered = to_edge_transform_and_lower(
                program, partitioner=[] if portable else [XnnpackPartitioner()]
            )
            content = bytes(lowered.to_executorch().buffer)
        except Exception as error:
            raise ExportError(
                f"ExecuTorch cannot convert the network: {type(error).__name__}: {first(error)}"
            ) from error
    write_atomic(path, content)


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the file on one thread of the CPU.

    ExecuTorch has one pool of threads in a process: all that runs there has one thread then.

    Raises:
        ExportError: it cannot be loaded. So does the function for inputs of a shape that the file
            was not written for.
    """
    with quiet():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

    if portable_lib._threadpool_get_thread_count() != 1:
        portable_lib._unsafe_reset_threadpool(1)
    try:
        method = Runtime.get().load_program(path).load_method("forward")
    except RuntimeError as error:
        raise ExportError(f"ExecuTorch cannot load {path}: {first(error)}") from error

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
        try:
            return [tensor.numpy() for tensor in method.execute(tensors)]
        except RuntimeError as error:
            meta = method.metadata
            largest = [meta.input_tensor_meta(i).sizes() for i in range(meta.num_inputs())]
            raise ExportError(
                f"ExecuTorch cannot run {path} on inputs of shape "
                f"{', '.join(str(value.shape) for value in inputs)}: it was written for "
                f"{', '.join(map(str, largest))}, or less where an axis is dynamic. {first(error)}"
            ) from error

    return run


def describe(path: Path) -> Description:
    """The operators of the file that no delegate takes, and the number of delegates."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall

    (plan,) = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    calls = [call.instr_args for chain in plan.chains for call in chain.instructions]
    operators = Counter(
        plan.operators[call.op_index].name for call in calls if isinstance(call, KernelCall)
    )
    return Description(dict(operators), sum(isinstance(call, DelegateCall) for call in calls))
