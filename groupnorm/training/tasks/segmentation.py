"""The segmentation task: cross-entropy of pixels, mean intersection over union."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from groupnorm.data.segmentation.label_maps import IGNORED, SegmentationBatches
from groupnorm.training.config import SegmentationConfig
from groupnorm.training.evaluation.iou import image_losses, mean_iou
from groupnorm.training.metric import SEGMENTATION
from groupnorm.training.task import EpochTotals, Metrics, Part
from groupnorm.training.tasks.labelled import LabelledTask

PRECISE_IMAGES = 1024


class Segmentation(LabelledTask):
    """Batches, loss and evaluation of a network that labels every pixel.

    A batch is images (n, C, H, W) and their label maps (n, H, W): see `LabelledTask`. The loss is
    the mean over the images of `image_losses`: pixels that are ignored count in nothing.

    Test metrics, with running statistics: `val_mean_iou` and `val_pixel_accuracy` in percent,
    `val_loss`, and by the names of the classes `class_iou` (`mean_iou`). For each of them there is
    one with batch norm's statistics recomputed over `PRECISE_IMAGES` augmented training images
    under fixed weights (Precise-BN; Wu & Johnson, arXiv 2105.07576), such as
    `precise_val_mean_iou`: in the reported epochs, and None before and for models without running
    statistics.
    """

    metrics = SEGMENTATION
    precise_examples = PRECISE_IMAGES
    config: SegmentationConfig
    data: SegmentationBatches

    def losses(self, model: nn.Module, part: Part) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Mean loss of the images, and of their pixels how many count and how many are wrong."""
        images, maps = part.inputs
        with self.autocast(images):
            logits = model(self.prepared(images))
            loss = image_losses(logits, maps).mean()
        counted = maps != IGNORED
        wrong = (logits.detach().argmax(1) != maps) & counted
        return {"loss": loss}, {"wrong": int(wrong.sum()), "pixels": int(counted.sum())}

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        """`train_pixel_accuracy`, in percent of the epoch's pixels as they were seen."""
        pixels = totals.counts["pixels"]
        right = 100.0 * (1 - totals.counts["wrong"] / pixels) if pixels else None
        return {"train_pixel_accuracy": right}

    def tested(self, model: nn.Module) -> Metrics:
        """Metrics of the test images, over all processes."""
        batches = self.data.test(self.processes.rank, self.processes.count)
        device, logits = next(model.parameters()).device, functools.partial(self.logits, model)
        return mean_iou(logits, batches, self.data.class_names, device, self.processes)
