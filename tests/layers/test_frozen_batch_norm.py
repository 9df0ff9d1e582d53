"""Frozen batch norm against torchvision's and PyTorch's evaluation; state dicts of all kinds."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from groupnorm.layers import BatchNorm, FrozenBatchNorm
from tests.tolerances import STEP, bound


def random_state(channels=6):
    return {
        "weight": torch.randn(channels),
        "bias": torch.randn(channels),
        "running_mean": torch.randn(channels) * 5,
        "running_var": torch.rand(channels) + 0.1,
    }


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_equals_torchvision(layout):
    ours, theirs = FrozenBatchNorm(6), FrozenBatchNorm2d(6)
    theirs.load_state_dict(random_state())
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    a = (torch.randn(3, 6, 5, 4) * 2 + 3).contiguous(memory_format=layout).requires_grad_()
    b = a.detach().double().requires_grad_()
    y, expected = ours(a), theirs.double()(b)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy.double())
    m = float(((3 + ours.running_mean.abs()) / ours.running_var.sqrt()).max())
    scale = float(ours.weight.abs().max())
    largest = float(expected.detach().abs().max())
    assert (y - expected).abs().max() <= bound(torch.float32, m, scale, largest)
    steepest = float((ours.weight.abs() / ours.running_var.sqrt()).max() * dy.abs().max())
    assert (a.grad - b.grad).abs().max() <= bound(torch.float32, 0, steepest, steepest)
    assert y.stride() == a.stride() == a.grad.stride()


@pytest.mark.parametrize("shape", [(5, 6), (3, 6, 4), (0, 6, 2, 2), (1, 6, 1, 1), (2, 6, 2, 3, 2)])
def test_equals_batch_norm_in_evaluation(shape):
    frozen, norm = FrozenBatchNorm(6), BatchNorm(6)
    norm.load_state_dict({**random_state(), "num_batches_tracked": torch.tensor(7)})
    frozen.load_state_dict(norm.state_dict())
    x = torch.randn(shape)
    for training in (True, False):
        y, expected = frozen.train(training)(x), norm.eval()(x)
        assert y.shape == expected.shape
        if x.numel():
            largest = float(expected.detach().abs().max())
            assert (y - expected).abs().max() <= 2 * bound(torch.float32, 20, 3, largest)


def test_an_affine_channel_loads():
    """detectron2's oldest checkpoints hold scale and shift alone."""
    layer = nn.Sequential(FrozenBatchNorm(3, eps=1e-3))
    state = {"0.weight": torch.randn(3), "0.bias": torch.randn(3)}
    layer.load_state_dict(state)
    assert set(state) == {"0.weight", "0.bias"}
    x = torch.randn(2, 3, 4)
    expected = x * state["0.weight"].view(3, 1) + state["0.bias"].view(3, 1)
    assert torch.allclose(layer(x), expected, atol=STEP)


@pytest.mark.parametrize("missing", ["running_var", "running_mean", "weight", "bias"])
def test_a_damaged_state_does_not_load(missing):
    state = random_state()
    del state[missing]
    with pytest.raises(RuntimeError, match=f"Missing key.*{missing}"):
        FrozenBatchNorm(6).load_state_dict(state)


def test_nothing_is_learned_and_nothing_kept():
    layer = FrozenBatchNorm(4)
    assert not list(layer.parameters())
    state = layer.state_dict()
    assert [*state] == ["weight", "bias", "running_mean", "running_var"]
    assert state._metadata[""]["version"] == 3  # as detectron2's
    kept = []

    def pack(t):
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(torch.randn(8, 4, 16, 16, requires_grad=True))
    assert max(kept) <= 4


def test_a_fresh_layer():
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.allclose(FrozenBatchNorm(4).double()(x), x / (1 + 1e-5) ** 0.5)


def test_half_input_with_float32_buffers():
    y = FrozenBatchNorm(4)(torch.full((1, 4, 2), 6e4, dtype=torch.float16))
    assert y.dtype == torch.float16
    assert torch.equal(y, torch.full_like(y, 6e4))


def test_other_channels_raise():
    with pytest.raises(ValueError, match=r"\(N, 4, \*\), got \(2, 5, 3\)"):
        FrozenBatchNorm(4)(torch.randn(2, 5, 3))
