"""Rules that the library half keeps: where classes stand, how kernels are called.

Each check takes source text, so that it can be shown to fail.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "groupnorm"
OPS, LAYERS = PACKAGE / "ops", PACKAGE / "layers"


def dotted(node):
    """`a.b.c` of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def classes_from(source, base):
    """Names of the classes that inherit from a base, whatever module it is taken from."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
        and any(dotted(b).rpartition(".")[2] == base for b in node.bases)
    ]


@pytest.mark.parametrize(
    ("folder", "base"), [(OPS, "Module"), (LAYERS, "Function")], ids=["ops", "layers"]
)
def test_modules_are_layers_and_functions_are_ops(folder, base):
    for path in folder.rglob("*.py"):
        assert classes_from(path.read_text(), base) == [], path


@pytest.mark.parametrize(
    ("planted", "base"),
    [
        ("class A(nn.Module): ...", "Module"),
        ("class A(torch.nn.Module): ...", "Module"),
        ("class A(Module): ...", "Module"),
        ("class A(torch.autograd.Function): ...", "Function"),
        ("class A(Function): ...", "Function"),
    ],
)
def test_a_class_in_the_wrong_place_is_found(planted, base):
    assert classes_from(planted, base) == ["A"]


# What may be handed over by position after a kernel and its grid: tensors, and tuples of tensors.
TENSORS = {"tensors", "inputs", "x", "partials", "sums"}


def anonymous(source):
    """Lines of launches and calls into the C++ module with a number that has no name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        by_position = [a.value if isinstance(a, ast.Starred) else a for a in node.args]
        if dotted(node.func).split(".")[0] in ("_kernels", "_native", "kernels"):
            single = dotted(node.func).endswith(("set_parallel_for", "set_instruction_set"))
            found += [node.lineno] * (bool(by_position) and not single)
        elif dotted(node.func) == "launch" or isinstance(node.func, ast.Subscript):
            skipped = 2 if dotted(node.func) == "launch" else 0
            found += [node.lineno] * any(dotted(a) not in TENSORS for a in by_position[skipped:])
    return found


@pytest.mark.parametrize(
    "path",
    [
        OPS / "group_norm" / "native" / "launch.py",
        OPS / "group_norm" / "triton" / "launch.py",
        ROOT / "benchmarks" / "bench_copies.py",
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
    ],
)
def test_a_number_without_a_name_is_found(planted):
    assert anonymous(planted) == [1]
