"""Training steps of several models timed in turns.

Whatever else the machine does meanwhile then meets all of them alike. Steps that are timed one
model after the other, or beside other work, cannot be compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.cost.measure import timed_step
from groupnorm.cost.share import NormTimes

WATCHED_ROUNDS = 3
"""Rounds in which the norms are timed. The hooks for that make steps slower, so the times of whole
steps come from rounds without them."""
LEAST_ROUNDS = 5
MOST_ROUNDS = 12


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
