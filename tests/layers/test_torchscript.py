"""TorchScript: every layer can be traced; none can be scripted, as docs/normalizations.md says."""

import pytest
import torch
from torch import nn

from groupnorm.layers import ScaledWSConv2d, WSConv2d, WSConvTranspose2d, norm_layer
from groupnorm.spec import KINDS
from tests.tolerances import LAYER

LAYERS = {
    **{kind: lambda kind=kind: norm_layer(kind)(8) for kind in KINDS if kind != "none"},
    "gn, elu": lambda: norm_layer("gn")(8, act_layer=nn.ELU),
    "bn, elu": lambda: norm_layer("bn")(8, act_layer=nn.ELU),
    **{kind.__name__: lambda kind=kind: kind(8, 8, 3)
       for kind in (WSConv2d, WSConvTranspose2d, ScaledWSConv2d)},
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, about TorchScript's future


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_traced(name):
    layer = LAYERS[name]().eval()
    traced = torch.jit.trace(layer, torch.randn(2, 8, 5, 5))
    x = torch.randn(3, 8, 7, 5)
    torch.testing.assert_close(traced(x), layer(x), rtol=LAYER, atol=LAYER)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_not_scripted(name):
    with pytest.raises((RuntimeError, ValueError)):
        torch.jit.script(LAYERS[name]())
