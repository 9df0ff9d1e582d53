"""Batch renormalization (Ioffe 2017, arXiv 1702.03275)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from groupnorm.layers.base import FxLeaf
from groupnorm.layers.batch_norm import (
    check_input,
    evaluate,
    normalize_workers,
    train_on_nothing,
    update_running,
)
from groupnorm.ops.group_norm.memory import shape_of, traced
from groupnorm.ops.per_channel import in_statistics_dtype, per_channel, scale_and_shift


class BatchRenorm(FxLeaf, _BatchNorm):
    """Batch normalization corrected towards its running statistics (Ioffe 2017, Algorithm 1).

    In training, with mean m and standard deviation s of the batch (biased, eps inside the root),
    and mean M and standard deviation S from the running statistics before this step::

        y = ((x - m) / s * r + d) * weight + bias
        r = clip(s / S, 1 / r_max, r_max)       d = clip((m - M) / S, -d_max, d_max)

    r and d are constants to autograd. While neither is clipped, y is what evaluation gives. With
    r_max = 1 and d_max = 0 it is batch norm. In evaluation it is plain batch norm. The defaults of
    r_max and d_max are those of Wu & He 2018, section 4.1; Ioffe has 3 and 5, with
    ramp_steps = 40,000 (`renorm_limits`).

    Statistics belong to the images of one worker, and the running ones are those of `BatchNorm`, in
    value and key: each worker's images (or rows, within `rows_per_worker`) have their own m, s, r
    and d, all corrected towards the same running statistics, the mean over the workers of mean and
    unbiased variance.
    (Ioffe averages the standard deviation, with momentum 0.01.) In several processes each one has
    running statistics of its own, as `torch.nn.BatchNorm2d` does.

    Input (N, C, *) with up to three spatial axes; output in the same shape, dtype and memory
    format; half input is computed in float32. The gradient cannot be differentiated again in all
    layouts.

    Args:
        num_features: C, and eps, momentum, affine and batch_per_worker as in `BatchNorm`.
        r_max: largest r; at least 1.
        d_max: largest absolute d.
        ramp_steps: the step at which r_max and d_max are reached; 0 for the first.

    Raises:
        ValueError: r_max below 1, negative d_max or ramp_steps, batch_per_worker below 1; in
            forward as `BatchNorm`.
    """

    r_max: float = 1.5
    d_max: float = 0.5
    ramp_steps: int = 0
    batch_per_worker: int | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        r_max: float = 1.5,
        d_max: float = 0.5,
        ramp_steps: int = 0,
        batch_per_worker: int | None = None,
    ) -> None:
        if batch_per_worker is not None and batch_per_worker < 1:
            raise ValueError(f"batch_per_worker must be at least 1, got {batch_per_worker}")
        if not (r_max >= 1 and d_max >= 0 and ramp_steps >= 0):
            raise ValueError(
                "r_max must be at least 1, d_max and ramp_steps at least 0, got "
                f"r_max={r_max}, d_max={d_max}, ramp_steps={ramp_steps}"
            )
        super().__init__(num_features, eps, momentum, affine, True, device, dtype)
        self.r_max = r_max
        self.d_max = d_max
        self.ramp_steps = ramp_steps
        self.batch_per_worker = batch_per_worker

    def forward(self, input: Tensor) -> Tensor:
        """Renormalized input, in the same shape, dtype and memory format."""
        check_input(self, input)
        if not self.training:
            return evaluate(self, input)
        if shape_of(input).numel() == 0:
            return train_on_nothing(self, input)
        x = in_statistics_dtype(input)
        found = normalize_workers(self, x, None, None, self.batch_per_worker)
        r, d = self._corrections(found.mean, found.var)
        update_running(self, found)
        x = _for_each_worker(found.output, found.rows, r, d)
        return scale_and_shift(x, self.weight, self.bias).to(input.dtype)

    def _corrections(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """r and d (K, C) of the chunks with means and biased variances (K, C)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        running_std = torch.sqrt(self.running_var.to(var.dtype) + self.eps)
        r_limit, d_limit = renorm_limits(
            self.num_batches_tracked, self.r_max, self.d_max, self.ramp_steps
        )
        r = torch.sqrt(var + self.eps) / running_std
        d = (mean - self.running_mean.to(mean.dtype)) / running_std
        return r.clamp(1 / r_limit, r_limit), d.clamp(-d_limit, d_limit)

    def extra_repr(self) -> str:
        """Torch's fields, the limits and batch_per_worker."""
        torchs: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return (
            f"{torchs}, r_max={self.r_max}, d_max={self.d_max}, ramp_steps={self.ramp_steps}, "
            f"batch_per_worker={self.batch_per_worker}"
        )


def renorm_limits(
    step: Tensor, r_max: float, d_max: float, ramp_steps: int
) -> tuple[Tensor, Tensor]:
    """The limits of r and d after `step` training steps, in float64 (Ioffe 2017, section 4).

    Batch norm (r 1, d 0) for the first eighth of the ramp; from there d grows in a line to d_max at
    five eighths of it and r to r_max at its end. ramp_steps = 40,000 gives the paper's: 5,000 steps
    of batch norm, d up to 5 at 25,000 steps, r up to 3 at 40,000.
    """
    step = step.double()
    if ramp_steps == 0:
        return torch.full_like(step, r_max), torch.full_like(step, d_max)
    begun = step - ramp_steps / 8
    of_r = (begun / (ramp_steps * 7 / 8)).clamp(0, 1)
    of_d = (begun / (ramp_steps / 2)).clamp(0, 1)
    return 1 + (r_max - 1) * of_r, d_max * of_d


def _for_each_worker(x: Tensor, rows: int | Tensor, r: Tensor, d: Tensor) -> Tensor:
    """x * r + d for x (N, C, *) and values (K, C) of K workers, who have `rows` rows of x each."""
    if not traced() and r.shape[0] == 1:
        return x * per_channel(r[0], x) + per_channel(d[0], x)
    shape = (x.shape[0], x.shape[1], *[1] * (x.dim() - 2))
    r, d = (values.repeat_interleave(rows, 0).view(shape).to(x.dtype) for values in (r, d))
    return x * r + d
