"""Group norm and whole networks in every runtime: errors, milliseconds, bytes, operators.

    python benchmarks/export_matrix.py train --work WORK
    python benchmarks/export_matrix.py run onnxruntime openvino ncnn coreml --work WORK --out FOLDER
    python benchmarks/export_matrix.py half --work WORK --out FOLDER

`train` trains the ResNet-20 with weight standardization, and keeps test images beside it; it needs
the extra `study`. `run` measures runtimes of this environment: one norm at five offsets, as the
runtime gets it here and as it would by default, and three networks. `half` measures in PyTorch what
conditioning does to half types. scripts/export_matrix.sh does all of it, in three environments.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import turns
from torch import Tensor, nn

from groupnorm import GroupNorm
from groupnorm.environment import environment
from groupnorm.export import ExportError, prepare, save
from groupnorm.export.gate.network import closeness
from groupnorm.export.targets import TARGETS, runtime_of
from groupnorm.models import build_model

MEANS = (0, 10, 100, 1_000, 10_000)
NORM_SHAPE, GROUPS = (1, 64, 28, 28), 8
IMAGES = 200
DEFAULTS: dict[str, dict[str, Any]] = {
    "onnxruntime": {"opset": 21},
    "executorch": {},
    "executorch-portable": {},
    "litert": {},
}
"""Runtimes that get another form than the operator here, and how the operator is written there."""
ONE_NORM = {**DEFAULTS, "openvino": {}, "ncnn": {}}
"""The same for one norm far from zero; whole networks with the operator may crash OpenVINO."""


def train(work: Path) -> None:
    """Train the ResNet-20, and keep it with test images."""
    from groupnorm.data.catalog import load
    from groupnorm.data.memory.augment import normalize
    from groupnorm.run import run
    from groupnorm.training.config import RunConfig

    config = RunConfig(
        model="resnet20", data="fashion-scenes", train_images=3000, epochs=4,
        norm="gn:groups=8+ws", workers=1, batch_per_worker=8, base_lr=0.8,
    )  # fmt: skip
    network = run(config, with_cost=False).model
    images: Any = load("fashion-scenes")
    work.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "state": network.state_dict(),
            "test": normalize(images.test_images[:IMAGES], images.mean, images.std),
            "calibration": normalize(images.train_images[:IMAGES], images.mean, images.std),
            "labels": images.test_labels[:IMAGES],
        },
        work / "resnet20.pt",
    )


def networks(work: Path) -> dict[str, tuple[nn.Module, tuple[Tensor, ...], Tensor, Tensor]]:
    """Each network, an example, images to compare classes on, and images to calibrate on."""
    from diffusers import UNet2DModel

    kept = torch.load(work / "resnet20.pt", weights_only=True)
    small = build_model("resnet20", norm="gn:groups=8+ws", num_classes=10)
    small.load_state_dict(kept["state"])
    small = with_pytorchs_norms(small)
    torch.manual_seed(0)
    # gamma 1: a converter sees that a branch times 0 is 0, and leaves it out
    large = with_pytorchs_norms(
        build_model("resnet50", norm="gn", num_classes=1000, zero_gamma=False)
    )
    unet: Any = cast("Any", UNet2DModel)(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(32, 64, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    photos = torch.nn.functional.interpolate(kept["test"][:8], size=224, mode="bilinear")
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([10])
    return {
        "resnet20 gn:groups=8+ws": (
            small.eval(), (kept["test"][:1],), kept["test"], kept["calibration"],
        ),
        "resnet50 gn": (large.eval(), (photos[:1],), photos, photos),
        "unet of diffusers": (Sample(unet).eval(), (noise[:1], step), noise, noise),
    }  # fmt: skip


def with_pytorchs_norms(model: nn.Module) -> nn.Module:
    """The network with PyTorch's group norms, as most have it: what "PyTorch" is timed with."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, GroupNorm):
                plain = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
                plain.load_state_dict(norm.state_dict())
                assert norm.activation is None
                setattr(parent, name, plain)
    return model


class Sample(nn.Module):
    """The tensor of a U-Net's output."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, step: Tensor | None = None) -> Any:
        """The noise that it sees in x at a step."""
        step = torch.tensor([10]) if step is None else step
        return self.unet(x, step, return_dict=False)[0]


def one_norm() -> nn.GroupNorm:
    """The norm of the table of errors."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(GROUPS, NORM_SHAPE[1]).eval()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return norm


def measure_norm(to: str, folder: Path) -> dict[str, Any]:
    """Errors of one norm at five offsets, and milliseconds, as it is here and by default."""
    runtime, norm = runtime_of(to), one_norm()
    exact = copy.deepcopy(norm).double()
    drawn = torch.randn(NORM_SHAPE, generator=torch.Generator().manual_seed(1))
    path = folder / f"norm{TARGETS[to].ending}"
    report = save(norm, path, drawn, to)
    found: dict[str, Any] = {"here": {"form": report.form, **_described(report), "errors": {}}}
    paths = {} if report.not_run else {"here": path}
    if to in ONE_NORM:
        paths["by default"] = folder / f"norm-default{TARGETS[to].ending}"
        about = write_default(to, norm, (drawn,), paths["by default"])
        found["by default"] = {"form": "plain", "options": ONE_NORM[to], **about, "errors": {}}
    runs: turns.Variants = {}
    for name, where in paths.items():
        run = runtime.load(where)
        for mean in MEANS:
            x = drawn + mean
            y = run([x.numpy()])[0]
            with torch.no_grad():
                off = np.abs(y - exact(x.double()).numpy())
            found[name]["errors"][str(mean)] = float(off.max()) if np.isfinite(y).all() else "inf"
        runs[name] = lambda run=run: run([drawn.numpy()])  # type: ignore[misc]
    if runs:
        with torch.no_grad():
            runs["PyTorch"] = lambda: nn.functional.group_norm(
                drawn, GROUPS, norm.weight, norm.bias, norm.eps
            )
            for name, seconds in turns.on_cpu(runs).items():
                found.setdefault(name, {})["milliseconds"] = 1e3 * seconds["least"]
    return found


def measure_network(
    to: str, folder: Path, model: nn.Module, example: tuple[Tensor, ...], images: Tensor
) -> dict[str, Any]:
    """One network in one runtime: its report, its classes, and its time by default."""
    path = folder / f"network{TARGETS[to].ending}"
    try:
        report = save(model, path, example, to)
    except ExportError as error:
        return {"refused": str(error)}
    found = {key: value for key, value in asdict(report).items() if key not in ("kept", "norms")}
    found["worst_norm"] = max(
        (asdict(norm) for norm in report.norms),
        key=lambda norm: closeness(norm["error"], norm["allowed"]), default=None,
    )  # fmt: skip
    if report.not_run:
        return found
    run = runtime_of(to).load(path)
    if len(example) == 1:
        found["classes"] = compare_classes(run, model, images, report)
    calls: turns.Variants = {"here": lambda: run([t.numpy() for t in example])}
    if to in DEFAULTS:
        other = folder / f"default{TARGETS[to].ending}"
        try:
            found["by default"] = write_default(to, model, example, other)
            plain = runtime_of(to).load(other)
            calls["by default"] = lambda: plain([t.numpy() for t in example])
        except ExportError as error:
            found["by default"] = {"refused": str(error)}
    torch.set_num_threads(1)

    def eager() -> None:
        with torch.no_grad():
            model(*example)

    calls["PyTorch"] = eager
    times = turns.on_cpu(calls)
    found["milliseconds"] = {name: 1e3 * seconds["least"] for name, seconds in times.items()}
    return found


def write_default(
    to: str, model: nn.Module, example: tuple[Tensor, ...], path: Path
) -> dict[str, Any]:
    """Write a network with the operator for group norm, weights baked; what the file holds."""
    network, _ = prepare(model, example, to, form="plain")
    if to == "executorch":
        path.write_bytes(converted_by_executorch(network, example))
    elif to == "litert":
        path.write_bytes(converted_by_litert(network, example))
    else:
        runtime_of(to).write(network, example, path, **ONE_NORM[to])
    return _described(runtime_of(to).describe(path))


def converted_by_executorch(network: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    """A file by ExecuTorch's converter alone, nothing rewritten for XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def converted_by_litert(network: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    """A file by LiteRT's converter alone, nothing rewritten for it."""
    import litert_torch

    content: bytes = litert_torch.convert(network, example).model_content()
    return content


def _described(found: Any) -> dict[str, Any]:
    return {"operators": found.operators, "delegates": found.delegates}


def compare_classes(
    run: Callable[..., Any], model: nn.Module, images: Tensor, report: Any
) -> dict[str, int]:
    """On how many images the top class is PyTorch's, of those where it is clear."""
    allowed = max(check.allowed for check in report.checks)
    same = clear = clear_and_same = 0
    with torch.no_grad():
        for image in images.unsqueeze(1):
            expected = model(image)[0]
            best = expected.topk(2).values
            agrees = int(run([image.numpy()])[0][0].argmax()) == int(expected.argmax())
            same += agrees
            if float(best[0] - best[1]) > allowed:
                clear += 1
                clear_and_same += agrees
    return {"images": len(images), "same": same, "clear": clear, "clear and same": clear_and_same}


def measure_half(work: Path) -> dict[str, Any]:
    """Errors of whole networks in half types in PyTorch, as prepared and with conditioning."""
    found: dict[str, Any] = {}
    for name, (model, example, images, calibration) in networks(work).items():
        exact = copy.deepcopy(model).double()
        batch = [(calibration, *example[1:])]
        with torch.no_grad():
            expected = exact(images[:4].double())
        ready = {
            "prepared": prepare(model, example, "onnxruntime", form="pooled")[0],
            "conditioned": prepare(model, example, "onnxruntime", form="pooled", calibration=batch)[
                0
            ],
        }
        rows = found.setdefault(name, {})
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for how, network in {"as it is": model, **ready}.items():
                half = copy.deepcopy(network).to(dtype)
                with torch.no_grad():
                    off = (half(images[:4].to(dtype)).double() - expected).abs().max()
                error = float(off) if math.isfinite(off) else "inf"
                rows.setdefault(str(dtype).removeprefix("torch."), {})[how] = error
    return found


def write(folder: Path, name: str, values: dict[str, Any]) -> None:
    """One file of the record."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "scripts/export_matrix.sh",
        "environment": {**environment(), "threads": 1},
        **values,
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train, or measure and write the record."""
    parser = argparse.ArgumentParser(description="Group norm in every runtime.")
    parser.add_argument("what", choices=("train", "run", "half"))
    parser.add_argument("runtimes", nargs="*", metavar="RUNTIME", help=", ".join(TARGETS))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.runtimes if name not in TARGETS]
    if unknown:
        parser.error(f"unknown runtimes: {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    if arguments.what == "train":
        train(arguments.work)
        return
    if arguments.out is None:
        parser.error("--out is needed")
    torch.set_num_threads(1)
    if arguments.what == "half":
        write(arguments.out, "half", {"networks": measure_half(arguments.work)})
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for to in arguments.runtimes:
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, Any] = {
                "versions": runtime_of(to).versions(),
                "norm": measure_norm(to, Path(folder)),
                "networks": {},
            }
            print(f"{to}: {found['norm']}", flush=True)
            for name, (model, example, images, _) in networks(arguments.work).items():
                if to == "executorch-portable" and not name.startswith("resnet20"):
                    continue  # its convolutions take seconds there
                found["networks"][name] = one = measure_network(
                    to, Path(folder), model, example, images
                )
                print(
                    f"{to}, {name}:", one.get("refused") or one["milliseconds"],
                    one.get("classes", ""), flush=True,
                )  # fmt: skip
        write(arguments.out, to, found)


if __name__ == "__main__":
    main()
