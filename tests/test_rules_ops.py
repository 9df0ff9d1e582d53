"""Rules that the library half keeps: where classes stand, how kernels are called.

Each check takes source text, so that it can be shown to fail.
"""

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import Function

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "groupnorm"
OPS, LAYERS = PACKAGE / "ops", PACKAGE / "layers"


def dotted(node):
    """`a.b.c` of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def classes_from(source, module, base):
    """Names of the classes that inherit from a base, however far up.

    The module, imported, says what the names of their own bases mean.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = [named(dotted(b), module) for b in node.bases]
            found += [node.name] * any(isinstance(b, type) and issubclass(b, base) for b in bases)
    return found


def named(name, module):
    """What a dotted name in a module stands for; None where it is local to a function."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


@pytest.mark.parametrize(
    ("folder", "base"), [(OPS, nn.Module), (LAYERS, Function)], ids=["ops", "layers"]
)
def test_modules_are_layers_and_functions_are_ops(folder, base):
    for path in folder.rglob("*.py"):
        if "triton" in path.parts and importlib.util.find_spec("triton") is None:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        assert classes_from(path.read_text(), module, base) == [], path


@pytest.mark.parametrize(
    ("planted", "base"),
    [
        ("class A(nn.Module): ...", nn.Module),
        ("class A(nn.Linear): ...", nn.Module),
        ("class A(torch.nn.Module): ...", nn.Module),
        ("def make():\n    class A(nn.Conv2d): ...", nn.Module),
        ("class A(torch.autograd.Function): ...", Function),
        ("class A(Function): ...", Function),
    ],
)
def test_a_class_in_the_wrong_place_is_found(planted, base):
    module = SimpleNamespace(torch=torch, nn=nn, Function=Function)
    assert classes_from(planted, module, base) == ["A"]
    assert classes_from("class B(dict): ...", module, base) == []


# What may be handed over by position after a kernel and its grid: tensors, and tuples of tensors.
TENSORS = {
    "tensors", "inputs", "x", "partials", "sums", "input", "weight", "bias", "residual", "out",
    "grad_output", "dy", "statistics",
}  # fmt: skip


def is_number(node):
    """Whether an argument is neither a tensor nor the None in its place."""
    return dotted(node) not in TENSORS and not (
        isinstance(node, ast.Constant) and node.value is None
    )


def anonymous(source):
    """Lines of launches and calls into the C++ module with a number that has no name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        by_position = [a.value if isinstance(a, ast.Starred) else a for a in node.args]
        if dotted(node.func).split(".")[0] in ("_kernels", "_native", "kernels"):
            single = dotted(node.func).split(".")[-1].startswith("set_")
            found += [node.lineno] * (not single and any(map(is_number, by_position)))
        elif dotted(node.func) == "launch" or isinstance(node.func, ast.Subscript):
            skipped = 2 if dotted(node.func) == "launch" else 0
            found += [node.lineno] * any(dotted(a) not in TENSORS for a in by_position[skipped:])
    return found


@pytest.mark.parametrize(
    "path",
    [
        OPS / "group_norm" / "native" / "launch.py",
        OPS / "group_norm" / "triton" / "launch.py",
        ROOT / "benchmarks" / "kernel_alone.py",
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_kernels_get_everything_after_the_tensors_by_keyword(path):
    assert anonymous(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "launch(kernel, (tiles,), *tensors, n, num_channels=c)",
        "launch(kernel, (tiles,), *tensors, *sizes, eps=eps)",
        "launch(kernel, (tiles,), x, 4)",
        "kernel[grid](*tensors, n)",
        "kernels.forward(n, c)",
        "_kernels.forward(*arguments)",
        "_kernels.backward(n, num_channels=c)",
        "_kernels.forward(x, weight, None, eps, num_groups=2)",
        "_kernels.forward(x, None, None, 0)",
    ],
)
def test_a_number_without_a_name_is_found(planted):
    assert anonymous(planted) == [1]
