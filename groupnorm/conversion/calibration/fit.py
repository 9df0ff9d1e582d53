"""The fit of one norm: scale and offset of each channel before group normalization, and its affine.

The student computes y' = gamma GN(v) + beta with v = a (x - mu) / s + d. GN removes from each
sample the mean of a group's channels and divides by their common deviation; a teacher with
constant statistics does neither. What is lost depends on how much these two move from sample to
sample. Signs and scales a and offsets d, which the convolution in front can absorb, are chosen so
that they move little. For given a and d the best gamma and beta are a regression of y on GN(v),
and everything that it needs follows from the moments of each sample and channel.

A group norm's output does not change, but for eps, when the whole group's input is multiplied by a
number. The one that gives the scales a / s of a group the geometric mean 1 is taken: so the weights
in front keep their size, on which it depends how far a step of training moves the layer, and eps
weighs as much as it did in the teacher.

The regression without a and d is "fold and least squares"; no publication of the rest is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from groupnorm.conversion.calibration.moments import LayerMoments
from groupnorm.conversion.calibration.signs import least_signs

OFFSETS = (0.5, 1.0, 2.0, 3.0)
"""Sizes of the offsets that the search begins with, in deviations of a channel."""
_LEARNING_RATE = 0.05
_STARTS = 2  # that go on to the descent, for each group
_TINY = 1e-12  # of variances of numbers near 1: no division by 0, nothing else


@dataclass(frozen=True)
class FitLimits:
    """How far the affine before the norm may go; each limit takes one part of the method away.

    Attributes:
        signs: whether channels may be negated.
        scale_limit: largest magnitude of the logarithm of a scale; 0 for signs and offsets alone.
        offset_limit: largest magnitude of d, in deviations of the channel; 0 for a norm that
            normalizes as much as group normalization does.
        steps: of gradient descent (Adam); 0 takes the best start.
    """

    signs: bool = True
    scale_limit: float = 1.5
    offset_limit: float = 4.0
    steps: int = 150

    def __post_init__(self) -> None:
        for name in ("scale_limit", "offset_limit", "steps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be a finite number, 0 or more, got {getattr(self, name)}"
                )


DEFAULT_LIMITS = FitLimits()


@dataclass(frozen=True)
class LayerFit:
    """What replaces a norm: an affine per channel, statistics of groups, an affine per channel.

    Attributes:
        groups: G.
        eps: added to the variance inside the root.
        input_scale: A (C,), and `input_shift`, B: the norm gets v = A x + B. The geometric mean of
            |A| over a group is 1.
        input_shift: see `input_scale`.
        weight: gamma (C,), and `bias`, beta.
        bias: see `weight`.
        hybrid: as in `fit_layer`.
        stored_mean: (G,), and `stored_var`: the constants that `hybrid` below 1 mixes in.
        stored_var: see `stored_mean`.
        error: relative squared error over the rows of the fit, 0 for the teacher's output and 1
            for its channels' means.
        offset_share: part of a group's variance that the offsets make, 0 to 1, the mean over the
            groups. Near 1 a layer hardly normalizes any more. None where nothing can stand in
            front.
    """

    groups: int
    eps: float
    input_scale: Tensor
    input_shift: Tensor
    weight: Tensor
    bias: Tensor
    hybrid: float
    stored_mean: Tensor
    stored_var: Tensor
    error: float
    offset_share: float | None


def fit_layer(
    moments: LayerMoments,
    groups: int,
    *,
    eps: float = 1e-5,
    limits: FitLimits = DEFAULT_LIMITS,
    hybrid: float = 1.0,
    least_std: Tensor | None = None,
    in_front: bool = True,
    seed: int = 0,
) -> LayerFit:
    """Fit group normalization with `groups` groups to a norm of constants.

    x is standardized by its own moments over all rows. For each group the starts are: nothing
    changed; signs that keep the group's mean steady; these with offsets of several sizes, whose own
    signs keep the group's variance steady. The best two descend, and the best of all their steps
    and of the starts is taken: the error is never above that of fold and least squares.

    With one channel per group no affine in front changes anything, and least squares shrinks gamma
    towards 0: gamma and beta then match mean and variance of the teacher's output instead.

    Args:
        moments: of the rows to fit on.
        groups: G, a divisor of the channels; neighbours share a group, as in `torch.nn.GroupNorm`.
        eps: of the norm.
        limits: of the affine in front.
        hybrid: 1 for group normalization. Below, mean and variance are this share of the group's
            and for the rest constants, the means over the samples: no plain group normalization,
            but nearer to the teacher.
        least_std: (C,), deviations that x is taken to have at least: a channel that does not move
            on these samples may move on others, and would be blown up.
        in_front: False where nothing can stand in front of the norm: A is 1 and B is 0.
        seed: of the starts of the search for signs, by a generator of its own.

    Raises:
        ValueError: G does not divide the channels, a single row was given, eps is not above 0, or
            hybrid lies outside of 0 to 1.
    """
    if groups < 1 or moments.channels % groups:
        raise ValueError(f"{groups} groups do not divide {moments.channels} channels")
    if moments.samples < 2:
        raise ValueError("a fit needs two samples at least, got 1: give more images")
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be a number above 0, got {eps}")
    if not 0 <= hybrid <= 1:
        raise ValueError(f"hybrid must lie between 0 and 1, got {hybrid}")
    with _own_autograd():
        problem = _standardized(moments, groups, eps, hybrid, least_std)
        shape = (groups, moments.channels // groups)
        a, d = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        by_moments = shape[1] == 1
        if not in_front:
            a, d = problem.std_x.view(shape), problem.mean_x.view(shape)
        elif not by_moments:
            a, d = _search(problem, limits, torch.Generator().manual_seed(seed))
        fit = _fitted(problem, a, d, by_moments)
        return fit if in_front else replace(fit, offset_share=None)


def relative_error(fit: LayerFit, moments: LayerMoments) -> float:
    """The squared error of a fit on any rows, relative to the variance of y there.

    The sum over channels of the mean of (y' - y)^2, over the sum of the variances of y: held-out
    rows give what to expect of new images, on which it may be above 1. 0 where y is constant.
    """
    m = moments
    shape = (m.samples, fit.groups, -1)
    mean_v = fit.input_scale * m.mean_x + fit.input_shift
    var_v = fit.input_scale**2 * m.var_x
    mean = mean_v.view(shape).mean(2)
    centred = mean_v.view(shape) - mean.unsqueeze(2)
    var = (var_v.view(shape) + centred**2).mean(2)
    k = fit.hybrid
    mean = k * mean + (1 - k) * fit.stored_mean
    var = k * var + (1 - k) * fit.stored_var
    rstd = (var + fit.eps).rsqrt()
    mean, rstd = (
        t.repeat_interleave(m.channels // fit.groups, 1).view(m.samples, m.channels)
        for t in (mean, rstd)
    )
    slope = fit.weight * rstd * fit.input_scale  # of y' over the positions of a sample
    off = fit.weight * rstd * (mean_v - mean) + fit.bias - m.mean_y
    squared = off**2 + slope**2 * m.var_x - 2 * slope * m.cov_xy + m.var_y
    return _ratio(squared.mean(0).sum(), _variance(m.mean_y, m.var_y).sum())


def inherited_error(moments: LayerMoments) -> float:
    """The relative error that the best affine of each channel leaves, without any group statistics.

    What norms before this one have lost already, which no choice here brings back.
    """
    mean_x, mean_y = moments.mean_x.mean(0), moments.mean_y.mean(0)
    cov = (moments.cov_xy + (moments.mean_x - mean_x) * (moments.mean_y - mean_y)).mean(0)
    var_x = _variance(moments.mean_x, moments.var_x)
    var_y = _variance(moments.mean_y, moments.var_y)
    explained = cov**2 / var_x.clamp(min=torch.finfo(torch.float64).tiny)
    return _ratio((var_y - torch.minimum(explained, var_y)).sum(), var_y.sum())


class _Problem(NamedTuple):
    """Standardized moments in groups; u = (x - mean) / std, and y less its mean.

    Attributes:
        arrays: (G, N, 4 D), four blocks of D: the means over a sample's positions of u, u^2, u y
            and y.
        var_y: (G, D), over all rows and positions.
        mean_x: (C,), and `std_x`, `mean_y`.
        std_x: see `mean_x`.
        mean_y: see `mean_x`.
        eps: of the norm.
        hybrid: as in `fit_layer`.
    """

    arrays: Tensor
    var_y: Tensor
    mean_x: Tensor
    std_x: Tensor
    mean_y: Tensor
    eps: float
    hybrid: float


class _Normalized(NamedTuple):
    """Of n = (a u + d - m) / S for K candidates: its moments (G, D, K), m and S^2 (G, N, K)."""

    mean: Tensor
    var: Tensor
    cov: Tensor
    group_mean: Tensor
    group_var: Tensor


def _standardized(
    m: LayerMoments, groups: int, eps: float, hybrid: float, least_std: Tensor | None
) -> _Problem:
    mean_x, mean_y = m.mean_x.mean(0), m.mean_y.mean(0)
    std_x = (_variance(m.mean_x, m.var_x) + eps).sqrt()
    if least_std is not None:
        std_x = torch.maximum(std_x, least_std)
    u = (m.mean_x - mean_x) / std_x
    y = m.mean_y - mean_y
    blocks = (u, m.var_x / std_x**2 + u**2, m.cov_xy / std_x + u * y, y)
    shape = (m.samples, groups, m.channels // groups)
    arrays = torch.cat([block.view(shape).transpose(0, 1) for block in blocks], 2)
    var_y = _variance(m.mean_y, m.var_y).view(groups, -1)
    return _Problem(arrays, var_y, mean_x, std_x, mean_y, eps, hybrid)


def _unit(problem: _Problem, a: Tensor) -> Tensor:
    """What v is divided by: (G, 1, K), for which |a / std| have the geometric mean 1 in a group."""
    return (a.abs() / problem.std_x.view(*a.shape[:2], 1)).log().mean(1, keepdim=True).exp()


def _normalized(problem: _Problem, a: Tensor, d: Tensor) -> _Normalized:
    """Args: a and d (G, D, K). Every sum over samples or channels is one matrix product."""
    channels, k = a.shape[1], a.shape[2]
    arrays = problem.arrays
    zero = torch.zeros_like(a)
    sums = arrays[..., : 2 * channels] @ torch.cat(
        [torch.cat([a, 2 * a * d], 2), torch.cat([zero, a * a], 2)], 1
    )
    group_mean = sums[..., :k] / channels + d.mean(1, keepdim=True)
    square = sums[..., k:] / channels + (d * d).mean(1, keepdim=True)
    group_var = square - group_mean**2
    mean, var = group_mean, group_var
    if problem.hybrid < 1:
        share = problem.hybrid
        mean = share * mean + (1 - share) * mean.mean(1, keepdim=True)
        var = share * var + (1 - share) * var.mean(1, keepdim=True)
    r = (var.clamp(min=0) + problem.eps * _unit(problem, a) ** 2).rsqrt()
    p = mean * r
    # n = a u r + d r - p: its moments need the sums over samples of u, u^2, u y, y times these.
    products = arrays.mT @ torch.cat([r, r * r, r * p, p], 2) / arrays.shape[1]
    u, u2, uy, y = torch.split(products, channels, 1)
    means = torch.stack([r, p, r * r, r * p, p * p]).mean(2).unsqueeze(2)
    mean_r, mean_p, mean_r2, mean_rp, mean_p2 = means
    first, second, third, fourth = (
        slice(k),
        slice(k, 2 * k),
        slice(2 * k, 3 * k),
        slice(3 * k, None),
    )
    mean_n = a * u[..., first] + d * mean_r - mean_p
    mean_n2 = (
        a * (a * u2[..., second] + 2 * (d * u[..., second] - u[..., third]))
        + d * (d * mean_r2 - 2 * mean_rp)
        + mean_p2
    )
    cov = a * uy[..., first] + d * y[..., first] - y[..., fourth]
    return _Normalized(mean_n, mean_n2 - mean_n**2, cov, group_mean, group_var)


def _loss(problem: _Problem, a: Tensor, d: Tensor) -> Tensor:
    """Variance of y that the best gamma and beta leave, relative: (G, K)."""
    n = _normalized(problem, a, d)
    explained = (n.cov**2 / n.var.clamp(min=_TINY)).sum(1)
    total = problem.var_y.sum(1, keepdim=True)
    return (total - explained) / total.clamp(min=torch.finfo(torch.float64).tiny)


def _search(
    problem: _Problem, limits: FitLimits, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The best a and d (G, D) that the descent from the best starts finds."""
    with torch.no_grad():
        a, d = _starts(problem, limits, generator)
        loss = _loss(problem, a, d)
        best = loss.topk(min(_STARTS, loss.shape[1]), 1, largest=False).indices
        best = best.unsqueeze(1).expand(-1, a.shape[1], -1)
        a, d = a.gather(2, best), d.gather(2, best)
    signs = a.sign()
    log_a = a.abs().log().requires_grad_(limits.scale_limit > 0)
    d.requires_grad_(limits.offset_limit > 0)
    moved = [t for t in (log_a, d) if t.requires_grad]
    lowest = torch.full((a.shape[0], a.shape[2]), torch.inf, dtype=a.dtype)
    best_a, best_d = a.clone(), d.detach().clone()
    steps = limits.steps if moved else 0
    optimizer = torch.optim.Adam(moved, lr=_LEARNING_RATE) if steps else None
    for step in range(steps + 1):
        loss = _loss(problem, signs * log_a.exp(), d)
        with torch.no_grad():
            better = loss < lowest
            lowest = torch.where(better, loss, lowest)
            best_a = torch.where(better.unsqueeze(1), signs * log_a.exp(), best_a)
            best_d = torch.where(better.unsqueeze(1), d, best_d)
        if optimizer is None or step == steps:
            break
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * _cosine(step / steps)
        optimizer.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            log_a.clamp_(-limits.scale_limit, limits.scale_limit)
            d.clamp_(-limits.offset_limit, limits.offset_limit)
    last = lowest.argmin(1)
    groups = torch.arange(a.shape[0])
    return best_a[groups, :, last], best_d[groups, :, last]


def _starts(
    problem: _Problem, limits: FitLimits, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """a and d (G, D, K), the first of which change nothing."""
    u = problem.arrays[..., : problem.var_y.shape[1]]
    u = u - u.mean(1, keepdim=True)
    covariance = u.mT @ u / u.shape[1]
    signs = torch.ones_like(problem.var_y)
    scales, offsets = [signs], [torch.zeros_like(signs)]
    if limits.signs:
        signs = least_signs(covariance, generator)
        scales.append(signs)
        offsets.append(torch.zeros_like(signs))
    if limits.offset_limit > 0:
        twisted = signs.unsqueeze(1) * covariance * signs.unsqueeze(2)
        pattern = least_signs(twisted, generator, balance=1.0)
        for size in sorted({min(size, limits.offset_limit) for size in OFFSETS}):
            scales.append(signs)
            offsets.append(size * pattern)
    return torch.stack(scales, 2), torch.stack(offsets, 2)


def _fitted(problem: _Problem, a: Tensor, d: Tensor, by_moments: bool) -> LayerFit:
    """Args: a and d (G, D)."""
    n = _Normalized(*(t.squeeze(2) for t in _normalized(problem, a.unsqueeze(2), d.unsqueeze(2))))
    var = n.var.clamp(min=_TINY)
    if by_moments:
        gamma = n.cov.sign() * (problem.var_y / var).sqrt()
        gamma = torch.where(n.var > _TINY, gamma, torch.zeros_like(gamma))
    else:
        gamma = n.cov / var
    residual = problem.var_y - 2 * gamma * n.cov + gamma**2 * n.var
    unit = _unit(problem, a.unsqueeze(2)).squeeze(2)
    scale = (a / unit).flatten() / problem.std_x
    unit = unit.squeeze(1)
    share = d.var(1, correction=0) / (n.group_var.mean(1) + problem.eps * unit**2)
    return LayerFit(
        groups=a.shape[0],
        eps=problem.eps,
        input_scale=scale,
        input_shift=(d / unit.unsqueeze(1)).flatten() - scale * problem.mean_x,
        weight=gamma.flatten(),
        bias=problem.mean_y - (gamma * n.mean).flatten(),
        hybrid=problem.hybrid,
        stored_mean=n.group_mean.mean(1) / unit,
        stored_var=n.group_var.mean(1) / unit**2,
        error=_ratio(residual.clamp(min=0).sum(), problem.var_y.sum()),
        offset_share=float(share.mean()),
    )


@contextmanager
def _own_autograd() -> Iterator[None]:
    """Gradients within, whatever the caller has turned off, and none of them outside."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _variance(mean: Tensor, var: Tensor) -> Tensor:
    """Over all rows and positions, of each channel: within samples and between them."""
    return var.mean(0) + mean.var(0, correction=0)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0
