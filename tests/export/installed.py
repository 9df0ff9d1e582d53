"""Runtimes that this environment has, and files for them."""

import importlib.util

import pytest

from groupnorm.export.targets import TARGETS

PACKAGES = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "executorch": ("executorch",),
    "executorch-portable": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "coreml": ("coremltools",),
}


def need(to):
    """Skip where a runtime is not installed."""
    for package in PACKAGES[to]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def path_for(to, folder):
    return folder / f"network{TARGETS[to].ending}"
