"""FromFiles: batches of image files, decoded and augmented in worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from groupnorm.data.batches import ALL, Step
from groupnorm.data.decode import UnreadableError, read_rgb
from groupnorm.data.examples import EvaluationExamples, Made, Share, TrainExamples
from groupnorm.data.image_files import ImageFiles
from groupnorm.data.image_set import DataError


class FromFiles:
    """The `Batches` of image files.

    A training image that cannot be decoded is replaced by the next one that can, with that one's
    label; a test image that cannot be decoded is left out. `met` tells which.

    Args:
        files: the data set.
        image_size: height and width S of the images made, in pixels.
        batch: images in a test batch.
        processes: worker processes that decode, for each `train` or `test` under way; 0 decodes in
            this process. The images are the same for any number.
        device: where the batches go, "cpu" or "cuda".

    Raises:
        ValueError: a size or batch below 1, or a negative number of processes.
    """

    def __init__(
        self, files: ImageFiles, image_size: int, batch: int, processes: int, device: str
    ) -> None:
        if image_size < 1 or batch < 1 or processes < 0:
            raise ValueError(
                "expected image_size and batch of at least 1 and processes of at least 0, "
                f"got image_size={image_size}, batch={batch}, processes={processes}"
            )
        self.name, self.version = files.name, files.version
        self.num_classes, self.channels = files.num_classes, files.channels
        self.train_size, self.test_size = len(files.train_paths), len(files.test_paths)
        self.files, self.image_size, self.batch = files, image_size, batch
        self.processes, self.device = processes, device
        self._replaced: set[str] = set()
        self._left_out: set[str] = set()
        self._converted: set[str] = set()

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """For every step its augmented, normalized images and their labels.

        Args:
            steps: read ahead by a few steps for each worker process.
            rows: which places of every step to make; a process makes its share.

        Yields:
            float32 (m, 3, S, S) and int64 (m,), on the device.

        Raises:
            ValueError: a step names an example that is not there.
            DataError: a file cannot be opened, too many images one after another cannot be decoded,
                or a worker process was killed.
        """
        shares = (self._share(step, rows) for step in steps)
        for made in self._make(TrainExamples(self.files, self.image_size), shares):
            self._replaced.update(_names("train", made.unreadable))
            self._converted.update(_names("train", made.converted))
            yield self._moved(made)

    def test(self, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every `every`-th batch of the test examples, from batch `first` on, normalized.

        Batches are of `batch` files in the order of the list; unreadable ones leave theirs smaller,
        and a batch of which nothing remains is left out.

        Yields:
            float32 (m, 3, S, S) and int64 (m,), on the device.

        Raises:
            DataError: a file cannot be opened, no test image can be decoded, or a worker process
                was killed.
        """
        starts = range(first * self.batch, self.test_size, every * self.batch)
        batches = (range(s, min(s + self.batch, self.test_size)) for s in starts)
        seen = 0
        for made in self._make(EvaluationExamples(self.files, self.image_size), batches):
            self._left_out.update(_names("test", made.unreadable))
            self._converted.update(_names("test", made.converted))
            seen += len(made.labels)
            if len(made.labels):
                yield self._moved(made)
        if not seen:
            self._check_any_test_image()

    def met(self) -> dict[str, set[str]]:
        """Files met so far, in the batches given out by this object, as split and number.

        `replaced_images`: training images that cannot be decoded. `left_out_images`: such test
        images. `converted_images`: images of either kind that were not RGB.
        """
        return {
            "replaced_images": set(self._replaced),
            "left_out_images": set(self._left_out),
            "converted_images": set(self._converted),
        }

    def _share(self, step: Step, rows: slice) -> Share:
        indices = step.indices.tolist()
        if indices and (min(indices) < 0 or max(indices) >= self.train_size):
            raise ValueError(
                f"expected indices from 0 to {self.train_size - 1}, "
                f"got {min(indices)} to {max(indices)}"
            )
        return Share(step.seed, range(len(indices))[rows], indices[rows])

    def _make(self, examples: Dataset[Made], parts: Iterable[Sequence[Any]]) -> Iterator[Made]:
        """What `examples` makes of each part, in order, made by the worker processes."""
        loader = DataLoader(
            examples,
            sampler=parts,
            batch_size=None,  # a part is a batch already
            collate_fn=_unchanged,
            num_workers=self.processes,
            pin_memory=self.device.startswith("cuda"),
            generator=torch.Generator(),  # its own, or it would draw from torch's
        )
        made: Made
        try:
            for made in loader:
                if made.failure:
                    raise DataError(made.failure)
                yield made
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise DataError(
                f"a process that decodes images was killed: {error}. Where memory was short, take "
                "fewer processes or smaller batches"
            ) from error

    def _moved(self, made: Made) -> tuple[Tensor, Tensor]:
        images = made.images.to(self.device, non_blocking=True)
        return images, made.labels.to(self.device, non_blocking=True)

    def _check_any_test_image(self) -> None:
        """Raise DataError unless there is a test image that can be decoded."""
        reason = ""
        for path in self.files.test_paths:
            try:
                read_rgb(path)
                return
            except UnreadableError as error:
                reason = reason or f"{path}: {error}"
        raise DataError(
            f"none of the {self.test_size:,} test images of {self.name} can be decoded, the first "
            f"{reason}; the data set is damaged: get it again"
        )


def _names(split: str, indices: Iterable[int]) -> Iterator[str]:
    return (f"{split} {index}" for index in indices)


def _unchanged(made: Any) -> Any:
    return made
