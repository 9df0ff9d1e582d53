"""The nodes that replace a norm, in every way that they are asked for."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

from onnx.numpy_helper import to_array

from groupnorm.export.onnx_file.accurate import Affine, Written, write_accurate
from groupnorm.export.onnx_file.evaluate import evaluate
from groupnorm.export.onnx_file.identify import group_norm
from tests.tolerances import FORMULA_64

TYPES = {"float16": 10, "float32": 1, "float64": 11}
RNG = np.random.default_rng(0)
SCALE, SHIFT = RNG.uniform(0.5, 1.5, 8), RNG.standard_normal(8)


def computed(shape, dtype, opset, affine, rank, last, groups=4, values=100):
    names = iter(range(1000))
    written = Written(opset, lambda hint: f"{hint}{next(names)}")
    write_accurate(
        written, "x", "y", groups=groups, channels=8, eps=1e-3, rank=rank, channels_last=last,
        type_number=TYPES[dtype], affine=affine, values=values,
    )  # fmt: skip
    x = RNG.standard_normal(shape) + 5
    arrays = {"x": x, "scale": SCALE, "shift": SHIFT, "few": SCALE[:groups]}
    arrays |= {tensor.name: to_array(tensor) for tensor in written.constants}
    for node in written.nodes:
        inputs = [arrays[name] for name in node.input]
        arrays[node.output[0]] = evaluate(node, inputs, rounded=False)
    assert len({node.name for node in written.nodes}) == len(written.nodes)
    return x, arrays["y"]


AFFINES = [Affine(), Affine("scale"), Affine(None, "shift"), Affine("scale", "shift")]


@pytest.mark.pairs(
    dtype=list(TYPES),
    opset=[13, 18, 23],
    affine=AFFINES,
    shape=[(3, 8), (2, 8, 5), (2, 8, 3, 4), (1, 8, 2, 3, 4)],
    known=[True, False],
    last=[True, False],
    values=[100, None, 10**6],
)
def test_they_are_group_norm(dtype, opset, affine, shape, known, last, values):
    if last:
        shape = (shape[0], *shape[2:], 8)
    rank = len(shape) if known else None
    x, y = computed(shape, dtype, opset, affine, rank, last, values=values)
    axis = len(shape) - 1 if last else 1
    at = [1] * len(shape)
    at[axis] = -1
    expected = group_norm(x, 4, 1e-3, axis)
    if affine.scale:
        expected = expected * SCALE.reshape(at)
    if affine.shift:
        expected = expected + SHIFT.reshape(at)
    # eps is float32 in an attribute
    np.testing.assert_allclose(y, expected, atol=10 * FORMULA_64)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_scale_for_each_group(dtype):
    affine = Affine("few", "few", per_group=True)
    x, y = computed((2, 8, 3, 4), dtype, 18, affine, 4, last=False)
    few = SCALE[:4].repeat(2).reshape(-1, 1, 1)
    np.testing.assert_allclose(y, group_norm(x, 4, 1e-3, 1) * few + few, atol=10 * FORMULA_64)
