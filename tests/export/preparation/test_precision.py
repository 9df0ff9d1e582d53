"""Changes are computed in float64 where the network runs in it, and rounded once."""

import pytest
import torch
from torch import nn

from groupnorm.conversion.example import NotRunError, run
from groupnorm.export.forms import PooledGroupNorm
from groupnorm.export.preparation.precision import Dtypes, in_float64, moved


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, dtype=torch.bfloat16)
        self.norm = nn.GroupNorm(2, 4)
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))

    def forward(self, x):
        return self.norm(self.conv(x.to(self.conv.weight.dtype)).to(self.norm.weight.dtype))


def test_dtypes_come_back():
    model = Mixed()
    dtypes = Dtypes(model)
    assert dtypes.usual == torch.bfloat16
    changed = Mixed().double()
    changed.norm = PooledGroupNorm(2, 4, dtype=torch.float64)
    changed.conv.extra = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    changed.tail = nn.Linear(2, 2, dtype=torch.float64)
    dtypes.restore(changed)
    found = {name: value.dtype for name, value in changed.named_parameters()}
    assert found["conv.weight"] == found["conv.extra"] == found["tail.weight"] == torch.bfloat16
    assert found["norm.weight"] == torch.float32
    assert changed.steps.dtype == torch.int64


def test_the_buffers_of_a_form_stay_in_the_statistics_dtype():
    changed = nn.Sequential(PooledGroupNorm(2, 4, dtype=torch.float64))
    Dtypes(nn.Sequential(nn.GroupNorm(2, 4, dtype=torch.float16))).restore(changed)
    assert changed[0].weight.dtype == torch.float16
    assert changed[0].gather.dtype == torch.float32


def test_parametrized_layers_keep_the_dtype_of_their_parts():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, bias=False))
    dtypes = Dtypes(nn.Sequential(layer.half(), nn.Linear(9, 9)))
    assert dtypes.of_module("0") == torch.float16
    assert dtypes.of_module("0.anything") == torch.float16
    assert dtypes.of_module("new") == torch.float32


class Single(nn.Module):
    """Computes in float32, whatever it is in."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x.float())


def test_a_network_runs_in_float64_or_says_why_not():
    network, dtype, why = in_float64(nn.Linear(3, 3), torch.randn(2, 3))
    assert dtype == torch.float64
    assert network.weight.dtype == torch.float64
    assert why == ""
    network, dtype, why = in_float64(Single(), torch.randn(2, 3))
    assert dtype is None
    assert network.linear.weight.dtype == torch.float32
    assert why
    with pytest.raises(NotRunError):
        in_float64(nn.Linear(3, 3), torch.randn(2, 4))


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "callable"])
def test_examples_of_every_kind_are_moved(kind):
    class Notes(nn.Module):
        def forward(self, *args, **kwargs):
            self.seen = (args, kwargs)

    x, steps = torch.randn(2, 3), torch.ones(2, dtype=torch.int64)
    example = {
        "tensor": x, "tuple": (x, steps, "a"), "list": [x, steps],
        "callable": lambda model: model(x=x, steps=steps),
    }[kind]  # fmt: skip
    for dtype, want in ((torch.float64, torch.float64), (None, torch.float32)):
        model = Notes()
        run(model, moved(example, dtype))
        args, kwargs = model.seen
        parts = [*args, *kwargs.values()]
        parts = parts[0] if kind == "list" else parts
        assert parts[0].dtype == want
        assert parts[0] is not x
        assert torch.equal(parts[0], x.to(want))
        assert kind == "tensor" or parts[1].dtype == torch.int64
        assert not model._forward_pre_hooks
