"""What the networks of a study found on the same few test images or videos, beside the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from groupnorm.study.store import FORMAT, SAMPLES_FILE, Cell, read_samples

LOWEST_SCORES = {"objects": 0.3, "clips": 0.0}
"""Objects of a lower score are not recorded; of a clip the most likely class is, at any score."""
_NETWORKS = {"objects": "detector", "clips": "network"}
_THINGS = {"objects": "test image", "clips": "test video"}
_FOUND = {"objects": "detection", "clips": "prediction"}


@dataclass(frozen=True)
class Samples:
    """`samples/samples.json` as values; `groupnorm.study.store` says what an object is.

    Attributes:
        lowest_score: objects below it were left out.
        categories: all names, whose order gives the colours of drawings.
        images: of each `file` in the folder `samples`, `image_id`, `height`, `width` and `truth`,
            a list of objects.
        runs: by name, `objects`, a list for each image, and `not_finite`, how many detections were
            left out because a score or a corner was not a number.
        left_out: runs that could have been here -> why they are not.
        unreadable: test images that cannot be decoded -> what is wrong with them; the next ones
            took their places.
        reason: why there are no predictions; None where there are.
        content: "objects" in images, or classes of "clips". Of clips each of the `images` has
            frames of a video side by side, with `video` (its number), `frames` (how many), `height`
            and `width` of one, and a class as its `truth`; of an object there are only `category`
            and `score`.
    """

    lowest_score: float = LOWEST_SCORES["objects"]
    categories: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    content: Literal["objects", "clips"] = "objects"

    @property
    def things(self) -> str:
        """What the predictions are made on: "test image" or "test video"."""
        return _THINGS[self.content]

    @property
    def network(self) -> str:
        """What predicts: "detector" or "network"."""
        return _NETWORKS[self.content]

    @property
    def found(self) -> str:
        """What one of them is: "detection" or "prediction"."""
        return _FOUND[self.content]

    def as_json(self) -> dict[str, Any]:
        """The content of `samples.json`; that of objects is as it was before there were clips."""
        value = {"format": FORMAT, **vars(self)}
        return {k: v for k, v in value.items() if (k, v) != ("content", "objects")}

    def path(self, out: Path, number: int) -> Path:
        """The file of an image, counted from 0, of the study in `out`."""
        name: str = self.images[number]["file"]
        return (out / SAMPLES_FILE).with_name(name)


def samples_of(out: Path) -> Samples | None:
    """What `samples.json` of a study holds; None where there is none.

    Raises:
        StoreError: the file is damaged.
    """
    found = read_samples(out)
    if found is None:
        return None
    del found["format"]
    return Samples(**found)


def runs_of_arms(cells: Sequence[Cell], can_be_shown: Callable[[str], bool]) -> list[str]:
    """One run for each set of labels, in the order of the table: that of the first seed that can.

    The results of the runs have no part in the choice.
    """
    first: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        key = json.dumps(cell.labels, sort_keys=True)
        if key not in first and can_be_shown(cell.run):
            first[key] = cell
    in_order = dict.fromkeys(json.dumps(cell.labels, sort_keys=True) for cell in cells)
    return list(dict.fromkeys(first[key].run for key in in_order if key in first))


def joined_samples(folders: Sequence[Path], cells: Sequence[Cell]) -> tuple[Samples | None, Path]:
    """The samples of studies that are joined, and the folder that has their images.

    Of one run for each set of labels, where all predicted on the same images and recorded the same
    scores. None where no study has any.

    Args:
        cells: of the joined study.

    Raises:
        StoreError: a file is damaged.
    """
    found = [
        (samples, folder)
        for folder in folders
        if (samples := samples_of(folder)) is not None and samples.runs
    ]
    if not found:
        return None, folders[0]
    first, folder = found[0]
    for other, _ in found[1:]:
        if (other.images, other.categories) != (first.images, first.categories):
            reason = "the studies that were joined here predicted on different images"
            return Samples(reason=reason), folder
        if other.lowest_score != first.lowest_score:
            reason = "the studies that were joined here have different lowest scores"
            return Samples(reason=reason), folder
    runs = {name: run for samples, _ in reversed(found) for name, run in samples.runs.items()}
    left_out = {name: why for samples, _ in found for name, why in samples.left_out.items()}
    left_out = {name: why for name, why in left_out.items() if name not in runs}
    shown = runs_of_arms(cells, lambda name: name in runs)
    kept = {name: runs[name] for name in shown}
    return replace(first, runs=kept, left_out=left_out), folder
