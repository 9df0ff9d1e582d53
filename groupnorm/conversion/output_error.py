"""How far a converted network's outputs lie from what they were, over batches."""

from __future__ import annotations

from typing import Any

from groupnorm.conversion.example import floats_in
from groupnorm.conversion.pooled import Pooled, add_to


class OutputError:
    """The squared difference of outputs over the variance of those expected.

    The variance is that about the mean of each channel (dimension 1) of maps, or of each number.
    """

    def __init__(self) -> None:
        self._squared = 0.0
        self._pools: dict[int, Pooled] = {}
        self.comparable = True
        """Whether the outputs had the same shapes so far; lists of detections may not."""
        self.largest_difference = 0.0
        """Of a value, in outputs that can be compared."""
        self.largest_expected = 0.0
        """The largest magnitude of those expected."""

    def add(self, expected: Any, found: Any) -> None:
        """Add both networks' outputs on a batch, of tensors at any depth."""
        wanted, got = ([t for t in floats_in(output) if t.numel()] for output in (expected, found))
        self.comparable = self.comparable and [t.shape for t in wanted] == [t.shape for t in got]
        if not self.comparable:
            return
        for number, (want, have) in enumerate(zip(wanted, got, strict=True)):
            difference = have.double() - want.double()
            self._squared += float(difference.square().sum())
            self.largest_difference = max(self.largest_difference, float(difference.abs().max()))
            self.largest_expected = max(self.largest_expected, float(want.abs().max()))
            pooled = Pooled.of(want if want.dim() > 1 else want.reshape(-1, 1))
            if self._pools.get(number, pooled).mean.shape != pooled.mean.shape:
                self.comparable = False
                return
            add_to(self._pools, number, pooled)

    @property
    def value(self) -> float | None:
        """The error; None where outputs cannot be compared, or those expected do not vary."""
        total = sum(float(pooled.about_mean.sum()) for pooled in self._pools.values())
        return self._squared / total if self.comparable and total > 0 else None
