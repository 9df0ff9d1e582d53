"""Accuracy of a video classifier: over all clips of each video, and of its middle clip alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.data.video.clips import VideoClips
from groupnorm.training.distributed import ALONE, Processes

_BEST = 5
MOST_VALUES = 1 << 25
"""Pixels times channels of the clips that a network gets at a time, but at least one clip: three of
64 frames of 224 pixels."""


@torch.no_grad()
def clip_accuracies(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[VideoClips],
    device: torch.device,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Accuracies in percent, and the mean loss, over the videos of all processes.

    `val_accuracy` and `val_accuracy_top5` are of the softmax averaged over all clips of a video
    (Wu & He 2018, section 4.3), `one_clip_accuracy` and `one_clip_accuracy_top5` of the middle clip
    alone. `val_loss` is the mean of -log of the averaged softmax of the right class. With fewer
    than five classes all of them are among the best five.

    Args:
        logits: of clips, (B, classes), in float32. It gets as many clips of a batch at a time as
            have `MOST_VALUES` values.
        batches: the test clips of this process's videos.
        device: where the sums of all processes meet.
    """
    loss, right, seen = 0.0, [0, 0, 0, 0], 0
    for inputs, videos, middle, labels in batches:
        at_once = max(1, MOST_VALUES // inputs[0].numel())
        found = torch.cat([logits(part) for part in torch.split(inputs, at_once)])
        of_clips = found.double().log_softmax(1)
        of_videos = torch.stack([of_clips[videos == v].logsumexp(0) for v in range(len(labels))])
        of_videos -= videos.bincount(minlength=len(labels)).log().unsqueeze(1)
        loss += float(F.nll_loss(of_videos, labels, reduction="sum"))
        for place, scores in enumerate((of_videos, of_clips[middle])):
            hits = _best(scores) == labels.unsqueeze(1)
            right[2 * place] += int(hits[:, 0].sum())
            right[2 * place + 1] += int(hits.sum())
        seen += len(labels)
    loss, *all_right, videos_seen = processes.all_reduce_sum((loss, *right, seen), device)
    names = (
        "val_accuracy", "val_accuracy_top5", "one_clip_accuracy", "one_clip_accuracy_top5",
    )  # fmt: skip
    accuracies = {
        name: 100.0 * count / videos_seen for name, count in zip(names, all_right, strict=True)
    }
    return {"val_loss": loss / videos_seen, **accuracies}


def _best(scores: Tensor) -> Tensor:
    """The most likely classes (n, 5 at most), the best one first."""
    return scores.topk(min(_BEST, scores.shape[1])).indices
