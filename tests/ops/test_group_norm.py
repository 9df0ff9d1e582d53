"""Every backend against float64 of the same inputs: output and all gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.ops import group_norm, reference
from groupnorm.ops.activations import ACTIVATIONS
from groupnorm.ops.backends import BACKENDS
from tests.tolerances import bound

SHAPES = {  # (shape, groups): what it is there for
    "rank 2": ((5, 12), 3),
    "rank 3, odd": ((3, 6, 7), 2),
    "rank 4": ((2, 8, 6, 5), 4),
    "one group": ((2, 6, 5, 3), 1),
    "a group a channel": ((2, 6, 5, 3), 6),
    "ten channels a group": ((2, 30, 4, 4), 3),
    "one position": ((4, 16, 1, 1), 4),
    "one channel": ((3, 1, 5, 4), 1),
    "rank 5": ((2, 6, 3, 4, 5), 3),
    "larger than a vector": ((2, 64, 17, 9), 32),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def laid_out(x, layout):
    if layout == "channels_last" and x.dim() in (4, 5):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return x.contiguous(memory_format=formats[x.dim()])
    if layout == "permuted" and x.dim() >= 3:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.cat([x, x], -1)[..., : x.shape[-1]]
    return x.contiguous()


def compare(
    shape, groups, dtype, backend, *, layout="contiguous", offset=0.0, std=1.0, activation=None,
    residual=False, affine="both", param_dtype=None, grad_layout=None, eps=1e-5, seed=0, x=None,
):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    if x is None:
        x = offset + std * draw(*shape)
    x = laid_out(x.to(dtype), layout).requires_grad_()
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
    m = offset / std
    weight = 1.0 if w is None else float(w64.abs().max())
    g = dy.double().abs() * 1.2  # no activation here has a slope above 1.2
    axes = [0, *range(2, len(shape))]
    xhat = F.group_norm(x64.contiguous(), groups, eps=eps).abs() if x.numel() else x64
    near_kink = activation in ("relu", "leaky_relu", "hardswish")
    checks = {"y": (y, y64, 1.2 * weight + (0 if b is None else float(b64.abs().max())))}
    scale_dx = float(rstd.max() * weight * g.max() * (1 + xhat.max())) if x.numel() else 0
    scale_g = float((g * (1 + xhat)).sum(axes).max()) if x.numel() else 0
    checks["dx"] = (grads[0], dx64, scale_dx * (1 + float(xhat.max() if x.numel() else 0)))
    position = 1
    if w is not None:
        checks["dweight"] = (grads[position], dw64, scale_g)
        position += 1
    if b is not None:
        checks["dbias"] = (grads[position], db64, scale_g)
        position += 1
    if r is not None:
        checks["dresidual"] = (grads[position], dr64, float(g.max()))
    z = _z(x64, groups, w64, b64, eps, r64)
    for name, (ours, true, scale) in checks.items():
        assert ours.shape == true.shape, name
        if name in ("y", "dx", "dresidual"):
            assert ours.dtype == dtype, name
        error = (ours.detach().double() - true).abs()
        if near_kink and name != "y" and x.numel():
            # Where z is within rounding of a kink the two sides may pick different slopes.
            assert (_distance_to_kink(z, activation) > 1e-6 * (1 + m)).all(), "draw another seed"
        limit = bound(ours.dtype, m, scale, float(true.abs().max()) if true.numel() else 0)
        worst = float(error.max()) if error.numel() else 0.0
        assert worst <= limit, f"{name}: error {worst:.3g}, allowed {limit:.3g}"
    if x.is_contiguous():
        assert y.is_contiguous()
    elif layout == "channels_last":
        assert y.stride() == x.stride()
    # Autograd through the reference's plain operations gives dx in the layout of dy.
    if layout in ("contiguous", "channels_last") and (backend != "reference" or not grad_layout):
        if x.is_contiguous():
            assert grads[0].is_contiguous()
        else:
            assert grads[0].stride() == x.stride()
    return y


def _z(x, groups, w, b, eps, r):
    return reference.forward(x, groups, w, b, eps, None, r)[0]


def _distance_to_kink(z, activation):
    kinks = (-3.0, 3.0) if activation == "hardswish" else (0.0,)
    return torch.stack([(z - kink).abs() for kink in kinks]).amin(0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
@pytest.mark.parametrize("case", SHAPES)
def test_output_and_gradients(case, layout, dtype, backend):
    shape, groups = SHAPES[case]
    compare(shape, groups, dtype, backend, layout=layout)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset", [10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("shape", [(2, 8, 9, 7), (2, 64, 28, 28), (2, 8, 4, 5, 6)], ids=str)
def test_offsets(shape, offset, layout, backend):
    compare(shape, 4, torch.float32, backend, layout=layout, offset=offset)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("offset", "std"), [(1e3, 1e-1), (0, 1e-3), (0, 1e-6), (0, 1e4)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scales(offset, std, layout, backend):
    """With a std far below sqrt(eps) the output is about x / sqrt(eps)."""
    compare((2, 8, 9, 7), 4, torch.float32, backend, layout=layout, offset=offset, std=std)


def test_pytorch_itself_is_wrong_on_channels_last():
    """The reason for the shift in the aten backend: when this fails, PyTorch is mended; drop it."""
    x = torch.randn(2, 64, 28, 28, generator=torch.Generator().manual_seed(0)) + 1e4
    x = x.contiguous(memory_format=torch.channels_last)
    true = F.group_norm(x.double().contiguous(), 32)
    assert (F.group_norm(x, 32).double() - true).abs().max() > 1
    assert (group_norm(x, 32).double() - true).abs().max() < 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_activation_and_residual(activation, residual, layout, backend):
    for dtype in (torch.float32, torch.bfloat16):
        compare(
            (2, 8, 6, 5), 4, dtype, backend, layout=layout, activation=activation,
            residual=residual, seed=3,
        )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters(dtype, affine, backend):
    compare((3, 6, 5, 4), 3, dtype, backend, affine=affine)
    compare((3, 6, 5, 4), 3, dtype, backend, affine=affine, param_dtype=torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layouts", [("contiguous", "channels_last"), ("channels_last", "sliced")])
def test_a_gradient_in_another_layout_is_accepted(layouts, backend):
    compare((2, 8, 6, 5), 4, torch.float32, backend, layout=layouts[0], grad_layout=layouts[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 6, 0, 4), (0, 6), (2, 6, 0)], ids=str)
def test_empty_input(shape, backend):
    y = compare(shape, 3, torch.float32, backend)
    assert y.shape == shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e4 + 1 / 3])
def test_constant_input_gives_about_the_bias(value, layout, backend):
    """rstd is 1 / sqrt(eps) = 316 here and multiplies the rounding of the mean: a few u * value."""
    x = laid_out(torch.full((2, 8, 6, 5), value), layout)
    bias = torch.randn(8, generator=torch.Generator().manual_seed(0))
    y = group_norm(x, 4, None, bias, backend=backend)
    error = (y - bias.view(1, 8, 1, 1)).abs().max()
    assert error <= bound(torch.float32, abs(value) * 316, 1.0, float(bias.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_outlier_channel_means_and_ramp(layout, backend):
    generator = torch.Generator().manual_seed(1)
    outlier = torch.randn(2, 8, 6, 5, generator=generator, dtype=torch.float64)
    outlier[0, 0, 0, 0] = 1e4
    apart = torch.randn(2, 8, 6, 5, generator=generator, dtype=torch.float64)
    apart += torch.tensor([100.0, -100.0] * 4).view(1, 8, 1, 1)
    ramp = torch.arange(480, dtype=torch.float64).view(2, 8, 6, 5)
    for x in (outlier, apart, ramp):
        compare(tuple(x.shape), 4, torch.float32, backend, layout=layout, x=x, offset=2.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 6e4), (torch.float16, 300.0), (torch.bfloat16, 20.0)]
)
def test_large_half_values_do_not_overflow(dtype, value, backend):
    x = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0)).sign() * value
    compare((2, 8, 6, 5), 4, dtype, backend, x=x.double())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_shape_dtype_and_layout(data):
    d, g = data.draw(st.integers(1, 7), "channels per group"), data.draw(st.integers(1, 6), "G")
    spatial = data.draw(st.lists(st.integers(0, 7), max_size=3), "spatial")
    shape = (data.draw(st.integers(0, 4), "N"), d * g, *spatial)
    compare(
        shape, g, data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(BACKENDS)),
        layout=data.draw(st.sampled_from(["contiguous", "channels_last"])),
        activation=data.draw(st.sampled_from([None, "silu", "gelu", "gelu_tanh", "mish"])),
        affine=data.draw(st.sampled_from(["both", "weight", "bias", "none"])),
        residual=data.draw(st.booleans()), seed=data.draw(st.integers(0, 99)),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's forward mode
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradcheck_and_double_backward(layout, backend):
    x = laid_out(torch.randn(2, 4, 3, 2, dtype=torch.float64), layout).requires_grad_()
    w, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def f(x, w, b):
        return group_norm(x, 2, w, b, activation="silu", backend=backend)

    assert torch.autograd.gradcheck(f, (x, w, b), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x, w, b))


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_and_per_sample_gradients(backend):
    x = torch.randn(5, 3, 6, 4)
    batched = torch.func.vmap(lambda t: group_norm(t, 3, backend=backend))(x.unsqueeze(1))
    assert torch.allclose(batched.squeeze(1), group_norm(x, 3, backend=backend), atol=1e-6)
    w = torch.randn(3)

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


def test_export_emits_pytorchs_operator():
    class Net(torch.nn.Module):
        def forward(self, x):
            return group_norm(x, 2, activation="silu")

    program = torch.export.export(Net(), (torch.randn(1, 4, 3, 3),))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert any("group_norm" in name for name in names)
    assert not any("sub" in name for name in names)


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
        ({"activation": "swish"}, "unknown activation 'swish'; known: None, relu"),
        ({"residual": torch.ones(2, 4)}, r"residual .* got torch.float32 of shape \(2, 4\)"),
        ({"backend": "cudnn"}, "unknown backend 'cudnn'; known: auto, aten, reference"),
    ],
)
def test_errors_say_what_came(change, message):
    arguments = {"x": torch.randn(2, 4, 5), "groups": 2, **change}
    x, groups = arguments.pop("x"), arguments.pop("groups")
    with pytest.raises(ValueError, match=message):
        group_norm(x, groups, **arguments)


def test_double_input_with_single_parameters_raises():
    with pytest.raises(ValueError, match="weight is torch.float32 but the input is torch.float64"):
        group_norm(torch.randn(2, 4, dtype=torch.float64), 2, torch.ones(4))
