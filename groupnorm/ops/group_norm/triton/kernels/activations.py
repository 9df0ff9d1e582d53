"""The activations of `ops.group_norm.activations` and their derivatives, for Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers of the activations, in the order of `activations.ACTIVATIONS`; 0 is none.
_RELU = tl.constexpr(1)
_LEAKY_RELU = tl.constexpr(2)
_SILU = tl.constexpr(3)
_GELU = tl.constexpr(4)
_GELU_TANH = tl.constexpr(5)
_MISH = tl.constexpr(6)
_HARDSWISH = tl.constexpr(7)
_SLOPE = tl.constexpr(0.01)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)
_TANH_SCALE = tl.constexpr(0.7978845608028654)  # sqrt(2 / pi)
_CUBIC = tl.constexpr(0.044715)


@triton.jit
def _tanh(u):
    small = tl.exp(-2.0 * tl.abs(u))
    t = (1.0 - small) / (1.0 + small)
    return tl.where(u < 0, -t, t)


@triton.jit
def _tanh_softplus(z):
    """tanh(log(1 + e^z)) = (e^2z + 2 e^z) / (e^2z + 2 e^z + 2); 1 in float32 above 20."""
    e = tl.exp(tl.minimum(z, 20.0))
    above = e * (e + 2.0)
    return above / (above + 2.0)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation of z; not-a-number stays one."""
    if ACTIVATION == _RELU:
        return tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == _LEAKY_RELU:
        return tl.where(z > 0, z, z * _SLOPE)
    elif ACTIVATION == _SILU:
        return z / (1.0 + tl.exp(-z))
    elif ACTIVATION == _GELU:
        return 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
    elif ACTIVATION == _GELU_TANH:
        return 0.5 * z * (1.0 + _tanh((z + z * z * z * _CUBIC) * _TANH_SCALE))
    elif ACTIVATION == _MISH:
        return z * _tanh_softplus(z)
    elif ACTIVATION == _HARDSWISH:
        return z * (tl.minimum(tl.maximum(z + 3.0, 0.0), 6.0) / 6.0)
    else:
        return z


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    """The activation's derivative at z, with PyTorch's choice at the kinks."""
    if ACTIVATION == _RELU:
        return tl.where(z > 0, 1.0, tl.where(z <= 0, 0.0, z))
    elif ACTIVATION == _LEAKY_RELU:
        return tl.where(z > 0, 1.0, tl.where(z <= 0, _SLOPE, z))
    elif ACTIVATION == _SILU:
        s = 1.0 / (1.0 + tl.exp(-z))
        return s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == _GELU:
        density = tl.exp(-0.5 * z * z) * _DENSITY
        return 0.5 * (1.0 + tl.erf(z * _SQRT_HALF)) + z * density
    elif ACTIVATION == _GELU_TANH:
        t = _tanh((z + z * z * z * _CUBIC) * _TANH_SCALE)
        near = tl.minimum(tl.maximum(z, -30.0), 30.0)  # t is 1 or -1 beyond, and z * z may overflow
        inner = (1.0 + near * near * (3.0 * _CUBIC)) * _TANH_SCALE
        return 0.5 * (1.0 + t) + 0.5 * near * (1.0 - t * t) * inner
    elif ACTIVATION == _MISH:
        t = _tanh_softplus(z)
        return t + z * (1.0 - t * t) / (1.0 + tl.exp(-z))
    elif ACTIVATION == _HARDSWISH:
        return tl.where(z <= -3.0, 0.0, tl.where(z >= 3.0, 1.0, (2.0 * z + 3.0) / 6.0))
    else:
        return tl.full(z.shape, 1.0, tl.float32)
