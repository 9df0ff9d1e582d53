"""Every operator computes what ONNX's own reference computes, and nothing runs away."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from groupnorm.export.onnx_file.evaluate import (
    LARGEST,
    NORMS,
    OPERATORS,
    NotEvaluatedError,
    attribute,
    evaluate,
    label,
    number,
    without_warnings,
)
from tests.tolerances import STEP

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 3, 5)).astype(np.float32)
Y = RNG.uniform(0.5, 2, (4, 1, 1)).astype(np.float32)
POINTS = X[:, :, :1, :1]


def whole(*numbers):
    return np.array(numbers, np.int64)


CASES = [
    ("Abs", [X], {}),
    ("Add", [X, Y], {}),
    ("Cast", [X], {"to": TensorProto.FLOAT16}),
    ("Cast", [X], {"to": TensorProto.INT64}),
    ("Concat", [X, X], {"axis": 1}),
    ("ConstantOfShape", [whole(2, 3)], {"value": numpy_helper.from_array(np.float32([1.5]))}),
    ("ConstantOfShape", [whole(2, 3)], {}),
    ("Conv", [POINTS, RNG.standard_normal((6, 2, 1, 1)).astype(np.float32)], {"group": 2}),
    ("Conv", [POINTS, np.ones((3, 4, 1, 1), np.float32), np.float32([1, 2, 3])], {}),
    ("Div", [X, Y], {}),
    ("Div", [whole(7, -7), whole(2, 2)], {}),
    ("Expand", [Y, whole(2, 1, 3, 5)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Gather", [X, whole(2, 0)], {"axis": 1}),
    ("GlobalAveragePool", [X], {}),
    ("Identity", [X], {}),
    ("InstanceNormalization", [X, Y.ravel(), Y.ravel()], {"epsilon": 0.1}),
    ("LayerNormalization", [X, X[0, 0], X[0, 1]], {"epsilon": 0.1, "axis": 2}),
    ("LayerNormalization", [X, X[0, 0, 0]], {}),
    ("MatMul", [X, RNG.standard_normal((5, 6)).astype(np.float32)], {}),
    ("Max", [X, Y], {}),
    ("Mul", [X, Y], {}),
    ("Neg", [X], {}),
    ("Pow", [np.abs(X), np.float32(-0.5)], {}),
    ("Pow", [X, whole(2)], {}),
    ("Reciprocal", [Y], {}),
    ("ReduceMean", [X, whole(1, 2)], {}),
    ("ReduceMean", [X, whole(-1)], {"keepdims": 0}),
    ("ReduceMean", [X], {}),
    ("ReduceMean", [X], {"noop_with_empty_axes": 1}),
    ("ReduceProd", [whole(2, 3, 4)], {"keepdims": 0}),
    ("ReduceSum", [X, whole(2, 3)], {}),
    ("ReduceSumSquare", [X, whole(2, 3)], {}),
    ("Relu", [X], {}),
    ("Reshape", [X, whole(0, 2, -1)], {}),
    ("Reshape", [X[:, :0], whole(0, 3)], {"allowzero": 1}),
    ("Shape", [X], {}),
    ("Shape", [X], {"start": 1, "end": -1}),
    ("Size", [X], {}),
    ("Slice", [X, whole(1, 0), whole(3, 2), whole(1, 3)], {}),
    ("Slice", [X, whole(4), whole(-10), whole(3), whole(-2)], {}),
    ("Sqrt", [Y], {}),
    ("Squeeze", [Y, whole(1)], {}),
    ("Squeeze", [Y], {}),
    ("Sub", [X, Y], {}),
    ("Tile", [Y, whole(2, 1, 3)], {}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [X], {}),
    ("Unsqueeze", [Y, whole(0, -1)], {}),
]


def node_of(operator, count=1, **attributes):
    return helper.make_node(operator, [f"x{i}" for i in range(count)], ["y"], **attributes)


def reference(node, inputs, opset=18):
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, kind(a.dtype), a.shape)
            for n, a in zip(node.input, inputs, strict=True)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, dict(zip(node.input, inputs, strict=True)))[0]


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_as_the_reference(operator, inputs, attributes):
    node = node_of(operator, len(inputs), **attributes)
    expected = reference(node, inputs)
    for rounded in (False, True):
        found = evaluate(node, inputs, rounded)
        assert found.shape == expected.shape
        assert found.dtype.kind == expected.dtype.kind
        assert not rounded or found.dtype == expected.dtype
        half = expected.dtype == np.float16 and not rounded
        np.testing.assert_allclose(
            found.astype(np.float16) if half else found, expected, rtol=STEP, atol=STEP
        )


def test_every_operator_has_a_case():
    assert {case[0] for case in CASES} == set(OPERATORS)
    assert set(OPERATORS) >= NORMS


@pytest.mark.parametrize("operator", ["ReduceMean", "Unsqueeze", "Squeeze"])
def test_axes_of_old_opsets(operator):
    x = Y if operator == "Squeeze" else X
    node = node_of(operator, axes=[1])
    expected = reference(node, [x], opset=12)
    np.testing.assert_allclose(evaluate(node, [x], False), expected, rtol=STEP)


def test_floats_are_computed_in_float64_and_rounded_when_asked():
    x = np.float16([1000.4, 1000.6])
    mean = node_of("ReduceMean", axes=[0])
    assert evaluate(mean, [x], False)[0] == x.astype(np.float64).mean()
    assert evaluate(mean, [x], True)[0] == np.float16(x.astype(np.float64).mean())
    to_half = node_of("Cast", to=TensorProto.FLOAT16)
    assert evaluate(to_half, [np.float32([1 / 3])], False)[0] == np.float32(1 / 3)
    assert evaluate(to_half, [np.float32([1 / 3])], True)[0] == np.float16(1 / 3)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("Expand", [Y, whole(10**6, 1, 10**6, 1)], {}),
        ("Tile", [Y, whole(10**4, 10**4, 10**4)], {}),
        ("ConstantOfShape", [whole(LARGEST, 2)], {}),
        ("Add", [np.ones((LARGEST, 1), np.int8), np.ones((1, 100), np.int8)], {}),
        ("MatMul", [np.ones((5000, 1), np.float32), np.ones((1, 5000), np.float32)], {}),
        ("Gather", [Y, np.zeros(2 * LARGEST, np.int8)], {}),
    ],
)
def test_nothing_huge_is_made(operator, inputs, attributes):
    with pytest.raises(NotEvaluatedError):
        evaluate(node_of(operator, len(inputs), **attributes), inputs, False)


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (node_of("Softmax"), [X]),
        (helper.make_node("Add", ["a", "b"], ["y"], domain="somebody.else"), [X, X]),
        (node_of("Conv", 2), [X, np.ones((1, 4, 1, 1), np.float32)]),
        (node_of("Conv", 2, pads=[1, 1, 1, 1]), [POINTS, np.ones((1, 4, 1, 1), np.float32)]),
        (node_of("Reshape", 2), [X, whole(7, -1)]),
        (node_of("Cast"), [X]),
        (node_of("Cast", to=999), [X]),
        (node_of("Add", 2), [X, np.ones(7)]),
        (node_of("Transpose", perm="a text"), [X]),
        (node_of("Reshape"), [X]),
    ],
)
def test_what_does_not_fit_is_not_computed(node, inputs):
    with pytest.raises(NotEvaluatedError):
        evaluate(node, inputs, True)


def test_attributes_and_labels():
    node = node_of("ReduceMean", axes=[1, 2], keepdims=0, epsilon=0.5, mode="text")
    assert attribute(node, "axes") == [1, 2]
    assert attribute(node, "none", 7) == 7
    assert [number(node, n, 3) for n in ("epsilon", "keepdims", "none", "mode")] == [0.5, 0, 3, 3]
    assert label(node) == "y"
    node.name = "mine"
    assert label(node) == "mine"
    del node.output[:]
    node.name = ""
    assert label(node) == "ReduceMean"


def test_warnings_of_numpy_are_not_shown():
    with without_warnings():
        assert np.isnan(np.zeros(0).mean())
        assert np.isinf(np.ones(1) / np.zeros(1)).all()
