"""A backend against float64 of the same inputs: output and all gradients."""

import torch

from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.aten import needs_shift
from groupnorm.ops.group_norm.triton.backend import interpreted
from tests.ops.group_norm.runners import device_of
from tests.tolerances import STORAGE, STORAGE_INTERPRETED, bound

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


def expected(x, groups, weight, bias, residual, dy, eps=1e-5, activation=None):
    """The results in float64, what their errors are relative to, and the offset m (tolerances.py).

    Args:
        x: (N, C, *), and with it weight, bias, residual (or None) and dy: the rounded inputs.
    """
    # Contiguous: PyTorch adds up other layouts less exactly, which shows beside float64 kernels.
    x64, w64, b64, r64, dy = (
        None if t is None else t.detach().double().contiguous()
        for t in (x, weight, bias, residual, dy)
    )
    y, mean, rstd = reference.forward(x64, groups, w64, b64, eps, activation, r64)
    dx, dweight, dbias, dresidual = reference.backward(
        dy, x64, groups, w64, b64, mean, rstd, activation, r64
    )
    truth = {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias, "dresidual": dresidual}
    w = 1.0 if weight is None else largest(w64)
    xhat = reference.forward(x64, groups, eps=eps)[0].abs()
    g = dy.abs() * STEEPEST
    total = largest((g * (1 + xhat)).sum([0, *range(2, x.dim())]))
    scales = {
        "y": STEEPEST * (w * (1 + largest(xhat)) + (0 if bias is None else largest(b64))),
        "dx": largest(rstd) * w * largest(g) * (1 + largest(xhat)) ** 2,
        "dweight": total,
        "dbias": total,
        "dresidual": largest(g),
    }
    if activation in ("relu", "leaky_relu", "hardswish"):
        # Where z is within rounding of a kink the two sides may pick different slopes.
        z = reference.forward(x64, groups, w64, b64, eps, None, r64)[0]
        kinks = (-3.0, 3.0) if activation == "hardswish" else (0.0,)
        assert min(float((z - kink).abs().min()) for kink in kinks) > 1e-6, "draw another seed"
    return truth, scales, largest(mean * rstd)


def compare(
    shape, groups, dtype, backend, *, layout="contiguous", offset=0.0, std=1.0, activation=None,
    residual=False, affine="both", param_dtype=None, grad_layout=None, eps=1e-5, seed=0, x=None,
):  # fmt: skip
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

    truth, scales, m = expected(x, groups, w, b, r, dy, eps, activation)
    # What centres twice does not see the offset (see tolerances.py).
    centred = backend in ("reference", "native") or (backend == "aten" and needs_shift(x))
    offsets = {"y": 0.0 if centred or backend == "triton" else m}
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
    storage = STORAGE_INTERPRETED if backend == "triton" and interpreted else STORAGE
    for name, value in ours.items():
        true = truth[name]
        assert value.shape == true.shape, name
        assert value.dtype == (param_dtype if name in ("dweight", "dbias") else dtype), name
        offset_seen = offsets.get(name, 0.0 if centred else m)
        limit = bound(value.dtype, offset_seen, scales[name], largest(true), storage)
        error = largest(value.double() - true)
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"
    if layout in ("contiguous", "channels_last"):
        assert same_layout(y, x)
        # Autograd through the reference's plain operations gives dx in the layout of dy.
        assert same_layout(grads[0], x) or (backend == "reference" and grad_layout)
    return y
