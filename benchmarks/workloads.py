"""The norms that the benchmarks run, as networks have them, and their inputs."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Workload(NamedTuple):
    """Input (N, C, *), groups, eps, the activation after the norm, and what it runs in."""

    name: str
    shape: tuple[int, ...]
    groups: int
    eps: float
    activation: str | None
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


class Inputs(NamedTuple):
    """One cell's tensors."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    grad: Tensor


LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU = (
    Workload("diffusion U-Net, middle", (2, 1280, 8, 8), 32, 1e-5, "silu"),
    Workload("diffusion U-Net, transformer", (2, 640, 32, 32), 32, 1e-6, None),
    Workload("diffusion U-Net, level 0", (2, 320, 64, 64), 32, 1e-5, "silu"),
    Workload("detection tower, P2", (2, 256, 200, 272), 32, 1e-5, "relu"),
    Workload("detection tower, P5", (2, 256, 25, 42), 32, 1e-5, "relu"),
    Workload("detection tower, P7", (2, 256, 7, 11), 32, 1e-5, "relu"),
    Workload("mask head", (32, 256, 14, 14), 32, 1e-5, "relu"),
    Workload("ResNet-50, stage 1", (8, 64, 56, 56), 32, 1e-5, "relu"),
    Workload("ResNet-50, stage 3", (16, 256, 14, 14), 32, 1e-5, "relu"),
    Workload("CIFAR ResNet, stage 1", (32, 16, 32, 32), 8, 1e-5, "relu"),
    Workload("CIFAR ResNet, stage 3", (32, 64, 8, 8), 8, 1e-5, "relu"),
    Workload("federated ResNet-18", (20, 64, 32, 32), 2, 1e-5, "relu"),
    Workload("diffusion policy, 16 steps", (64, 512, 16), 8, 1e-5, "mish"),
    Workload("diffusion policy, 4 steps", (64, 2048, 4), 8, 1e-5, "mish"),
    Workload("diffusion policy, stem", (128, 64, 38, 38), 4, 1e-5, "relu"),
    Workload("SegResNet 3D", (1, 16, 48, 48, 48), 8, 1e-5, "relu"),
)

# What the kernels are judged by: from 0.2 to 134 MB in float32.
_SIZES = (
    (8, 64, 56, 56), (16, 256, 14, 14), (2, 320, 64, 64), (1, 128, 256, 256), (4, 96, 40, 40),
    (2, 512, 7, 7), (1, 128, 512, 512),
)  # fmt: skip
SHAPES = tuple(
    Workload(
        " x ".join(map(str, shape)) + (", ReLU" if activation else ""), shape, 32, 1e-5, activation,
        ("float32", "bfloat16", "float16"),
    )
    for shape in _SIZES
    for activation in (None, "relu")
)  # fmt: skip

_HALF, _BOTH, _SINGLE = ("float16",), ("float32", "bfloat16"), ("float32",)
GPU = (
    Workload("SD U-Net, level 0", (2, 320, 64, 64), 32, 1e-5, "silu", _HALF),
    Workload("SD U-Net, up, 960 channels", (2, 960, 64, 64), 32, 1e-5, "silu", _HALF),
    Workload("SD U-Net, up, 1920 channels", (2, 1920, 32, 32), 32, 1e-5, "silu", _HALF),
    Workload("SD U-Net, up, 2560 channels", (2, 2560, 16, 16), 32, 1e-5, "silu", _HALF),
    Workload("SD U-Net, middle", (2, 1280, 8, 8), 32, 1e-5, "silu", _HALF),
    Workload("SDXL, level 0, training", (4, 320, 128, 128), 32, 1e-5, "silu", ("bfloat16",)),
    Workload("SD U-Net, transformer", (2, 640, 32, 32), 32, 1e-6, None, _HALF),
    Workload("SD VAE, middle", (1, 512, 64, 64), 32, 1e-6, "silu", _BOTH),
    Workload("SD VAE, last, 512 pixels", (1, 128, 512, 512), 32, 1e-6, "silu", _BOTH),
    Workload("DDPM, CIFAR", (128, 128, 32, 32), 32, 1e-5, "silu", _SINGLE),
    Workload("video VAE", (1, 128, 9, 128, 128), 32, 1e-6, "silu", ("bfloat16",)),
    Workload("video VAE, large groups", (1, 128, 20, 256, 256), 32, 1e-6, "silu", ("bfloat16",)),
    Workload("detection tower, P3", (2, 256, 100, 168), 32, 1e-5, "relu", _BOTH),
    Workload("detection tower, P5", (2, 256, 25, 42), 32, 1e-5, "relu", _SINGLE),
    Workload("detection tower, P7", (2, 256, 7, 11), 32, 1e-5, "relu", _SINGLE),
    Workload("Mask R-CNN, box head", (1024, 256, 7, 7), 32, 1e-5, "relu", _SINGLE),
    Workload("Mask R-CNN, mask head", (256, 256, 14, 14), 32, 1e-5, "relu", _SINGLE),
    Workload("ResNet-50, res2, detection", (2, 64, 200, 336), 32, 1e-5, "relu", _SINGLE),
    Workload("ResNet-50, res5, detection", (2, 2048, 25, 42), 32, 1e-5, None, _SINGLE),
    Workload("panoptic FPN", (2, 128, 200, 336), 32, 1e-5, "relu", _SINGLE),
    Workload("Deformable DETR, projection", (2, 256, 100, 168), 32, 1e-5, None, _SINGLE),
    Workload("ResNet-50, stage 1", (32, 256, 56, 56), 32, 1e-5, "relu", ("bfloat16",)),
    Workload("ResNet-50, stage 4", (32, 2048, 7, 7), 32, 1e-5, "relu", ("bfloat16",)),
    Workload("CIFAR ResNet, stage 1", (32, 16, 32, 32), 8, 1e-5, "relu", _SINGLE),
    Workload("CIFAR ResNet, stage 3", (32, 64, 8, 8), 8, 1e-5, "relu", _SINGLE),
    Workload("federated ResNet-18", (20, 64, 32, 32), 2, 1e-5, "relu", _SINGLE),
    Workload("private ResNet-18", (64, 64, 32, 32), 32, 1e-5, "relu", _SINGLE),
    Workload("diffusion policy, 16 steps", (64, 512, 16), 8, 1e-5, "mish", _SINGLE),
    Workload("diffusion policy, 4 steps", (64, 2048, 4), 8, 1e-5, "mish", _SINGLE),
    Workload("diffusion policy, stem", (128, 64, 38, 38), 4, 1e-5, "relu", _SINGLE),
    Workload("SegResNet 3D", (1, 16, 96, 96, 96), 8, 1e-5, "relu", _BOTH),
    Workload("MAISI VAE 3D", (1, 64, 64, 64, 64), 32, 1e-6, "silu", _HALF),
    Workload("wav2vec2, first layer", (4, 512, 47999), 512, 1e-5, "gelu", ("float16", "float32")),
    Workload("PoolFormer", (64, 96, 56, 56), 1, 1e-5, None, ("bfloat16",)),
    Workload("RetNet, heads", (8192, 1024), 8, 1e-6, None, ("bfloat16",)),
)


def layouts(work: Workload) -> tuple[str, ...]:
    """Those that an input of this rank has."""
    return ("contiguous", "channels_last")[: 2 if len(work.shape) in LAYOUTS else 1]


def make_inputs(work: Workload, layout: str, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    """Random input in the layout, parameters near 1 and 0, a random gradient in the same layout."""
    x, weight, bias, grad = _draw(work.shape, device)
    if layout == "channels_last":
        memory_format = LAYOUTS[len(work.shape)]
        x, grad = (t.contiguous(memory_format=memory_format) for t in (x, grad))
    return Inputs(*(t.to(dtype) for t in (x, weight, bias, grad)))


@lru_cache(maxsize=1)  # large ones take longer to draw than to normalize
def _draw(shape: tuple[int, ...], device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    x, grad = draw(*shape), draw(*shape)
    return Inputs(x, 1 + 0.1 * draw(shape[1]), 0.1 * draw(shape[1]), grad)
