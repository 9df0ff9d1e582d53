"""ncnn on the CPU, by pnnx: .param files, with the weights in a .bin file beside each."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groupnorm.export.errors import ExportError
from groupnorm.export.programs.custom import check_operators, traced_custom_operators
from groupnorm.export.runtimes.description import Description
from groupnorm.export.runtimes.installed import installed_versions
from groupnorm.export.runtimes.quiet import first, quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from groupnorm.export.programs.exported import Axes

EXTRA = "export"
TESTED = {"ncnn": ("1.0.20261020",), "pnnx": ("20261020",)}
_SECONDS = 600
_OTHER_SIZE = 16  # added to each size that may change, in the second example that pnnx takes


def versions() -> dict[str, str]:
    """The installed versions.

    Raises:
        ExportError: something is missing, or of a version that was never tested.
    """
    return installed_versions("ncnn", EXTRA, TESTED)


def write(
    network: nn.Module, example: tuple[Tensor, ...], path: Path, *, dynamic: Axes = ()
) -> None:
    """Write a network. An ncnn network takes one image without its batch axis.

    Args:
        network: prepared, in evaluation mode, on the CPU, in float32.
        example: its inputs, one image each.
        path: of the .param file.
        dynamic: of each input the axes whose size may change, none of which is that of the batch.

    Raises:
        ExportError: it cannot be converted, has operators that ncnn lacks, or the example holds
            several images.
    """
    if any(0 in axes for axes in dynamic) or any(tensor.shape[0] != 1 for tensor in example):
        raise ExportError(
            "an ncnn network takes one image: give an example of one image and no dynamic axis 0, "
            f"got {[tuple(t.shape) for t in example]}, dynamic axes {tuple(dynamic)}"
        )
    import torch

    network = _without_slices(network, example, dynamic)
    # pnnx writes the names of modules as Python attributes, which a number cannot be
    named = torch.nn.ModuleDict({"network": network})
    named.forward = lambda *inputs: network(*inputs)
    with tempfile.TemporaryDirectory() as folder, quiet():
        script = Path(folder) / "net.pt"
        try:
            with torch.no_grad():
                traced: Any = torch.jit.trace  # PyTorch has no types for it
                made = traced(named, example, check_trace=False)
        except Exception as error:
            raise ExportError(
                f"PyTorch cannot trace the network: {type(error).__name__}: {first(error)}"
            ) from error
        check_operators(traced_custom_operators(made))
        made.save(str(script))
        _convert(script, example, dynamic)
        param, weights = (Path(folder) / f"net.ncnn.{end}" for end in ("param", "bin"))
        left = unknown_layers(param)
        if left:
            raise ExportError(f"ncnn has no layers for {', '.join(left)} of the network")
        path.write_bytes(param.read_bytes())
        path.with_suffix(".bin").write_bytes(weights.read_bytes())


def _without_slices(network: nn.Module, example: tuple[Tensor, ...], dynamic: Axes) -> nn.Module:
    """The network without slices that skip positions, as shortcuts have them: pnnx keeps those."""
    from groupnorm.export.programs.exported import exported
    from groupnorm.export.programs.graphs import functional_module, rewrite
    from groupnorm.export.programs.slices import has_steps, without_slices

    # also for what it refuses: a trace would hold for the example's values or sizes alone
    module = functional_module(exported(network, example, dynamic))
    if not has_steps(module):
        return network
    rewrite(module, without_slices)
    return module


def _convert(script: Path, example: tuple[Tensor, ...], dynamic: Axes) -> None:
    import pnnx

    command = [pnnx.EXEC_PATH, script.name, f"inputshape={_shapes(example, ())}"]
    if dynamic:
        command.append(f"inputshape2={_shapes(example, dynamic)}")
    try:
        done = subprocess.run(
            [*command, "fp16=0"], cwd=script.parent, capture_output=True, timeout=_SECONDS,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ExportError(f"pnnx did not finish in {_SECONDS} s") from None
    if done.returncode or not (script.parent / "net.ncnn.param").exists():
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ExportError(f"pnnx cannot convert the network: {said[-1]}")


def _shapes(example: tuple[Tensor, ...], dynamic: Axes) -> str:
    """Shapes and types as pnnx takes them, with other sizes for what may change."""
    texts = []
    for number, tensor in enumerate(example):
        axes = dynamic[number] if dynamic else ()
        sizes = [n + _OTHER_SIZE if i in axes else n for i, n in enumerate(tensor.shape)]
        texts.append(f"[{','.join(map(str, sizes))}]{_kind(tensor)}")
    return ",".join(texts)


def _kind(tensor: Tensor) -> str:
    """A tensor's dtype in pnnx's words."""
    name = str(tensor.dtype).removeprefix("torch.")
    kinds = {"bool": "bool", "uint8": "u8", "int8": "i8", "int16": "i16", "int32": "i32"}
    kinds |= {"int64": "i64", "float16": "f16", "float32": "f32", "float64": "f64"}
    return kinds[name]


def unknown_layers(param: Path) -> list[str]:
    """Layers of a .param file that pnnx had no ncnn layer for: their kinds have a dot."""
    kinds = {line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:] if line}
    return sorted(kind for kind in kinds if "." in kind or "::" in kind)


def load(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """A function that runs the file on one thread of the CPU, in float32.

    Winograd's convolutions are off: theirs are 20 times the errors of others, and what is compared
    is the file. An application has them unless it turns them off.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_winograd_convolution = False
    for half in ("fp16_storage", "fp16_packed", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ExportError(f"ncnn cannot load {path}")

    def run(inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        if any(len(value) != 1 for value in inputs):
            raise ExportError(f"ncnn takes one image, got {[value.shape for value in inputs]}")
        extractor = net.create_extractor()
        for name, value in zip(sorted(net.input_names(), key=_number), inputs, strict=True):
            # the clone owns its memory: without it the process may end
            extractor.input(name, ncnn.Mat(np.ascontiguousarray(value[0])).clone())
        outputs = []
        for name in sorted(net.output_names(), key=_number):
            status, found = extractor.extract(name)
            if status:
                raise ExportError(f"ncnn cannot compute {name} of {path}")
            outputs.append(np.array(found)[None])
        return outputs

    return run


def _number(name: str) -> int:
    """Of the name of an input or output, as pnnx gives them: in0, out0, out1."""
    return int(name.removeprefix("in").removeprefix("out"))


def describe(path: Path) -> Description:
    """The layers of the file, without inputs and copies."""
    lines = path.read_text(encoding="utf-8").splitlines()[2:]
    kinds = Counter(line.split()[0] for line in lines if line.strip())
    for kind in ("Input", "Split"):
        del kinds[kind]
    return Description(dict(kinds), None)
