"""The C++ kernels on tensors that are views: at an odd offset, expanded, transposed, overlapping.

The same numbers give the same bits, whatever the memory they come from.
"""

import pytest
import torch

from groupnorm.ops.group_norm import group_norm
from tests.ops.group_norm.comparing import DTYPES
from tests.ops.group_norm.runners import NATIVE
from tests.tolerances import LAYER

pytestmark = pytest.mark.parametrize("backend", NATIVE, indirect=True)

LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
SHAPES = {  # (shape, groups): what it is there for
    "short rows": ((2, 12, 3, 3), 4),
    "one position": ((3, 40, 1, 1), 4),
    "rows of odd length": ((2, 6, 7, 11), 3),
    "many groups": ((2, 64, 5, 13), 32),
    "long groups": ((1, 6, 67, 64), 2),
    "odd width": ((1, 255, 9, 8), 5),
}
OFFSETS = [1, 3, 7, 16]


def at_offset(t, offset):
    """A copy of a dense tensor that begins `offset` numbers into its memory, NaN all around."""
    memory = torch.full((t.numel() + offset + 16,), float("nan"), dtype=t.dtype)
    view = memory.as_strided(t.shape, t.stride(), offset)
    view.copy_(t)
    assert view.data_ptr() % 64 == offset * t.element_size() % 64
    return view.requires_grad_(t.requires_grad)


def laid_out(t, layout):
    if layout == "channels_last_3d":
        t = t.unsqueeze(2)
    return t.contiguous(memory_format=LAYOUTS[layout])


def draw(shape, dtype, layout="contiguous"):
    return laid_out(torch.randn(shape).to(dtype), layout)


def results(x, groups, weight, bias, residual, dy, activation="silu"):
    """Output and all gradients; no input is written to."""
    inputs = [t for t in (x, weight, bias, residual) if t is not None]
    before = [t.detach().clone() for t in (*inputs, dy)]
    leaves = {id(t): t.detach().requires_grad_() for t in inputs}
    x, weight, bias, residual = (leaves.get(id(t)) for t in (x, weight, bias, residual))
    y = group_norm(
        x, groups, weight, bias, activation=activation, residual=residual, backend="native"
    )
    found = [y.detach(), *torch.autograd.grad(y, list(leaves.values()), dy)]
    for t, copy in zip((*inputs, dy), before, strict=True):
        assert torch.equal(t, copy), "an input was changed"
    return found


def check_equal(ours, expected):
    for number, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert not a.isnan().any(), number
        assert torch.equal(a, b), f"result {number}: {(a - b).abs().max():.3g}"


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alignment_changes_no_bit(dtype, layout, case, backend):
    """Vectors and blocks are counted from the beginning of a group, not from an aligned address."""
    shape, groups = SHAPES[case]
    x, residual, dy = (draw(shape, dtype, layout) for _ in range(3))
    weight, bias = torch.randn(2, shape[1]).to(dtype)
    for activation in (None, "silu"):
        expected = results(x, groups, weight, bias, residual, dy, activation)
        for i, offset in enumerate(OFFSETS):
            others = [at_offset(t, OFFSETS[i - 1]) for t in (weight, bias, residual)]
            moved = [at_offset(x, offset), *others, at_offset(dy, OFFSETS[i - 2])]
            check_equal(results(moved[0], groups, *moved[1:], activation), expected)


def transposed(t):
    return t.transpose(2, 3).contiguous().transpose(2, 3)


def batch_innermost(t):
    return t.transpose(0, 3).contiguous().transpose(0, 3)


def every_second(t):
    return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0]


def cut_out(t):
    memory = torch.full([size + 3 for size in t.shape], float("nan"), dtype=t.dtype)
    view = memory[tuple(slice(1, size + 1) for size in t.shape)]
    return view.copy_(t)


def channels_cut_out(t):
    """Some channels of more, as `chunk` and `split` give them; channels innermost."""
    memory = torch.cat([torch.full_like(t, float("nan")), t, t], 1)
    return memory.contiguous(memory_format=torch.channels_last)[:, t.shape[1] : 2 * t.shape[1]]


STRIDED = (transposed, batch_innermost, every_second, cut_out, channels_cut_out)


@pytest.mark.parametrize("view", STRIDED, ids=lambda view: view.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_input_gives_the_bits_of_a_contiguous_copy(dtype, view, backend):
    for shape, groups in (((2, 12, 3, 5), 4), ((3, 6, 7, 11), 3), ((1, 20, 9, 33), 2)):
        x, residual, dy = (draw(shape, dtype) for _ in range(3))
        weight, bias = torch.randn(2, shape[1]).to(dtype)
        strided = view(x)
        assert torch.equal(strided, x)
        expected = results(x, groups, weight, bias, residual, dy)
        check_equal(results(strided, groups, weight, bias, residual, dy), expected)


@pytest.mark.parametrize("view", STRIDED, ids=lambda view: view.__name__)
@pytest.mark.parametrize("layout", list(LAYOUTS)[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_residual_and_gradient_of_other_strides_give_the_same_bits(dtype, layout, view, backend):
    for shape, groups in (((2, 12, 3, 5), 4), ((1, 20, 9, 33), 2)):
        x, residual, dy = (draw(shape, dtype, layout) for _ in range(3))
        weight, bias = torch.randn(2, shape[1]).to(dtype)
        expected = results(x, groups, weight, bias, residual, dy)
        check_equal(results(x, groups, weight, bias, view(residual), dy), expected)
        check_equal(results(x, groups, weight, bias, residual, view(dy)), expected)
        check_equal(results(x, groups, weight, bias, view(residual), view(dy)), expected)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (3,), (2, 3), (0, 2, 3), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_expanded_tensors_give_the_bits_of_a_copy(dtype, axes, backend):
    """A stride of 0: of the input, of the residual, and of the gradient."""
    shape, groups = (3, 12, 6, 7), 4
    small = torch.randn([1 if axis in axes else size for axis, size in enumerate(shape)])
    expanded = small.to(dtype).expand(shape)
    x, residual, dy = (draw(shape, dtype) for _ in range(3))
    weight, bias = torch.randn(2, shape[1]).to(dtype)
    for place in range(3):
        tensors = [x, residual, dy]
        tensors[place] = expanded
        ours = results(tensors[0], groups, weight, bias, *tensors[1:])
        tensors[place] = expanded.contiguous()
        check_equal(ours, results(tensors[0], groups, weight, bias, *tensors[1:]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_overlapping_windows_of_one_signal(dtype, backend):
    signal = torch.randn(200).to(dtype)
    weight, bias = torch.randn(2, 8).to(dtype)
    dy, residual = torch.randn(2, 3, 8, 20).to(dtype)
    for strides in ((5, 3, 1), (1, 2, 7), (0, 9, 2)):
        windows = signal.as_strided((3, 8, 20), strides, 1)
        expected = results(windows.contiguous(), 4, weight, bias, residual, dy)
        check_equal(results(windows, 4, weight, bias, residual, dy), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_gradient_of_a_sum_is_expanded(activation, layout, backend):
    """y.sum().backward() hands over one number with strides of 0."""
    x = draw((2, 12, 5, 7), torch.float32, layout)
    weight, bias = torch.randn(2, 12)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = group_norm(leaves[0], 4, *leaves[1:], activation=activation, backend="native")
    seen = []
    y.register_hook(seen.append)
    y.sum().backward()
    assert set(seen[0].stride()) == {0}
    expected = results(x, 4, weight, bias, None, torch.ones_like(x), activation)
    check_equal([t.grad for t in leaves], expected[1:])


@pytest.mark.parametrize("layout", list(LAYOUTS)[:2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameters_as_views_give_the_same_bits(dtype, layout, backend):
    x, dy = (draw((2, 22, 5, 7), dtype, layout) for _ in range(2))
    both = torch.randn(22, 2).to(dtype)
    weight, bias = both.T.contiguous()
    expected = results(x, 2, weight, bias, None, dy)
    check_equal(results(x, 2, both[:, 0], both[:, 1], None, dy), expected)
    check_equal(results(x, 2, at_offset(weight, 1), at_offset(bias, 3), None, dy), expected)
    one = weight[:1].clone()
    expected = results(x, 2, one.repeat(22), bias, None, dy)
    check_equal(results(x, 2, one.expand(22), bias, None, dy), expected)


@pytest.mark.parametrize("layout", list(LAYOUTS)[:2])
def test_one_tensor_in_several_roles(layout, backend):
    """Input, residual and gradient are the same memory; so are weight and bias."""
    x = draw((2, 12, 5, 7), torch.float32, layout)
    parameter = torch.randn(12)
    leaves = [x.clone().requires_grad_(), parameter.clone().requires_grad_()]
    y = group_norm(
        leaves[0], 4, leaves[1], leaves[1], activation="silu", residual=leaves[0], backend="native"
    )
    dx, dparameter = torch.autograd.grad(y, leaves, leaves[0].detach())
    y_apart, dx_apart, dw, db, dr = results(x, 4, parameter, parameter.clone(), x.clone(), x)
    check_equal([y.detach(), dparameter], [y_apart, dw + db])
    assert (dx - (dx_apart + dr)).abs().max() <= LAYER
