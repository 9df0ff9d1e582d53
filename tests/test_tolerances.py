"""Tolerances stand in tests/tolerances.py, each with its reason."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = {"atol", "rtol", "rel", "abs"}
SMALL = 0.01  # a bound up to it is a tolerance
SMALL_ERROR = 0.25  # the same of an absolute value: what is compared is an error


def numbers(node):
    """Literal numbers of an expression that are neither whole nor in a call."""
    match node:
        case ast.Call():
            return
        case ast.Constant(value=float(value)):
            yield value
        case ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(op=ast.USub())):
            yield 0.0  # 2.0**-8
        case _:
            for part in ast.iter_child_nodes(node):
                yield from numbers(part)


def is_absolute(node):
    """Whether an absolute value is taken in an expression: `abs(x)`, `x.abs()`, `np.abs(x)`."""
    functions = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return any("abs" in (getattr(f, "attr", ""), getattr(f, "id", "")) for f in functions)


def tolerances(code):
    """Line and text of each tolerance that is written out."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in NAMES and list(numbers(keyword.value)):
                    yield node.lineno, ast.unparse(keyword)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[-1], ast.Lt | ast.LtE):
            *values, bound = node.left, *node.comparators
            small = SMALL_ERROR if any(map(is_absolute, values)) else SMALL
            if any(number <= small for number in numbers(bound)):
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "line",
    [
        "torch.allclose(a, b, atol=1e-6)",
        "approx(a, rel=2 * 1e-5)",
        "assert error <= 1e-6 * largest",
        "assert 0 < error < 2.0**-8 * largest",
        "assert error < 0.01 * largest",
        "assert (ours - theirs).abs().max() <= 0.1",
        "assert abs(loss - expected) < 0.2 * expected",
    ],
)
def test_one_that_is_written_out_is_found(line):
    assert len(list(tolerances(line))) == 1


def test_none_is_written_out_in_a_test():
    paths = sorted(HERE.rglob("*.py"))
    assert len(paths) > 100
    found = [
        f"{path.relative_to(HERE)}:{line}: {text}"
        for path in paths
        if path.name != "tolerances.py"
        for line, text in tolerances(path.read_text())
    ]
    assert found == []
