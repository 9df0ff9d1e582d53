"""A network of the user's own as a teacher: any that a name, a checkpoint and images describe.

It takes the place of a run: its folder holds `network.json` in place of a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.run.conversion.comparison import SCORES, check_classes, class_scores, described
from groupnorm.run.conversion.images import SplitImages, split_images
from groupnorm.run.conversion.network import build_network, current_folder_importable
from groupnorm.run.conversion.weights import load_weights
from groupnorm.study import schema
from groupnorm.study.conversions.teacher import Score
from groupnorm.study.conversions.trial import FITTED
from groupnorm.study.store.json_files import read_checked
from groupnorm.training.metric import CLASSIFICATION, Metric

OWN_FILE = "network.json"
AGREEMENT = Metric("agreement", "%", "higher", "agreement")
"""With the network before its conversion: what is measured where no labels are there."""


@dataclass(frozen=True)
class OwnNetwork:
    """What makes the teacher.

    Attributes:
        network: its name, as `build_network` reads it.
        options: arguments of the function of that name.
        checkpoint: a file with its weights; None: they are those that the function gives it.
        images: the folder of images.
        size: of them, in pixels; and `mean` and `std` of their colours, which it takes.
        mean: see `size`.
        std: see `size`.
        calibration: how many are there to calibrate with.
        held_out: how many others it is measured on.
        labels: whether the folders of images are the classes.
    """

    network: str
    options: Mapping[str, str]
    checkpoint: str | None
    images: str
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    calibration: int
    held_out: int
    labels: bool

    @property
    def metric(self) -> Metric:
        """What is measured."""
        return CLASSIFICATION[0] if self.labels else AGREEMENT


@dataclass(frozen=True)
class OwnRecord:
    """`network.json`: what makes the teacher, and the images that its first trials had.

    Attributes:
        asked: what makes it.
        digest: of the names and the pixels of the images, as in `SplitImages`.
        notes: on the images and how they are divided, in sentences.
    """

    asked: OwnNetwork
    digest: str
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Its fields as plain values."""
        return {**asdict(self.asked), "digest": self.digest, "notes": list(self.notes)}


class OwnTeacher:
    """A network of the user's own on its images.

    Args:
        asked: what makes it.
        device: where it runs.
        digest: of the images that earlier trials had; None where there are none.

    Raises:
        ValueError: the network cannot be made, the weights or the labels do not fit it, or the
            images are not those of the earlier trials.
        DataError: there are too few images.
    """

    seed = 0

    def __init__(self, asked: OwnNetwork, device: str, digest: str | None = None) -> None:
        with current_folder_importable():
            self.network = build_network(asked.network, asked.options).model
        if asked.checkpoint is not None:
            load_weights(self.network, Path(asked.checkpoint))
        self.network.to(device).eval()
        self._device = device
        self._split: SplitImages = split_images(
            Path(asked.images), asked.calibration, asked.held_out, asked.size, asked.mean,
            asked.std, to=FITTED, with_classes=asked.labels,
        )  # fmt: skip
        if digest not in (None, self._split.digest):
            raise ValueError(
                f"{asked.images} gives other images than when this study began, by their names or "
                "pixels: its trials would not be measured on the same images. Put the folder back "
                "as it was, or begin another study with another --out"
            )
        if asked.labels:
            first = self._split.held_out[0]
            check_classes(self.network, first, self._split.classes, device)
        self._images = torch.cat(self._split.calibration).to(device)
        self._labels = self._read_labels()
        self._classes = self._predictions(self.network)

    def calibration_images(self, count: int) -> Tensor:
        """Images of the folder, none of which is measured on, in the order of their paths."""
        if count > len(self._images):
            raise ValueError(
                f"{count} images to calibrate with, but the folder has {len(self._images)} beside "
                "those that are measured on"
            )
        return self._images[:count]

    @property
    def images(self) -> int:
        """How many there are to calibrate with: those that could be decoded."""
        return len(self._images)

    @property
    def digest(self) -> str:
        """Of the names and the pixels of the images."""
        return self._split.digest

    @property
    def notes(self) -> Sequence[str]:
        """On the images and how they are divided, in sentences."""
        return self._split.notes

    def score(self, network: nn.Module, *, held_out: bool = False) -> Score:
        """The error in percent where there are labels, else the agreement with this network."""
        classes = self._predictions(network)
        agreement = 100.0 * float((classes == self._classes).double().mean())
        value = agreement
        if self._labels is not None:
            value = 100.0 * float((classes != self._labels).double().mean())
        return Score(value, None, agreement)

    def _read_labels(self) -> Tensor | None:
        """Of the images that are measured on, as far as they can be decoded."""
        found = [labels for _, labels in self._split.labelled() if labels is not None]
        return torch.cat(found) if found else None

    @torch.no_grad()
    def _predictions(self, network: nn.Module) -> Tensor:
        """The class of each image that is measured on, or of each of its pixels."""
        found = []
        network.eval()
        for images in self._split.held_out:
            output = network(images.to(self._device))
            scores = class_scores(output)
            if scores is None:
                keys = " or ".join(SCORES)
                raise ValueError(
                    "expected scores of classes (N, K), (N, K, H, W) or (N, K, D, H, W) of the "
                    f"network, or a dict with them under {keys}, got {described(output)}; "
                    "--network MODULE:FUNCTION can name a function that wraps the network and "
                    "returns the scores alone"
                )
            found.append(scores.argmax(1).cpu())
        return torch.cat(found)


def read_own_network(folder: Path) -> OwnRecord | None:
    """What `network.json` in the folder of a run says; None for a run that the study trained.

    Raises:
        StoreError: the file is damaged.
    """
    found = read_checked(folder / OWN_FILE, schema.OwnNetwork)
    if found is None:
        return None
    digest, notes = found.pop("digest"), found.pop("notes")
    return OwnRecord(OwnNetwork(**found), digest, notes)
