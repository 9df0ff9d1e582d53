"""Mean intersection over union of label maps, over all pixels of the test images together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.data.segmentation.label_maps import IGNORED
from groupnorm.training.distributed import ALONE, Processes


def image_losses(logits: Tensor, maps: Tensor) -> Tensor:
    """The cross-entropy of each image, (N,): the mean over its pixels that are not `IGNORED`.

    It is 0 where an image has no such pixel.

    Args:
        logits: (N, classes, H, W).
        maps: int64 (N, H, W).
    """
    of_pixels = F.cross_entropy(logits, maps, ignore_index=IGNORED, reduction="none")
    counted = (maps != IGNORED).sum((1, 2)).clamp(min=1)
    return of_pixels.sum((1, 2)) / counted


def confusion(found: Tensor, maps: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class (rows) were taken for each (columns), int64 (classes, classes).

    Pixels that are `IGNORED` do not count.

    Args:
        found: the classes found, int64 (N, H, W).
        maps: the right ones.
    """
    counted = maps != IGNORED
    pairs = maps[counted] * num_classes + found[counted]
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def class_ious(counts: Tensor) -> list[float | None]:
    """The intersection over union of each class in percent; None of a class that no pixel has.

    The pixels of a class that were taken for it, over those that are of it or were taken for it
    (PASCAL VOC; Everingham et al. 2015, section 3.3).

    Args:
        counts: `confusion` over all images.
    """
    right, truth, found = counts.diagonal(), counts.sum(1), counts.sum(0)
    ious = 100.0 * right.double() / (truth + found - right).clamp(min=1)
    return [
        iou if pixels else None for iou, pixels in zip(ious.tolist(), truth.tolist(), strict=True)
    ]


@torch.no_grad()
def mean_iou(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    device: torch.device,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Metrics of label maps over the images of all processes.

    `val_mean_iou`, in percent, is the mean of `class_ious`, that of the background among them,
    without the classes that no pixel has; `class_iou` has each by the class's name, None of those.
    `val_pixel_accuracy` is the percentage of all pixels that are right. `val_loss` is the mean of
    `image_losses`. All but the loss are None where every pixel is `IGNORED`.

    Args:
        logits: of a batch of images, (N, classes, H, W), in float32.
        batches: images and maps of this process.
        class_names: of each class.
        device: where the sums of all processes meet.
    """
    size = len(class_names)
    counts = torch.zeros(size, size, dtype=torch.int64)
    loss, images_seen = 0.0, 0
    for images, maps in batches:
        found = logits(images)
        loss += float(image_losses(found, maps).sum())
        counts += confusion(found.argmax(1), maps, size).cpu()
        images_seen += len(images)
    loss, seen, *flat = processes.all_reduce_sum(
        (loss, images_seen, *counts.flatten().tolist()), device
    )
    counts = torch.tensor(flat, dtype=torch.int64).view(size, size)
    ious = class_ious(counts)
    there = [iou for iou in ious if iou is not None]
    pixels = int(counts.sum())
    return {
        "val_mean_iou": sum(there) / len(there) if there else None,
        "val_pixel_accuracy": 100.0 * int(counts.trace()) / pixels if pixels else None,
        "val_loss": loss / seen,
        "class_iou": dict(zip(class_names, ious, strict=True)),
    }
