"""Layers to convert, of random numbers: inputs of a norm and what its teacher makes of them."""

from dataclasses import fields

import torch

from groupnorm import group_norm
from groupnorm.conversion.calibration.moments import LayerMoments, MomentAccumulator


def random_layer(samples=24, channels=8, positions=6, seed=0, common=3):
    """x (N, C, P) whose channels share `common` random causes, and y = BN(x), in float64."""
    g = torch.Generator().manual_seed(seed)
    causes = torch.randn(samples, common, 1, generator=g, dtype=torch.float64)
    mix = torch.randn(channels, common, generator=g, dtype=torch.float64)
    noise = torch.randn(samples, channels, positions, generator=g, dtype=torch.float64)
    stretch = torch.rand(channels, 1, generator=g, dtype=torch.float64) + 0.5
    x = (mix @ causes + noise) * stretch + torch.randn(channels, 1, generator=g).double()
    return x, constants(x, seed)


def constants(x, seed=0):
    """A norm of constants of x: each channel standardized over everything, then a random affine."""
    g = torch.Generator().manual_seed(seed + 1)
    gamma, beta = torch.randn(2, x.shape[1], 1, generator=g, dtype=torch.float64)
    mean, std = x.mean((0, 2)).view(-1, 1), x.std((0, 2), correction=0).view(-1, 1)
    return (x - mean) / std * gamma + beta


def moments_of(x, y):
    accumulator = MomentAccumulator()
    accumulator.add(x, y)
    return accumulator.moments()


def applied(fit, x):
    """What the fitted layer makes of x (N, C, P)."""
    v = x * fit.input_scale.view(-1, 1) + fit.input_shift.view(-1, 1)
    if fit.hybrid == 1:
        return group_norm(v, fit.groups, fit.weight, fit.bias, fit.eps)
    n, c, _ = v.shape
    grouped = v.view(n, fit.groups, -1)
    k = fit.hybrid
    mean = k * grouped.mean(2) + (1 - k) * fit.stored_mean
    var = k * grouped.var(2, correction=0) + (1 - k) * fit.stored_var
    out = (grouped - mean.unsqueeze(2)) / (var.unsqueeze(2) + fit.eps).sqrt()
    return out.view(n, c, -1) * fit.weight.view(-1, 1) + fit.bias.view(-1, 1)


def measured_error(fit, x, y):
    """From all values: the squared error over the variance of the teacher's channels."""
    about_mean = y - y.mean((0, 2)).view(-1, 1)
    return float(((applied(fit, x) - y) ** 2).sum() / (about_mean**2).sum())


def split(moments, held_out=0.25):
    """Rows to fit on, and rows held out, spread evenly."""
    n = moments.samples
    count = round(n * held_out)
    outside = torch.zeros(n, dtype=torch.bool)
    outside[(torch.arange(count) * n) // count + (n // count) // 2] = True
    return rows(moments, ~outside), rows(moments, outside)


def rows(moments, index):
    """Those of some samples."""
    return LayerMoments(*(getattr(moments, field.name)[index] for field in fields(moments)))
