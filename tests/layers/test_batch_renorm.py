"""Batch renormalization against Algorithm 1 of Ioffe 2017 in float64, one chunk after the other."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.conversion import recomputed_statistics
from groupnorm.layers import BatchNorm, BatchRenorm
from groupnorm.layers.batch_renorm import renorm_limits
from tests.tolerances import CLEARLY, LAYER, STEP, bound


def algorithm_1(x, state, eps, r_max, d_max):
    """y of one worker's images, with gradient, and the batch's mean and unbiased variance."""
    axes = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    count = x.numel() // x.shape[1]
    mean = x.sum(axes) / count
    biased = ((x - mean.view(shape)) ** 2).sum(axes) / count
    sigma_b = (biased + eps).sqrt()
    sigma = (state["running_var"] + eps).sqrt()
    r = [min(max(ratio, 1 / r_max), r_max) for ratio in (sigma_b / sigma).tolist()]
    apart = ((mean - state["running_mean"]) / sigma).tolist()
    d = [min(max(distance, -d_max), d_max) for distance in apart]
    r, d = torch.tensor([r, d], dtype=torch.float64)
    y = (x - mean.view(shape)) / sigma_b.view(shape) * r.view(shape) + d.view(shape)
    return y, mean.detach(), biased.detach() * count / (count - 1)


def build(dtype, **options):
    layer = BatchRenorm(5, dtype=dtype, **options)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.2, 4)
    return layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(12, 5, 4), (12, 5, 6, 6), (12, 5, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("images", [12, 4, 2])
@pytest.mark.parametrize("limits", [(1.5, 0.5), (3.0, 5.0), (1.0, 0.0), (100.0, 100.0)])
def test_equals_the_algorithm_for_each_worker(dtype, shape, images, limits):
    layer = build(dtype, r_max=limits[0], d_max=limits[1], batch_per_worker=images)
    layouts = [torch.contiguous_format]
    if len(shape) > 3:
        layouts.append({4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)])
    for layout in layouts:
        state = {key: value.double().clone() for key, value in layer.state_dict().items()}
        x = (torch.randn(shape) * 1.5 + 1).to(dtype).contiguous(memory_format=layout)
        x.requires_grad_()
        a = x.detach().double().requires_grad_()
        parts = [algorithm_1(part, state, 1e-5, *limits) for part in a.split(images)]
        view = (1, -1, *[1] * (len(shape) - 2))
        xhat = torch.cat([y for y, _, _ in parts])
        size = xhat.detach().abs()
        expected = xhat * state["weight"].view(view) + state["bias"].view(view)
        y = layer(x)
        assert y.dtype == dtype
        assert y.stride() == x.stride()
        largest = float(expected.detach().abs().max())
        scale = 2 * max(largest, float(size.max()))
        # The running statistics are in the layer's type, so what follows from them is exact.
        assert (y - expected).abs().max() <= bound(dtype, 5, scale, largest)
        dy = torch.randn_like(y)
        gradients = torch.autograd.grad(y, [x, layer.weight], dy)
        (dx,) = torch.autograd.grad(expected, a, dy.double(), retain_graph=True)
        dweight = (dy.double() * xhat).sum([0, *range(2, len(shape))]).detach()
        assert gradients[0].stride() == x.stride()
        steep = 2 * max(float(dx.abs().max()), float(dy.abs().max()) * limits[0] * 3)
        assert (gradients[0] - dx).abs().max() <= bound(dtype, 5, steep, float(dx.abs().max()))
        total = float((dy.double().abs() * size).sum())
        error = (gradients[1] - dweight).abs().max()
        assert error <= bound(dtype, 5, total, float(dweight.abs().max()))
        for key, index in (("running_mean", 1), ("running_var", 2)):
            mean = sum(part[index] for part in parts) / len(parts)
            true = 0.9 * state[key] + 0.1 * mean
            close = 3 * bound(dtype, 5, 1, float(true.abs().max()))  # rounded at each step
            assert (layer.state_dict()[key] - true).abs().max() <= close


def test_both_limits_bind_in_the_test_above():
    """Of its data some channels are clipped and some are not."""
    layer = build(torch.float64)
    x = torch.randn(12, 5, 6, 6, dtype=torch.float64) * 1.5 + 1
    mean, var = x.mean((0, 2, 3))[None], x.var((0, 2, 3), correction=0)[None]
    r, d = layer._corrections(mean, var)
    assert 0 < ((r == 1.5) | (r == 1 / 1.5)).sum() < 5
    assert 0 < (d.abs() == 0.5).sum() < 5


@pytest.mark.parametrize("images", [6, 2])
def test_without_room_it_is_batch_norm(images):
    plain = BatchNorm(5, batch_per_worker=images)
    layer = BatchRenorm(5, r_max=1, d_max=0, batch_per_worker=images)
    x = torch.randn(6, 5, 3, 3)
    for _ in range(2):
        assert torch.allclose(layer(x), plain(x), atol=STEP)
    for key, value in plain.state_dict().items():
        assert torch.allclose(layer.state_dict()[key], value, atol=STEP)
    assert torch.allclose(layer.eval()(x), plain.eval()(x), atol=STEP)


def test_unclipped_training_is_evaluation():
    layer = build(torch.float64, r_max=1e6, d_max=1e6)
    before = copy.deepcopy(layer).eval()
    x = torch.randn(8, 5, 3, 3, dtype=torch.float64) * 3 + 2
    assert torch.allclose(layer(x), before(x))


def test_the_papers_ramp():
    """Section 4: batch norm for 5,000 steps, d = 5 at 25,000, r = 3 at 40,000."""
    steps = torch.tensor([0, 5_000, 15_000, 22_500, 25_000, 40_000, 10**9])
    r, d = renorm_limits(steps, 3.0, 5.0, 40_000)
    assert r.tolist() == pytest.approx([1, 1, 1 + 2 * 10 / 35, 2, 1 + 2 * 20 / 35, 3, 3])
    assert d.tolist() == pytest.approx([0, 0, 2.5, 4.375, 5, 5, 5])
    r, d = renorm_limits(steps, 1.5, 0.5, 0)
    assert set(r.tolist()) == {1.5}
    assert set(d.tolist()) == {0.5}


def test_the_ramp_follows_the_counted_steps():
    """They are in the state dict, so that training goes on where it stopped."""
    layer = BatchRenorm(5, r_max=100, d_max=100, ramp_steps=8)
    plain = BatchNorm(5)
    x = torch.randn(6, 5, 3, 3) * 3 + 2
    for _ in range(2):  # steps 0 and 1: 8 / 8 = 1 step of batch norm, and none above it at step 1
        assert torch.allclose(layer(x), plain(x), atol=LAYER)
    assert not torch.allclose(layer(x), plain(x), atol=CLEARLY)
    resumed = BatchRenorm(5, r_max=100, d_max=100, ramp_steps=8)
    resumed.load_state_dict(layer.state_dict())
    assert torch.equal(resumed(x), layer(x))


@pytest.mark.parametrize("images", [None, 2])
def test_gradcheck_with_r_and_d_at_their_limits(images):
    layer = BatchRenorm(3, momentum=0, dtype=torch.float64, batch_per_worker=images)
    layer.running_mean.fill_(-1e3)
    layer.running_var.fill_(1e-2)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def f(x, w, b):
        return torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))

    parameters = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(f, (x, *parameters))


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_constant_input(value):
    y = BatchRenorm(5)(torch.full((4, 5, 3, 3), value))
    expected = 0.5 if value else 0.0  # xhat = 0, d at its limit
    assert (y - expected).abs().max() <= bound(torch.float32, value / 1e-5**0.5, 1, expected)


def test_state_dicts_of_batch_norm_load_both_ways():
    layer, plain = BatchRenorm(5), nn.BatchNorm2d(5)
    layer.load_state_dict(plain.state_dict())
    plain.load_state_dict(layer.state_dict())
    assert [*layer.state_dict()] == [*plain.state_dict()]


def test_statistics_can_be_recomputed():
    model = nn.Sequential(nn.Conv2d(2, 5, 1), BatchRenorm(5, batch_per_worker=4)).double()
    batches = [torch.randn(8, 2, 4, 4, dtype=torch.float64) for _ in range(3)]
    before = copy.deepcopy(model.state_dict())
    with recomputed_statistics(model, batches):
        seen = torch.cat([model[0](x) for x in batches]).detach()
        assert torch.allclose(model[1].running_mean, seen.mean((0, 2, 3)))
        assert torch.allclose(model[1].running_var, seen.var((0, 2, 3)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_errors():
    for options in ({"r_max": 0.9}, {"d_max": -1}, {"ramp_steps": -1}, {"r_max": float("nan")}):
        with pytest.raises(ValueError, match="r_max must be at least 1, d_max and ramp_steps at"):
            BatchRenorm(3, **options)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BatchRenorm(3, batch_per_worker=0)
    with pytest.raises(ValueError, match="got 12 images and batch_per_worker=5"):
        BatchRenorm(3, batch_per_worker=5)(torch.randn(12, 3, 2))
    with pytest.raises(ValueError, match=r"\(N, 3, \*\) .* got \(4, 2, 2\)"):
        BatchRenorm(3)(torch.randn(4, 2, 2))
    with pytest.raises(ValueError, match="more than one value per channel"):
        BatchRenorm(3)(torch.randn(1, 3))
