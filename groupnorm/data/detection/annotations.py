"""A detection data set as values: images with their annotations, in two splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from groupnorm.data.detection import polygons, rle
from groupnorm.data.detection.polygons import Polygon
from groupnorm.data.detection.rle import Mask, Runs
from groupnorm.data.detection.targets import Categories
from groupnorm.data.issues import DataError

COCO_AREAS = (32, 96)
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's images in 0 to 1, red, green and blue."""


@dataclass(frozen=True, eq=False, slots=True)
class Annotation:
    """One object of an image, checked, or a crowd of them.

    Attributes:
        id: as in the file.
        label: 1 to K.
        box: x, y of the upper left corner, width and height, in pixels: as in the file, it may
            reach beyond the image.
        area: in pixels, as in the file; None where the file has none.
        crowd: a region of objects that are not told apart: no target of a loss, and what is
            detected in it is neither right nor wrong.
        segmentation: runs (see `rle`), or polygons; None in a data set that is read without masks.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    area: float | None
    crowd: bool
    segmentation: Runs | tuple[Polygon, ...] | None

    def corners(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The box as x0 y0 x1 y1, cut at the border of an image of this size."""
        x, y, w, h = self.box
        x0, x1 = (min(max(end, 0.0), width) for end in (x, x + w))
        y0, y1 = (min(max(end, 0.0), height) for end in (y, y + h))
        return x0, y0, x1, y1

    def area_in(self, height: int, width: int) -> float:
        """The area of the file, or else that of the mask in an image of this size, or of the box.

        Raises:
            ValueError: as in `mask`.
        """
        if self.area is not None:
            return self.area
        if self.segmentation is None:
            return self.box[2] * self.box[3]
        return float(self.mask(height, width).sum())

    def mask(self, height: int, width: int) -> Mask:
        """The mask, uint8 (H, W), in an image of this size; it may be empty.

        Raises:
            ValueError: there is none, or its polygons have too many edges.
        """
        if self.segmentation is None:
            raise ValueError(f"annotation {self.id} has no mask")
        if isinstance(self.segmentation, tuple):
            return polygons.draw(self.segmentation, height, width)
        return rle.decode(self.segmentation, height, width)


@dataclass(frozen=True, eq=False, slots=True)
class AnnotatedImage:
    """An image and what is in it.

    Attributes:
        id: as in the annotation file.
        file_name: below the split's folder.
        height: in pixels.
        width: in pixels.
        annotations: its objects and crowds.
    """

    id: int
    file_name: str
    height: int
    width: int
    annotations: tuple[Annotation, ...] = ()

    @property
    def objects(self) -> list[Annotation]:
        """The annotations without crowds."""
        return [annotation for annotation in self.annotations if not annotation.crowd]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of an annotation file.

    Attributes:
        file: the annotation file.
        folder: the folder of the images.
        images: in the order of the file.
        masks: whether the annotations have masks.
        notes: what was left out, in sentences.
    """

    file: Path
    folder: Path
    images: tuple[AnnotatedImage, ...]
    masks: bool
    notes: tuple[str, ...] = ()

    def path(self, index: int) -> str:
        """The path of an image."""
        return str(self.folder / self.images[index].file_name)

    @cached_property
    def with_objects(self) -> tuple[int, ...]:
        """Indices of the images with at least one object that is not a crowd."""
        return tuple(index for index, image in enumerate(self.images) if image.objects)


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """A detection data set on disk.

    Attributes:
        name: one of `groupnorm.data.catalog.DETECTION_NAMES`.
        version: changes whenever annotations, files or their sizes change.
        categories: those of both splits.
        train: images without an object are not trained on.
        test: all images.
        short_side: images are resized until their short side has so many pixels; None keeps them.
        long_side: or their long side so many, if that is less.
        area_sides: the sides of the squares that divide small, medium and large objects in
            evaluation, in pixels.
        flip: a training image may be mirrored left to right.
        image_mean: of red, green and blue in 0 to 1, and `image_std` alike: what the model
            normalizes with, that of the images that backbones for it are pretrained on.
        notes: what whoever trains on it should know, in sentences.

    Raises:
        DataError: no training image has an object, or there are no test images.
    """

    name: str
    version: str
    categories: Categories
    train: Split
    test: Split
    short_side: int | None = None
    long_side: int = 1333
    area_sides: tuple[int, int] = COCO_AREAS
    flip: bool = True
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[float, float, float] = IMAGE_STD
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.train.with_objects:
            raise DataError(f"{self.train.file}: no image has an object to train on")
        if not self.test.images:
            raise DataError(f"{self.test.file}: expected at least one image, got none")

    @property
    def num_classes(self) -> int:
        """The number of categories."""
        return len(self.categories)

    @property
    def train_size(self) -> int:
        """The number of training images with an object."""
        return len(self.train.with_objects)

    @property
    def test_size(self) -> int:
        """The number of test images."""
        return len(self.test.images)

    def sample_train(self, count: int | None) -> DetectionSet:
        """The same with the first `count` training images that have an object; None for all.

        Raises:
            ValueError: there are fewer.
        """
        if count is None:
            return self
        chosen = self.train.with_objects
        if not 0 < count <= len(chosen):
            raise ValueError(
                f"train_images={count}, but {self.name} has {len(chosen)} of them with objects"
            )
        images = tuple(self.train.images[index] for index in chosen[:count])
        return replace(self, train=replace(self.train, images=images))

    def hold_out(self, count: int | None) -> DetectionSet:
        """The same with `count` training images in place of the test images; None changes nothing.

        They are the last ones of those with an object.

        Raises:
            ValueError: so many cannot be held out.
        """
        if count is None:
            return self
        chosen = self.train.with_objects
        if not 0 < count < len(chosen):
            raise ValueError(
                f"validation_images={count}, but {self.name} has {len(chosen)} training images "
                "with objects, of which one at least must stay"
            )
        held = set(chosen[-count:])
        parts = [
            tuple(image for i, image in enumerate(self.train.images) if (i in held) == part)
            for part in (False, True)
        ]
        return replace(
            self,
            train=replace(self.train, images=parts[0]),
            test=replace(self.train, images=parts[1]),
            notes=(
                *self.notes,
                f"AP is on {count:,} images held out of the training images, not on the test "
                "images",
            ),
        )
