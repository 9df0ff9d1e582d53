"""Precise-BN: population statistics of a trained network in place of its running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from groupnorm.ops.batch_norm import chunked_batch_norm


@dataclass
class _Pool:
    """Values seen per channel, their mean and the sum of squares about it (C,), in float64."""

    values: int
    mean: Tensor
    about_mean: Tensor

    def add(self, values: int, mean: Tensor, about_mean: Tensor) -> None:
        """Merge another set of values into this one (Chan et al. 1979)."""
        total = self.values + values
        apart = mean - self.mean
        self.mean = self.mean + apart * (values / total)
        self.about_mean = self.about_mean + about_mean + apart**2 * (self.values * values / total)
        self.values = total


@contextmanager
def recomputed_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Within this context the model's batch norms hold statistics recomputed over `batches`.

    The model runs in training mode under fixed weights and fixed running statistics, which batch
    renormalization corrects towards. So every batch norm normalizes each worker's chunk with that
    chunk's statistics, as it did in training. All values that a layer
    sees, over all chunks and batches, are pooled: their mean, and their unbiased variance, which
    is the mean variance within the chunks plus the variance of the chunks' means (Wu & Johnson
    2021, arXiv 2105.07576, section 3). On leaving, also by an exception, running statistics,
    counters and training flags are as before; the weights are never touched.

    Args:
        model: network with batch norm layers, of this package or of PyTorch. A layer that does not
            run keeps its running statistics.
        batches: inputs of the model, each a multiple of `batch_per_worker` images.

    Raises:
        ValueError: `batches` is empty, or the model has no batch norm with running statistics.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        raise ValueError("the model has no batch norm layer whose statistics could be recomputed")
    flags = [(module, module.training) for module in model.modules()]
    before = [[buffer.clone() for buffer in layer.buffers(recurse=False)] for layer in layers]
    pools: dict[nn.Module, _Pool] = {}

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.numel() == 0:
            return
        _, mean, var = chunked_batch_norm(x, None, None, 1e-5, x.shape[0])
        values = x.numel() // x.shape[1]
        mean, about_mean = mean[0].double(), var[0].double() * values
        if layer in pools:
            pools[layer].add(values, mean, about_mean)
        else:
            pools[layer] = _Pool(values, mean, about_mean)

    handles = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        model.train()
        with torch.no_grad():
            for batch in batches:
                model(batch)
                _put_back(layers, before)
        if not pools:
            raise ValueError("no batches were given to recompute the statistics from")
        _remove(handles)
        _restore(flags, layers, before)
        for layer, pool in pools.items():
            _set(layer.running_mean, pool.mean)
            _set(layer.running_var, pool.about_mean / max(pool.values - 1, 1))
        yield
    finally:
        _remove(handles)
        _restore(flags, layers, before)


def recompute_statistics(model: nn.Module, batches: Iterable[Tensor]) -> list[str]:
    """Give a model's batch norms statistics recomputed over `batches`, for good.

    As `recomputed_statistics`, whose values stay. Useful before a conversion, which goes by the
    stored statistics: running ones lag behind the weights, and belong to other images after a
    change of task.

    Args:
        model: and batches: as in `recomputed_statistics`.

    Returns:
        The names of the layers that have new statistics, in the model's order. Those that did not
        run keep theirs.

    Raises:
        ValueError: as `recomputed_statistics`.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    ran: set[nn.Module] = set()
    handles = [m.register_forward_pre_hook(lambda m, _: ran.add(m)) for m in layers.values()]
    try:
        with recomputed_statistics(model, batches):
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


def _restore(
    flags: list[tuple[nn.Module, bool]], layers: list[_BatchNorm], before: list[list[Tensor]]
) -> None:
    for module, training in flags:
        module.training = training
    _put_back(layers, before)


def _put_back(layers: list[_BatchNorm], before: list[list[Tensor]]) -> None:
    for layer, buffers in zip(layers, before, strict=True):
        for buffer, value in zip(layer.buffers(recurse=False), buffers, strict=True):
            _set(buffer, value)


def _set(buffer: object, value: Tensor) -> None:
    assert isinstance(buffer, Tensor)
    with torch.no_grad():
        buffer.copy_(value)
