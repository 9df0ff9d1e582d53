"""The order of an epoch in which each worker's images are all wide or all high.

Images that a worker puts together are padded to one size: little where they have one orientation,
as in Detectron (aspect-ratio grouping).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groupnorm.data.batches import epoch_order
from groupnorm.data.detection.annotations import AnnotatedImage


def is_wide(images: Sequence[AnnotatedImage]) -> Tensor:
    """Which images are wider than high, bool (n,)."""
    return torch.tensor([image.width > image.height for image in images], dtype=torch.bool)


def grouped_order(wide: Tensor, seed: int, epoch: int, batch_per_worker: int) -> Tensor:
    """A random order of examples of which every `batch_per_worker` have one orientation.

    The next worker's examples are those whose last one comes first in `epoch_order`. What is left
    over of either orientation is left out, so that every epoch has the same number.

    Args:
        wide: of each example, bool (n,).

    Returns:
        int64 (m,), a multiple of `batch_per_worker`.
    """
    order = epoch_order(len(wide), seed, epoch)
    if batch_per_worker == 1:
        return order
    chunks, ends = [], []
    for orientation in (True, False):
        (positions,) = torch.where(wide[order] == orientation)
        whole = positions[: len(positions) // batch_per_worker * batch_per_worker]
        whole = whole.view(-1, batch_per_worker)
        chunks.append(order[whole])
        ends.append(whole[:, -1])
    return torch.cat(chunks)[torch.cat(ends).argsort()].flatten()
