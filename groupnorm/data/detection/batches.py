"""Batches of images with objects, decoded in memory once or in worker processes each time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from groupnorm.data.batches import ALL, Step
from groupnorm.data.detection.annotations import DetectionSet, Split
from groupnorm.data.detection.examples import Size
from groupnorm.data.detection.grouping import grouped_order, is_wide
from groupnorm.data.detection.targets import DetectionBatch, Target
from groupnorm.data.detection.workers import EvaluationExamples, Loaded, Shard, TrainExamples
from groupnorm.data.files.decode import IMAGE_DECODERS
from groupnorm.data.files.processes import in_processes
from groupnorm.data.issues import UNREADABLE_IMAGES, Issues, check_share_unreadable


class AnnotatedBatches:
    """The `DetectionBatches` of a data set.

    A training image that cannot be decoded, or is of another size than the annotation file says, is
    replaced by the next one of its orientation; such a test image is left out. Objects whose mask
    is empty are left out. `data_issues` tells which.

    Args:
        data: the data set.
        test_batch: images in a test batch. Of images of different sizes take one: what pads an
            image changes the statistics of group normalization.
        processes: worker processes that decode, for each `train` or `test` under way; 0 decodes in
            this process. The images are the same for any number.
        device: where the batches go, "cpu" or "cuda".
        in_memory: decode all images at once and keep them; for small data sets.
        max_unreadable: the greatest share of the training images, and of the test images, that may
            be unreadable.

    Raises:
        ValueError: a batch below 1, or a negative number of processes.
        DataError: a file cannot be opened.
    """

    def __init__(
        self,
        data: DetectionSet,
        *,
        test_batch: int = 1,
        processes: int = 0,
        device: str = "cpu",
        in_memory: bool = False,
        max_unreadable: float = 0.01,
    ) -> None:
        if test_batch < 1 or processes < 0:
            raise ValueError(
                "expected test_batch of at least 1 and processes of at least 0, "
                f"got test_batch={test_batch}, processes={processes}"
            )
        self.name, self.version, self.decoders = data.name, data.version, IMAGE_DECODERS
        self.notes = (*data.notes, *data.train.notes, *data.test.notes)
        self.categories, self.num_classes, self.channels = data.categories, len(data.categories), 3
        self.train_size, self.test_size = len(data.train.with_objects), len(data.test.images)
        self.data, self.test_batch, self.device = data, test_batch, device
        self.processes, self.max_unreadable = processes, max_unreadable
        size = Size(data.short_side, data.long_side)
        self._train = TrainExamples(data.train, size, in_memory)
        self._test = EvaluationExamples(data.test, size, in_memory)
        self._wide = is_wide([data.train.images[index] for index in data.train.with_objects])
        self._issues: Issues = {
            kind: {} for kind in (*UNREADABLE_IMAGES, "converted_images", "left_out_objects")
        }

    def order(self, seed: int, epoch: int, batch_per_worker: int) -> Tensor:
        """The order of the training examples in an epoch: see `DetectionBatches.order`."""
        return grouped_order(self._wide, seed, epoch, batch_per_worker)

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[DetectionBatch]:
        """For every step its images and their objects, half of them mirrored, on the device.

        Args:
            steps: read ahead by a few steps for each worker process.
            rows: which places of every step to make; a process makes its shard.

        Raises:
            ValueError: a step names an example that is not there.
            DataError: a file cannot be opened, too many images cannot be decoded, or a worker
                process was killed.
        """
        split = self.data.train
        shards = (self._shard(step, rows) for step in steps)
        for made in in_processes(self._train, shards, self.processes, self.device):
            self._note("replaced_images", split, made)
            yield self._moved(made)

    def test(self, first: int = 0, every: int = 1) -> Iterator[DetectionBatch]:
        """Every `every`-th batch of the test images, from batch `first` on, on the device.

        Unreadable images leave their batch smaller; a batch of which nothing remains is left out.

        Raises:
            DataError: a file cannot be opened, too many images cannot be decoded, or a worker
                process was killed.
        """
        split, batch = self.data.test, self.test_batch
        starts = range(first * batch, self.test_size, every * batch)
        parts = (range(start, min(start + batch, self.test_size)) for start in starts)
        for made in in_processes(self._test, parts, self.processes, self.device):
            self._note("left_out_images", split, made)
            if made.images:
                yield self._moved(made)

    def data_issues(self) -> Issues:
        """Issues of the batches given out so far by this object, and those that are remembered.

        `replaced_images`: training images that cannot be decoded. `left_out_images`: such test
        images. `converted_images`: images of either kind that were not RGB. `left_out_objects`:
        annotations whose mask is empty.
        """
        return {kind: dict(found) for kind, found in self._issues.items()}

    def remember(self, issues: Issues) -> None:
        """Add the issues of other processes, or of this run before it was resumed.

        Raises:
            DataError: more than `max_unreadable` of the training or of the test images cannot be
                decoded.
        """
        for kind, found in issues.items():
            self._add(kind, found)

    def _add(self, kind: str, found: Mapping[str, str]) -> None:
        self._issues[kind].update(found)
        if found and kind in UNREADABLE_IMAGES:
            split, size = {
                "replaced_images": ("training", self.train_size),
                "left_out_images": ("test", self.test_size),
            }[kind]
            gone = self._issues[kind]
            check_share_unreadable(gone, size, split, self.name, self.max_unreadable)

    def _note(self, kind: str, split: Split, made: Loaded) -> None:
        self._add("converted_images", {_shown(split, i): "not RGB" for i in made.converted})
        self._add(
            "left_out_objects",
            {f"{split.file.name}: annotation {id}": why for id, why in made.empty.items()},
        )
        self._add(kind, {_shown(split, index): why for index, why in made.unreadable.items()})

    def _shard(self, step: Step, rows: slice) -> Shard:
        examples = step.indices.tolist()
        if examples and not 0 <= min(examples) <= max(examples) < self.train_size:
            raise ValueError(
                f"expected indices from 0 to {self.train_size - 1}, "
                f"got {min(examples)} to {max(examples)}"
            )
        flips = torch.zeros(len(examples), dtype=torch.bool)
        if self.data.flip:
            generator = torch.Generator().manual_seed(step.seed)
            flips = torch.rand(len(examples), generator=generator) < 0.5
        trained = self.data.train.with_objects
        return Shard([trained[example] for example in examples[rows]], flips[rows].tolist())

    def _moved(self, made: Loaded) -> DetectionBatch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=True)

        images = [move(image).float().div_(255) for image in made.images]
        targets = [
            Target(
                boxes=move(target["boxes"]),
                labels=move(target["labels"]),
                masks=move(target["masks"]),
                image_id=target["image_id"],
                original_size=(target["original_size"][0], target["original_size"][1]),
            )  # pinned memory makes a list of a tuple
            for target in made.targets
        ]
        return DetectionBatch(images, targets)


def _shown(split: Split, index: int) -> str:
    return f"{split.folder.name}/{split.images[index].file_name}"
