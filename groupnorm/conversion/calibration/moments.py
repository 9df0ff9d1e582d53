"""What the fit of one norm needs of its data: five moments for each sample and channel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from groupnorm.conversion.finite import NotFiniteError

_SHORTEST = 4  # side of a map that is cut
_CACHED_VALUES = 1 << 16  # of a part of the input, which then stays in a core's cache


@dataclass(frozen=True)
class LayerMoments:
    """Moments over the positions of each sample (N, C), in float64.

    x is the input of the student's norm and y the output of the teacher's. Every moment of
    n = (a x + d - m) / S, where m and S belong to a sample and a group, follows from these five,
    and so does its covariance with y. Each row counts the same, whatever the size of its map.

    Attributes:
        mean_x: mean of x over the positions.
        var_x: biased variance of x over the positions.
        mean_y: and `var_y`, the same of y.
        cov_xy: biased covariance of x and y over the positions.
    """

    mean_x: Tensor
    var_x: Tensor
    mean_y: Tensor
    var_y: Tensor
    cov_xy: Tensor

    @property
    def samples(self) -> int:
        """N, the number of rows."""
        return self.mean_x.shape[0]

    @property
    def channels(self) -> int:
        """C."""
        return self.mean_x.shape[1]

    def reordered(self, order: Tensor) -> LayerMoments:
        """With the channels in another order: (C,), the channel that comes to each place."""
        return LayerMoments(*(getattr(self, field.name)[:, order] for field in fields(self)))

    def joined(self, other: LayerMoments) -> LayerMoments:
        """With the rows of others behind these."""
        return LayerMoments(
            *(
                torch.cat([getattr(self, field.name), getattr(other, field.name)])
                for field in fields(self)
            )
        )


class MomentAccumulator:
    """Collects `LayerMoments` batch by batch; holds 5 N C numbers of float64 and no activation.

    All are taken in float64, about the mean of each row, so that large means do not cancel.
    """

    def __init__(self) -> None:
        self._batches: list[LayerMoments] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the samples of a batch, or of one of several uses of a norm in a forward pass.

        Args:
            x: input of the student's norm (N, C, *), any float dtype and device.
            y: output of the teacher's norm, of the same shape.

        Raises:
            ValueError: shapes differ, have no channels or no positions, or differ in channels from
                earlier batches.
            NotFiniteError: a value is infinite or NaN.
        """
        if x.shape != y.shape or x.dim() < 2:
            raise ValueError(
                "x and y must have one shape (N, C, *), the student's and the teacher's, got "
                f"{tuple(x.shape)} and {tuple(y.shape)}"
            )
        if self._batches and x.shape[1] != self._batches[0].channels:
            raise ValueError(
                f"earlier batches had {self._batches[0].channels} channels, this one has "
                f"{x.shape[1]}"
            )
        if x[0:1].numel() == 0:
            if x.shape[0] == 0:
                return
            raise ValueError(f"x has no values in a sample, its shape is {tuple(x.shape)}")
        batch = _moments(x.detach(), y.detach())
        for what, moment in (
            ("input of the norm in the converted network", batch.var_x),
            ("output of the norm in the network", batch.var_y),
        ):
            if not bool(moment.isfinite().all()):
                raise NotFiniteError(
                    f"the {what} has values that are infinite, NaN or too large to square: check "
                    "the data, how they are normalized, and the network on them"
                )
        self._batches.append(batch)

    def moments(self) -> LayerMoments:
        """The moments of all rows so far, in the order in which they came.

        Raises:
            ValueError: nothing was added.
        """
        if not self._batches:
            raise ValueError("no samples were added: the norm never ran, or no batch was given")
        self._batches = [
            LayerMoments(
                *(
                    torch.cat([getattr(batch, field.name) for batch in self._batches])
                    for field in fields(LayerMoments)
                )
            )
        ]
        return self._batches[0]


def halves(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Indices of the halves of a map along each of its last two sides, if these have 4 values.

    Four quarters of a picture; none where no side is that long.
    """
    sides = [
        (slice(0, size // 2), slice(size // 2, size))
        if size >= _SHORTEST and axis >= len(shape) - 2
        else (slice(None),)
        for axis, size in enumerate(shape)
    ]
    if any(len(side) > 1 for side in sides):
        yield from itertools.product(*sides)


def _moments(x: Tensor, y: Tensor) -> LayerMoments:
    """In parts that stay in a core's cache, each twice in float64."""
    x, y = (t.flatten(2) if t.dim() > 2 else t.unsqueeze(2) for t in (x, y))
    n, c, positions = x.shape
    found = torch.empty(5, n, c, dtype=torch.float64, device=x.device)
    values = _CACHED_VALUES if x.device.type == "cpu" else x.numel()
    channels = min(max(values // positions, 1), c)
    samples = max(values // (positions * c), 1)
    for i in range(0, n, samples):
        for j in range(0, c, channels):
            part = slice(i, i + samples), slice(j, j + channels)
            part_x, part_y = x[part].double(), y[part].double()
            mean_x, mean_y = part_x.mean(2, keepdim=True), part_y.mean(2, keepdim=True)
            part_x, part_y = part_x - mean_x, part_y - mean_y
            products = [
                torch.linalg.vecdot(left, right) / positions
                for left, right in ((part_x, part_x), (part_y, part_y), (part_x, part_y))
            ]
            moments = (mean_x.squeeze(2), products[0], mean_y.squeeze(2), *products[1:])
            found[:, part[0], part[1]] = torch.stack(moments)
    return LayerMoments(*(moment.clone() for moment in found.cpu()))
