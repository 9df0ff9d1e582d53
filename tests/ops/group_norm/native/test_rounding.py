"""Results of the C++ kernels are rounded once, to the nearest number of their type, ties to even.

One exception: where the instruction set's own conversion to bfloat16 does so (its name has "bf16"),
a float32 result below 2^-126 in magnitude may become zero with its sign. Numbers that are denormal
in float32 and float64 are computed with as all others.
"""

import pytest
import torch

from groupnorm.ops.group_norm import group_norm, reference
from tests.ops.group_norm.comparing import largest
from tests.ops.group_norm.runners import NATIVE, running
from tests.tolerances import DOUBLE, STEP

HALF_TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
ON_NATIVE = pytest.mark.parametrize("runner", NATIVE)
SMALLEST_NORMAL = 2.0**-126  # of float32 and of bfloat16
# How numbers lie in memory: the loops that store them.
MEMORY = {
    "channels": (2, -1),
    "short rows": (1, -1, 3),
    "long rows": (1, -1, 37),
    "channels_last": (1, -1, 5, 1),
}


def bits_of(*patterns):
    """float32 numbers of the given bit patterns."""
    return torch.cat([p.to(torch.int64) for p in patterns]).to(torch.int32).view(torch.float32)


def any_bits(count):
    """Random patterns: all exponents, NaN with any payload."""
    return torch.randint(-(2**31), 2**31, (count,))


def ties(dtype):
    """Every number halfway between two neighbours of a half type, and its float32 neighbours."""
    every = torch.arange(2**16).to(torch.int16).view(dtype).float()
    every = every[every.isfinite()]
    if dtype == torch.bfloat16:
        middle = every.view(torch.int32).to(torch.int64) + 2**15
    else:
        spacing = torch.maximum(every.abs().log2().floor().exp2(), torch.tensor(2.0**-14)) / 2**10
        middle = (every + every.sign() * spacing / 2).view(torch.int32).to(torch.int64)
    return bits_of(middle - 1, middle, middle + 1)


def edges():
    """Infinity, the largest numbers, zeros, and denormal numbers of float32."""
    finfo = torch.finfo(torch.float32)
    tiny = torch.arange(1, 2**23, 2**23 // 500, dtype=torch.int64)
    magnitudes = torch.cat(
        [
            torch.tensor([float("inf"), float("nan"), finfo.max, 0.0, 65504.0, 65519.0, 65520.0]),
            torch.tensor([2.0**-24, 2.0**-25, 2.0**-14, 2.0**-126, 2.0**-133, 2.0**-134]),
            bits_of(tiny, torch.tensor([1, 0x7FFFFF, 0x7F7FFF, 0x7F8000, 0x807FFF, 0x7F7F7FFF])),
        ]
    )
    return torch.cat([magnitudes, -magnitudes])


def in_memory(kind, numbers, dtype):
    """x of zeros whose channels are as many as the numbers."""
    shape = [len(numbers) if size == -1 else size for size in MEMORY[kind]]
    x = torch.zeros(shape, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if kind == "channels_last" else x


def check_rounded(y, exact, flushes):
    """y against PyTorch's conversion of float32 numbers, bit for bit.

    NaN is any NaN, and the sign of an exact 0 any sign.
    """
    y, exact = y.contiguous(), exact.contiguous()
    rounded = exact.to(y.dtype)
    assert torch.equal(y.isnan(), rounded.isnan())
    right = (y.view(torch.int16) == rounded.view(torch.int16)) | rounded.isnan()
    right |= (exact == 0) & (y == 0)
    if flushes:
        zero = torch.zeros_like(exact).copysign(exact).to(y.dtype)
        right |= (exact.abs() < SMALLEST_NORMAL) & (y.view(torch.int16) == zero.view(torch.int16))
    assert right.all(), (exact[~right][:5], y[~right][:5], rounded[~right][:5])


def may_flush(runner, dtype):
    return dtype == torch.bfloat16 and "bf16" in runner


@ON_NATIVE
@HALF_TYPES
@pytest.mark.parametrize("kind", MEMORY)
def test_every_float32_bias_is_rounded_to_nearest_even(kind, dtype, runner):
    """Zeros are normalized to 0, so that the output is the bias."""
    bias = torch.cat([edges(), ties(dtype), bits_of(any_bits(100_000))])
    if kind == "long rows":
        bias = torch.cat([edges(), ties(dtype)[:: 3 * 7], bits_of(any_bits(10_000))])
    with running(runner):
        y = group_norm(in_memory(kind, bias, dtype), 1, None, bias, backend="native")
    exact = bias.view(1, -1, *[1] * (y.dim() - 2)).expand(y.shape)
    check_rounded(y, exact, may_flush(runner, dtype))


@ON_NATIVE
@HALF_TYPES
@pytest.mark.parametrize("sizes", [(1, -1, 2), (1, -1, 40), (1, -1, 4, 1)], ids=str)
def test_products_with_any_float32_weight_are_rounded_to_nearest_even(sizes, dtype, runner):
    """1 and -1 have mean 0 and variance 1: the output is weight and -weight, without eps."""
    weight = torch.cat([edges(), ties(dtype)[::7], bits_of(any_bits(5000))])
    weight = weight[weight.isfinite()]
    x = torch.ones([len(weight) if size == -1 else size for size in sizes], dtype=dtype)
    x[:, :, 1::2] = -1
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with running(runner):
        y = group_norm(x, 1, weight, eps=0.0, backend="native")
    exact = x.float() * weight.view(-1, *[1] * (x.dim() - 2))
    check_rounded(y, exact, may_flush(runner, dtype))


@ON_NATIVE
@HALF_TYPES
@pytest.mark.parametrize("sizes", [(1, -1, 4), (1, -1, 40), (1, -1, 4, 3)], ids=str)
def test_gradients_with_any_float32_weight_are_rounded_to_nearest_even(sizes, dtype, runner):
    """dy is orthogonal to 1 and to x: dx is dy times the weight, without eps.

    Each channel is a group, so that sums are 0 exactly; beyond 1e37 they would overflow.
    """
    weight = torch.cat([edges(), ties(dtype)[::11], bits_of(any_bits(5000))])
    weight = weight[weight.abs() <= 1e37]
    shape = [len(weight) if size == -1 else size for size in sizes]
    x = torch.ones(shape, dtype=dtype)
    x[:, :, 1::2] = -1
    dy = torch.ones(shape, dtype=dtype)
    dy[:, :, 2::4] = dy[:, :, 3::4] = -1
    if x.dim() == 4:
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    x.requires_grad_()
    with running(runner):
        y = group_norm(x, len(weight), weight, eps=0.0, backend="native")
        (dx,) = torch.autograd.grad(y, x, dy)
    exact = dy.float() * weight.view(-1, *[1] * (x.dim() - 2))
    check_rounded(dx, exact, may_flush(runner, dtype))


@ON_NATIVE
@HALF_TYPES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_half_gradient_is_kept_or_dropped_by_relu(layout, dtype, runner):
    """dresidual is dy times a slope of 1 or 0; with a weight of 0, dx is 0."""
    dy = torch.arange(2**16).to(torch.int16).view(dtype)
    dy = (
        torch.where(dy.float().abs() <= 1e30, dy, 0)
        .view(1, 64, 32, 32)
        .contiguous(memory_format=layout)
    )
    x = torch.randn(1, 64, 32, 32).to(dtype).contiguous(memory_format=layout)
    residual = torch.full_like(x, 20.0)
    residual[:, ::2] = -20.0
    leaves = [x.requires_grad_(), residual.requires_grad_()]
    with running(runner):
        y = group_norm(
            x, 8, torch.zeros(64), None, activation="relu", residual=residual, backend="native"
        )
        dx, dresidual = torch.autograd.grad(y, leaves, dy)
    assert not dx.any()
    check_rounded(dresidual, dy.float() * (residual.detach() > 0), may_flush(runner, dtype))


@ON_NATIVE
@HALF_TYPES
def test_every_half_number_is_read_exactly(dtype, runner):
    """As a residual of zeros; denormal numbers, too. In float32 it comes out as it went in."""
    every = torch.arange(2**16).to(torch.int16).view(dtype)
    for shape in ((1, 1, 2**16), (1, 2**16), (1, 64, 32, 32)):
        residual = every.view(shape)
        if len(shape) == 4:
            residual = residual.contiguous(memory_format=torch.channels_last)
        with running(runner):
            y = group_norm(torch.zeros_like(residual), 1, residual=residual, backend="native")
        check_rounded(y, residual.float(), may_flush(runner, dtype))


@ON_NATIVE
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "size", "limit"),
    [(torch.float32, 1e-39, STEP), (torch.float64, 1e-309, DOUBLE)],
    ids=str,
)
def test_denormal_input(dtype, size, limit, layout, runner):
    """Its variance is 0 beside eps; the output is x / sqrt(eps), here times a large weight."""
    x = (torch.randn(2, 8, 5, 7, dtype=torch.float64) * size).to(dtype)
    assert (x.abs() < torch.finfo(dtype).smallest_normal).any()
    x = x.contiguous(memory_format=layout).requires_grad_()
    weight = torch.full((8,), 1e9, dtype=dtype)
    scaled = x.detach().double() * 2.0**60  # the truth, where nothing is denormal
    mean = scaled.reshape(2, 4, -1).mean(2).repeat_interleave(2, 1)
    true = (scaled - mean[:, :, None, None]) * (1e9 / 1e-5**0.5)
    with running(runner):
        y = group_norm(x, 4, weight, backend="native")
        (dx,) = torch.autograd.grad(y, x, torch.full_like(y, 1.0).cumsum(3))
    assert largest(y.double() * 2.0**60 - true) <= limit * largest(true)
    assert dx.isfinite().all()
    assert dx.any()


@ON_NATIVE
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_denormal_output(layout, runner):
    """A float32 result below 2^-126 keeps its digits; a bfloat16 one is the nearest, or zero."""
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=layout)
    weight, bias = torch.full((8,), 3e-41), torch.linspace(-1e-40, 1e-40, 8)
    finfo = torch.finfo(torch.float32)
    spacing = finfo.smallest_normal * finfo.eps
    with running(runner):
        y = group_norm(x, 4, weight, bias, backend="native")
        half = group_norm(x.bfloat16(), 4, weight, bias, backend="native")
    true = reference.forward(x.double(), 4, weight.double(), bias.double())[0]
    assert largest(y.double() - true) <= 4 * spacing
    true = reference.forward(x.bfloat16().double(), 4, weight.double(), bias.double())[0]
    right = (half.double() - true).abs() <= 2.0**16 * spacing
    if may_flush(runner, torch.bfloat16):
        right |= half == 0
    assert right.all()
    assert y.count_nonzero() > 0.9 * y.numel()
