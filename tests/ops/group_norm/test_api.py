"""Every backend against float64 of the same inputs: output and all gradients."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.ops.group_norm.comparing import DTYPES, compare, laid_out
from tests.ops.group_norm.runners import (
    ON_CPU,
    SMALL_TILES,
    TRITON,
    WHOLE_TILES,
    device_of,
    on_cpu,
    running,
    with_small_tiles,
)
from tests.tolerances import DEEP, LAYER, STEP

SHAPES = {  # (shape, groups): what it is there for
    "rank 2": ((5, 12), 3),
    "rank 3, odd": ((3, 6, 7), 2),
    "rank 4": ((2, 8, 6, 5), 4),
    "one group": ((2, 6, 5, 3), 1),
    "a group a channel": ((2, 6, 5, 3), 6),
    "ten channels a group": ((2, 30, 4, 4), 3),
    "one position": ((4, 16, 1, 1), 4),
    "one row": ((1, 4, 1, 6), 2),
    "one channel": ((3, 1, 5, 4), 1),
    "rank 5": ((2, 6, 3, 4, 5), 3),
    "larger than a vector": ((2, 64, 17, 9), 32),
}


# Few tiles: the interpreter runs one program after the other.
TRITON_SHAPES = SHAPES | {"rank 2": ((1, 12), 3), "one position": ((1, 8, 1, 1), 4)}
del TRITON_SHAPES["larger than a vector"]
LAYOUTS = ["contiguous", "channels_last", "permuted", "sliced"]
AFFINE = ["both", "weight", "bias", "none"]


@on_cpu
@pytest.mark.pairs(case=SHAPES, layout=LAYOUTS, dtype=DTYPES, activation=[None, *ACTIVATIONS])
def test_output_and_gradients(case, layout, dtype, activation, backend):
    shape, groups = SHAPES[case]
    compare(shape, groups, dtype, backend, layout=layout, activation=activation)


@pytest.mark.pairs(
    case=TRITON_SHAPES, layout=LAYOUTS, dtype=DTYPES[1:], activation=[None, *ACTIVATIONS],
    residual=[False, True], affine=AFFINE, runner=[*WHOLE_TILES, *SMALL_TILES],
)  # fmt: skip
def test_output_and_gradients_of_triton(case, layout, dtype, activation, residual, affine, runner):
    shape, groups = TRITON_SHAPES[case]
    with running(runner) as backend:
        compare(
            shape, groups, dtype, backend, layout=layout, activation=activation, residual=residual,
            affine=affine,
        )  # fmt: skip


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("tiles", ["split", "looped"])
def test_small_tiles(tiles, layout):
    if not TRITON:
        pytest.skip("Triton is not installed")
    with running(f"triton/{tiles}") as backend:
        compare(
            (1, 4, 4, 3), 2, torch.float32, backend, layout=layout, activation="silu",
            residual=True,
        )  # fmt: skip


@on_cpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_activation_and_residual(activation, residual, layout, backend):
    for dtype in (torch.float32, torch.bfloat16):
        compare(
            (2, 8, 6, 5), 4, dtype, backend, layout=layout, activation=activation,
            residual=residual, seed=3,
        )  # fmt: skip


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters(dtype, affine, backend):
    compare((3, 6, 5, 4), 3, dtype, backend, affine=affine)
    compare((3, 6, 5, 4), 3, dtype, backend, affine=affine, param_dtype=torch.float32)


@with_small_tiles
@pytest.mark.parametrize("layouts", [("contiguous", "channels_last"), ("channels_last", "sliced")])
def test_a_gradient_in_another_layout_is_accepted(layouts, backend):
    compare((2, 8, 6, 5), 4, torch.float32, backend, layout=layouts[0], grad_layout=layouts[1])


@with_small_tiles
@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 6, 0, 4), (0, 6), (2, 6, 0)], ids=str)
def test_empty_input(shape, backend):
    y = compare(shape, 3, torch.float32, backend)
    assert y.shape == shape


def test_the_bias_may_change_before_the_backward_pass(backend):
    """No gradient depends on it without an activation, as in PyTorch."""
    x = torch.randn(2, 4, 3, device=device_of(backend), requires_grad=True)
    bias = torch.zeros(4, device=x.device, requires_grad=True)
    y = group_norm(x, 2, None, bias, backend=backend)
    with torch.no_grad():
        bias.add_(1)
    dy = torch.randn_like(y)
    _, dbias = torch.autograd.grad(y, (x, bias), dy)
    assert torch.allclose(dbias, dy.sum((0, 2)), atol=LAYER)


@with_small_tiles
def test_input_with_a_stride_of_0(backend):
    compare((3, 8, 6, 5), 4, torch.float32, backend, layout="expanded")


@pytest.mark.parametrize("runner", [*ON_CPU, *WHOLE_TILES, *SMALL_TILES])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_shape_dtype_and_layout(data, runner):
    d, g = data.draw(st.integers(1, 7), "channels per group"), data.draw(st.integers(1, 6), "G")
    spatial = data.draw(st.lists(st.integers(0, 7), max_size=3), "spatial")
    interpreted = runner in TRITON
    shape = (data.draw(st.integers(0, 1 if interpreted else 4), "N"), d * g, *spatial)
    with running(runner) as backend:
        compare(
            shape, g, data.draw(st.sampled_from(DTYPES[1:] if interpreted else DTYPES)), backend,
            layout=data.draw(st.sampled_from(["contiguous", "channels_last"])),
            activation=data.draw(st.sampled_from([None, "silu", "gelu", "gelu_tanh", "mish"])),
            affine=data.draw(st.sampled_from(AFFINE)),
            residual=data.draw(st.booleans()), seed=data.draw(st.integers(0, 99)),
        )  # fmt: skip


@on_cpu
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's forward mode
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck_and_double_backward(layout, backend):
    x = laid_out(torch.randn(2, 4, 3, 2, dtype=torch.float64), layout).requires_grad_()
    w, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def f(x, w, b):
        return group_norm(x, 2, w, b, activation="silu", backend=backend)

    # PyTorch before 2.14 has no forward mode for its own operator on channels_last.
    forward_mode = layout == "contiguous" or torch.__version__ >= (2, 14)
    assert torch.autograd.gradcheck(f, (x, w, b), check_forward_ad=forward_mode)
    assert torch.autograd.gradgradcheck(f, (x, w, b))


def test_vmap_and_per_sample_gradients(backend):
    x = torch.randn(5, 3, 6, 4, device=device_of(backend))
    batched = torch.func.vmap(lambda t: group_norm(t, 3, backend=backend))(x.unsqueeze(1))
    assert torch.allclose(batched.squeeze(1), group_norm(x, 3, backend=backend), atol=STEP)
    w = torch.randn(3, device=x.device)

    def loss(w, t):
        return group_norm(t.unsqueeze(0), 1, w, backend=backend).square().mean()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(w, x)
    singly = torch.stack([torch.func.grad(loss)(w, t) for t in x])
    assert torch.allclose(per_sample, singly, atol=STEP)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_gradient_for_one_parameter_alone(name, backend):
    """Neither the input nor the other parameter is there to ask for one."""
    x, dy = torch.randn(2, 8, 5, 4), torch.randn(2, 8, 5, 4)
    x, dy = x.to(device_of(backend)), dy.to(device_of(backend))
    parameter = torch.ones(8, device=x.device, requires_grad=True)
    y = group_norm(x, 4, **{name: parameter}, backend=backend)
    (gradient,) = torch.autograd.grad(y, parameter, dy)
    factor = reference.forward(x.double(), 4)[0] if name == "weight" else 1
    expected = (dy.double() * factor).sum((0, 2, 3))
    assert torch.allclose(gradient.double(), expected, rtol=LAYER, atol=LAYER)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kernels", "layout"),
    [
        ("auto", "channels_last"),
        pytest.param("aten", "channels_last", marks=pytest.mark.slow),
        pytest.param("auto", "contiguous", marks=pytest.mark.slow),
        pytest.param("aten", "contiguous", marks=pytest.mark.slow),
        pytest.param("reference", "contiguous", marks=pytest.mark.slow),
    ],
)
def test_compile_without_a_graph_break(kernels, layout):
    torch.compiler.reset()
    function = functools.partial(group_norm, backend=kernels)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 3):
        x = laid_out(torch.randn(n, 8, 5, 4) + 1000, layout).requires_grad_()
        w = torch.randn(8, requires_grad=True)
        dy = torch.randn(n, 8, 5, 4)
        for ours, eager in zip(
            torch.autograd.grad(compiled(x, 4, w, activation="relu"), (x, w), dy),
            torch.autograd.grad(function(x, 4, w, activation="relu"), (x, w), dy),
            strict=True,
        ):
            assert torch.allclose(ours, eager, rtol=DEEP, atol=DEEP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(3)}, r"\(N, C, \*\), got \(3,\)"),
        ({"x": torch.ones(2, 4, dtype=torch.long)}, "takes torch.float16, .* got torch.int64"),
        ({"groups": 3}, "got 4 channels and 3 groups"),
        ({"groups": 0}, "got 4 channels and 0 groups"),
        ({"weight": torch.ones(3)}, r"weight must have shape \(4,\).*got \(3,\)"),
        ({"bias": torch.ones(2, 2)}, r"bias must have shape \(4,\).*got \(2, 2\)"),
        ({"weight": torch.ones(4).double()}, "weight is torch.float64 but the input is"),
        ({"weight": torch.ones(4, device="meta")}, "weight is on meta but the input is on cpu"),
        ({"residual": torch.ones(2, 4, 5, device="meta")}, r"residual .* of shape .* on meta"),
        ({"activation": "swish"}, "unknown activation 'swish'; known: None, relu"),
        ({"residual": torch.ones(2, 4)}, r"residual .* got torch.float32 of shape \(2, 4\)"),
        (
            {"backend": "cudnn"},
            "unknown backend 'cudnn'; known: auto, native, triton, aten, reference",
        ),
    ],
)
def test_errors_say_what_came(change, message):
    arguments = {"x": torch.randn(2, 4, 5), "groups": 2, **change}
    x, groups = arguments.pop("x"), arguments.pop("groups")
    with pytest.raises(ValueError, match=message):
        group_norm(x, groups, **arguments)


@pytest.mark.parametrize("backend", ["auto", "aten"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": [[1.0]]}, "input must be a tensor, got list"),
        ({"input": None}, "input must be a tensor, got NoneType"),
        ({"input": np.ones((2, 4), np.float32)}, "input must be a tensor, got ndarray"),
        ({"num_groups": 2.0}, r"num_groups must be an integer, got float 2\.0"),
        ({"num_groups": None}, "num_groups must be an integer, got NoneType None"),
        ({"num_groups": torch.tensor(2.7)}, "num_groups must be an integer, got Tensor"),
        ({"weight": [1.0] * 4}, "weight must be a tensor or None, got list"),
        ({"bias": 0.0}, "bias must be a tensor or None, got float"),
        ({"residual": "relu"}, "residual must be a tensor or None, got str"),
        ({"out": 3}, "out must be a tensor or None, got int"),
        ({"eps": "small"}, "eps must be a number, got str"),
        ({"eps": None}, "eps must be a number, got NoneType"),
        ({"eps": torch.tensor([1e-5, 1e-5])}, "eps must be a number, got Tensor"),
        ({"eps": np.ones(2)}, "eps must be a number, got ndarray"),
        ({"backend": ["auto"]}, "backend must be a name, got list"),
    ],
)
def test_errors_name_the_argument_of_a_wrong_type(change, message, backend):
    arguments = {"input": torch.randn(2, 4), "num_groups": 2, "backend": backend, **change}
    with pytest.raises(TypeError, match=f"^{message}"):
        group_norm(**arguments)


def test_an_activation_that_is_no_name_raises():
    with pytest.raises(ValueError, match=r"unknown activation \['relu'\]; known: None, relu"):
        group_norm(torch.randn(2, 4), 2, activation=["relu"])


def test_numpys_integers_are_numbers_of_groups():
    x = torch.randn(2, 4, 3)
    assert torch.equal(group_norm(x, np.int64(2)), group_norm(x, 2))


def test_double_input_with_single_parameters_raises():
    with pytest.raises(ValueError, match=r"weight is torch\.float32 but the input is torch\.f"):
        group_norm(torch.randn(2, 4, dtype=torch.float64), 2, torch.ones(4))
