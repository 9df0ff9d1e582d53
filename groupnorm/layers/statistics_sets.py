"""The one definition behind BN, LN, IN and GN: over which set S_i the statistics are taken.

Wu & He 2018, section 3, write every one of them as xhat_i = (x_i - mean(S_i)) / std(S_i), and give
the sets by which coordinates an index k shares with i (equations 3 to 7). Here a set is three
numbers: how far it reaches along N, along C and along the positions. Index k is in S_i when both
fall into the same block along each axis::

    floor(k_a / b_a) = floor(i_a / b_a)    for a = N, C, position
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from groupnorm.ops.reference import statistics_dtype
from groupnorm.spec import NormSpec

Blocks = tuple[int, int, int]


def statistics_blocks(
    spec: str | NormSpec, shape: Sequence[int], batch_per_worker: int | None = None
) -> Blocks:
    """The block lengths (along N, C, positions) of the sets of a norm on input of this shape.

    For input (N, C, *) with S positions in all::

        bn     (N, 1, S)       bn of n images per worker   (n, 1, S)
        ln     (1, C, S)       ln2d                        (1, C, 1)
        in     (1, 1, S)       gn with G groups            (1, C / G, S)

    Args:
        spec: one of these kinds, syncbn, or brn, whose statistics of the batch are those of bn.
        shape: (N, C, *).
        batch_per_worker: n, for bn and brn; None for N.

    Raises:
        ValueError: the norm takes no mean and variance over a set, the shape has no channels, or N
            is not a multiple of batch_per_worker.
    """
    spec = NormSpec.parse(spec)
    if len(shape) < 2:
        raise ValueError(f"expected a shape (N, C, *), got {tuple(shape)}")
    n, c, *spatial = shape
    positions = math.prod(spatial)
    if spec.kind in ("bn", "brn", "syncbn"):
        images = batch_per_worker if batch_per_worker and spec.kind != "syncbn" else n
        if n % images:
            raise ValueError(
                f"the batch must be a multiple of batch_per_worker, got {n} images and "
                f"batch_per_worker={images}"
            )
        return images, 1, positions
    if spec.kind in ("gn", "ln", "in"):
        return 1, c // spec.num_groups(c), positions
    if spec.kind == "ln2d":
        return 1, c, 1
    raise ValueError(f"{spec.kind} does not take mean and variance over a set of positions")


def statistics_set(shape: Sequence[int], blocks: Blocks, index: tuple[int, int, int]) -> Tensor:
    """S_i as a mask (N, C, S): True at every k that shares its statistics with i.

    Args:
        shape: (N, C, *), S positions in all.
        blocks: as `statistics_blocks` gives them.
        index: i, as (image, channel, position).
    """
    mask = torch.ones(())
    sizes = (shape[0], shape[1], math.prod(shape[2:]))
    for size, block, at in zip(sizes, blocks, index, strict=True):
        mask = mask[..., None] * (torch.arange(size) // block == at // block)
    return mask.bool()


def normalize_over_sets(input: Tensor, blocks: Blocks, eps: float) -> Tensor:
    """xhat_i = (x_i - mean(S_i)) / sqrt(var(S_i) + eps), the variance biased.

    A definition to read and to test with: it computes in the statistics' type and returns that, in
    the input's shape. The layers equal it, before their scale and shift.

    Args:
        input: (N, C, *).
        blocks: lengths that divide N, C and the number of positions.

    Raises:
        ValueError: a length does not divide its axis.
    """
    n, c = input.shape[:2]
    sizes = (n, c, math.prod(input.shape[2:]))
    if any(size % block for size, block in zip(sizes, blocks, strict=True)):
        raise ValueError(f"blocks {blocks} do not divide (N, C, positions) = {sizes}")
    split = [part for size, b in zip(sizes, blocks, strict=True) for part in (size // b, b)]
    x = input.to(statistics_dtype(input.dtype)).reshape(split)
    axes = (1, 3, 5)
    mean = x.mean(axes, keepdim=True)
    var = ((x - mean) ** 2).mean(axes, keepdim=True)
    return ((x - mean) / torch.sqrt(var + eps)).reshape(input.shape)
