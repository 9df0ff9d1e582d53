"""TorchScript: every layer can be traced; none can be scripted, as docs/normalizations.md says."""

import copy
import warnings

import pytest
import torch
from torch import nn

from groupnorm.layers import (
    CalibratedGroupNorm,
    GroupNorm,
    GroupNormAct,
    ScaledWSConv2d,
    WSConv2d,
    WSConvTranspose2d,
    norm_layer,
)
from groupnorm.spec import KINDS
from tests.tolerances import LAYER

LAYERS = {
    **{kind: lambda kind=kind: norm_layer(kind)(8) for kind in KINDS if kind != "none"},
    "gn, elu": lambda: norm_layer("gn")(8, act_layer=nn.ELU),
    "bn, elu": lambda: norm_layer("bn")(8, act_layer=nn.ELU),
    **{kind.__name__: lambda kind=kind: kind(8, 8, 3)
       for kind in (WSConv2d, WSConvTranspose2d, ScaledWSConv2d)},
}  # fmt: skip
VARIANTS = {
    **LAYERS,
    "GroupNormAct": lambda: GroupNormAct(2, 8),
    "without bias": lambda: GroupNorm(2, 8, bias=False),
    "without affine": lambda: GroupNorm(2, 8, affine=False),
    "aten": lambda: GroupNorm(2, 8, backend="aten"),
    "reference": lambda: GroupNorm(2, 8, backend="reference"),
    "input affine": lambda: CalibratedGroupNorm(2, 8),
    "mixed statistics": lambda: CalibratedGroupNorm(2, 8, hybrid=0.5),
    "bn of 2": lambda: norm_layer("bn", batch_per_worker=2)(8),
    "brn of 2": lambda: norm_layer("brn", batch_per_worker=2)(8),
}

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, about TorchScript's future


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_traced(name):
    layer = LAYERS[name]().eval()
    traced = torch.jit.trace(layer, torch.randn(2, 8, 5, 5))
    x = torch.randn(3, 8, 7, 5)
    torch.testing.assert_close(traced(x), layer(x), rtol=LAYER, atol=LAYER)


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_trace_warns_of_nothing_and_takes_other_shapes(name, training, layout):
    layer = VARIANTS[name]().train(training)
    memory_format = {"memory_format": getattr(torch, layout)}
    example = torch.randn(2, 8, 5, 5).contiguous(**memory_format)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(copy.deepcopy(layer), example, check_trace=False)
    layer(example)  # so that running statistics have moved alike
    x = (torch.randn(6, 8, 7, 4) * 2 + 3).contiguous(**memory_format).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(traced(x), y, rtol=LAYER, atol=LAYER)
    dy = torch.randn_like(y)
    (found,), (true,) = (torch.autograd.grad(each(x), x, dy) for each in (traced, layer))
    torch.testing.assert_close(found, true, rtol=LAYER, atol=LAYER)
    torch.testing.assert_close(
        dict(traced.named_buffers()), dict(layer.named_buffers()), rtol=LAYER, atol=LAYER
    )


@pytest.mark.parametrize("name", ["gn", "in", "frozenbn", "ln2d", "bn", "evonorm_s0"])
def test_a_trace_is_refused_what_the_layer_refuses(name):
    with pytest.raises(ValueError, match=r"expected input \(N, 8, \*\).*got \(2, 4, 5, 5\)"):
        torch.jit.trace(LAYERS[name](), torch.randn(2, 4, 5, 5))


def test_a_trace_goes_on_after_an_error_in_a_check():
    """The tracer's state is restored."""

    class Tried(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = GroupNorm(2, 8)

        def forward(self, x):
            with pytest.raises(ValueError, match="expected input"):
                self.norm(x[:, :4])
            return self.norm(x)

    model = Tried()
    traced = torch.jit.trace(model, torch.randn(2, 8, 5, 5), check_trace=False)
    x = torch.randn(3, 8, 7, 5)
    torch.testing.assert_close(traced(x), model(x), rtol=LAYER, atol=LAYER)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_not_scripted(name):
    with pytest.raises((RuntimeError, ValueError)):
        torch.jit.script(LAYERS[name]())
