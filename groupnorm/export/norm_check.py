"""Whether each group norm of a written network is right, on the worst input that it met."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groupnorm.export.forms import GroupNormForm, PooledGroupNorm
from groupnorm.export.inputs import Inputs
from groupnorm.export.network_check import Run, outputs_of

BOUND = 1e-6
"""Of the error in float32: BOUND x (1 + |mean| / spread) x largest weight, times the normalized
value where that is above 1, and a rounding of the largest result; the spread has eps in it."""
HALF_ROUNDINGS = 4
"""So many roundings of the largest result are allowed in half types."""


@dataclass(frozen=True)
class NormCheck:
    """The error of one norm by itself.

    Attributes:
        name: of the layer.
        form: of group norm.
        ratio: largest |mean| / sqrt(variance + eps) of a group of its input.
        error: absolute error of its output, at the value where it comes nearest to what is allowed,
            or exceeds it most; infinite where an output is not finite.
        allowed: what the error may be, at that value.
    """

    name: str
    form: str
    ratio: float
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is finite and not above what is allowed."""
        return math.isfinite(self.error) and self.error <= self.allowed


class NormsAlone(nn.Module):
    """The norms of a network side by side, without activation, residual and hooks."""

    def __init__(self, norms: Sequence[GroupNormForm]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for norm in norms)
        for norm in self.norms:
            norm.activation = None  # type: ignore[assignment]
            norm._forward_hooks.clear()
            norm._forward_pre_hooks.clear()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Each norm of its own input."""
        return tuple(norm(x) for norm, x in zip(self.norms, inputs, strict=True))


def worst_inputs(network: nn.Module, inputs: Sequence[Inputs]) -> dict[str, Tensor]:
    """The input of each norm whose groups lie farthest from zero, in units of their spread.

    Args:
        network: prepared; its norms are forms.
        inputs: to run it on.

    Returns:
        Name of a norm -> its input. Norms that never ran are left out.
    """
    met: dict[str, tuple[float, Tensor]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, GroupNormForm):

            def note(norm: GroupNormForm, given: tuple[Tensor, ...], name: str = name) -> None:
                ratio = float(ratios(given[0], norm).max())
                if name not in met or ratio > met[name][0]:
                    met[name] = (
                        ratio,
                        given[0].detach().clone(memory_format=torch.contiguous_format),
                    )

            hooks.append(module.register_forward_pre_hook(note))
    try:
        for one in inputs:
            outputs_of(network, one.tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: x for name, (_, x) in met.items()}


def ratios(x: Tensor, norm: GroupNormForm) -> Tensor:
    """|mean| / sqrt(var + eps) of each group (N, G) of x (N, C, *), in float64."""
    grouped = x.double().reshape(x.shape[0], norm.num_groups, -1)
    var = grouped.var(2, correction=0)
    return grouped.mean(2).abs() * torch.rsqrt(var + _eps(norm))


def check_norms(
    run: Run, norms: dict[str, GroupNormForm], inputs: Sequence[Tensor], dtype: torch.dtype
) -> list[NormCheck]:
    """Compare each norm, run by itself, with the definition in float64.

    Args:
        run: of a written `NormsAlone`.
        norms: by name.
        inputs: of each, in the network's dtype.
        dtype: of the network.
    """
    found = run([x.numpy() for x in inputs])
    return [
        _checked(name, norm, x, torch.from_numpy(y), dtype)
        for (name, norm), x, y in zip(norms.items(), inputs, found, strict=True)
    ]


def _checked(name: str, norm: GroupNormForm, x: Tensor, y: Tensor, dtype: torch.dtype) -> NormCheck:
    xhat = normalized(x, norm)
    affine = xhat
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    weight = torch.ones(x.shape[1], dtype=torch.float64)
    if norm.weight is not None:
        weight = norm.weight.detach().double()
        affine = affine * weight.view(per_channel)
    if norm.bias is not None:
        affine = affine + norm.bias.detach().double().view(per_channel)
    ratio = ratios(x, norm)
    form = type(norm).__name__.removesuffix("GroupNorm").lower()
    if not bool(y.isfinite().all()):
        return NormCheck(name, form, float(ratio.max()), math.inf, 0.0)
    error = (y.double() - affine).abs()
    each = x.shape[1] // norm.num_groups
    allowed = BOUND * (1 + ratio).repeat_interleave(each, 1) * weight.abs().max()
    rounding = torch.finfo(dtype).eps / 2 * (1 if dtype == torch.float32 else HALF_ROUNDINGS)
    allowed = allowed.view(x.shape[0], -1, *per_channel[2:]) * xhat.abs().clamp(min=1)
    allowed = allowed + rounding * affine.abs().max()
    at = int((error - allowed).argmax())
    found, bound = float(error.flatten()[at]), float(allowed.flatten()[at])
    return NormCheck(name, form, float(ratio.max()), found, bound)


def normalized(x: Tensor, norm: GroupNormForm) -> Tensor:
    """(x - mean) / sqrt(var + eps) of each group, in float64, of x's shape."""
    grouped = x.double().reshape(x.shape[0], norm.num_groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    var = (centred * centred).mean(2)
    return (centred * torch.rsqrt(var + _eps(norm)).unsqueeze(2)).reshape(x.shape)


def _eps(norm: GroupNormForm) -> Tensor | float:
    """The eps of all groups, or of each (G,)."""
    if isinstance(norm, PooledGroupNorm) and norm.group_eps is not None:
        return norm.group_eps.double()
    return norm.eps
