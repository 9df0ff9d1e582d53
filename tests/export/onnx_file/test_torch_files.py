"""Files as torch.onnx.export makes them, by the new exporter and the old one."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from groupnorm.export.onnx_file import inspect, repair
from groupnorm.export.onnx_file.faults import INSTANCE, OPERATOR, SHIFTED, SQUARES, TWO_PASS
from tests.export.onnx_file.runtime import allowed, draws, session


def new(opset):
    """The exporter that takes seconds, the first one tens."""
    return pytest.param(True, opset, marks=pytest.mark.slow)


OLD = [(False, 11), (False, 17), (False, 20)]


def export(module, x, path, dynamo, opset, dynamic=None):
    """The file; `dynamic` are the axes that may change."""
    options = {}
    if dynamic and dynamo:
        options["dynamic_shapes"] = (dict.fromkeys(dynamic, torch.export.Dim.AUTO),)
    elif dynamic:
        options["dynamic_axes"] = {"x": {axis: f"d{axis}" for axis in dynamic}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own dependencies
        torch.onnx.export(
            module.eval(), (x,), path, dynamo=dynamo, opset_version=opset, input_names=["x"],
            verbose=False, **options,
        )  # fmt: skip
    return path


def norm(groups=4, channels=16, **options):
    layer = nn.GroupNorm(groups, channels, **options)
    if layer.affine:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-1, 1)
    return layer


def truth(module, x):
    with torch.no_grad():
        return module.double()(torch.from_numpy(x).double()).numpy()


def assert_as_pytorch(path, module, shape, dtype=np.float32):
    run = session(path)
    for x in draws(shape, dtype):
        expected = truth(module, x)
        (y,) = run.run(None, {"x": x})
        assert np.abs(y - expected).max() <= allowed(dtype, np.abs(expected).max())


@pytest.mark.parametrize(("dynamo", "opset"), [*OLD, new(18), new(20), new(21)])
def test_a_network_of_every_exporter(dynamo, opset, tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), norm(), nn.ReLU(), nn.Conv2d(16, 16, 1), norm(16), nn.SiLU()
    )
    path = export(net, torch.randn(2, 3, 8, 6), tmp_path / "a.onnx", dynamo, opset)
    first, second = inspect(path).norms
    assert (first.groups, first.channels, first.shape) == (4, 16, (2, 16, 8, 6))
    assert (second.groups, second.channels, second.affine) == (16, 16, "scale and shift")
    assert {first.form, second.form} == {OPERATOR if opset >= 21 else INSTANCE}
    report = repair(path, tmp_path / "out.onnx")
    assert (report.out is None) == (opset < 21)
    if report.out is not None:
        x = next(draws((2, 3, 8, 6)))
        (y,) = session(report.out).run(None, {"x": x})
        assert np.abs(y - truth(net, x)).max() <= allowed(np.float32, 1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 16), (2, 16, 7), (2, 16, 5, 6), (1, 16, 3, 4, 5)])
@pytest.mark.parametrize("opset", [18, 21])
def test_every_rank(shape, opset, tmp_path):
    layer = norm()
    path = export(layer, torch.randn(shape), tmp_path / "a.onnx", True, opset)
    (found,) = inspect(path).norms
    assert (found.groups, found.shape) == (4, shape)
    if opset == 21:
        repair(path, tmp_path / "out.onnx")
        assert_as_pytorch(tmp_path / "out.onnx", layer, shape)


@pytest.mark.parametrize(("dynamo", "opset"), [new(18), new(21), (False, 17)])
def test_axes_that_may_change(dynamo, opset, tmp_path):
    layer = norm()
    x = torch.randn(2, 16, 6, 8)
    path = export(layer, x, tmp_path / "a.onnx", dynamo, opset, dynamic=(0, 2, 3))
    (found,) = inspect(path).norms
    assert (found.groups, found.channels) == (4, 16)
    assert found.shape is not None
    assert all(isinstance(found.shape[axis], str) for axis in (0, 2, 3))
    if opset == 21:
        repair(path, tmp_path / "out.onnx")
        for shape in ((1, 16, 4, 4), (3, 16, 9, 2)):
            assert_as_pytorch(tmp_path / "out.onnx", layer, shape)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
def test_float16(opset, tmp_path):
    layer = norm().half()
    path = export(layer, torch.randn(2, 16, 6, 5).half(), tmp_path / "a.onnx", True, opset)
    (found,) = inspect(path).norms
    assert (found.dtype, found.is_wrong) == ("float16", opset == 21)
    if opset == 21:
        repair(path, tmp_path / "out.onnx")
        assert_as_pytorch(tmp_path / "out.onnx", layer, (2, 16, 6, 5), np.float16)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
def test_no_affine(opset, tmp_path):
    layer = norm(affine=False)
    path = export(layer, torch.randn(2, 16, 6, 5), tmp_path / "a.onnx", True, opset)
    (found,) = inspect(path).norms
    assert found.groups == 4
    if opset == 21:
        repair(path, tmp_path / "out.onnx")
        assert_as_pytorch(tmp_path / "out.onnx", layer, (2, 16, 6, 5))


class ByHand(nn.Module):
    """Group norm as people write it, of the variance that `variance` names."""

    def __init__(self, variance):
        super().__init__()
        self.variance = variance
        self.weight = nn.Parameter(torch.rand(1, 16, 1, 1) + 0.5)
        self.bias = nn.Parameter(torch.rand(1, 16, 1, 1))

    def forward(self, x):
        n, c, h, w = x.shape
        view = x.view(n, 4, -1)
        mean = view.mean(-1, keepdim=True)
        if self.variance == "biased":
            variance = view.var(-1, keepdim=True, unbiased=False)
        elif self.variance == "unbiased":
            variance = view.var(-1, keepdim=True)
        else:
            variance = (view * view).mean(-1, keepdim=True) - mean * mean
        view = (view - mean) / (variance + 1e-5).sqrt()
        return view.view(n, c, h, w) * self.weight + self.bias


@pytest.mark.parametrize(("dynamo", "opset"), [new(18), new(21), (False, 17)])
@pytest.mark.parametrize("dynamic", [None, (0, 2, 3)])
@pytest.mark.parametrize(
    ("variance", "form"), [("biased", TWO_PASS), ("squares", SQUARES), ("unbiased", None)]
)
def test_group_norm_by_hand(variance, form, dynamic, dynamo, opset, tmp_path):
    module = ByHand(variance)
    x = torch.randn(2, 16, 6, 8)
    path = export(module, x, tmp_path / "a.onnx", dynamo, opset, dynamic)
    norms = inspect(path).norms
    if variance == "unbiased":  # the same as another scale only where sizes stay
        assert len(norms) == (0 if dynamic else 1)
        return
    assert [found.form for found in norms] == [form]
    if variance == "squares":
        repair(path, tmp_path / "out.onnx")
        assert_as_pytorch(tmp_path / "out.onnx", module, (2, 16, 6, 8))
        (found,) = inspect(tmp_path / "out.onnx").norms
        assert found.form == (TWO_PASS if dynamic else SHIFTED)  # of any size


@pytest.mark.parametrize(
    "module",
    [nn.LayerNorm(8), nn.LayerNorm((16, 6, 8)), nn.InstanceNorm2d(16), nn.BatchNorm2d(16),
     nn.InstanceNorm2d(16, affine=True), nn.LocalResponseNorm(3), nn.Softmax(1), nn.RMSNorm(8)],
    ids=lambda module: str(module).split("(")[0],
)  # fmt: skip
@pytest.mark.parametrize(("dynamo", "opset"), [new(18), new(21), (False, 17), (False, 11)])
def test_other_layers_are_not_listed(module, dynamo, opset, tmp_path):
    if isinstance(module, nn.RMSNorm) and not dynamo:
        pytest.skip("the old exporter does not know it")
    path = export(module, torch.randn(2, 16, 6, 8), tmp_path / "a.onnx", dynamo, opset)
    inspection = inspect(path)
    assert (inspection.norms, inspection.not_looked_into) == ((), ())
