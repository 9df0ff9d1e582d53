"""Top-1 error: the share of images whose most likely class is not their label."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.training.distributed import ALONE, Processes


@torch.no_grad()
def top1(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    processes: Processes = ALONE,
) -> tuple[float, float]:
    """Mean cross-entropy, and top-1 error in percent, over the images of all processes.

    Args:
        logits: of a batch of images, (N, classes), in float32.
        batches: images and labels of this process.
        device: where the sums of all processes meet.
    """
    loss, wrong, seen = 0.0, 0, 0
    for images, labels in batches:
        found = logits(images)
        loss += float(F.cross_entropy(found, labels, reduction="sum"))
        wrong += int((found.argmax(1) != labels).sum())
        seen += len(labels)
    loss, all_wrong, images_seen = processes.all_reduce_sum((loss, wrong, seen), device)
    return loss / images_seen, 100.0 * all_wrong / images_seen
