"""Which runtime gets which form of group norm, for which dtype, and why: the one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from groupnorm.export.errors import ExportError


@dataclass(frozen=True)
class Target:
    """A runtime.

    Attributes:
        title: its name for people.
        ending: of the file.
        companions: endings of further files.
        forms: dtype of the network -> forms of its group norms: the fastest, and what to take
            where that is not right.
        dynamic: which axes may change: "any" but the channels, "positions" or "nothing".
        why: why these forms.
        notes: what everybody who reads a report of this runtime should know.
        fill_bias: whether a norm with a scale alone needs a bias of zeros.
        one_image: whether a network takes one image, without its batch axis.
        most_bytes: of weights in one file, or None.
        platform: the value of `sys.platform` where it runs; None for any.
    """

    title: str
    ending: str
    forms: Mapping[str, tuple[str, ...]]
    dynamic: str
    why: str
    companions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fill_bias: bool = False
    one_image: bool = False
    most_bytes: int | None = None
    platform: str | None = None


TARGETS: dict[str, Target] = {
    "onnxruntime": Target(
        title="ONNX Runtime",
        ending=".onnx",
        forms={
            "float32": ("instance", "pooled", "blocked"),
            "float16": ("pooled", "blocked"),
        },
        dynamic="any",
        why="Its GroupNormalization (opset 21 and later) computes E[x^2] - E[x]^2. Its "
        "InstanceNormalization adds up the values of a group one after the other: with the mean "
        "subtracted first it is right for groups of some thousands, where it is the fastest, and "
        "3e-4 off for three million. Its means are 1e-5 off over 600 x 600 positions. It has no "
        "float16 of the first.",
        most_bytes=2**31,
    ),
    "openvino": Target(
        title="OpenVINO",
        ending=".xml",
        companions=(".bin",),
        forms={
            "float32": ("plain", "pooled", "blocked"),
            "float16": ("plain", "pooled", "blocked"),
        },
        dynamic="any",
        why="Its own operator has two passes, and is the fastest. Followed by a sum with another "
        "branch and ReLU, as in a ResNet, it ends the process in float32 (OpenVINO 2026.4.1); the "
        "pooled form does not.",
        notes=(
            "run with INFERENCE_PRECISION_HINT=f32: by default OpenVINO computes in bfloat16 where "
            "the processor has it",
        ),
    ),
    "ncnn": Target(
        title="ncnn",
        ending=".param",
        companions=(".bin",),
        forms={"float32": ("plain", "pooled", "blocked")},
        dynamic="positions",
        why="pnnx writes PyTorch's operator as ncnn's layer GroupNorm, which has two passes. One "
        "without a bias it leaves as a layer that ncnn does not know. Slices with a step it leaves "
        "too; they are written as convolutions by ones.",
        fill_bias=True,
        one_image=True,
        notes=(
            "run without Winograd's convolutions and in float32; ncnn has Winograd's and half "
            "types on by default",
        ),
    ),
    "executorch": Target(
        title="ExecuTorch with XNNPACK",
        ending=".pte",
        forms={"float32": ("blocked",), "float16": ("blocked",)},
        dynamic="any",
        why="native_group_norm computes E[x^2] - E[x]^2 and is in no delegate; the blocked form "
        "is right, and XNNPACK takes a convolutional network in one piece. Attention it takes in "
        "parts.",
        notes=("a dynamic axis may have up to twice the size of the example",),
    ),
    "executorch-portable": Target(
        title="ExecuTorch, portable operators",
        ending=".pte",
        forms={"float32": ("blocked",)},
        dynamic="any",
        why="native_group_norm computes E[x^2] - E[x]^2. In float16 the portable convolutions add "
        "up in float16, which the gate does not let pass.",
        notes=("a dynamic axis may have up to twice the size of the example",),
    ),
    "litert": Target(
        title="LiteRT",
        ending=".tflite",
        forms={"float32": ("blocked",)},
        dynamic="nothing",
        why="The blocked form needs no transposes of its own, and keeps its digits far from 0. "
        "Attention's views do: those of four blocks in diffusers' U-Net are 34.",
    ),
    "coreml": Target(
        title="Core ML",
        ending=".mlpackage",
        forms={"float32": ("plain",), "float16": ("plain",)},
        dynamic="positions",
        why="coremltools writes two passes, whose squares are kept in float32 here.",
        platform="darwin",
    ),
}


def target_of(to: str) -> Target:
    """A target by name.

    Raises:
        ExportError: there is none of this name.
    """
    if to not in TARGETS:
        raise ExportError(f"unknown runtime {to!r}; known: {', '.join(TARGETS)}")
    return TARGETS[to]


def forms_for(to: str, dtype: str, dynamic: Sequence[int] = ()) -> tuple[str, ...]:
    """The forms of group norm for a runtime, in the order in which they are tried.

    Args:
        to: name of the runtime.
        dtype: of the network.
        dynamic: axes whose size may change. With other positions than the example's the groups may
            have any number of values, for which the instance form is not right.

    Raises:
        ExportError: an unknown runtime, or a dtype that it was never run with.
    """
    target = target_of(to)
    if dtype not in target.forms:
        raise ExportError(
            f"{target.title} was run with {', '.join(target.forms)} here, got dtype={dtype!r}"
        )
    positions = any(axis >= 2 for axis in dynamic)
    return tuple(f for f in target.forms[dtype] if f != "instance" or not positions)


def form_for(to: str, dtype: str) -> str:
    """The first of `forms_for`."""
    return forms_for(to, dtype)[0]


def runs_here(target: Target) -> bool:
    """Whether this machine can run files for a target, given the packages."""
    return target.platform in (None, sys.platform)


def runtime_of(to: str) -> Any:
    """The module that writes and runs files for a target."""
    target_of(to)
    return import_module(f"groupnorm.export.runtimes.{to.replace('-', '_')}")
