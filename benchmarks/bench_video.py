"""Norms of clips: the kernels on 5-D input, and a training step of both networks.

    python benchmarks/bench_video.py [--only NAME] [--out FOLDER]

One thread. Group norm and batch norm per worker stand beside `torch.nn.GroupNorm`,
`torch.nn.BatchNorm3d` (whose statistics are of the whole batch) and, for the kernels, a copy of the
input into a kept tensor. Before anything is timed, the outputs and gradients of both of ours are
held against float64. The variants of a cell take turns in one process; the record has the least
CPU time of each, its median and quartiles.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import turns
from torch import Tensor, nn

from groupnorm import GroupNorm
from groupnorm.environment import environment
from groupnorm.layers import BatchNorm, norm_layer, norm_modules
from groupnorm.memory import keep_large_blocks
from groupnorm.models import build_video_model

PER_WORKER = 4
# Input (N, C, T, H, W) and groups: the narrow network's first and last maps, and I3D's stage1.
KERNELS = (
    ("narrow, stage1", (16, 16, 8, 16, 16), 2),
    ("narrow, stage3", (16, 64, 8, 4, 4), 8),
    ("i3d, stage1", (4, 64, 16, 56, 56), 32),
)
STEPS = (  # name, network, clips (N, 3, T, H, W)
    ("narrow step, 8 frames", "i3d_narrow", (16, 3, 8, 16, 16)),
    ("narrow step, 16 frames", "i3d_narrow", (16, 3, 16, 16, 16)),
    ("i3d step, 16 frames", "i3d_resnet50", (2, 3, 16, 64, 64)),
)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
NETWORKS = {
    "group norm": "gn:size=8",
    "torch.nn.GroupNorm": "gn:size=8",
    "batch norm per worker": "bn",
    "torch.nn.BatchNorm3d": "bn",
    "group norm, +ws": "gn:size=8+ws",
}
GATE = 1e-5  # largest error against float64, in units of the largest result


def kernels(shape: tuple[int, ...], groups: int) -> dict[str, nn.Module]:
    """The norms of one cell, with parameters that do something."""
    channels = shape[1]
    layers: dict[str, nn.Module] = {
        "group norm": GroupNorm(groups, channels),
        "torch.nn.GroupNorm": nn.GroupNorm(groups, channels),
        "batch norm per worker": BatchNorm(channels, batch_per_worker=min(PER_WORKER, shape[0])),
        "torch.nn.BatchNorm3d": nn.BatchNorm3d(channels),
    }
    for layer in layers.values():
        torch.manual_seed(0)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    return layers


def gradients(layer: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, dx, dweight and dbias."""
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], grad)]


def true_gradients(layer: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The same by PyTorch's operations in float64."""
    double = x.detach().double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in layer.parameters())
    if isinstance(layer, GroupNorm):
        y = F.group_norm(double, layer.num_groups, weight, bias, layer.eps)
    else:
        parts = torch.split(double, min(PER_WORKER, len(double)))
        y = torch.cat([F.batch_norm(part, None, None, weight, bias, True) for part in parts])
    return [y.detach(), *torch.autograd.grad(y, [double, weight, bias], grad.double())]


def check(name: str, layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, float]:
    """Errors of one of ours against float64, relative to the largest result.

    Raises:
        AssertionError: one is too large.
    """
    pairs = zip(gradients(layer, x, grad), true_gradients(layer, x, grad), strict=True)
    errors = {
        what: float((ours.double() - true).abs().max() / true.abs().max())
        for what, (ours, true) in zip(("y", "dx", "dweight", "dbias"), pairs, strict=True)
    }
    if max(errors.values()) > GATE:
        raise AssertionError(f"{name}, {tuple(x.shape)}: wrong by {errors}")
    return errors


def bench_kernels(name: str, shape: tuple[int, ...], groups: int, layout: str) -> list[Any]:
    """The rows of one shape and layout: forward, and forward and backward."""
    torch.manual_seed(0)
    x, grad = (torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    layers = kernels(shape, groups)
    ours = ("group norm", "batch norm per worker")
    errors = {kind: check(f"{name}, {kind}", layers[kind], x, grad) for kind in ours}
    rows = []
    for direction in ("forward", "forward+backward"):
        variants = {kind: turn(layer, x, grad, direction) for kind, layer in layers.items()}
        kept = torch.empty_like(x)
        variants["copy"] = lambda kept=kept: kept.copy_(x)  # type: ignore[misc]
        rows.append(
            {
                "cell": name,
                "shape": shape,
                "groups": groups,
                "batch_per_worker": min(PER_WORKER, shape[0]),
                "layout": layout,
                "direction": direction,
                "seconds": turns.on_cpu(variants, time.process_time),
                "errors": errors,
            }
        )
    return rows


def turn(layer: nn.Module, x: Tensor, grad: Tensor, direction: str) -> Callable[[], Any]:
    """What is timed of a layer in training: a forward, or a forward and backward."""
    if direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                y: Tensor = layer(x)
                return y

        return forward
    return lambda: gradients(layer, x, grad)


def network(name: str, kind: str, clips: int, layout: str) -> nn.Module:
    """A network with norms of one kind."""
    torch.manual_seed(0)
    size = None if "gn" in NETWORKS[kind] else min(PER_WORKER, clips)
    norm = norm_layer(NETWORKS[kind], batch_per_worker=size)
    model = build_video_model(name, norm=norm, num_classes=10)
    if kind.startswith("torch."):
        for name, layer in norm_modules(model):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, torchs(layer))
    return model.to(memory_format=LAYOUTS[layout])


def torchs(layer: nn.Module) -> nn.Module:
    """PyTorch's layer for one of ours, with its parameters."""
    other = (
        nn.GroupNorm(layer.num_groups, layer.num_channels)
        if isinstance(layer, GroupNorm)
        else nn.BatchNorm3d(layer.num_features)  # type: ignore[arg-type]
    )
    other.load_state_dict(layer.state_dict())
    return other


def bench_steps(cell: str, model: str, clips: tuple[int, ...], layout: str) -> dict[str, Any]:
    """The row of one training step on random clips: forward, backward and SGD.

    Args:
        clips: (N, 3, T, H, W).
    """
    torch.manual_seed(0)
    x = torch.randn(clips).contiguous(memory_format=LAYOUTS[layout])
    labels = torch.randint(0, 10, clips[:1])
    variants: turns.Variants = {}
    for kind in NETWORKS:
        net = network(model, kind, clips[0], layout)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True)

        def step(net: nn.Module = net, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        variants[kind] = step
    return {
        "cell": cell,
        "shape": clips,
        "batch_per_worker": min(PER_WORKER, clips[0]),
        "layout": layout,
        "direction": "training step",
        "seconds": turns.on_cpu(variants, time.process_time),
    }


def show(row: dict[str, Any]) -> None:
    """A row in the terminal: the least milliseconds of each variant."""
    cells = [f"{kind} {s['least'] * 1e3:.3f}" for kind, s in row["seconds"].items()]
    where = f"{row['cell']:26} {row['layout']:16} {row['direction']:17}"
    print(where, ", ".join(cells), flush=True)


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--out", type=Path, help="folder for bench_video.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    rows: list[dict[str, Any]] = []
    for name, shape, groups in KERNELS:
        for layout in LAYOUTS:
            if arguments.only in name:
                rows += bench_kernels(name, shape, groups, layout)
                show(rows[-2])
                show(rows[-1])
    for name, model, clips in STEPS:
        for layout in LAYOUTS:
            if arguments.only in name:
                rows.append(bench_steps(name, model, clips, layout))
                show(rows[-1])
    only = f" --only {shlex.quote(arguments.only)}" if arguments.only else ""
    record = {
        "command": f"python benchmarks/bench_video.py{only}",
        "environment": environment(),
        "rows": rows,
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "bench_video.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
