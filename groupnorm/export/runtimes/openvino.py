"""OpenVINO on the CPU: .xml files, with the weights in a .bin file beside each."""

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
TESTED = {"openvino": ("2026.4",)}
_OPTIONS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def versions() -> dict[str, str]:
    """The installed version.

    Raises:
        ExportError: it is missing, or of a version that was never tested.
    """
    return installed_versions("OpenVINO", EXTRA, TESTED)


def write(
    network: nn.Module, example: tuple[Tensor, ...], path: Path, *, dynamic: Axes = ()
) -> None:
    """Write a network.

    Args:
        network: prepared, in evaluation mode, on the CPU.
        example: its inputs, in its dtype.
        path: of the .xml file.
        dynamic: of each input the axes whose size may change.

    Raises:
        ExportError: it cannot be converted.
    """
    import openvino

    from groupnorm.export.programs.exported import exported

    program = exported(network, example, dynamic)
    with quiet():
        try:
            model = openvino.convert_model(program)
            if not dynamic:
                model.reshape({i: list(tensor.shape) for i, tensor in enumerate(example)})
            openvino.save_model(model, str(path), compress_to_fp16=False)
        except Exception as error:
            raise ExportError(
                f"OpenVINO cannot convert the network: {type(error).__name__}: {first(error)}"
            ) from error


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the file on one thread of the CPU, in float32 inside."""
    import openvino

    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", _OPTIONS)
    except Exception as error:
        raise ExportError(f"OpenVINO cannot load {path}: {first(error)}") from error

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        results = compiled(list(inputs))
        return [np.array(results[i]) for i in range(len(compiled.outputs))]

    return run


def describe(path: Path) -> Description:
    """The operators of the file, without constants, inputs and outputs."""
    import openvino

    kinds = Counter(op.get_type_name() for op in openvino.Core().read_model(str(path)).get_ops())
    for kind in ("Constant", "Parameter", "Result"):
        del kinds[kind]
    return Description(dict(kinds), None)
