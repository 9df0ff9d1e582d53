"""Whether each group norm of a written network is right by itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from groupnorm.export.forms import GroupNormForm
from groupnorm.export.gate.network import Array, Bounded
from groupnorm.export.gate.norm_inputs import RecordedInputs, eps_of, normalized, ratios
from groupnorm.export.moments import group_moments

BOUND = 1e-6
"""Of the error in float32: BOUND x (1 + |mean| / spread) x largest weight, times the normalized
value where that is above 1, and a rounding of the largest result; the spread has eps in it."""
HALF_ROUNDINGS = 4
"""So many roundings of the largest result are allowed in half types."""
EXAMPLE, WORST, SMALL = ON = "example", "worst", "small"
"""Inputs of a norm: the example's, the one whose groups lie farthest from zero, and the example's
made so small that its variance is eps, where eps matters most."""


@dataclass(frozen=True)
class NormCheck(Bounded):
    """The error of one norm by itself.

    Attributes:
        name: of the layer.
        form: of group norm.
        on: which input: one of `ON`.
        ratio: largest |mean| / sqrt(variance + eps) of a group of its input.
        error: absolute error of its output, at the value where it comes nearest to what is allowed,
            or exceeds it most; infinite where an output is not finite.
        allowed: what the error may be, at that value.
    """

    name: str
    form: str
    on: str
    ratio: float
    error: float
    allowed: float


@dataclass(frozen=True)
class _Part:
    """One norm in `NormsAlone`.

    Attributes:
        name: in the network.
        norm: the module.
        inputs: of `ON` -> what it gets; of one shape but for axes that may change.
        axes: that may change.
    """

    name: str
    norm: GroupNormForm
    inputs: dict[str, Tensor]
    axes: tuple[int, ...]


class NormsAlone(nn.Module):
    """The norms of a network side by side, without activation, residual and hooks.

    One that runs several times in the network, on maps of several sizes, is there twice: as it runs
    first, and as it runs on its worst input.

    Args:
        recorded: what they got; norms without finite inputs are left out.
        one_image: leave of each input the worst image alone, for a runtime that takes no more.
    """

    def __init__(self, recorded: Mapping[str, RecordedInputs], one_image: bool = False) -> None:
        super().__init__()
        self.parts: list[_Part] = []
        for name, one in recorded.items():
            calls: dict[int, dict[str, Tensor]] = {}
            for key, found in ((EXAMPLE, one.usual), (WORST, one.worst)):
                if found is not None:
                    call, x = found
                    calls.setdefault(call, {})[key] = _worst_image(x, one) if one_image else x
            for call, inputs in calls.items():
                if EXAMPLE in inputs:
                    inputs[SMALL] = _small(inputs[EXAMPLE], one.norm)
                axes = tuple(a for a in one.changing(call) if not (one_image and a == 0))
                self.parts.append(_Part(name, one.norm, inputs, axes))
        self.norms = nn.ModuleList(copy.deepcopy(part.norm) for part in self.parts)
        for norm in self.norms:
            norm.activation = None  # type: ignore[assignment]
            norm._forward_hooks.clear()
            norm._forward_pre_hooks.clear()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Each norm of its own input."""
        return tuple(norm(x) for norm, x in zip(self.norms, inputs, strict=True))

    def given(self, on: str) -> tuple[Tensor, ...]:
        """The inputs of a run on one of `ON`; another one where a part has not that one."""
        return tuple(part.inputs.get(on, next(iter(part.inputs.values()))) for part in self.parts)

    @property
    def largest(self) -> tuple[Tensor, ...]:
        """Of each part the larger input: some files take none that is larger than the first."""
        return tuple(max(part.inputs.values(), key=Tensor.numel) for part in self.parts)

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """Of each input the axes that may change; () if none may."""
        axes = tuple(part.axes for part in self.parts)
        return axes if any(axes) else ()


def _worst_image(x: Tensor, recorded: RecordedInputs) -> Tensor:
    image = int(ratios(x, recorded.norm).amax(1).argmax())
    return x[image : image + 1]


def _small(x: Tensor, norm: GroupNormForm) -> Tensor:
    """An input times one number, by which the mean of the groups' variances becomes that of eps."""
    var = float(group_moments(x, norm.num_groups)[0].mean())
    return x * math.sqrt(float(eps_of(norm).mean()) / var) if var > 0 else x


def check_norms(
    alone: NormsAlone, on: str, found: Sequence[Array], dtype: torch.dtype
) -> list[NormCheck]:
    """Compare each norm, run by itself, with the definition in float64.

    Args:
        alone: what was written.
        on: of `ON`, which it was run on.
        found: what it gave.
        dtype: of the network.
    """
    return [
        _checked(part, on, torch.from_numpy(np.ascontiguousarray(y)), dtype)
        for part, y in zip(alone.parts, found, strict=True)
        if on in part.inputs
    ]


def _checked(part: _Part, on: str, y: Tensor, dtype: torch.dtype) -> NormCheck:
    norm, x = part.norm, part.inputs[on]
    xhat, ratio = normalized(x, norm), ratios(x, norm)
    affine = xhat
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    weight = torch.ones(x.shape[1], dtype=torch.float64)
    if norm.weight is not None:
        weight = norm.weight.detach().double()
        affine = affine * weight.view(per_channel)
    if norm.bias is not None:
        affine = affine + norm.bias.detach().double().view(per_channel)
    form = type(norm).__name__.removesuffix("GroupNorm").lower()
    farthest = float(ratio.max())
    if y.shape != x.shape or not bool(y.isfinite().all()):
        return NormCheck(part.name, form, on, farthest, math.inf, 0.0)
    error = (y.double() - affine).abs()
    each = x.shape[1] // norm.num_groups
    allowed = BOUND * (1 + ratio).repeat_interleave(each, 1) * weight.abs().max()
    rounding = torch.finfo(dtype).eps / 2 * (1 if dtype == torch.float32 else HALF_ROUNDINGS)
    allowed = allowed.view(x.shape[0], -1, *per_channel[2:]) * xhat.abs().clamp(min=1)
    allowed = allowed + rounding * affine.abs().max()
    index = int((error - allowed).argmax())
    found, bound = float(error.flatten()[index]), float(allowed.flatten()[index])
    return NormCheck(part.name, form, on, farthest, found, bound)


def nearest(checks: Sequence[NormCheck]) -> list[NormCheck]:
    """Of each norm the check that comes nearest to what is allowed, or exceeds it most."""
    of_norm: dict[str, list[NormCheck]] = {}
    for one in checks:
        of_norm.setdefault(one.name, []).append(one)
    return [max(several, key=lambda one: one.closeness) for several in of_norm.values()]
