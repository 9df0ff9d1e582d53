"""Batch normalization of every chunk of a batch on its own, in one call.

Letters: K chunks of `images` images, C channels, S positions, M = images * S values per channel and
chunk. Four ways to the same numbers; statistics are never E[x^2] - E[x]^2 of raw values.

- contiguous on the CPU, more than one chunk, rows of middle length: PyTorch's group norm of the
  chunks, whose rows are copied side by side. Few operations, which take most of the time here.
- contiguous on the CPU, long rows: the statistics of every row (image, channel) come from
  PyTorch's group norm, whose two readings of a row stay in the cache, and are merged into the
  chunks' (Chan et al. 1979). Faster than PyTorch's batch norm, whose statistics are a serial
  recurrence.
- channels_last on the CPU, more than one chunk: plain passes over (K, M, C).
- everything else: PyTorch's batch norm with the chunks laid side by side as K * C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.ops.per_channel import in_statistics_dtype, parameters_for

# Positions of a row: from how many on the other ways cost less (measured at 6x6, 4x4 and 24x24,
# 48x48).
_MIDDLE_ROW, _LONG_ROW = 32, 1024


def chunked_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize every `images` consecutive images with their own mean and biased variance.

    Args:
        input: (N, C, *), N a multiple of `images`.
        weight: scale (C,), or None for 1.
        bias: shift (C,), or None for 0.
        eps: added to the biased variance inside the root.

    Returns:
        The output in the input's shape, dtype and memory format; the chunks' means and biased
        variances, (K, C), float32 (float64 for float64), which are constants to autograd.
    """
    weight, bias = parameters_for(input, weight, bias)
    x, way = input, _side_by_side
    if input.device.type == "cpu":
        x = in_statistics_dtype(input)
        if torch.compiler.is_compiling():
            pass
        elif x.is_contiguous() and x[0, 0].numel() >= _MIDDLE_ROW:
            joined = len(x) > images and x[0, 0].numel() < _LONG_ROW
            way = _Joined.apply if joined else _Rows.apply
        elif _is_channels_last(x) and len(x) > images:
            way = _ChannelsLast.apply
    y, mean, var = way(x, weight, bias, eps, images)
    return y.to(input.dtype), mean, var


def ragged_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, rows: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize parts of a batch, each of its own number of rows, with their own statistics.

    Args:
        input: (N, C, *), N at least 1, and weight, bias and eps as in `chunked_batch_norm`.
        rows: how many consecutive rows each part has; their sum is N. Parts without rows are left
            out.

    Returns:
        As `chunked_batch_norm`, with K the number of parts that have rows.
    """
    sizes = [count for count in rows if count > 0]
    if len(set(sizes)) == 1:
        return chunked_batch_norm(input, weight, bias, eps, sizes[0])
    parts = [chunked_batch_norm(x, weight, bias, eps, len(x)) for x in torch.split(input, sizes)]
    outputs, means, variances = zip(*parts, strict=True)
    y = torch.cat(outputs)
    if _is_channels_last(input):
        y = y.contiguous(memory_format=_CHANNELS_LAST[input.dim()])
    return y, torch.cat(means), torch.cat(variances)


def _side_by_side(
    input: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    n, c, *spatial = input.shape
    chunks = n // images
    mean, var = torch.zeros(2, chunks * c, dtype=weight.dtype, device=input.device)
    x = input
    if chunks > 1:
        x = input.reshape(chunks, images, c, *spatial).transpose(0, 1)
        x = x.reshape(images, chunks * c, *spatial)
    # momentum 1: the running statistics become this batch's, the variance unbiased.
    y = F.batch_norm(x, mean, var, weight.repeat(chunks), bias.repeat(chunks), True, 1.0, eps)
    if chunks > 1:
        y = y.reshape(images, chunks, c, *spatial).transpose(0, 1).reshape(input.shape)
        if _is_channels_last(input):
            y = y.contiguous(memory_format=_CHANNELS_LAST[input.dim()])
    values = x.numel() // (chunks * c)
    return y, mean.view(chunks, c), var.view(chunks, c) * ((values - 1) / values)


class _Joined(torch.autograd.Function):
    """Contiguous (N, C, *), copied as (K, C, M): a chunk is a sample, and a channel a group."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _joined(input, images)
        size = x.shape[0], x.shape[1], x[0, 0].numel(), x.shape[1]
        y, mean, rstd = torch.native_group_norm(x, weight, bias, *size, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.size = size
        var = (rstd.pow(-2) - eps).clamp_min_(0)
        ctx.mark_non_differentiable(mean, var)
        return _taken_apart(y, input), mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        _refuse_double_backward()
        x, weight, mean, rstd = ctx.saved_tensors
        g = _joined(grad_output, x.shape[2])
        dx, dw, db = torch.ops.aten.native_group_norm_backward(
            g, x, mean, rstd, weight, *ctx.size, [True, True, True]
        )
        return _taken_apart(dx, grad_output), dw, db, None, None


def _joined(x: Tensor, images: int) -> Tensor:
    """(N, C, *) as (K, C, images, S), contiguous."""
    return x.reshape(len(x) // images, images, x.shape[1], -1).transpose(1, 2).contiguous()


def _taken_apart(joined: Tensor, like: Tensor) -> Tensor:
    """The opposite of `_joined`, in the shape of another tensor; no view to autograd."""
    x = torch.empty(like.shape, dtype=joined.dtype, device=joined.device)
    chunks, channels, images, _ = joined.shape
    x.view(chunks, images, channels, -1).copy_(joined.transpose(1, 2))
    return x


class _Rows(torch.autograd.Function):
    """Contiguous (N, C, *), seen as N * C rows of S values."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, c = input.shape[:2]
        x = input.view(n, c, -1)
        size = x.shape[2]
        y, row_mean, row_rstd = torch.native_group_norm(x, None, None, n, c, size, c, eps)
        row_mean, row_rstd = row_mean.view(-1, images, c), row_rstd.view(-1, images, c)
        mean = row_mean.mean(1, keepdim=True)
        delta = row_mean - mean
        # biased variance of the chunk = mean of the rows' variances + variance of their means
        var = (row_rstd.pow(-2) - eps + delta * delta).mean(1, keepdim=True).clamp_min_(0)
        rstd = torch.rsqrt(var + eps)
        scale = rstd * weight
        # from rows normalized on their own to rows normalized with their chunk
        y.mul_((scale / row_rstd).view(n, c, 1)).add_((delta * scale + bias).view(n, c, 1))
        ctx.save_for_backward(input, weight, mean, rstd)
        ctx.images = images
        mean, var = mean.squeeze(1), var.squeeze(1)
        ctx.mark_non_differentiable(mean, var)
        # Not a view to autograd, so that the caller may change it in place.
        return torch.ops.aten._unsafe_view(y, input.shape), mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        _refuse_double_backward()
        input, weight, mean, rstd = ctx.saved_tensors
        n, c = input.shape[:2]
        images, chunks = ctx.images, n // ctx.images
        x = input.view(1, n * c, -1)
        g = grad_output.contiguous().view_as(x)
        if chunks == 1:
            x, g = x.view(n, c, -1), g.view(n, c, -1)
            dx, dw, db = _batch_norm_backward(g, x, weight, mean.view(c), rstd.view(c))
            return dx.view(input.shape), dw, db, None, None

        def rows(values: Tensor) -> Tensor:
            return values.expand(chunks, images, c).reshape(n * c)

        # PyTorch's kernel takes each row for a channel of its own. The sums it returns are right,
        # dx has the row's averages where the chunk's belong: add the difference.
        dx, dw, db = _batch_norm_backward(g, x, rows(weight), rows(mean), rows(rstd))
        dw, db = dw.view(chunks, images, c), db.view(chunks, images, c)
        chunk_dw, chunk_db = dw.sum(1, keepdim=True), db.sum(1, keepdim=True)
        size = x.shape[2]
        scale = rstd * weight
        of_x = (dw / size - chunk_dw / (images * size)) * (scale * rstd)
        constant = (db / size - chunk_db / (images * size)) * scale - of_x * mean
        dx.addcmul_(x, of_x.view(1, -1, 1)).add_(constant.view(1, -1, 1))
        return dx.view(input.shape), chunk_dw.sum((0, 1)), chunk_db.sum((0, 1)), None, None


class _ChannelsLast(torch.autograd.Function):
    """channels_last (N, C, H, W) or (N, C, T, H, W), seen as (K, M, C)."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _channels_last_rows(input, images)
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        y = torch.empty_like(input)
        y_rows = _channels_last_rows(y, images)
        var = torch.mul(centred, centred, out=y_rows).mean(1, keepdim=True)
        rstd = torch.rsqrt(var + eps)
        torch.addcmul(bias, centred, rstd * weight, out=y_rows)
        ctx.save_for_backward(centred, weight, rstd)
        mean, var = mean.squeeze(1), var.squeeze(1)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        _refuse_double_backward()
        centred, weight, rstd = ctx.saved_tensors
        chunks, values, _ = centred.shape
        layout = _CHANNELS_LAST[grad_output.dim()]
        grad_output = grad_output.contiguous(memory_format=layout)
        g = _channels_last_rows(grad_output, grad_output.shape[0] // chunks)
        dx = torch.empty_like(grad_output)
        dx_rows = _channels_last_rows(dx, grad_output.shape[0] // chunks)
        db = g.sum(1, keepdim=True)
        dw = torch.mul(g, centred, out=dx_rows).sum(1, keepdim=True) * rstd
        scale = rstd * weight
        torch.addcmul(scale * db / -values, g, scale, out=dx_rows)
        dx_rows.addcmul_(centred, scale * rstd * dw / -values)
        return dx, dw.sum((0, 1)), db.sum((0, 1)), None, None


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _is_channels_last(x: Tensor) -> bool:
    layout = _CHANNELS_LAST.get(x.dim())
    return layout is not None and not x.is_contiguous() and x.is_contiguous(memory_format=layout)


def _channels_last_rows(x: Tensor, images: int) -> Tensor:
    return x.movedim(1, -1).view(x.shape[0] // images, -1, x.shape[1])


def _refuse_double_backward() -> None:
    """Inside a backward, gradients are enabled when they are to be differentiated again."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "batch norm in training has no double backward here (create_graph=True); use "
            "torch.nn.BatchNorm2d where gradients of gradients are needed"
        )


def _batch_norm_backward(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's batch norm backward in training, for given statistics: dx, dweight, dbias."""
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        g, x, weight, None, None, mean, rstd, True, 0.0, [True, True, True]
    )
    return result
