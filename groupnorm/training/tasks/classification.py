"""The classification task: cross-entropy, top-1 error."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from groupnorm.data import Batches
from groupnorm.data.batches import Step, shrink
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.evaluation.probe import recorded_responses
from groupnorm.training.evaluation.top1 import top1
from groupnorm.training.metric import CLASSIFICATION
from groupnorm.training.schedules import image_size
from groupnorm.training.task import EpochTotals, Metrics, Part, RecomputeStatistics
from groupnorm.training.tasks.labelled import LabelledTask

PRECISE_IMAGES = 2048


class Classification(LabelledTask):
    """Batches, loss and evaluation of an image classifier.

    A batch is images (n, C, H, W) and their labels (n,): see `LabelledTask`.

    Validation metrics: `val_loss`, `val_error` (top-1, percent, with running statistics), and in
    the reported epochs `precise_val_error`: the same with batch norm's statistics recomputed over
    `PRECISE_IMAGES` augmented training images under fixed weights (Precise-BN; Wu & Johnson,
    arXiv 2105.07576). It is None for models without running statistics, and before.

    With `probed` also `response_percentiles`: {"1", "20", "80", "99"} -> that percentile of the
    module's output for the first batch of test images (of the first process), in evaluation mode
    with running statistics, as in Wu & He 2018, Figure 6; None when one of them is not finite.

    Args:
        data: the labelled images.
        recompute: the context manager that recomputes statistics; None when no layer has any.
        probed: the module of the model whose responses to record (`probe_module`); None for none.
    """

    metrics = CLASSIFICATION
    precise_examples = PRECISE_IMAGES
    config: RunConfig
    data: Batches

    def __init__(
        self,
        config: RunConfig,
        data: Batches,
        recompute: RecomputeStatistics | None,
        processes: Processes = ALONE,
        probed: nn.Module | None = None,
    ) -> None:
        super().__init__(config, data, recompute, processes)
        self.probed = probed

    def split(self, batch: tuple[Tensor, Tensor], step: Step, progress: float) -> Sequence[Part]:
        """Images of the size that the run has come to, and their labels, for each pass."""
        images, labels = batch
        images = shrink(images, image_size(self.config.size_schedule, progress))
        return super().split((images, labels), step, progress)

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        """`train_error`, in percent of the epoch's images as they were seen."""
        return {"train_error": 100.0 * totals.counts["wrong"] / totals.examples}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, reported: bool) -> Metrics:
        """Top-1 error in percent and mean loss over the test images, over all processes."""
        with recorded_responses(self.probed) as responses:
            loss, error = self._test(model)
        precise = None
        if reported and self.recompute is not None:
            with self.recomputed(model):
                precise = self._test(model)[1]
        finite = loss if math.isfinite(loss) else None  # JSON has no NaN
        return {
            "val_loss": finite,
            "val_error": error,
            "precise_val_error": precise,
            **responses,
        }

    def _test(self, model: nn.Module) -> tuple[float, float]:
        model.eval()
        batches = self.data.test(self.processes.rank, self.processes.count)
        device = next(model.parameters()).device
        found = top1(functools.partial(self.logits, model), batches, device, self.processes)
        model.train()
        return found
