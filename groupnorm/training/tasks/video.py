"""The video task: cross-entropy of clips, accuracy of videos."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from groupnorm.data.video.clips import VideoBatches
from groupnorm.training.config import VideoConfig
from groupnorm.training.evaluation.clips import clip_accuracies
from groupnorm.training.memory_format import in_memory_format
from groupnorm.training.metric import VIDEO
from groupnorm.training.task import EpochTotals, Metrics
from groupnorm.training.tasks.labelled import LabelledTask

PRECISE_CLIPS = 1024


def network_input(clips: Tensor, config: VideoConfig) -> Tensor:
    """Normalized clips (n, 3, T, H, W) as the network of a run takes them.

    With `centre_time` the mean over the clip's frames is subtracted from each pixel, in training
    and in evaluation; then they are brought into the memory format of the run.
    """
    if config.centre_time:
        clips = clips - clips.mean(2, keepdim=True)
    return in_memory_format(clips, config.memory_format)


class VideoClassification(LabelledTask):
    """Batches, loss and evaluation of a video classifier.

    A batch is clips (n, 3, T, H, W) and their labels (n,): see `LabelledTask`.

    Test metrics, with running statistics: `val_accuracy`, `val_accuracy_top5`, `one_clip_accuracy`,
    `one_clip_accuracy_top5` in percent and `val_loss` (`clip_accuracies`). For each of them there
    is one with batch norm's statistics recomputed over `PRECISE_CLIPS` augmented training clips
    under fixed weights (Precise-BN; Wu & Johnson, arXiv 2105.07576), such as
    `precise_val_accuracy`: in the reported epochs, and None before and for models without running
    statistics.
    """

    metrics = VIDEO
    precise_examples = PRECISE_CLIPS
    config: VideoConfig
    data: VideoBatches

    def prepared(self, inputs: Tensor) -> Tensor:
        """Clips as the network takes them: `network_input`."""
        return network_input(inputs, self.config)

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        """`train_accuracy`, in percent of the epoch's clips as they were seen."""
        return {"train_accuracy": 100.0 * (1 - totals.counts["wrong"] / totals.examples)}

    def tested(self, model: nn.Module) -> Metrics:
        """Accuracies in percent and the mean loss over the test videos, over all processes."""
        batches = self.data.test(self.processes.rank, self.processes.count)
        device, logits = next(model.parameters()).device, functools.partial(self.logits, model)
        return dict(clip_accuracies(logits, batches, device, self.processes))
