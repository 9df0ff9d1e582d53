"""Validation images: held out of the training images, to choose by without the test images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hold_out_rows(
    labels: Tensor, candidates: Tensor, count: int, name: str, class_names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Divide a data set's rows into those that stay and `count` that are held out, both ascending.

    Every class gives the same share, to rounding, and at least one: its last candidates.

    Args:
        labels: int64 (N,), in [0, len(class_names)).
        candidates: distinct rows that may be held out, in any order.
        name: of the data set, for the messages.

    Raises:
        ValueError: fewer candidates than `count`, a class without one, fewer than one for each
            class, or a class of which nothing would stay.
    """
    asked = f"validation_images={count}"
    if count > len(candidates):
        raise ValueError(f"{asked}, but {len(candidates)} images of {name} can be held out")
    sizes = labels.bincount(minlength=len(class_names))
    present = int((sizes > 0).sum())
    if count < present:
        raise ValueError(f"{asked} is less than one for each of the {present} classes of {name}")
    # Each candidate gets a rank in (0, 1) in its class: those below a limit are the same share of
    # every class. The first rank is 0, so that each class gives one.
    ranks = torch.full((len(labels),), torch.inf, dtype=torch.float64)
    for label, size in enumerate(sizes.tolist()):
        members = candidates[labels[candidates] == label].flip(0)
        ranks[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / max(1, size)
        ranks[members[:1]] = 0.0
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[ranks.argsort(stable=True)[:count]] = True
    for label in sizes.nonzero().flatten().tolist():
        chosen = int(held[labels == label].sum())
        if not 0 < chosen < sizes[label]:
            raise ValueError(
                f"{asked}: the class {class_names[label]} of {name} has {sizes[label]} training "
                f"images, of which {chosen} would be held out; every class must give one and "
                "keep one"
            )
    return torch.where(~held)[0], torch.where(held)[0]


def validation_note(count: int, what: str = "images") -> str:
    """What whoever reads an error on such images, or such videos, should know."""
    return (
        f"results are on {count:,} validation {what}, held out of the training {what}, not on the "
        f"test {what}"
    )
