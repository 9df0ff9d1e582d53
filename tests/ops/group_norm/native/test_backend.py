"""What only the C++ kernels promise; their numbers against float64 are in test_group_norm.py."""

import pytest
import torch

from groupnorm import GroupNormAct
from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.activations import ACTIVATIONS, activate, derivative
from tests.ops.group_norm.runners import NATIVE, running
from tests.tolerances import ROUNDOFF, STEP, SUBNORMAL

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(params=NATIVE, autouse=True)
def _instruction_set(request):
    with running(request.param):
        yield


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("shape", [(2, 64, 28, 28), (2, 24, 15, 13), (1, 32, 64, 64)], ids=str)
def test_largest_error_of_the_output(shape, mean, layout):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + mean
    x = x.contiguous(memory_format=LAYOUTS[layout])
    true = reference.forward(x.double(), 8)[0]
    error = (group_norm(x, 8, backend="native").double() - true).abs().max()
    assert error <= STEP * (1 + abs(mean))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e4 + 1 / 3, 1e7, -3e-5])
def test_constants_give_exactly_the_bias(value, dtype, layout):
    bias = torch.randn(12).to(dtype)
    for shape in ((3, 12, 7, 9), (2, 12, 1, 3), (2, 12, 40, 40)):
        x = torch.full(shape, value, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
        y = group_norm(x, 3, torch.randn(12).to(dtype), bias, backend="native")
        assert torch.equal(y, bias.view(1, 12, 1, 1).expand(shape))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shift_far_from_the_mean_is_found_out(layout):
    """The numbers that the shift is taken from are 1e4; all others are near 0."""
    x = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    x = x.contiguous(memory_format=LAYOUTS[layout])
    x[:, :, ::2, :1] = 1e4
    x[:, ::2, 0, :] = 1e4
    true = reference.forward(x.double(), 2)[0]
    error = (group_norm(x, 2, backend="native").double() - true).abs().max()
    assert error <= 2 * STEP * float(true.abs().max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shift_far_from_nearly_all_numbers_is_found_out(layout):
    """Four positions in 65,536 are 1e4, those that channels_last takes its shift from."""
    x = torch.randn(1, 8, 256, 256, generator=torch.Generator().manual_seed(2))
    x = x.contiguous(memory_format=LAYOUTS[layout])
    x[:, :, ::64, 0] = 1e4
    true = reference.forward(x.double(), 2)[0]
    error = (group_norm(x, 2, backend="native").double() - true).abs().max()
    assert error <= 2 * STEP * float(true.abs().max())


def value_and_slope(name, z):
    """Of an activation at every z: GN of zeros is 0, so z is what is added to it."""
    residual = z.view(1, 1, -1).clone().requires_grad_()
    zeros = torch.zeros_like(residual)
    y = group_norm(zeros, 1, activation=name, residual=residual, backend="native")
    (slope,) = torch.autograd.grad(y, residual, torch.ones_like(y))
    return y.detach().flatten(), slope.flatten()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_the_whole_range(name):
    """Values and slopes: a few units of rounding, of the largest term of the formula.

    The terms are |z| for values and 1 + |z| for slopes (z * sigmoid(z) * (1 - sigmoid(z)), say).
    """
    steps = torch.linspace(-120, 120, 240_001)
    around = torch.randn(100_000) * 2
    powers = torch.tensor([s * 2.0**e for e in range(-126, 127) for s in (-1, 1)])
    z = torch.cat([steps, around, powers, torch.tensor([0.0, -0.0, 3.0, -3.0, 87.0, -88.0])])
    value, slope = value_and_slope(name, z)
    true = activate(z.double(), name)
    unit = ROUNDOFF[torch.float32]
    assert ((value.double() - true).abs() <= 8 * unit * z.double().abs() + SUBNORMAL).all()
    moderate = z.abs() <= 1e4  # beyond, z^2 times a slope of 0 has no digits in float32
    z, slope = z[moderate], slope[moderate]
    true = derivative(z.double(), name)
    assert ((slope.double() - true).abs() <= 8 * unit * (1 + z.double().abs())).all()


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "mish"])
def test_slopes_of_large_numbers_are_one_and_zero(name):
    z = torch.tensor([1e5, 1e8, 1e12])
    assert torch.equal(value_and_slope(name, z)[1], torch.ones(3))
    assert (value_and_slope(name, -z)[1].abs() <= SUBNORMAL * z).all()


def test_not_a_number_stays_one():
    z = torch.tensor([float("nan")] * 20)
    for name in ACTIVATIONS:
        assert value_and_slope(name, z)[0].isnan().all(), name
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(2, 4, 5, 5).to(dtype)
        x[0, 0, 0, 0] = float("nan")
        y = group_norm(x, 2, activation="silu", backend="native")
        assert y[0, :2].isnan().all()
        assert not y[0, 2:].isnan().any()
        assert not y[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parameters_of_any_float_type_and_stride_give_the_same(dtype):
    """Half parameters become float32 without loss, whether by the kernels or before them."""
    x = torch.randn(2, 22, 5, 3).to(dtype)
    weight, bias = (torch.randn(22).to(dtype) for _ in range(2))
    expected = group_norm(x, 2, weight.float(), bias.float(), backend="native")
    gaps = torch.stack([weight, weight], 1)[:, 0]
    for w, b in ((weight, bias), (weight.float(), bias), (gaps, bias), (gaps, bias.float())):
        assert torch.equal(group_norm(x, 2, w, b, backend="native"), expected)
    only_bias = group_norm(x, 2, None, bias, backend="native")
    assert torch.equal(only_bias, group_norm(x, 2, None, bias.float(), backend="native"))


def test_statistics_on_request():
    x = torch.randn(3, 8, 5, 4) * 2 + 7000
    forward = torch.ops.groupnorm.group_norm_3_statistics
    _, statistics = forward(x, 4, None, None, 1e-5, None, None)
    _, mean, rstd = reference.forward(x.double(), 4)
    assert statistics.dtype == torch.float32
    assert torch.allclose(statistics[0].double(), mean, rtol=STEP)
    assert torch.allclose(statistics[1].double(), rstd, rtol=STEP)
    assert torch.allclose(statistics[0].double() + statistics[2].double(), mean, rtol=0, atol=STEP)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_kept_for_the_backward_pass(layout, activation):
    """The input, and three statistics of each group; parameters are there anyway."""
    layer = GroupNormAct(4, 16, activation=activation, backend="native")
    x = torch.randn(3, 16, 9, 9).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x).backward(torch.randn_like(x))
    others = [t for t in kept if not isinstance(t, torch.nn.Parameter)]
    assert sum(t.numel() * t.element_size() for t in others) == x.numel() * 4 + 3 * 4 * 12


def test_a_residual_without_an_activation_is_not_kept():
    x, r = (torch.randn(2, 8, 6, 6, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        group_norm(x, 2, residual=r, backend="native")
    assert sum(t.numel() for t in kept) == x.numel() + 2 * 2 * 3
