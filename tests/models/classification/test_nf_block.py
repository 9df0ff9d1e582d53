"""Normalizer-free blocks against the formula, and the variances they count on."""

import pytest
import torch
from torch import nn

from groupnorm.models import ResNetCifar
from groupnorm.models.classification.nf_block import NFBlock, SignalVariance
from tests.tolerances import SAMPLED_DEEP


def blocks(model):
    return [m for m in model.modules() if isinstance(m, NFBlock)]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_equals_the_formula(shortcut):
    torch.manual_seed(0)
    model = ResNetCifar(14, norm="none+nf", width=0.5, shortcut=shortcut).double()
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    for block in blocks(model):
        nn.init.normal_(block.gain)
        z = torch.clamp(x / block.beta, min=0)
        branch = block.conv2(torch.clamp(block.conv1(z), min=0))
        if block.shortcut is None:
            path = x
        else:
            path = block.shortcut(x / block.beta if shortcut == "A" else z)
        expected = path + 0.2 * block.gain * branch
        x = block(x)
        assert torch.allclose(x, expected)


@pytest.mark.parametrize(
    ("shortcut", "variances"),
    [("B", [1, 1.04, 1.08, 1.04, 1.08, 1.04]), ("A", [1, 1.04, 1.08, 0.54, 0.58, 0.54])],
)
def test_beta_is_the_root_of_the_expected_variance(shortcut, variances):
    model = ResNetCifar(14, norm="none+nf", shortcut=shortcut)
    found = [block.beta**2 for block in blocks(model)]
    assert found == pytest.approx(variances)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_expected_variance_is_found(shortcut):
    """With gains of 1 and a wide network; zero padding costs some at the border."""
    torch.manual_seed(0)
    model = ResNetCifar(20, norm="none+nf", width=4, shortcut=shortcut)
    seen = []
    for block in blocks(model):
        nn.init.ones_(block.gain)
        block.register_forward_hook(lambda block, inputs, y: seen.append(inputs[0].var().item()))
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    for block, variance in zip(blocks(model), seen, strict=True):
        assert variance == pytest.approx(block.beta**2, rel=SAMPLED_DEEP)


def test_every_block_starts_as_its_shortcut():
    block = blocks(ResNetCifar(14, norm="none+nf"))[1]
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x), x)
    assert "alpha=0.2, beta=1.0198" in repr(block)


def test_every_parameter_learns():
    model = ResNetCifar(8, norm="none+nf", width=0.5, shortcut="B")
    for block in blocks(model):
        nn.init.ones_(block.gain)
    model(torch.randn(2, 3, 8, 8)).backward(torch.randn(2, 10))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_variance_bookkeeping():
    variance = SignalVariance()
    assert variance.next_beta(None) == 1
    assert variance.next_beta(0.5) == pytest.approx(1.04**0.5)
    assert variance.next_beta(None) == pytest.approx(0.54**0.5)
