"""Norms by themselves, run far from zero and compared with the definition in float64."""

import torch

from groupnorm.export.forms import PooledGroupNorm
from groupnorm.ops.group_norm import reference
from tests.export import networks
from tests.tolerances import LAYER, bound

GROUPS = [8, 32, 1, 64]
CHANNELS = 64
OFFSETS = (0.0, 10.0, 100.0, 1e3, 1e4)


def norm_of(groups, channels=CHANNELS, form=PooledGroupNorm, **options):
    """A norm with random weights."""
    return networks.norm_of(groups, channels, form, **options)


def exact(norm, x, residual=None):
    """The definition in float64, for the same (rounded) numbers."""
    weight, bias = (p.detach().double() for p in (norm.weight, norm.bias))
    residual = None if residual is None else residual.double()
    return reference.forward(
        x.double(), norm.num_groups, weight, bias, norm.eps, norm.activation, residual
    )[0]


def error_of(run, norm, x):
    """Largest error of a runtime; NaN where it gives one."""
    (y,) = run([x.numpy()])
    assert y.shape == tuple(x.shape)
    assert y.dtype == x.numpy().dtype
    return float((torch.from_numpy(y).double() - exact(norm, x)).abs().max())


def check_far_from_zero(run, norm, shape, dtype=torch.float32):
    """Check the errors at all offsets; the pooled form's are everywhere those at zero."""
    for offset in OFFSETS:
        x = (torch.randn(shape) + offset).to(dtype)
        y = exact(norm, x)
        allowed = LAYER
        if dtype != torch.float32:
            largest = float(y.abs().max())
            allowed = bound(dtype, 0.0, largest, largest)
        assert error_of(run, norm, x) <= allowed, offset
