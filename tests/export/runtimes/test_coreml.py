"""Packages for Core ML, which only macOS runs."""

import sys

import pytest
import torch
from torch import nn

from groupnorm.export import prepare
from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes import coreml
from groupnorm.export.runtimes.quiet import quiet
from tests.export.networks import convolutional, images

ct = pytest.importorskip("coremltools", reason="coremltools is not installed")
mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types


class Function(nn.Module):
    """A function behind a convolution."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 1)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


def root_of_mean_square(x):
    return x * ((x * x).mean(1, keepdim=True) + 1e-6) ** -0.5


SQUARES = {
    "product": lambda x: x * x,
    "power": lambda x: x**2,
    "pow": lambda x: x.pow(2),
    "square": lambda x: x.square(),
    "var": lambda x: torch.var(x, (2, 3)),
    "std": lambda x: torch.std(x, (1,)),
    "norm": lambda x: torch.norm(x, dim=1),
    "normalize": lambda x: nn.functional.normalize(x),
    "layer norm": lambda x: nn.functional.layer_norm(x, x.shape[1:]),
    "root mean square": root_of_mean_square,
}


def in_half(network, path):
    """Operators of the package of a network in float16, and whether each gives float16."""
    coreml.write(network.eval().half(), (images(1, 3, 8, 8).half(),), path)
    return kinds_of(path)


def kinds_of(path):
    half = ct.proto.MIL_pb2.DataType.FLOAT16
    return [
        (op.type, op.outputs[0].type.tensorType.dataType == half)
        for op in coreml._operations(path)
        if op.type not in ("const", "cast")
    ]


def without_selection(monkeypatch):
    """Let all operators be computed in float16."""
    monkeypatch.setattr(coreml, "InHalf", lambda: lambda op: True)


@pytest.mark.parametrize("form", ["plain", "instance", "pooled", "blocked"])
def test_squares_of_norms_stay_in_float32(form, tmp_path, monkeypatch):
    network, _ = prepare(convolutional().half(), images(1, 3, 8, 8).half(), "coreml", form=form)
    found = in_half(network, tmp_path / "a.mlpackage")
    assert coreml.half_squares(tmp_path / "a.mlpackage") == 0
    assert ("conv", True) in found
    without_selection(monkeypatch)
    with pytest.raises(ExportError, match=r"would compute \d squares? in float16"):
        in_half(network, tmp_path / "b.mlpackage")


@pytest.mark.parametrize("function", SQUARES.values(), ids=SQUARES)
def test_other_squares_stay_in_float32(function, tmp_path, monkeypatch):
    found = in_half(Function(function), tmp_path / "a.mlpackage")
    assert coreml.half_squares(tmp_path / "a.mlpackage") == 0
    assert ("conv", True) in found
    without_selection(monkeypatch)
    with pytest.raises(ExportError, match=r"would compute \d squares? in float16"):
        in_half(Function(function), tmp_path / "b.mlpackage")


@pytest.mark.parametrize("form", ["plain", "pooled"])
def test_variances_stay_in_float32_until_their_root(form, tmp_path):
    network, _ = prepare(convolutional().half(), images(1, 3, 8, 8).half(), "coreml", form=form)
    found = in_half(network, tmp_path / "a.mlpackage")
    names = [name for name, _ in found]
    first = names.index("square" if form == "plain" else "mul")
    last = names.index("sqrt" if form == "plain" else "rsqrt")
    assert ("add", False) in found[first:last]
    assert not any(half for _, half in found[first : last + 1])


def test_what_comes_behind_a_root_may_be_in_float16(tmp_path):
    network = nn.Sequential(Function(root_of_mean_square), nn.Conv2d(8, 8, 1))
    found = in_half(network, tmp_path / "a.mlpackage")
    assert found[-1] == ("conv", True)
    assert found[-2] == ("mul", True)


@mb.program(
    input_specs=[mb.TensorSpec((4,), types.fp16), mb.TensorSpec((1,), types.fp16)],
    opset_version=ct.target.iOS16,
)
def square_in_branch(x, flag):
    return mb.cond(
        pred=mb.squeeze(x=mb.cast(x=flag, dtype="bool")),
        _true_fn=lambda: mb.mul(x=x, y=x),
        _false_fn=lambda: mb.identity(x=x),
    )


@mb.program(input_specs=[mb.TensorSpec((4,), types.fp32)], opset_version=ct.target.iOS16)
def square_of_casts(x):
    return mb.mul(x=mb.cast(x=x, dtype="fp16"), y=mb.cast(x=x, dtype="fp16"))


@pytest.mark.parametrize(
    ("program", "casts"), [(square_in_branch, 1), (square_of_casts, 2)], ids=["nested", "casts"]
)
def test_squares_are_found_wherever_they_are(program, casts, tmp_path):
    with quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            pass_pipeline=ct.PassPipeline.EMPTY,
        )
        model.save(str(tmp_path / "a.mlpackage"))
        del model  # its folder goes with it, and warns
    operators = coreml.describe(tmp_path / "a.mlpackage").operators
    assert (operators["mul"], operators["cast"]) == (1, casts)
    assert coreml.half_squares(tmp_path / "a.mlpackage") == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs it")
def test_elsewhere_it_is_not_run(tmp_path):
    coreml.write(convolutional(), (images(1, 3, 8, 8),), tmp_path / "a.mlpackage")
    with pytest.raises(ExportError, match="Core ML runs on macOS only"):
        coreml.load(tmp_path / "a.mlpackage")
