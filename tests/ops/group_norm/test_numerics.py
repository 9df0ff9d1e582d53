"""Every backend where numbers are awkward: offsets, scales, constants, large groups, half types."""

import pytest
import torch

from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.aten import needs_shift
from tests.ops.group_norm.comparing import DTYPES, compare, laid_out, largest
from tests.ops.group_norm.runners import (
    GPU,
    ON_CPU,
    TRITON,
    WHOLE_TILES_SLOWLY,
    device_of,
    on_cpu,
    with_small_tiles,
)
from tests.tolerances import LAYER, NETWORK, bound

PASSES_OVER_MEMORY = [pytest.param(name, marks=GPU) for name in TRITON[1:]]


@pytest.mark.pairs(
    shape=[(2, 8, 9, 7), (2, 64, 28, 28), (2, 8, 4, 5, 6)],
    offset=[10.0, 100.0, 1e3, 1e4, 1e5],
    layout=["contiguous", "channels_last"],
)
def test_offsets(shape, offset, layout, backend):
    if backend == "aten" and offset == 1e5:
        pytest.skip("10,000 is as far as its shift, rounded to float32, is promised to reach")
    compare(shape, 4, torch.float32, backend, layout=layout, offset=offset)


@pytest.mark.parametrize("backend", PASSES_OVER_MEMORY, indirect=True)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_offsets_where_a_tile_is_read_twice(layout, backend):
    """Shift and mean are subtracted one after the other: their sum would be rounded."""
    compare((1, 4, 6, 5), 2, torch.float32, backend, layout=layout, offset=1e4)


@on_cpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [65, 160])
def test_gradients_of_many_channels(channels, layout, backend):
    """Gradients of gamma and beta are summed over samples for 64 channels at a time."""
    compare((3, channels, 3, 5), 5, torch.float32, backend, layout=layout)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("offset", "std"),
    [(1e3, 1e-1), (1e3, 1e-2), (1e4, 1e-1), (0, 1e-3), (0, 1e-6), (0, 1e4)],
)
def test_scales(offset, std, layout, backend):
    """With a std far below sqrt(eps) the output is about x / sqrt(eps)."""
    compare((2, 8, 9, 7), 4, torch.float32, backend, layout=layout, offset=offset, std=std)


@on_cpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case", [((2, 12, 5, 7), 3), ((2, 8, 9), 4), ((1, 12, 128, 96), 1)], ids=str
)
def test_half_types_with_a_costly_activation(case, dtype, residual, layout, backend):
    """The kernels keep dz of small groups in float32 and compute it again in large ones."""
    compare(*case, dtype, backend, layout=layout, activation="silu", residual=residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_value_in_all(dtype, backend):
    """Every group holds one value, and the batch one sample: the output is the bias."""
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("the Triton kernels take no double")
    bias = torch.randn(3).to(device_of(backend), dtype)
    x = torch.randn(1, 3).to(device_of(backend), dtype).requires_grad_()
    y = group_norm(x, 3, None, bias, backend=backend)
    assert largest(y - bias) <= bound(dtype, 0 if backend == "reference" else 316 * 3, 1, 3)
    (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert largest(dx) <= bound(dtype, 316 * 3, 316, 0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e4 + 1 / 3])
def test_constant_input_gives_about_the_bias(value, layout, backend):
    """rstd is 1 / sqrt(eps) = 316 here and multiplies the rounding of the mean: a few u * value."""
    x = laid_out(torch.full((2, 8, 6, 5), value, device=device_of(backend)), layout)
    bias = torch.randn(8, generator=torch.Generator().manual_seed(0)).to(x.device)
    y = group_norm(x, 4, None, bias, backend=backend)
    error = (y - bias.view(1, 8, 1, 1)).abs().max()
    assert error <= bound(torch.float32, abs(value) * 316, 1.0, float(bias.abs().max()))


@pytest.mark.parametrize("backend", [*ON_CPU, *WHOLE_TILES_SLOWLY], indirect=True)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_group_of_millions(layout, backend):
    """U[0, 1): sums of many numbers of one sign (torch issue 54293, reduced)."""
    x = torch.rand(1, 4, 1000, 1000, generator=torch.Generator().manual_seed(0))
    x = laid_out(x.to(device_of(backend)), layout)
    y = group_norm(x, 1, backend=backend)
    true = reference.forward(x.double(), 1)[0]
    m = 0.0 if backend != "aten" or needs_shift(x) else 2.0
    limit = bound(torch.float32, m, 1 + largest(true), largest(true))
    within = largest(y.double() - true) <= limit
    if backend == "aten" and layout == "channels_last":
        assert not within, "PyTorch no longer adds up in one float32: drop this exception"
    else:
        assert within


@with_small_tiles
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_outlier_channel_means_and_ramp(layout, backend):
    generator = torch.Generator().manual_seed(1)
    outlier = torch.randn(2, 8, 6, 5, generator=generator, dtype=torch.float64)
    outlier[0, 0, 0, 0] = 1e4
    apart = torch.randn(2, 8, 6, 5, generator=generator, dtype=torch.float64)
    apart += torch.tensor([100.0, -100.0] * 4).view(1, 8, 1, 1)
    ramp = torch.arange(480, dtype=torch.float64).view(2, 8, 6, 5)
    for x in (outlier, apart, ramp):
        compare(tuple(x.shape), 4, torch.float32, backend, layout=layout, x=x)


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 6e4), (torch.float16, 300.0), (torch.bfloat16, 20.0)]
)
def test_large_half_values_do_not_overflow(dtype, value, backend):
    x = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0)).sign() * value
    compare((2, 8, 6, 5), 4, dtype, backend, x=x.double())


# Triton's kernels and PyTorch's on CUDA do not scale (docs/numerics.md): from here on, on the CPU.
@on_cpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float32, 3e19), (torch.float32, 1e30), (torch.float32, 1e38),
        (torch.bfloat16, 3e19), (torch.bfloat16, 3e38), (torch.float64, 1e300),
    ],
    ids=str,
)  # fmt: skip
def test_values_whose_squares_overflow(dtype, size, layout, backend):
    """One group of each sample; the others are of ordinary size and not to be changed."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 6, 5, generator=generator, dtype=torch.float64)
    x[:, 2:4] *= size / x[:, 2:4].abs().max()
    large = (laid_out(x.to(dtype), layout)).requires_grad_()
    # Group norm does not change with the scale of a group, and eps counts for nothing here.
    small = large.detach().double().clone()
    small[:, 2:4] *= 2.0**40 / size
    small.requires_grad_()
    weight, bias, dy = torch.randn(8), torch.randn(8), torch.randn(x.shape)
    weight, bias, dy = weight.to(dtype), bias.to(dtype), laid_out(dy.to(dtype), layout)
    y = group_norm(large, 4, weight, bias, activation="silu", backend=backend)
    true, *statistics = reference.forward(small, 4, weight.double(), bias.double(), 1e-5, "silu")
    assert largest(y.double() - true) <= bound(dtype, 0, 16, largest(true))
    (dx,) = torch.autograd.grad(y, large, dy)
    true, *_ = reference.backward(
        dy.double(), small, 4, weight.double(), bias.double(), *statistics, "silu"
    )
    for channels, scale in ((slice(0, 2), 1.0), (slice(2, 4), 2.0**40 / size)):
        error = dx[:, channels].double() / scale - true[:, channels]
        limit = largest(true[:, channels])
        assert largest(error) <= bound(dtype, 1, 16 * limit, limit)


@on_cpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("size", "count"), [(1e18, 64), (2e17, 256), (1e17, 1024)])
def test_sums_of_many_squares_that_overflow(size, count, layout, backend):
    """No square of these does, and their sum over a group of `count` times 1024 values does."""
    x = torch.randn(1, 2, 1024, count, generator=torch.Generator().manual_seed(1)).sign()
    x = laid_out(size * x, layout).requires_grad_()
    dy = torch.randn(x.shape)
    y = group_norm(x, 1, backend=backend)
    (dx,) = torch.autograd.grad(y, x, dy)
    true, *statistics = reference.forward(x.detach().double(), 1)
    true_dx, *_ = reference.backward(dy.double(), x.detach().double(), 1, None, None, *statistics)
    assert largest(y.double() - true) <= bound(torch.float32, 0, 1, 1)
    assert largest(dx.double() - true_dx) * size <= bound(torch.float32, 1, 16, 8)


@on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_two_largest_numbers(dtype, backend):
    x = torch.tensor([[[3e19, -3e19]]], dtype=dtype)
    assert torch.equal(group_norm(x, 1, backend=backend), torch.tensor([[[1, -1]]], dtype=dtype))
    highest = torch.finfo(dtype).max
    x = torch.tensor([[[highest, -highest, -highest, -highest]]], dtype=dtype)
    y = group_norm(x, 1, backend=backend)
    true = torch.tensor([3**0.5, *[-(3**-0.5)] * 3]).to(dtype)
    assert largest(y - true) <= bound(dtype, 0, 4, 2)


@on_cpu
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_infinite_and_undefined_groups_leave_the_others_alone(value, backend):
    """Beside a group that is scaled, too."""
    x = torch.randn(1, 6, 4)
    x[0, 0, 0] = value
    x[0, 2:4] *= 1e25
    y = group_norm(x, 3, backend=backend)
    assert y[0, :2].isnan().all()
    x[0, 2:4] *= 1e-25
    assert torch.allclose(y[0, 2:], group_norm(x, 3, backend=backend)[0, 2:], atol=NETWORK)


@on_cpu
def test_equal_values_of_any_size_keep_their_gradient(backend):
    """Their variance is 0, so that rstd is 1 / sqrt(eps) whatever their size."""
    if backend == "aten":
        pytest.skip("PyTorch's gradients cancel where the mean is far above the spread")
    dy = torch.randn(1, 2, 8)
    grads = []
    for value in (0.0, 2.0**100):
        x = torch.full((1, 2, 8), value, requires_grad=True)
        grads.append(torch.autograd.grad(group_norm(x, 1, backend=backend), x, dy)[0])
    assert torch.allclose(*grads, rtol=LAYER)
