"""Batch normalization of every chunk of a batch on its own, in one call.

Letters: K chunks of `images` images, C channels, S positions, M = images * S values per channel and
chunk. Five ways to the same numbers; statistics are never E[x^2] - E[x]^2 of raw values.

- plain memory on the CPU: the C++ kernels.
- contiguous on the CPU: the statistics of every row (image, channel) come from PyTorch's group
  norm, whose two readings of a row stay in the cache, and are merged into the chunks' (Chan et
  al. 1979). Faster than PyTorch's batch norm, whose statistics are a serial recurrence.
- channels_last on the CPU: plain passes over (K, M, C). PyTorch's batch norm adds up a channel one
  position after the other there, and was off by 1e-4 and more in float32 with 200,000 of them.
- compiled or transformed (`torch.func`, forward mode) on the CPU, or traced: plain operations.
- everything else: PyTorch's batch norm with the chunks laid side by side as K * C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.memory import all_plain, check_memory, traced, transformed
from groupnorm.ops.group_norm.native.launch import (
    launch_batch_norm,
    launch_batch_norm_backward,
    why_off,
)
from groupnorm.ops.per_channel import in_statistics_dtype, parameters_for

# Below this many positions a row is too short to pay for its own statistics (measured at 6x6, 4x4).
_SHORTEST_ROW = 32


class Running(NamedTuple):
    """Running statistics that a batch moves.

    Attributes:
        mean: (C,), moves towards the mean over the chunks of their means.
        var: (C,), towards that of their unbiased variances.
        weight: of what they move towards, 0 to 1.
    """

    mean: Tensor
    var: Tensor
    weight: float


def chunked_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    images: int,
    running: Running | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize every `images` consecutive images with their own mean and biased variance.

    Args:
        input: (N, C, *), N a multiple of `images`.
        weight: scale (C,), or None for 1.
        bias: shift (C,), or None for 0.
        eps: added to the biased variance inside the root.
        running: moved in place.

    Returns:
        The output in the input's shape, dtype and memory format; the chunks' means and biased
        variances, (K, C), float32 (float64 for float64), which are constants to autograd.

    Raises:
        ValueError: N is no multiple of `images`.
    """
    if not traced() and input.shape[0] % images:
        raise ValueError(f"expected a multiple of {images} images, got {input.shape[0]}")
    if _kernels_take(input, weight, bias, running):
        return _by_kernels(input, weight, bias, eps, images, running)
    weight, bias = parameters_for(input, weight, bias)
    x, way = input, _side_by_side
    if input.device.type == "cpu" or traced():
        x = in_statistics_dtype(input)
        if torch.compiler.is_compiling() or transformed():
            way = _by_operations
        elif x.is_contiguous() and x[0, 0].numel() >= _SHORTEST_ROW:
            way = _Rows.apply
        elif _is_channels_last(x):
            way = _ChannelsLast.apply
    y, mean, var = way(x, weight, bias, eps, images)
    if running is not None:
        move_running(running, mean, var, images * input[0, 0].numel())
    return y.to(input.dtype), mean, var


@torch.no_grad()
def move_running(running: Running, mean: Tensor, var: Tensor, values: int | Tensor) -> None:
    """Move running statistics in place.

    Args:
        mean: of the K chunks (K, C), and `var`, biased, alike.
        values: per channel of each chunk: one number for all, or a tensor (K,).
    """
    if isinstance(values, Tensor) and values.dim() > 0:  # a traced number is a tensor, too
        values = values.to(var.dtype).unsqueeze(1)
        unbiased = (var * (values / (values - 1))).mean(0)
    else:
        unbiased = var.mean(0) * (values / (values - 1))
    running.mean.lerp_(mean.mean(0).to(running.mean.dtype), running.weight)
    running.var.lerp_(unbiased.to(running.var.dtype), running.weight)


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


def _kernels_take(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None
) -> bool:
    """Whether all of it is memory that kernels may read and write, and nothing else looks on."""
    every = (input, weight, bias, *(running or ())[:2])
    return (
        not torch.compiler.is_compiling()
        and _on_cpu(*every)
        and input.dtype in _KERNEL_DTYPES
        and not transformed()
        and input.numel() > 0
        and not torch._C._len_torch_dispatch_stack()
        and all_plain(*every)
        and not why_off
    )


def _on_cpu(*tensors: Tensor | None) -> bool:
    return all(tensor is None or tensor.is_cpu for tensor in tensors)


_KERNEL_DTYPES = {torch.float32, torch.float64, torch.bfloat16, torch.float16}


def _by_kernels(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    images: int,
    running: Running | None,
) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias = parameters_for(input, weight, bias)
    if torch.is_grad_enabled():
        y, statistics, var = _Kernels.apply(input, weight, bias, eps, images, running)
    else:
        y, statistics, var = _kernels_forward(input, weight, bias, eps, images, running)
    return y, statistics[0], var


def _kernels_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    images: int,
    running: Running | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output; the chunks' means and rstd (2, K, C); biased variances (K, C); moves `running`."""
    found = launch_batch_norm(input, weight, bias, eps, images)
    if found is None:
        y, statistics = _forward_by_reference(input, weight, bias, eps, images)
    else:
        y, statistics = found
    if running is not None:
        move_running(running, statistics[0], statistics[2], images * input[0, 0].numel())
    return y, statistics[:2], statistics[2]


def _forward_by_reference(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, images: int
) -> tuple[Tensor, Tensor]:
    y, mean, rstd = reference.forward(_as_chunks(input, images), input.shape[1], weight, bias, eps)
    var = (rstd.pow(-2) - eps).clamp_min(0)
    return _from_chunks(y, input, images), torch.stack([mean, rstd, var])


def _backward_by_reference(
    grad_output: Tensor, input: Tensor, weight: Tensor | None, eps: float, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiable; in float32 the statistics are those of the reference."""
    check_memory(grad_output, input, weight)
    x, g = _as_chunks(input, images), _as_chunks(grad_output, images)
    channels = input.shape[1]
    _, mean, rstd = reference.forward(x, channels, weight, None, eps)
    dx, dweight, dbias, _ = reference.backward(g, x, channels, weight, None, mean, rstd)
    return _from_chunks(dx, input, images), dweight, dbias


def _as_chunks(x: Tensor, images: int) -> Tensor:
    """(N, C, *) -> (K, C, M), of which a channel of a chunk is a group."""
    n, c = x.shape[:2]
    return x.reshape(n // images, images, c, -1).transpose(1, 2).reshape(n // images, c, -1)


def _from_chunks(y: Tensor, like: Tensor, images: int) -> Tensor:
    """(K, C, M) -> the shape and layout of `like`."""
    y = y.reshape(len(y), like.shape[1], images, -1).transpose(1, 2).reshape(like.shape)
    # not by memory format, which vmap does not know
    return y.movedim(1, -1).contiguous().movedim(-1, 1) if _is_channels_last(like) else y


class _Kernels(torch.autograd.Function):
    """The C++ kernels on an input in any layout."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        input, weight, bias, eps, images, running = inputs
        y, statistics, var = _kernels_forward(input, weight, bias, eps, images, running)
        statistics = statistics.clone()  # else the variances would be kept with them
        ctx.save_for_backward(input, weight, statistics)
        ctx.eps, ctx.images = eps, images
        ctx.mark_non_differentiable(statistics, var)
        ctx.set_materialize_grads(False)
        return y, statistics, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * 6
        input, weight, statistics = ctx.saved_tensors
        found = None
        if (
            not torch.is_grad_enabled()
            and not transformed()
            and not torch._C._len_torch_dispatch_stack()
            and _on_cpu(grad_output, input, weight, statistics)
            and all_plain(grad_output, input, weight, statistics)
        ):
            found = launch_batch_norm_backward(grad_output, input, weight, statistics, ctx.images)
        if found is None:
            found = _backward_by_reference(grad_output, input, weight, ctx.eps, ctx.images)
        return (*found, None, None, None)


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


def _by_operations(
    input: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What compilers fuse and transforms know. The layout is kept without being asked for."""
    x = input.reshape(input.shape[0] // images, images, *input.shape[1:])
    axes = (1, *range(3, x.dim()))
    per_channel = (1, 1, -1, *[1] * (x.dim() - 3))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    var = centred.square().mean(axes, keepdim=True)
    y = centred * torch.rsqrt(var + eps) * weight.view(per_channel) + bias.view(per_channel)
    chunks, channels = x.shape[0], x.shape[2]
    mean, var = (each.detach().view(chunks, channels) for each in (mean, var))
    return y.flatten(0, 1), mean, var


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
