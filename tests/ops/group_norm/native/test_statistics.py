"""The C++ kernels where their statistics are at risk: numbers far from the shift, and sizes around
those at which the loops change (vectors, rows, and blocks of sums)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.ops.group_norm import group_norm, reference
from tests.ops.group_norm.comparing import DTYPES, compare, expected, laid_out, largest
from tests.ops.group_norm.runners import NATIVE, running
from tests.tolerances import STEP, bound

LAYOUTS = ("contiguous", "channels_last", "channels_last_3d")
ON_NATIVE = pytest.mark.parametrize("backend", NATIVE, indirect=True)
LARGEST = {torch.float16: 6e4}  # what an input of the type may hold

SMALL = tuple(range(1, 71))
# Blocks of 4,096 numbers (16 KB of float32), whole, with a few numbers more or fewer.
BLOCKS = (4095, 4096, 4097, 8191, 3 * 4096 + 5, 100_000)
ROWS = (*range(1, 10), 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
CHANNELS_PER_GROUP = (1, 2, 3, 5, 7, 8, 10, 20, 30)
GROUPS = {1: 1, 3: 3, 16: 4, 30: 3, 64: 32, 96: 32, 255: 5, 320: 32}  # of so many channels
POSITIONS = (1, 2, 7, 8, 9, 15, 17, 63, 64, 65, 127, 128, 129)  # 8 rows at a time, 64 to a sum


# ---- numbers -----------------------------------------------------------------------------------
# Each takes (N, G, D, S) of standard normal numbers, an index into a group, and a size.


def constant(x, index, size):
    """Every group its own number."""
    return x[:, :, :1, :1].expand_as(x) * size


def outlier(x, index, size):
    """One number of each group is far from all others."""
    x.flatten(2)[:, :, index] = size
    return x


def first_is_far(x, index, size):
    """The number that a shift would be taken from first."""
    return outlier(x, 0, size)


def black_numbers(x, index, size):
    """The first numbers are 0, all others 100 +- 1."""
    x += 100
    x.flatten(2)[:, :, : index + 1] = 0
    return x


def black_positions(x, index, size):
    """The first positions of all channels are 0, all others 100 +- 1: a picture with a border."""
    x += 100
    x[..., : index % x.shape[-1] + 1] = 0
    return x


def alternating(x, index, size):
    """The signs of neighbours differ."""
    signs = 1.0 - 2.0 * (torch.arange(x[0, 0].numel()) % 2)
    return (x.abs() + 1) * signs.view(x.shape[2:]) * size


def far(x, index, size):
    """Mean 10,000, deviation 1."""
    return x + 1e4


def step(x, index, size):
    """The first half is near 0, the second near 10,000."""
    x.flatten(2)[:, :, x[0, 0].numel() // 2 :] += 1e4
    return x


def channels_apart(x, index, size):
    """Each channel has a mean of its own, up to `size`."""
    return x + size * torch.linspace(-1, 1, x.shape[2], dtype=x.dtype).view(-1, 1)


NUMBERS = (
    constant, outlier, first_is_far, black_numbers, black_positions, alternating, far, step,
    channels_apart,
)  # fmt: skip


def check(numbers, n, groups, channels, positions, dtype, layout, *, index=0, size=1e4, **options):
    """`channels` per group; output and gradients against float64."""
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(n, groups, channels, positions, generator=generator, dtype=torch.float64)
    if numbers is not None:
        x = numbers(x, index % (channels * positions), size)
    most = LARGEST.get(dtype, 1e6)
    rank = 5 if layout == "channels_last_3d" else 4
    shape = (n, groups * channels, positions, *[1] * (rank - 3))
    if positions % 2 == 0:
        shape = (*shape[:2], 2, positions // 2, *shape[4:])
    compare(
        shape, groups, dtype, "native", x=x.clamp(-most, most).reshape(shape), seed=index + 1,
        layout="contiguous" if layout == "contiguous" else "channels_last", **options,
    )  # fmt: skip


# ---- tests -------------------------------------------------------------------------------------


def case(**given_values):
    return given(
        numbers=st.sampled_from(NUMBERS),
        n=st.integers(1, 3),
        index=st.one_of(st.integers(0, 2), st.integers(0, 200_000)),
        size=st.sampled_from([0.0, 10.0, 1e3, 1e4, 1e6]),
        activation=st.sampled_from([None, "silu"]),
        residual=st.booleans(),
        affine=st.sampled_from(["both", "weight", "bias", "none"]),
        **given_values,
    )


@pytest.mark.parametrize("runner", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, derandomize=True, max_examples=50)
@case(
    groups=st.integers(1, 3),
    channels=st.sampled_from(CHANNELS_PER_GROUP),
    positions=st.sampled_from(ROWS),
    layout=st.sampled_from(LAYOUTS),
)
def test_statistics_of_small_groups(dtype, runner, index, **drawn):
    with running(runner):
        check(dtype=dtype, index=index, **drawn)


@pytest.mark.parametrize("runner", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, derandomize=True, max_examples=15)
@case(
    shape=st.sampled_from(
        [(1, size) for size in BLOCKS]
        + [(5, 819), (3, 1365), (8, 512), (17, 241), (19, 647), (10, 10_000), (20, 5000)]
    ),
    layout=st.sampled_from(LAYOUTS),
)
def test_statistics_of_groups_of_many_blocks(dtype, runner, n, index, shape, **drawn):
    with running(runner):
        check(
            n=1, groups=2, channels=shape[0], positions=shape[1], dtype=dtype, index=index, **drawn
        )  # fmt: skip


@pytest.mark.parametrize("runner", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, derandomize=True, max_examples=25)
@case(
    width=st.sampled_from(list(GROUPS)),
    positions=st.sampled_from(POSITIONS),
    layout=st.sampled_from(LAYOUTS[1:]),
)
def test_statistics_of_channels_last_rows(dtype, runner, width, index, **drawn):
    with running(runner):
        check(
            groups=GROUPS[width], channels=width // GROUPS[width], dtype=dtype, index=index, **drawn
        )  # fmt: skip


def option(number):
    """Activation and residual for the cases of a sweep in turn."""
    return ({}, {"activation": "silu"}, {"residual": True, "activation": "gelu"})[number % 3]


@ON_NATIVE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_groups_of_any_small_number(layout, dtype, backend):
    """1 to 70 numbers: no whole vector, several, and any number beside them."""
    for size in SMALL:
        check(None, 2, 2, 1, size, dtype, layout, index=size, **option(size))
        check(None, 2, 2, size, 1, dtype, layout, index=size, **option(size + 1))


@ON_NATIVE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_rows_of_any_number_in_groups_of_any(layout, dtype, backend):
    for i, channels in enumerate(CHANNELS_PER_GROUP):
        for j, positions in enumerate(ROWS):
            check(None, 1, 3, channels, positions, dtype, layout, index=i, **option(i + j))


@ON_NATIVE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_rows_of_channels_of_any_number(layout, dtype, backend):
    for i, (width, groups) in enumerate(GROUPS.items()):
        for j, positions in enumerate(POSITIONS):
            check(
                None, 2, groups, width // groups, positions, dtype, layout, index=i + j,
                **option(i + j),
            )  # fmt: skip


@ON_NATIVE
@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda numbers: numbers.__name__)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_statistics_at_the_ends_of_blocks(layout, numbers, backend):
    """Outlier, border or step at the first and last numbers of a block, in float32 and bfloat16."""
    for i, size in enumerate(BLOCKS[:5]):
        for index in (0, size - 1, min(4096, size - 1)):
            for dtype in (torch.float32, torch.bfloat16):
                check(numbers, 1, 1, 1, size, dtype, layout, index=index, size=1e6 * (i % 2) + 100)


@ON_NATIVE
@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize(
    ("shape", "groups"), [((1, 1, 100_000, 1), 1), ((1, 2, 50_000, 1), 1), ((1, 96, 3000, 1), 32)],
    ids=str,
)  # fmt: skip
def test_sums_in_the_accumulation_dtype_are_short(shape, groups, layout, backend):
    """A float32 sum of more than 1,024 of these squares would round each of them down."""
    signs = 1.0 - 2.0 * (torch.arange(shape[2]) % 2)
    for bits in range(10, 14):
        value = (1 + 0.49 * 2.0**-bits) ** 0.5
        x = (value * signs).float().view(1, 1, -1, 1).expand(shape)
        x = laid_out(x, layout).requires_grad_()
        weight = torch.ones(shape[1], requires_grad=True)
        y = group_norm(x, groups, weight, backend="native")
        dx, dweight = torch.autograd.grad(y, (x, weight), x.detach())
        truth, scales, m = expected(x, groups, weight, None, None, x.detach())
        for name, ours in (("y", y), ("dx", dx), ("dweight", dweight)):
            limit = bound(torch.float32, m, scales[name], largest(truth[name]))
            assert largest(ours.double() - truth[name]) <= limit, name


@pytest.mark.parametrize("runner", NATIVE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 48, 20, 20), (3, 64, 3, 3), (1, 24, 90, 80)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_far_from_zero_relus_slope_is_that_of_the_output(dtype, shape, layout, runner):
    """It is computed again from the input, the same bits of mean, rstd and parameters."""
    x = laid_out(torch.randn(shape, dtype=dtype) + 1e4, layout)
    w, b = torch.randn(2, shape[1], dtype=dtype)
    r = torch.zeros_like(x, requires_grad=True)
    x.requires_grad_()
    with running(runner):
        y = group_norm(x, 4, w, b, activation="relu", residual=r)
        (slope,) = torch.autograd.grad(y, r, torch.ones_like(y))
    assert torch.equal(slope > 0, y > 0)
    true, _, _ = reference.forward(x.double(), 4, w.double(), b.double())
    assert ((true > 0) != (slope > 0)).sum() <= (true.abs() < STEP).sum()
