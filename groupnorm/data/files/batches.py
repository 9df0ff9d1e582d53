"""FromFiles: batches of image files, decoded and augmented in worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from groupnorm.data.batches import ALL, Step
from groupnorm.data.files.decode import IMAGE_DECODERS
from groupnorm.data.files.issues import FileIssues
from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.files.processes import in_processes
from groupnorm.data.files.workers import Batch, EvaluationExamples, TrainExamples, shard_of
from groupnorm.data.issues import UNREADABLE_IMAGES, Issues


class FromFiles:
    """The `Batches` of image files.

    A training image that cannot be decoded is replaced by the next one of its class that can; a
    test image that cannot be decoded is left out. `data_issues` tells which. Too many of them, or
    all of a class, are a DataError.

    Args:
        files: the data set.
        image_size: height and width S of the images made, in pixels.
        batch: images in a test batch.
        processes: worker processes that decode, for each `train` or `test` under way; 0 decodes in
            this process. The images are the same for any number.
        device: where the batches go, "cpu" or "cuda".
        max_unreadable: the greatest share of the training images, and of the test images, that may
            be unreadable.

    Raises:
        ValueError: a size or batch below 1, or a negative number of processes.
    """

    def __init__(
        self,
        files: ImageFiles,
        image_size: int,
        batch: int,
        processes: int,
        device: str,
        max_unreadable: float = 0.01,
    ) -> None:
        if image_size < 1 or batch < 1 or processes < 0:
            raise ValueError(
                "expected image_size and batch of at least 1 and processes of at least 0, "
                f"got image_size={image_size}, batch={batch}, processes={processes}"
            )
        self.name, self.version, self.notes = files.name, files.version, files.notes
        self.decoders = IMAGE_DECODERS
        self.num_classes, self.channels = files.num_classes, files.channels
        self.train_size, self.test_size = len(files.train_paths), len(files.test_paths)
        self.files, self.image_size, self.batch = files, image_size, batch
        self.processes, self.device = processes, device
        self._issues = FileIssues(files, UNREADABLE_IMAGES, ["converted_images"], max_unreadable)

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """For every step its augmented, normalized images and their labels.

        Args:
            steps: read ahead by a few steps for each worker process.
            rows: which places of every step to make; a process makes its shard.

        Yields:
            float32 (m, 3, S, S) and int64 (m,), on the device.

        Raises:
            ValueError: a step names an example that is not there.
            DataError: a file cannot be opened, too many images cannot be decoded, or a worker
                process was killed.
        """
        shards = (shard_of(step, rows, self.train_size) for step in steps)
        for batch in self._make(TrainExamples(self.files, self.image_size), shards):
            self._note("replaced_images", self.files.train_paths, batch)
            yield self._moved(batch)

    def test(self, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every `every`-th batch of the test examples, from batch `first` on, normalized.

        Batches are of `batch` files in the order of the list; unreadable ones leave theirs smaller,
        and a batch of which nothing remains is left out.

        Yields:
            float32 (m, 3, S, S) and int64 (m,), on the device.

        Raises:
            DataError: a file cannot be opened, too many images cannot be decoded, or a worker
                process was killed.
        """
        starts = range(first * self.batch, self.test_size, every * self.batch)
        batches = (range(s, min(s + self.batch, self.test_size)) for s in starts)
        for batch in self._make(EvaluationExamples(self.files, self.image_size), batches):
            self._note("left_out_images", self.files.test_paths, batch)
            if len(batch.labels):
                yield self._moved(batch)

    def data_issues(self) -> Issues:
        """Issues of the batches given out so far by this object, and those that are remembered.

        `replaced_images`: training images that cannot be decoded. `left_out_images`: such test
        images. `converted_images`: images of either kind that were not RGB.
        """
        return self._issues.found()

    def remember(self, issues: Issues) -> None:
        """Add the issues of other processes, or of this run before it was resumed.

        Those of files that have been removed from the data set since then are dropped.

        Raises:
            DataError: more than `max_unreadable` of the training or of the test images cannot be
                decoded, or all test images of a class.
        """
        self._issues.remember(issues)

    def _note(self, kind: str, paths: Sequence[str], batch: Batch) -> None:
        self._issues.note("converted_images", paths, dict.fromkeys(batch.converted, "not RGB"))
        self._issues.note(kind, paths, batch.unreadable)

    def _make(self, examples: Dataset[Batch], parts: Iterable[Sequence[Any]]) -> Iterator[Batch]:
        return in_processes(examples, parts, self.processes, self.device)

    def _moved(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.device, non_blocking=True)
        return images, batch.labels.to(self.device, non_blocking=True)
