"""Schedules of learning rate and image size, as pure functions of progress."""

from __future__ import annotations

import math
from collections.abc import Sequence

DROPS = (0.3, 0.6, 0.9)
"""The paper's drops at epochs 30, 60 and 90 of 100, as fractions of the run."""


def lr_factor(
    schedule: str,
    step: int,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    warmup_from: float = 0.0,
    drops: Sequence[float] = DROPS,
) -> float:
    """Factor on the peak learning rate for the 0-based `step`.

    "step" divides by 10 at each of `drops`, shares of the run; "cosine" falls from 1 towards 0 over
    it. During the first `warmup_steps` a second factor, multiplied on top, rises linearly to 1. The
    first step has `warmup_from` of it (Goyal et al. 2017, arXiv 1706.02677; detectors begin at
    1/3). A rise from 0, whose first step would do nothing, begins one step later on its line.
    """
    progress = step / total_steps
    if schedule == "step":
        factor = 0.1 ** sum(progress >= drop for drop in drops)
    elif schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        raise ValueError(f"unknown schedule {schedule!r}; known: step, cosine")
    if step < warmup_steps:
        risen = (step if warmup_from else step + 1) / warmup_steps
        factor *= warmup_from + (1 - warmup_from) * risen
    return factor


def image_size(schedule: Sequence[tuple[int, float]], progress: float) -> int | None:
    """Pixels of the images at a share of the run from 0 to below 1; None for their own size.

    Args:
        schedule: sizes, each with the share of the run that it lasts to; both rise.
    """
    return next((size for size, share in schedule if progress < share), None)


def full_size_steps(
    schedule: Sequence[tuple[int, float]], own_size: int, steps: int, total_steps: int
) -> float:
    """As many steps with images of their own size have the pixels of the first `steps` steps.

    Args:
        schedule: as in `image_size`.
        own_size: pixels of the images where nothing makes them smaller.
    """
    found, begun = 0.0, 0
    for size, share in (*schedule, (own_size, 1.0)):
        end = max(begun, min(steps, math.ceil(share * total_steps)))
        found += (end - begun) * min(1.0, size / own_size) ** 2
        begun = end
    return found
