"""Precise-BN: population statistics of a trained network in place of its running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groupnorm.layers.batch_norm import BatchNorm, unbiasing


@dataclass
class _Pool:
    """Sums over chunks, in float64: of means, squared means and biased variances."""

    chunks: int
    values: int
    mean: Tensor
    square: Tensor
    var: Tensor


@contextmanager
def recomputed_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Within this context the model's batch norms hold statistics recomputed over `batches`.

    The model runs in training mode under fixed weights: every batch norm normalizes each worker's
    chunk with that chunk's statistics, as it did in training. The chunks are pooled by the law of
    total variance: the mean of their variances plus the variance of their means, over all values
    seen (Wu & Johnson, arXiv 2105.07576, section 3). On leaving, running statistics, counters and
    training flags are as before.

    Args:
        model: network with `groupnorm.layers.BatchNorm` layers.
        batches: inputs of the model, each a multiple of `batch_per_worker` images.

    Raises:
        ValueError: `batches` is empty, or the model has no batch norm.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    if not layers:
        raise ValueError("the model has no batch norm layer whose statistics could be recomputed")
    flags = [(module, module.training) for module in model.modules()]
    before = [
        [buffer.clone() for buffer in (m.running_mean, m.running_var, m.num_batches_tracked)]
        for m in layers
    ]
    pools: dict[nn.Module, _Pool] = {}

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, BatchNorm)
        _, mean, var = layer.normalize(inputs[0])
        mean, var = mean.double(), var.double()
        values = layer.chunk_values(inputs[0])
        pool = pools.setdefault(layer, _Pool(0, values, *(torch.zeros_like(mean[0]),) * 3))
        if pool.values != values:
            raise ValueError(
                f"every chunk must hold equally many values, got {values} after {pool.values}"
            )
        pool.chunks += len(mean)
        pool.mean = pool.mean + mean.sum(0)
        pool.square = pool.square + mean.square().sum(0)
        pool.var = pool.var + var.sum(0)

    handles = [layer.register_forward_hook(collect) for layer in layers]
    try:
        model.train()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        for handle in handles:
            handle.remove()
        if not pools:
            raise ValueError("no batches were given to recompute the statistics from")
        for layer in layers:
            if layer in pools:
                mean, var = _population(pools[layer])
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(var)
        _restore(flags)
        yield
    finally:
        for handle in handles:
            handle.remove()
        _restore(flags)
        for layer, (mean, var, count) in zip(layers, before, strict=True):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
            layer.num_batches_tracked.copy_(count)


def _population(pool: _Pool) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of all values of all chunks."""
    mean = pool.mean / pool.chunks
    between = (pool.square / pool.chunks - mean.square()).clamp_min(0)
    within = pool.var / pool.chunks
    return mean, (within + between) * unbiasing(pool.values * pool.chunks)


def _restore(flags: list[tuple[nn.Module, bool]]) -> None:
    for module, training in flags:
        module.training = training
