"""Precise-BN: population statistics of a trained network in place of its running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from groupnorm.conversion.example import (
    Forward,
    check_batches,
    check_not_compiled,
    first_input,
    input_of,
    kept_generators,
    kept_modes,
)
from groupnorm.conversion.pooled import Pooled, add_to
from groupnorm.ops.batch_norm import chunked_batch_norm

_Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


@contextmanager
def recomputed_statistics(
    model: nn.Module, batches: Iterable[Any], forward: Forward | None = None
) -> Iterator[None]:
    """Within this context the model's batch norms hold statistics recomputed over `batches`.

    The model runs in training mode under fixed weights and fixed running statistics, which batch
    renormalization corrects towards. So every batch norm normalizes each worker's chunk with that
    chunk's statistics, as it did in training. All values that a layer
    sees, over all chunks and batches, are pooled: their mean, and their unbiased variance, which
    is the mean variance within the chunks plus the variance of the chunks' means (Wu & Johnson
    2021, arXiv 2105.07576, section 3). On leaving, also by an exception, all buffers and training
    flags are as before; the weights and the global generators are never touched.

    Args:
        model: network with batch norm layers, of this package or of PyTorch. A layer that does not
            run keeps its running statistics.
        batches: inputs of the model, each a multiple of `batch_per_worker` images: tensors, or
            lists or tuples that begin with one, as data loaders yield them.
        forward: runs the model on a batch of another kind: `lambda model, batch: ...`.

    Raises:
        ValueError: `batches` is empty, or the model has no batch norm with running statistics or is
            compiled.
        TypeError: `batches` are one tensor, or a batch needs `forward`.
    """
    check_batches(batches)
    check_not_compiled(model)
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        raise ValueError("the model has no batch norm layer whose statistics could be recomputed")
    before = _buffers(model)
    pools: dict[nn.Module, Pooled] = {}

    def collect(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = first_input(inputs, named)
        if x is None or x.numel() == 0:
            return
        _, mean, var = chunked_batch_norm(x, None, None, 1e-5, x.shape[0])
        values = x.numel() // x.shape[1]
        add_to(pools, layer, Pooled(values, mean.double(), var.double()[None] * values))

    handles = [layer.register_forward_pre_hook(collect, with_kwargs=True) for layer in layers]
    try:
        try:
            with kept_modes(model), kept_generators(model), torch.no_grad():
                model.train()
                for batch in batches:
                    if forward is None:
                        model(input_of(batch))
                    else:
                        forward(model, batch)
                    _put_back(before)
        finally:
            _remove(handles)
        if not pools:
            raise ValueError("no batches were given to recompute the statistics from")
        for layer, pool in pools.items():
            _set(layer.running_mean, pool.mean[0])
            _set(layer.running_var, pool.about_mean[0, 0] / max(pool.values - 1, 1))
        yield
    finally:
        _put_back(before)


def recompute_statistics(
    model: nn.Module, batches: Iterable[Any], forward: Forward | None = None
) -> list[str]:
    """Give a model's batch norms statistics recomputed over `batches`, for good.

    As `recomputed_statistics`, whose values stay. Useful before a conversion, which goes by the
    stored statistics: running ones lag behind the weights, and belong to other images after a
    change of task.

    Args:
        model: and batches, forward: as in `recomputed_statistics`.

    Returns:
        The names of the layers that have new statistics, in the model's order. Those that did not
        run keep theirs.

    Raises:
        ValueError, TypeError: as `recomputed_statistics`.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    ran: set[nn.Module] = set()
    handles = [m.register_forward_pre_hook(lambda m, _: ran.add(m)) for m in layers.values()]
    try:
        with recomputed_statistics(model, batches, forward):
            new = {
                name: (layer.running_mean.clone(), layer.running_var.clone())
                for name, layer in layers.items()
                if layer in ran and layer.running_mean is not None and layer.running_var is not None
            }
    finally:
        _remove(handles)
    for name, values in new.items():
        for buffer, value in zip(
            (layers[name].running_mean, layers[name].running_var), values, strict=True
        ):
            _set(buffer, value)
    return list(new)


def _remove(handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _buffers(model: nn.Module) -> _Buffers:
    """Each buffer of the network: its module, name, tensor and values."""
    return [
        (module, key, buffer, buffer.clone())
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if buffer is not None
    ]


def _put_back(buffers: _Buffers) -> None:
    for module, key, buffer, values in buffers:
        _set(buffer, values)
        module._buffers[key] = buffer


def _set(buffer: object, value: Tensor) -> None:
    assert isinstance(buffer, Tensor)
    with torch.no_grad():
        buffer.copy_(value)
