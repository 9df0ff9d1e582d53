"""What the group norms of a network get while it runs: the example's input, and the worst one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.conversion.example import first_input
from groupnorm.export.forms import GroupNormForm, PooledGroupNorm
from groupnorm.export.moments import group_moments, group_offsets
from groupnorm.ops.group_norm import reference

_Call = tuple[int, Tensor]  # which call of a run it is, from 0, and the input


@dataclass
class RecordedInputs:
    """The inputs of one norm, of those that are finite.

    Attributes:
        norm: the module.
        usual: of its first call in the first run, that on the example.
        worst: the one whose groups lie farthest from zero, in units of their spread.
        ratio: of the worst, |mean| / sqrt(variance + eps).
        shapes: of each run, of each call.
    """

    norm: GroupNormForm
    usual: _Call | None = None
    worst: _Call | None = None
    ratio: float = -1.0
    shapes: list[list[tuple[int, ...]]] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        """Add the input of a call in the present run."""
        call = len(self.shapes[-1])
        self.shapes[-1].append(tuple(x.shape))
        if not bool(x.isfinite().all()):
            return
        ratio = float(ratios(x, self.norm).max())
        usual = self.usual is None and len(self.shapes) == 1
        if not usual and ratio <= self.ratio:
            return
        found = (call, x.detach().clone(memory_format=torch.contiguous_format))
        if usual:
            self.usual = found
        if ratio > self.ratio:
            self.worst, self.ratio = found, ratio

    def changing(self, call: int) -> tuple[int, ...]:
        """The axes whose size was not the same in all runs."""
        shapes = [run[call] for run in self.shapes if call < len(run)]
        ranks = {len(shape) for shape in shapes}
        axes = range(min(ranks)) if len(ranks) == 1 else ()
        return tuple(axis for axis in axes if len({shape[axis] for shape in shapes}) > 1)


class NormRecorder:
    """Records what the norms of a network get.

    Attributes:
        recorded: name -> inputs, of the norms that ran, in the order in which they did.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, GroupNormForm)
        }
        self.recorded: dict[str, RecordedInputs] = {}
        self._runs = 0

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Within this context the network is run once; on the example at first."""
        self._runs += 1
        handles = [
            norm.register_forward_pre_hook(self._hook(name), with_kwargs=True)
            for name, norm in self._norms.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def note(norm: GroupNormForm, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            x = first_input(args, named)
            if x is None or x.numel() == 0:
                return
            of_norm = self.recorded.setdefault(name, RecordedInputs(norm))
            while len(of_norm.shapes) < self._runs:
                of_norm.shapes.append([])
            of_norm.add(x)

        return note


def ratios(x: Tensor, norm: GroupNormForm) -> Tensor:
    """|mean| / sqrt(var + eps) of each group (N, G) of x (N, C, *), in float64."""
    return group_offsets(*group_moments(x, norm.num_groups), eps_of(norm))


def normalized(x: Tensor, norm: GroupNormForm) -> Tensor:
    """(x - mean) / sqrt(var + eps) of each group, in float64, of x's shape."""
    eps: Any = eps_of(norm).view(-1, *[1] * (x.dim() - 1))
    return reference.forward(x.double(), norm.num_groups, eps=eps)[0]


def eps_of(norm: GroupNormForm) -> Tensor:
    """The eps of each group in float64, (G,)."""
    each = norm.eps_of_groups if isinstance(norm, PooledGroupNorm) else None
    return torch.tensor(each or [norm.eps] * norm.num_groups, dtype=torch.float64)
