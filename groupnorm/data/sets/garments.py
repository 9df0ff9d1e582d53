"""garments: scenes of several garments on photographs, a COCO data set that is made on first use.

The garments are those of fashion-mnist-mini, the photographs those of fashion-scenes; training and
test scenes share neither. A garment of which less than a quarter is seen is a crowd, one of which
nothing is seen is left out. The folder has `annotations/instances_train.json` and
`instances_val.json`, and JPEG images in `train/` and `val/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groupnorm.counts import counted
from groupnorm.data.detection import rle
from groupnorm.data.detection.annotations import AnnotatedImage, Annotation, DetectionSet, Split
from groupnorm.data.detection.reader import read_split
from groupnorm.data.detection.targets import Categories
from groupnorm.data.detection.writer import annotation_file
from groupnorm.data.paths import cache_folder
from groupnorm.data.sets.fashion_mnist_mini import CLASS_NAMES
from groupnorm.data.synthetic.folder import SUMS, make_folder, write_sums
from groupnorm.data.synthetic.scenes import Scene, SceneConfig, make_scene
from groupnorm.data.synthetic.sources import find_sources, load_sources

VERSION = 1  # raise it with every change of pixels or annotations
CROWD_BELOW = 0.25  # of a garment's own area that is seen
IMAGE_MEAN = (0.346, 0.326, 0.317)
IMAGE_STD = (0.230, 0.229, 0.232)
"""Of the pixels of garments-crops, which backbones are pretrained on."""
SUPERCATEGORIES = {
    "tops": (0, 2, 4, 6),
    "trousers": (1,),
    "dresses": (3,),
    "footwear": (5, 7, 9),
    "bags": (8,),
}
_ABOVE = {label: name for name, labels in SUPERCATEGORIES.items() for label in labels}
_KEYS = {"train": 1000, "val": 1001}  # of the scenes


@dataclass(frozen=True)
class Variant:
    """One data set of this kind.

    Attributes:
        name: of the data set.
        scene: the canvas, the number and the sizes of garments.
        five: five super-categories in place of ten categories.
        counts: of the scenes in "train" and "val".
    """

    name: str
    scene: SceneConfig
    five: bool
    counts: tuple[int, int]

    @property
    def categories(self) -> Categories:
        """Numbered from 1."""
        names = tuple(SUPERCATEGORIES) if self.five else CLASS_NAMES
        above = names if self.five else tuple(_ABOVE[label] for label in range(len(names)))
        return Categories(tuple(range(1, len(names) + 1)), names, above)

    def category(self, garment: int) -> int:
        """The category's number, of a label of fashion-mnist-mini."""
        return list(SUPERCATEGORIES).index(_ABOVE[garment]) + 1 if self.five else garment + 1

    @property
    def area_sides(self) -> tuple[int, int]:
        """Sides of the squares between small, medium and large garments: 16 and 24 pixels of 96.

        A third of the garments is in each of the three, roughly; COCO's 32 and 96 pixels would call
        nearly all of them small.
        """
        side = min(self.scene.canvas)
        return side // 6, side // 4

    @property
    def folder(self) -> Path:
        """Where the finished data set is kept; the name holds the version."""
        return cache_folder() / f"{self.name}-v{VERSION}"


QUICK = Variant("garments", SceneConfig((96, 96), (1, 5), (20.0, 48.0)), True, (3_000, 500))
STANDARD = Variant(
    "garments-128", SceneConfig((128, 128), (1, 6), (16.0, 64.0)), False, (6_000, 1_000)
)
LARGE = Variant(
    "garments-320", SceneConfig((320, 320), (1, 6), (40.0, 160.0)), False, (6_000, 1_000)
)


def find(root: Path | None = None, variant: Variant = QUICK) -> str:
    """Where the scenes are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: the scenes are not in the cache, and a photograph or the garments are missing.
    """
    if (variant.folder / SUMS).is_file():
        return str(variant.folder)
    return f"{variant.folder}, to be made on first use from photographs in {find_sources()}"


def load(root: Path | None = None, variant: Variant = QUICK) -> DetectionSet:
    """The scenes, which are made (in some minutes at most) and cached; `root` is not needed.

    A damaged cache is made again. One process makes them; others wait for it.

    Raises:
        DataError: a photograph or the garments are missing or damaged, or the cache cannot be
            written.
    """
    folder = variant.folder
    make_folder(folder, variant.name, lambda begun: write(begun, variant))
    splits, digests, notes = [], [], []
    for split in _KEYS:
        read, categories, digest = read_split(_annotations(folder, split), folder / split)
        splits.append(read)
        digests.append(digest)
        notes.append(_note(read, split))
    return DetectionSet(
        name=variant.name,
        version=f"{VERSION}-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:12]}",
        categories=categories,
        train=splits[0],
        test=splits[1],
        area_sides=variant.area_sides,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        notes=tuple(notes),
    )


def find_128(root: Path | None = None) -> str:
    """As `find`, of `STANDARD`."""
    return find(root, STANDARD)


def load_128(root: Path | None = None) -> DetectionSet:
    """As `load`, of `STANDARD`."""
    return load(root, STANDARD)


def find_320(root: Path | None = None) -> str:
    """As `find`, of `LARGE`."""
    return find(root, LARGE)


def load_320(root: Path | None = None) -> DetectionSet:
    """As `load`, of `LARGE`."""
    return load(root, LARGE)


def scenes(variant: Variant, split: str) -> Iterator[Scene]:
    """The scenes of "train" or "val", in order.

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    backgrounds, garments = load_sources("train" if split == "train" else "test")
    key = (VERSION << 32) + (min(variant.scene.canvas) << 16) + _KEYS[split]
    for index in range(variant.counts[list(_KEYS).index(split)]):
        yield make_scene(key, index, variant.scene, backgrounds, garments)


def annotate(scene: Scene, number: int, variant: Variant) -> tuple[AnnotatedImage, int]:
    """The image number `number` of a split, and how many of its garments are wholly hidden."""
    annotations = []
    for j, garment in enumerate(scene.labels.tolist()):
        mask = scene.masks[0, j]
        seen = int(mask.sum())
        if not seen:
            continue
        x0, y0, x1, y1 = scene.boxes[0, j].tolist()
        annotations.append(
            Annotation(
                id=j + 1,
                label=variant.category(garment),
                box=(x0, y0, x1 - x0, y1 - y0),
                area=seen,
                crowd=seen < CROWD_BELOW * int(scene.areas[0, j]),
                segmentation=rle.encode(mask),
            )
        )
    height, width = scene.images.shape[1:3]
    image = AnnotatedImage(number, f"{number:06}.jpg", height, width, tuple(annotations))
    return image, len(scene.labels) - len(annotations)


def write(folder: Path, variant: Variant) -> None:
    """Write the data set into an empty folder, with the digests of its files last.

    Raises:
        OSError: it cannot be written.
        DataError: pillow, a photograph or the garments are missing or damaged.
    """
    for split in _KEYS:
        images, hidden = [], 0
        (folder / split).mkdir()
        for number, scene in enumerate(scenes(variant, split), 1):
            image, unseen = annotate(scene, number, variant)
            _write_jpeg(folder / split / image.file_name, scene.images[0])
            images.append(image)
            hidden += unseen
        info = {
            "description": f"{variant.name}, {split}: Fashion-MNIST garments on photographs",
            "version": str(VERSION),
            "hidden_garments": hidden,
        }
        path = _annotations(folder, split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(annotation_file(images, variant.categories, info), encoding="utf-8")
    write_sums(folder)


def _annotations(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"instances_{split}.json"


def _write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image  # there where the photographs could be decoded

    Image.fromarray(pixels).save(path, "JPEG", quality=95, subsampling=0)


def _note(split: Split, name: str) -> str:
    hidden = json.loads(split.file.read_bytes())["info"]["hidden_garments"]
    garments = [annotation for image in split.images for annotation in image.annotations]
    crowd = sum(annotation.crowd for annotation in garments)
    return (
        f"{name}: {crowd:,} of {counted(len(garments), 'garment')} are crowd, less than a quarter "
        f"of each is seen; {hidden:,} more are wholly hidden and left out"
    )
