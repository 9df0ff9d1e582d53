"""How one process stands in for W workers: whose images and rows are whose.

In a distributed training each worker has its own images, samples its own anchors and regions,
averages its own losses, and the gradients are averaged over the workers. A pass over the images of
several workers does the same here, so that one process computes what W processes compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def split_workers(items: Sequence[T], workers: int) -> list[list[T]]:
    """What belongs to images in their order, by the worker whose images they are.

    Raises:
        ValueError: no items, or `workers` does not divide them.
    """
    count = len(items) // workers
    if count == 0 or count * workers != len(items):
        raise ValueError(
            f"every worker has the same number of images, 1 or more, got {len(items)} images and "
            f"{workers} workers"
        )
    return [list(items[begin : begin + count]) for begin in range(0, len(items), count)]


def rows_of_workers(of_images: Sequence[Tensor], workers: int) -> list[int]:
    """How many rows each worker's images have together."""
    return [sum(map(len, mine)) for mine in split_workers(of_images, workers)]


def mean_weights(counts: Sequence[int], like: Tensor) -> Tensor:
    """What each row weighs in the mean over the workers of every worker's mean over its rows.

    Args:
        counts: rows of each worker, also 0; such a worker's mean is 0.
        like: gives dtype and device.

    Returns:
        (sum(counts),), 1 / (W * count) for the rows of a worker.
    """
    weights = [1 / (len(counts) * max(count, 1)) for count in counts]
    return like.new_tensor(weights).repeat_interleave(
        torch.tensor(counts, device=like.device), output_size=sum(counts)
    )


def sample_balanced(
    labels: Tensor, size: int, positive_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random choice of anchors or regions of an image, as Fast R-CNN makes it.

    As many positives as there are, up to their fraction of `size`; negatives for the rest. It is
    torchvision's `BalancedPositiveNegativeSampler` with a generator of its own.

    Args:
        labels: (n,), above 0 for a positive, 0 for a negative, below 0 for neither.

    Returns:
        Positions of the positives and of the negatives that were chosen.
    """
    positive = torch.where(labels >= 1)[0]
    negative = torch.where(labels == 0)[0]
    positives = min(len(positive), int(size * positive_fraction))
    negatives = min(len(negative), size - positives)
    return _choice(positive, positives, generator), _choice(negative, negatives, generator)


def _choice(positions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(positions), generator=generator, device=generator.device)
    return positions[order[:count].to(positions.device)]
