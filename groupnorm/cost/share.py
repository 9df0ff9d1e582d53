"""The share of a training step's time that its normalization layers take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.layers import norm_modules


class NormTimes:
    """Times the normalization layers of a model by hooks, which go when the block ends.

    Forward: from the start of a norm's `forward` to its end. Backward: every node that its
    `forward` added to the graph of autograd. An activation that a norm brings (`frn`,
    `evonorm_s0`) or that is fused into it is part of its time; one of a module of its own is not.
    On CUDA the device is waited for at each mark, which takes away what overlaps.

    Args:
        watch: time the norms too; without, the passes alone and with no hook in their way.
    """

    def __init__(self, model: nn.Module, device: torch.device, watch: bool = True) -> None:
        self._norms = [module for _, module in norm_modules(model)] if watch else []
        self._device = device
        self._handles: list[Any] = []
        self._started = 0.0
        self._total = {"forward": 0.0, "backward": 0.0}
        self._in_norms = {"forward": 0.0, "backward": 0.0}

    def __enter__(self) -> NormTimes:
        for module in self._norms:
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time the forward pass inside the block."""
        with self._timed("forward"):
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Time the backward pass inside the block."""
        with self._timed("backward"):
            yield

    def seconds(self) -> dict[str, float]:
        """The time so far, by "forward" and "backward"."""
        return dict(self._total)

    def shares(self) -> dict[str, float]:
        """`norm_share`, `norm_share_forward` and `norm_share_backward`, between 0 and 1."""
        both = sum(self._in_norms.values()) / sum(self._total.values())
        each = {f"norm_share_{key}": self._in_norms[key] / self._total[key] for key in self._total}
        return {"norm_share": both, **each}

    @contextmanager
    def _timed(self, key: str) -> Iterator[None]:
        started = self._now()
        yield
        self._total[key] += self._now() - started

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._started = self._now()

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._in_norms["forward"] += self._now() - self._started
        outside = {value.grad_fn for value in inputs if isinstance(value, Tensor)}
        for node in _nodes(output.grad_fn, outside):
            node.register_prehook(self._before_node)
            node.register_hook(self._after_node)

    def _before_node(self, grads: Any) -> None:
        self._started = self._now()

    def _after_node(self, grads: Any, more: Any) -> None:
        self._in_norms["backward"] += self._now() - self._started


def _nodes(last: Any, outside: set[Any]) -> list[Any]:
    """The nodes of the graph from `last` back to those in `outside`; none that sums gradients."""
    found, waiting = [], [last]
    seen = set(outside) | {None}
    while waiting:
        node = waiting.pop()
        if node in seen or hasattr(node, "variable"):  # AccumulateGrad of a parameter
            continue
        seen.add(node)
        found.append(node)
        waiting += [following for following, _ in node.next_functions]
    return found
