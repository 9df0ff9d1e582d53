"""NaN, infinity and overflow in the C++ kernels: they stay in their own group of their own sample,
in the output and in the gradients, and change no bit elsewhere."""

import pytest
import torch

from groupnorm.ops.group_norm import group_norm, reference
from tests.ops.group_norm.comparing import FORMATS, largest
from tests.ops.group_norm.runners import NATIVE
from tests.tolerances import bound

pytestmark = pytest.mark.parametrize("backend", NATIVE, indirect=True)

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
LAYOUTS = ["contiguous", "channels_last"]
SHAPES = {  # (shape, groups): groups meet within a vector, or fill several
    "short rows": ((3, 12, 3, 3), 4),
    "one position": ((3, 40, 1, 1), 8),
    "long rows": ((2, 12, 7, 11), 4),
    "a group a channel": ((2, 17, 5, 5), 17),
    "wide": ((2, 96, 9, 8), 32),
    "blocks": ((2, 4, 66, 65), 2),
}
INF, NAN = float("inf"), float("nan")


def every_type(test):
    for mark in (
        pytest.mark.parametrize("layout", LAYOUTS),
        pytest.mark.parametrize("dtype", DTYPES, ids=str),
    ):
        test = mark(test)
    return test


def draw(shape, dtype, layout):
    t = torch.randn(shape).to(dtype)
    return t if layout == "contiguous" else t.contiguous(memory_format=FORMATS[t.dim()])


def results(x, groups, weight, bias, residual, dy, activation):
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias, residual)]
    y = group_norm(
        *(leaves[0], groups, *leaves[1:3]), activation=activation, residual=leaves[3],
        backend="native",
    )  # fmt: skip
    names = ("y", "dx", "dweight", "dbias", "dresidual")
    return dict(zip(names, (y.detach(), *torch.autograd.grad(y, leaves, dy)), strict=True))


def reference_results(x, groups, weight, bias, residual, dy, activation):
    args = x.double(), groups, weight.double(), bias.double()
    y, *statistics = reference.forward(*args, 1e-5, activation, residual.double())
    found = reference.backward(dy.double(), *args, *statistics, activation, residual.double())
    return dict(zip(("y", "dx", "dweight", "dbias", "dresidual"), (y, *found), strict=True))


def places(groups, shape):
    """Which sample and group is hit, and which number of it."""
    size = shape[1] // groups
    for sample, group in ((0, 0), (shape[0] - 1, groups - 1), (0, groups // 2)):
        for channel, position in ((0, 0), (size - 1, -1)):
            yield sample, group, group * size + channel, position


def group_mask(x, groups, sample, group):
    """True for the numbers of one group of one sample."""
    mask = torch.zeros_like(x, dtype=torch.bool)
    size = x.shape[1] // groups
    mask[sample, group * size : (group + 1) * size] = True
    return mask


def put(t, sample, channel, position, value):
    t = t.clone()
    row = t[sample, channel].flatten().clone()
    row[position] = value
    t[sample, channel] = row.view(t.shape[2:])
    return t


def same(a, b):
    """Equal, where NaN equals NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def cases(dtype, layout):
    """Of every shape: groups, x, weight, bias, residual and dy."""
    for shape, groups in SHAPES.values():
        x, residual, dy = (draw(shape, dtype, layout) for _ in range(3))
        weight, bias = torch.randn(2, shape[1]).to(dtype)
        yield shape, groups, x, weight, bias, residual, dy


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@every_type
def test_input_that_is_not_finite_stays_in_its_group(dtype, layout, value, backend):
    """dweight is NaN for the channels of the group, and so is dbias with an activation."""
    for shape, groups, x, weight, bias, residual, dy in cases(dtype, layout):
        for number, (sample, group, channel, position) in enumerate(places(groups, shape)):
            activation = ("silu", None)[number % 2]
            good = results(x, groups, weight, bias, residual, dy, activation)
            hit = put(x, sample, channel, position, value)
            bad = results(hit, groups, weight, bias, residual, dy, activation)
            true = reference_results(hit, groups, weight, bias, residual, dy, activation)
            inside = group_mask(x, groups, sample, group)
            assert bad["y"][inside].isnan().all()
            assert bad["dx"][inside].isnan().all()
            for name in bad:
                assert torch.equal(bad[name].isnan(), true[name].isnan()), name
                most = largest(good[name])
                difference = (bad[name] - good[name])[true[name].isfinite()].double()
                assert largest(difference) <= bound(dtype, 1, 16 * (most + 1) ** 2, most), name


@pytest.mark.parametrize("value", [NAN, INF, "1e30"])
@every_type
def test_no_bit_changes_outside_of_a_group_that_is_not_finite_or_overflows(
    dtype, layout, value, backend
):
    for shape, groups, x, weight, bias, residual, dy in cases(dtype, layout):
        good = results(x, groups, weight, bias, residual, dy, "silu")
        for sample, group, channel, position in places(groups, shape):
            inside = group_mask(x, groups, sample, group)
            hit = put(x, sample, channel, position, value if value != "1e30" else 0.0)
            if value == "1e30":
                hit = torch.where(inside, x * 1e30, x)
            bad = results(hit, groups, weight, bias, residual, dy, "silu")
            # where values overflow, the gradients of all groups are the reference's
            for name in ("y",) if value == "1e30" else ("y", "dx", "dresidual"):
                assert torch.equal(bad[name][~inside], good[name][~inside]), name


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@every_type
def test_residual_that_is_not_finite_stays_at_its_place(dtype, layout, value, backend):
    """In the output; its dz counts for the whole group in dx, and for one channel in dweight."""
    for shape, groups, x, weight, bias, residual, dy in cases(dtype, layout):
        for activation in (None, "silu"):
            good = results(x, groups, weight, bias, residual, dy, activation)
            for sample, group, channel, position in places(groups, shape):
                hit = put(residual, sample, channel, position, value)
                bad = results(x, groups, weight, bias, hit, dy, activation)
                true = reference_results(x, groups, weight, bias, hit, dy, activation)
                here = hit != residual
                assert torch.equal(bad["y"][~here], good["y"][~here])
                assert same(bad["y"][here], true["y"][here].to(dtype))
                if activation is None or value != value:
                    for name in bad:
                        assert torch.equal(bad[name].isnan(), true[name].isnan()), name
                outside = ~group_mask(x, groups, sample, group)
                assert torch.equal(bad["dx"][outside], good["dx"][outside])


@pytest.mark.parametrize("value", [NAN, INF])
@every_type
def test_gradient_that_is_not_finite_stays_in_its_group(dtype, layout, value, backend):
    for number, (shape, groups, x, weight, bias, residual, dy) in enumerate(cases(dtype, layout)):
        activation = (None, "silu")[number % 2]
        good = results(x, groups, weight, bias, residual, dy, activation)
        for sample, group, channel, position in places(groups, shape):
            hit = put(dy, sample, channel, position, value)
            bad = results(x, groups, weight, bias, residual, hit, activation)
            inside = group_mask(x, groups, sample, group)
            assert not bad["dx"][inside].isfinite().any()
            assert torch.equal(bad["dx"][~inside], good["dx"][~inside])
            others = torch.arange(shape[1]) != channel
            for name in ("dweight", "dbias"):
                assert not bad[name][channel].isfinite()
                assert torch.equal(bad[name][others], good[name][others]), name


@pytest.mark.parametrize("value", [NAN, INF])
@every_type
def test_parameters_that_are_not_finite_stay_in_their_channel(dtype, layout, value, backend):
    for shape, groups, x, weight, bias, residual, dy in cases(dtype, layout):
        check_parameters(value, shape, groups, x, weight, bias, residual, dy)


def check_parameters(value, shape, groups, x, weight, bias, residual, dy):
    good = results(x, groups, weight, bias, residual, dy, None)
    for channel in {0, shape[1] // 2, shape[1] - 1}:
        others = torch.arange(shape[1]) != channel
        outside = ~group_mask(x, groups, 0, channel * groups // shape[1])[0]
        for place in (0, 1):
            parameters = [weight.clone(), bias.clone()]
            parameters[place][channel] = value
            bad = results(x, groups, *parameters, residual, dy, None)
            assert not bad["y"][:, channel].isfinite().any()
            assert torch.equal(bad["y"][:, others], good["y"][:, others])
            assert torch.equal(bad["dx"][:, outside], good["dx"][:, outside])
            for name in ("dweight", "dbias", "dresidual"):  # they depend on neither
                assert torch.equal(bad[name], good[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_squares_that_overflow_beside_ordinary_groups(layout, dtype, backend):
    """1e30 in one group; the others are normalized as without it."""
    for shape, groups, x, weight, bias, residual, dy in cases(dtype, layout):
        check_overflow(shape, groups, x, weight, bias, residual, dy)


def check_overflow(shape, groups, x, weight, bias, residual, dy):
    dtype = x.dtype
    inside = group_mask(x, groups, 0, groups // 2)
    hit = torch.where(inside, x * 1e30, x)
    bad = results(hit, groups, weight, bias, residual, dy, "silu")
    true = reference_results(hit, groups, weight, bias, residual, dy, "silu")
    for name in ("y", "dresidual"):
        limit = bound(dtype, 1, 16 * (1 + largest(true[name])), largest(true[name]))
        assert largest(bad[name].double() - true[name]) <= limit, name
    for part in (inside, ~inside):
        limit = largest(true["dx"][part])
        error = largest(bad["dx"][part].double() - true["dx"][part])
        assert error <= bound(dtype, 1, 16 * limit, limit)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_beside_a_residual_gives_no_nan(layout, backend):
    """Positions that are no whole row: what stands in their place has a finite slope."""
    x, residual, dy = (draw((1, 3, 37, 37), torch.float32, layout) for _ in range(3))
    x = x + 1e20
    found = results(x, 3, torch.ones(3), torch.zeros(3), residual, dy, "gelu_tanh")
    for name, value in found.items():
        assert value.isfinite().all(), name
