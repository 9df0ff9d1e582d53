"""Rules that the library half keeps: where classes stand, how kernels are called.

Each check takes source text, so that it can be shown to fail.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "groupnorm"
OPS, LAYERS, MODELS = PACKAGE / "ops", PACKAGE / "layers", PACKAGE / "models"


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


KINDS_ARE_COMPARED_IN = {PACKAGE / "spec.py", LAYERS / "factory.py"}


def compared_kinds(source):
    """Lines that compare the kind of a norm, or match on it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject]
        else:
            continue
        if any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("part", ["ops", "layers", "models", "conversion", "cost", "run.py"])
def test_the_library_asks_a_spec_what_it_can(part):
    paths = [PACKAGE / part] if part.endswith(".py") else (PACKAGE / part).rglob("*.py")
    for path in set(paths) - KINDS_ARE_COMPARED_IN:
        assert compared_kinds(path.read_text()) == [], path


@pytest.mark.parametrize(
    "planted",
    ['norm.spec.kind == "none"', 'spec.kind in ("bn", "brn")', "match spec.kind:\n    case _: ..."],
)
def test_a_comparison_of_kinds_is_found(planted):
    assert compared_kinds(planted) == [1]


def norm_classes(source):
    """Names of classes of norms in a file."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    names |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    names |= {a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    return {
        n for n in names if n[:1].isupper() and (n.endswith(("Norm", "Renorm")) or "BatchNorm" in n)
    }


def test_models_name_no_class_of_a_norm():
    for path in MODELS.rglob("*.py"):
        assert norm_classes(path.read_text()) == set(), path


@pytest.mark.parametrize(
    "planted", ["nn.BatchNorm2d(3)", "from groupnorm.layers import GroupNorm", "BatchRenorm(4)"]
)
def test_a_class_of_a_norm_is_found(planted):
    assert len(norm_classes(planted)) == 1
