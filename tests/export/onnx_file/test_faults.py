"""What is said to go wrong in ONNX Runtime goes wrong there, and what is said to be right is."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from groupnorm.export.onnx_file.faults import (
    CONTRIB,
    INSTANCE,
    LAYER,
    OFFSETS,
    OPERATOR,
    POOLED,
    SHIFTED,
    SQUARES,
    TWO_PASS,
    formula_fault,
    known_faults,
)
from tests.export.onnx_file import graphs
from tests.export.onnx_file.graphs import LAST, SHAPE, C, G, Net, expected, save
from tests.export.onnx_file.runtime import draws, session
from tests.tolerances import FEW, ROUNDOFF, STORAGE

RIGHT = [graphs.instance, graphs.layer, graphs.two_pass, graphs.keras, graphs.pooled]
WRONG = [graphs.operator, graphs.squares, graphs.flax]


def errors(write, path, dtype=np.float32):
    """Of ONNX Runtime, for each offset, and the errors that a group norm may have there."""
    import torch

    net = Net(dtype, 21)
    write(net)
    shape, axis = (LAST, -1) if write in (graphs.keras, graphs.flax) else (SHAPE, 1)
    run = session(save(net.model(shape), path))
    for offset, x in zip(OFFSETS, draws(shape, dtype), strict=True):
        truth = expected(x, axis)
        (y,) = run.run(None, {"x": x})
        rounding = 4 * STORAGE[torch.float32] * np.abs(truth).max()
        bound = FEW * ROUNDOFF[torch.float32] * (1 + offset) * 1.5 + rounding
        yield np.abs(y - truth).max(), bound


@pytest.mark.parametrize("write", RIGHT, ids=lambda f: f.__name__)
def test_forms_that_are_right_here(write, tmp_path):
    assert all(error <= bound for error, bound in errors(write, tmp_path / "a.onnx"))


@pytest.mark.parametrize("write", WRONG, ids=lambda f: f.__name__)
def test_forms_that_are_wrong_here(write, tmp_path):
    """At mean 0 they are right, from 100 on wrong, and at 10,000 no number is left."""
    (error, bound), _, *large = errors(write, tmp_path / "a.onnx")
    assert error <= bound
    assert all(not error <= 10 * bound for error, bound in large)
    assert not large[-1][0] <= 1


def test_what_has_no_kernel_does_not_load(tmp_path):
    net = Net()
    net("GroupNorm", "x", np.ones(C), np.zeros(C), out="y", domain="com.microsoft", groups=G,
        epsilon=1e-5, activation=0)  # fmt: skip
    double = Net(np.float64)
    graphs.instance(double)
    for model in (net.model(LAST), double.model(SHAPE)):
        with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|Could not find an implementation"):
            session(save(model, tmp_path / "a.onnx"))


@pytest.mark.parametrize(
    ("form", "opset", "dtype", "wrong"),
    [
        (OPERATOR, 18, "float32", {"ONNX Runtime"}),
        (OPERATOR, 18, "float64", set()),
        (OPERATOR, 21, "float32", {"ONNX Runtime", "TensorRT 10.7", "MNN 3.6"}),
        (OPERATOR, 21, "float64", {"ONNX Runtime", "TensorRT 10.7", "MNN 3.6"}),
        (OPERATOR, 21, "", {"ONNX Runtime", "TensorRT 10.7", "MNN 3.6"}),
        (CONTRIB, 18, "float16", {"ONNX Runtime, CPU"}),
        (INSTANCE, 18, "float32", set()),
        (INSTANCE, 18, "float64", {"ONNX Runtime, CPU"}),
        (SHIFTED, 21, "float32", set()),
        (LAYER, 18, "float32", {"ONNX Runtime before June 2026"}),
        *((form, 18, "float32", set()) for form in (TWO_PASS, SQUARES, POOLED)),
    ],
)
def test_what_is_known_of_each_form(form, opset, dtype, wrong):
    faults = list(known_faults(form, opset, 8, dtype, 100))
    assert {fault.runtime for fault in faults if fault.wrong} == wrong
    assert all(fault.what and fault.source for fault in faults)


def test_errors_are_told():
    fault = formula_fault(SQUARES, (1e-6, 2e-5, 3e-3, 0.4, float("nan")))
    assert fault.wrong
    assert "off by 1e-06 at mean 0, 2e-05 at mean 10, 3e-03 at mean 100" in fault.what
    assert "NaN at mean 10,000" in fault.what
