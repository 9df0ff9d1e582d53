"""The time of training steps: of the norms' share in one, and of several models in turns.

Whatever else the machine does meanwhile meets all models alike when they take turns. Steps that
are timed one model after the other, or beside other work, cannot be compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.layers import norm_modules

WATCHED_ROUNDS = 3
"""Rounds in which the norms are timed. The hooks for that make steps slower, so the times of whole
steps come from rounds without them."""
LEAST_ROUNDS = 5
MOST_ROUNDS = 12


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


def timed_step(model: nn.Module, images: Tensor, precision: str, times: NormTimes) -> None:
    """Forward and backward pass of the mean of a model's output; `times` takes the time."""
    model.zero_grad(set_to_none=True)
    with times.forward():
        loss = mean_output(model, images, precision)
    with times.backward():
        loss.backward()  # type: ignore[no-untyped-call]


def mean_output(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """The mean of a model's output, in float32: the loss of the steps that are measured."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        output: Tensor = model(images)
        return output.float().mean()


@dataclass(frozen=True)
class Step:
    """A training step: the model, the images it sees, and the precision as in `RunConfig`."""

    model: nn.Module
    images: Tensor
    precision: str = "float32"


def time_in_turns(steps: Mapping[str, Step], seconds: float = 8.0) -> tuple[int, dict[str, Any]]:
    """Time the steps in rounds: in each round every step is taken once.

    A first round warms up and does not count, and every second round goes in the opposite order.
    The steps are those of `measure_cost`: forward and backward pass, without optimizer and data.
    The models' running statistics change; torch's random generators are left as they were.

    Args:
        seconds: after these no round begins; at least 5 are taken and at most 12.

    Returns:
        The number of rounds, and for each step values ready for JSON: `images`;
        `forward_ms_per_image` and `backward_ms_per_image`, medians over the rounds; `spread`: half
        of the rounds lie within this part of the median of both passes together; `norm_share`, the
        part of both passes that the normalization layers take.
    """
    passes: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    shares: dict[str, list[float]] = {name: [] for name in steps}

    def take(name: str, watch: bool) -> NormTimes:
        step = steps[name]
        with NormTimes(step.model.train(), step.images.device, watch) as times:
            timed_step(step.model, step.images, step.precision, times)
        step.model.zero_grad(set_to_none=True)
        return times

    cuda = {step.images.device for step in steps.values() if step.images.is_cuda}
    with torch.random.fork_rng(devices=list(cuda)), torch.enable_grad():
        for name in steps:
            take(name, watch=False)
        for _ in range(WATCHED_ROUNDS):
            for name in steps:
                shares[name].append(take(name, watch=True).shares()["norm_share"])
        ends = time.perf_counter() + seconds
        rounds = 0
        while rounds < LEAST_ROUNDS or (time.perf_counter() < ends and rounds < MOST_ROUNDS):
            for name in reversed(list(steps)) if rounds % 2 else steps:
                passes[name].append(take(name, watch=False).seconds())
            rounds += 1
    return rounds, {
        name: _summary(len(step.images), passes[name], median(shares[name]))
        for name, step in steps.items()
    }


def _summary(images: int, passes: list[dict[str, float]], share: float) -> dict[str, Any]:
    both = [sum(one.values()) for one in passes]
    low, middle, high = quantiles(both, n=4)
    return {
        "images": images,
        **{
            f"{key}_ms_per_image": 1000 * median(one[key] for one in passes) / images
            for key in ("forward", "backward")
        },
        "spread": max(high - middle, middle - low) / middle,
        "norm_share": share,
    }
