"""Every backend against float64 of the same inputs: output and all gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.ops import group_norm, reference
from groupnorm.ops.activations import ACTIVATIONS
from groupnorm.ops.backend_aten import needs_shift
from tests.ops.runners import RUNNERS, TRITON, device_of, running
from tests.tolerances import bound

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
STEEPEST = 1.2  # no activation here has a slope above it, or grows faster
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def laid_out(x, layout):
    if layout == "channels_last" and x.dim() in (4, 5):
        return x.contiguous(memory_format=FORMATS[x.dim()])
    if layout == "permuted" and x.dim() >= 3:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.cat([x, x], -1)[..., : x.shape[-1]]
    if layout == "expanded":
        return x[:1].expand_as(x)
    return x.contiguous()


def same_layout(a, b):
    if b.is_contiguous():
        return a.is_contiguous()
    return a.is_contiguous(memory_format=FORMATS[b.dim()])


def largest(t):
    """Largest absolute value; 0 of an empty tensor."""
    return float(t.detach().abs().max()) if t.numel() else 0.0


def compare(
    shape, groups, dtype, backend, *, layout="contiguous", offset=0.0, std=1.0, activation=None,
    residual=False, affine="both", param_dtype=None, grad_layout=None, eps=1e-5, seed=0, x=None,
):  # fmt: skip
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("the Triton kernels take no double")
    generator = torch.Generator().manual_seed(seed)

    device = device_of(backend)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(device)

    if x is None:
        x = offset + std * draw(*shape)
    x = laid_out(x.to(device, dtype), layout).requires_grad_()
    param_dtype = param_dtype or dtype
    w = draw(shape[1]).to(param_dtype).requires_grad_() if affine in ("both", "weight") else None
    b = draw(shape[1]).to(param_dtype).requires_grad_() if affine in ("both", "bias") else None
    r = laid_out(draw(*shape).to(dtype), layout).requires_grad_() if residual else None
    dy = laid_out(draw(*shape).to(dtype), grad_layout or layout)

    y = group_norm(x, groups, w, b, eps, activation=activation, residual=r, backend=backend)
    inputs = [t for t in (x, w, b, r) if t is not None]
    grads = torch.autograd.grad(y, inputs, dy)

    x64, w64, b64, r64 = (None if t is None else t.detach().double() for t in (x, w, b, r))
    y64, mean, rstd = reference.forward(x64, groups, w64, b64, eps, activation, r64)
    dx64, dw64, db64, dr64 = reference.backward(
        dy.double(), x64, groups, w64, b64, mean, rstd, activation, r64
    )
    # What centres twice does not see the offset (see tolerances.py).
    m = largest(mean * rstd)
    centred = backend == "reference" or (backend == "aten" and needs_shift(x))
    offsets = {"y": 0.0 if centred or backend in ("native", "triton") else m}
    weight = 1.0 if w is None else largest(w64)
    xhat = reference.forward(x64, groups, eps=eps)[0].abs()
    g = dy.double().abs() * STEEPEST
    total = largest((g * (1 + xhat)).sum([0, *range(2, len(shape))]))
    scales = {
        "y": STEEPEST * (weight * (1 + largest(xhat)) + (0 if b is None else largest(b64))),
        "dx": largest(rstd) * weight * largest(g) * (1 + largest(xhat)) ** 2,
        "dweight": total,
        "dbias": total,
        "dresidual": largest(g),
    }
    if activation in ("relu", "leaky_relu", "hardswish"):
        # Where z is within rounding of a kink the two sides may pick different slopes.
        z = reference.forward(x64, groups, w64, b64, eps, None, r64)[0]
        kinks = (-3.0, 3.0) if activation == "hardswish" else (0.0,)
        assert min(float((z - kink).abs().min()) for kink in kinks) > 1e-6, "draw another seed"
    truth = {"y": y64, "dx": dx64}
    ours = dict(
        zip(
            ["dx"]
            + ["dweight"] * (w is not None)
            + ["dbias"] * (b is not None)
            + ["dresidual"] * (r is not None),
            grads,
            strict=True,
        ),
        y=y,
    )
    truth |= {"dweight": dw64, "dbias": db64, "dresidual": dr64}
    for name, value in ours.items():
        true = truth[name]
        assert value.shape == true.shape, name
        assert value.dtype == (param_dtype if name in ("dweight", "dbias") else dtype), name
        offset_seen = offsets.get(name, 0.0 if centred else m)
        limit = bound(value.dtype, offset_seen, scales[name], largest(true))
        error = largest(value.double() - true)
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"
    if layout in ("contiguous", "channels_last"):
        assert same_layout(y, x)
        # Autograd through the reference's plain operations gives dx in the layout of dy.
        assert same_layout(grads[0], x) or (backend == "reference" and grad_layout)
    return y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("case", SHAPES)
def test_output_and_gradients(case, layout, dtype, backend):
    shape, groups = SHAPES[case]
    compare(shape, groups, dtype, backend, layout=layout)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset", [10.0, 100.0, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("shape", [(2, 8, 9, 7), (2, 64, 28, 28), (2, 8, 4, 5, 6)], ids=str)
def test_offsets(shape, offset, layout, backend):
    if backend == "aten" and offset == 1e5:
        pytest.skip("10,000 is as far as its shift, rounded to float32, is promised to reach")
    compare(shape, 4, torch.float32, backend, layout=layout, offset=offset)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("offset", "std"),
    [(1e3, 1e-1), (1e3, 1e-2), (1e4, 1e-1), (0, 1e-3), (0, 1e-6), (0, 1e4)],
)
def test_scales(offset, std, layout, backend):
    """With a std far below sqrt(eps) the output is about x / sqrt(eps)."""
    compare((2, 8, 9, 7), 4, torch.float32, backend, layout=layout, offset=offset, std=std)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_activation_and_residual(activation, residual, layout, backend):
    for dtype in (torch.float32, torch.bfloat16):
        compare(
            (2, 8, 6, 5), 4, dtype, backend, layout=layout, activation=activation,
            residual=residual, seed=3,
        )  # fmt: skip


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case", [((2, 12, 5, 7), 3), ((2, 8, 9), 4), ((1, 12, 128, 96), 1)], ids=str
)
def test_half_types_with_a_costly_activation(case, dtype, residual, layout, backend):
    """The kernels keep dz of small groups in float32 and compute it again in large ones."""
    compare(*case, dtype, backend, layout=layout, activation="silu", residual=residual)


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters(dtype, affine, backend):
    compare((3, 6, 5, 4), 3, dtype, backend, affine=affine)
    compare((3, 6, 5, 4), 3, dtype, backend, affine=affine, param_dtype=torch.float32)


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


@pytest.mark.parametrize("layouts", [("contiguous", "channels_last"), ("channels_last", "sliced")])
def test_a_gradient_in_another_layout_is_accepted(layouts, backend):
    compare((2, 8, 6, 5), 4, torch.float32, backend, layout=layouts[0], grad_layout=layouts[1])


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 6, 0, 4), (0, 6), (2, 6, 0)], ids=str)
def test_empty_input(shape, backend):
    y = compare(shape, 3, torch.float32, backend)
    assert y.shape == shape


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e4 + 1 / 3])
def test_constant_input_gives_about_the_bias(value, layout, backend):
    """rstd is 1 / sqrt(eps) = 316 here and multiplies the rounding of the mean: a few u * value."""
    x = laid_out(torch.full((2, 8, 6, 5), value, device=device_of(backend)), layout)
    bias = torch.randn(8, generator=torch.Generator().manual_seed(0)).to(x.device)
    y = group_norm(x, 4, None, bias, backend=backend)
    error = (y - bias.view(1, 8, 1, 1)).abs().max()
    assert error <= bound(torch.float32, abs(value) * 316, 1.0, float(bias.abs().max()))


def test_input_with_a_stride_of_0(backend):
    compare((3, 8, 6, 5), 4, torch.float32, backend, layout="expanded")


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


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_shape_dtype_and_layout(data):
    d, g = data.draw(st.integers(1, 7), "channels per group"), data.draw(st.integers(1, 6), "G")
    spatial = data.draw(st.lists(st.integers(0, 7), max_size=3), "spatial")
    shape = (data.draw(st.integers(0, 4), "N"), d * g, *spatial)
    runner = data.draw(st.sampled_from(RUNNERS))
    dtypes = DTYPES[1:] if runner in TRITON else DTYPES
    with running(runner) as backend:
        compare(
            shape, g, data.draw(st.sampled_from(dtypes)), backend,
            layout=data.draw(st.sampled_from(["contiguous", "channels_last"])),
            activation=data.draw(st.sampled_from([None, "silu", "gelu", "gelu_tanh", "mish"])),
            affine=data.draw(st.sampled_from(["both", "weight", "bias", "none"])),
            residual=data.draw(st.booleans()), seed=data.draw(st.integers(0, 99)),
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's forward mode
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck_and_double_backward(layout, backend):
    if backend == "triton":
        pytest.skip("the Triton kernels take no double")
    x = laid_out(torch.randn(2, 4, 3, 2, dtype=torch.float64), layout).requires_grad_()
    w, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def f(x, w, b):
        return group_norm(x, 2, w, b, activation="silu", backend=backend)

    assert torch.autograd.gradcheck(f, (x, w, b), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x, w, b))


def test_vmap_and_per_sample_gradients(backend):
    x = torch.randn(5, 3, 6, 4, device=device_of(backend))
    batched = torch.func.vmap(lambda t: group_norm(t, 3, backend=backend))(x.unsqueeze(1))
    assert torch.allclose(batched.squeeze(1), group_norm(x, 3, backend=backend), atol=1e-6)
    w = torch.randn(3, device=x.device)

    def loss(w, t):
        return group_norm(t.unsqueeze(0), 1, w, backend=backend).square().mean()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(w, x)
    singly = torch.stack([torch.func.grad(loss)(w, t) for t in x])
    assert torch.allclose(per_sample, singly, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile_without_a_graph_break(layout):
    torch.compiler.reset()
    compiled = torch.compile(group_norm, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 3):
        x = laid_out(torch.randn(n, 8, 5, 4) + 1000, layout).requires_grad_()
        w = torch.randn(8, requires_grad=True)
        dy = torch.randn(n, 8, 5, 4)
        for ours, eager in zip(
            torch.autograd.grad(compiled(x, 4, w, activation="relu"), (x, w), dy),
            torch.autograd.grad(group_norm(x, 4, w, activation="relu"), (x, w), dy),
            strict=True,
        ):
            assert torch.allclose(ours, eager, rtol=1e-3, atol=1e-3)


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


def test_double_input_with_single_parameters_raises():
    with pytest.raises(ValueError, match=r"weight is torch\.float32 but the input is torch\.f"):
        group_norm(torch.randn(2, 4, dtype=torch.float64), 2, torch.ones(4))
