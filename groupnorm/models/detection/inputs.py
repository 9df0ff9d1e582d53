"""What the detectors take: targets that are checked, images in one tensor, workers' generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from groupnorm.models.detection.workers import split_workers

Target = dict[str, Tensor]
_MULTIPLE = 32


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Target] | None, num_classes: int, *, masks: bool
) -> Sequence[Target]:
    """Check targets in torchvision's form before a loss is made of them.

    What is wrong here would otherwise pass or fail late: a NaN in a box gives a NaN loss, label 0
    is taken for background, and a label that is too large fails on the device.

    Args:
        targets: of each image, `boxes` (n, 4) of left, top, right and bottom in pixels, floating
            point; `labels` (n,), int64, 1 to num_classes; with `masks`, `masks` (n, H, W).

    Raises:
        ValueError: another form, label or box; the message names the image.
    """
    if targets is None or len(targets) != len(images):
        given = "none" if targets is None else str(len(targets))
        raise ValueError(
            f"training takes one target for each image, got {len(images)} images, {given} targets"
        )
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_form(number, image, target, masks)
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([target["labels"] for target in targets])
    # One answer for all: on a GPU every question is a wait for it.
    fine = (boxes[:, 2:] > boxes[:, :2]).all() & boxes.isfinite().all()
    if not (fine & (labels >= 1).all() & (labels <= num_classes).all()):
        _name_the_first(targets, num_classes)
    return targets


def _check_form(number: int, image: Tensor, target: Target, masks: bool) -> None:
    wanted = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    missing = [key for key in wanted if key not in target]
    if missing:
        raise ValueError(f"the target of image {number} has no {' and no '.join(missing)}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"boxes of image {number} must be floating point of shape (n, 4), (0, 4) for none, "
            f"got {boxes.dtype} of shape {tuple(boxes.shape)}"
        )
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels of image {number} must be int64 of shape ({len(boxes)},), got {labels.dtype} "
            f"of shape {tuple(labels.shape)}"
        )
    expected = (len(boxes), *image.shape[-2:])
    if masks and tuple(target["masks"].shape) != expected:
        raise ValueError(
            f"masks of image {number} must have shape {expected}, got "
            f"{tuple(target['masks'].shape)}"
        )


def _name_the_first(targets: Sequence[Target], num_classes: int) -> None:
    for number, target in enumerate(targets):
        pairs = zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
        for index, (box, label) in enumerate(pairs):
            left, top, right, bottom = box
            if not (left < right and top < bottom and max(map(abs, box)) < float("inf")):
                raise ValueError(
                    f"box {index} of image {number} must be finite and have a width and a height, "
                    f"got {box}"
                )
            if not 1 <= label <= num_classes:
                raise ValueError(
                    f"label {index} of image {number} must lie between 1 and {num_classes} (0 is "
                    f"the background), got {label}"
                )


class NormalizeAndPad(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's transform of a batch, without its resizing.

    (image - mean) / std per channel, then zeros to the right and below, up to the largest image of
    the batch and a multiple of 32 pixels. The zeros enter the statistics of group, layer and batch
    norm, so that with images of several sizes an image's features depend on its neighbours;
    frozen batch norm has no such effect. One size, or one image, per batch avoids it.

    The data resize their images themselves, in training as in evaluation: torchvision's transform
    would enlarge them to 800 pixels, and go on doing so in evaluation when told not to.

    Args:
        mean: of each channel, of images in 0 to 1, and `std` alike.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(0, 0, list(mean), list(std), size_divisible=_MULTIPLE)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Both as they are."""
        return image, target


def generators_of(
    model: nn.Module, images: Sequence[Tensor], generators: Sequence[torch.Generator] | None
) -> Sequence[torch.Generator]:
    """The workers' generators; one worker that draws from torch's default one for None.

    Raises:
        ValueError: their number does not divide that of the images, or a batch norm of `model`
            takes its statistics from another number of images than a worker has.
    """
    found = (torch.default_generator,) if generators is None else generators
    if not found:
        raise ValueError("generators has one entry for each worker, got none")
    size = len(split_workers(images, len(found))[0])
    for name, layer in model.named_modules():
        if layer.training and hasattr(layer, "batch_per_worker"):
            own = getattr(layer, "batch_per_worker", None) or len(images)
            if own != size:
                raise ValueError(
                    f"{len(images)} images and generators of {len(found)} workers make {size} "
                    f"images per worker, but {name} takes its statistics from {own}: build the "
                    f'model with norm_layer("bn", batch_per_worker={size})'
                )
    return found
