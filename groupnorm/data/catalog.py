"""The data sets by name. The module of a set, which needs torch, is imported when it is used."""

from __future__ import annotations

import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groupnorm.data.issues import DataError

if TYPE_CHECKING:
    from groupnorm.data.detection.annotations import DetectionSet
    from groupnorm.data.files.listing import ImageFiles
    from groupnorm.data.memory.image_set import ImageSet
    from groupnorm.data.segmentation.label_maps import SegmentationSet
    from groupnorm.data.video.clips import VideoSet
    from groupnorm.data.video.listing import VideoFiles

# name -> module, and its functions that load and find the set
_SETS: dict[str, tuple[str, str, str]] = {
    "digits": ("groupnorm.data.sets.digits", "load", "find"),
    "fashion-mnist-mini": ("groupnorm.data.sets.fashion_mnist_mini", "load", "find"),
    "fashion-scenes": ("groupnorm.data.sets.fashion_scenes", "load", "find"),
    "garments-crops": ("groupnorm.data.sets.garments_crops", "load", "find"),
    "fashion-mnist": ("groupnorm.data.sets.fashion_mnist", "load", "find"),
    "cifar10": ("groupnorm.data.sets.cifar", "load_cifar10", "find_cifar10"),
    "cifar100": ("groupnorm.data.sets.cifar", "load_cifar100", "find_cifar100"),
    "imagenet": ("groupnorm.data.sets.imagenet", "load", "find"),
    "imagefolder": ("groupnorm.data.sets.image_folder", "load", "find"),
    "pets": ("groupnorm.data.sets.pets", "load", "find"),
    "photo-patches": ("groupnorm.data.sets.photo_patches", "load", "find"),
}
_DETECTION_SETS: dict[str, tuple[str, str, str]] = {
    "garments": ("groupnorm.data.sets.garments", "load", "find"),
    "garments-128": ("groupnorm.data.sets.garments", "load_128", "find_128"),
    "garments-320": ("groupnorm.data.sets.garments", "load_320", "find_320"),
    "coco": ("groupnorm.data.sets.coco", "load", "find"),
}
_SEGMENTATION_SETS: dict[str, tuple[str, str, str]] = {
    "garments-masks": ("groupnorm.data.sets.garments_masks", "load", "find"),
}
_VIDEO_SETS: dict[str, tuple[str, str, str]] = {
    "garments-motion": ("groupnorm.data.sets.garments_motion", "load", "find"),
    "garments-motion-24": ("groupnorm.data.sets.garments_motion", "load_24", "find_24"),
    "garments-motion-files": ("groupnorm.data.sets.garments_motion_files", "load", "find"),
    "kinetics": ("groupnorm.data.sets.kinetics", "load", "find"),
}
NAMES: tuple[str, ...] = tuple(_SETS)
DETECTION_NAMES: tuple[str, ...] = tuple(_DETECTION_SETS)
"""Those of images with boxes and masks."""
SEGMENTATION_NAMES: tuple[str, ...] = tuple(_SEGMENTATION_SETS)
"""Those of images with a label for every pixel."""
VIDEO_NAMES: tuple[str, ...] = tuple(_VIDEO_SETS)
"""Those of labelled videos."""
VIDEO_FILES = ("kinetics",)
"""Those whose videos lie in files, of any size."""
IMAGE_FILES = ("imagenet", "imagefolder", "pets", "photo-patches")
"""Those whose images lie in files, of any size."""
DEFAULT = "fashion-scenes"


def load(name: str, root: Path | None = None) -> ImageSet | ImageFiles:
    """Load a data set: small images in memory, photographs as lists of files.

    Args:
        name: one of `NAMES`.
        root: a folder to look in first; then come the environment variable GROUPNORM_DATA, the
            usual places, `./data` and the cache folder (GROUPNORM_CACHE or
            XDG_CACHE_HOME/groupnorm or ~/.cache/groupnorm).

    Raises:
        DataError: an unknown name; files that are missing, truncated, or not the expected ones. The
            message says what was looked for, where, and how to get it.
    """
    check_images(name)
    module, function, _ = _SETS[name]
    images: ImageSet | ImageFiles = _function(module, function)(root)
    return images


def load_detection(name: str, root: Path | None = None) -> DetectionSet:
    """Load a data set of images with boxes and masks, one of `DETECTION_NAMES`; as `load`.

    Raises:
        DataError: an unknown name; files that are missing or malformed.
    """
    check_detection(name)
    module, function, _ = _DETECTION_SETS[name]
    loaded: DetectionSet = _function(module, function)(root)
    return loaded


def load_segmentation(name: str, root: Path | None = None) -> SegmentationSet:
    """Load a data set of images with a label for every pixel, one of `SEGMENTATION_NAMES`; as
    `load`.

    Raises:
        DataError: an unknown name; files that are missing or malformed.
    """
    check_segmentation(name)
    module, function, _ = _SEGMENTATION_SETS[name]
    loaded: SegmentationSet = _function(module, function)(root)
    return loaded


def load_video(name: str, root: Path | None = None) -> VideoSet | VideoFiles:
    """Load a data set of labelled videos, one of `VIDEO_NAMES`; as `load`.

    Small videos are in memory; others are lists of files.

    Raises:
        DataError: an unknown name; files that are missing or malformed.
    """
    check_videos(name)
    module, function, _ = _VIDEO_SETS[name]
    loaded: VideoSet | VideoFiles = _function(module, function)(root)
    return loaded


def load_any(
    name: str, root: Path | None = None
) -> ImageSet | ImageFiles | DetectionSet | SegmentationSet | VideoSet | VideoFiles:
    """Load a data set of any kind; as `load`.

    Raises:
        DataError: an unknown name; files that are missing or malformed.
    """
    if name in _VIDEO_SETS:
        return load_video(name, root)
    if name in _SEGMENTATION_SETS:
        return load_segmentation(name, root)
    return load_detection(name, root) if name in _DETECTION_SETS else load(name, root)


def check_detection(name: str) -> None:
    """Check that there is a data set of images with boxes and masks of this name.

    Raises:
        DataError: there is none; the message lists the known ones.
    """
    if name not in _DETECTION_SETS:
        raise DataError(f"unknown detection data set {name!r}; known: {', '.join(DETECTION_NAMES)}")


def check_segmentation(name: str) -> None:
    """Check that there is a data set of images with a label for every pixel of this name.

    Raises:
        DataError: there is none; the message lists the known ones.
    """
    if name not in _SEGMENTATION_SETS:
        raise DataError(
            f"unknown segmentation data set {name!r}; known: {', '.join(SEGMENTATION_NAMES)}"
        )


def check_videos(name: str, image_size: int | None = None, crops: int = 1) -> None:
    """Check that there is a data set of videos of this name whose frames may be cropped so.

    Args:
        image_size: None for the size that the frames have, or that is usual.
        crops: of every test clip.

    Raises:
        DataError: an unknown data set; the message lists the known ones.
        ValueError: a size, or several crops, of frames that are taken whole.
    """
    if name not in _VIDEO_SETS:
        raise DataError(f"unknown video data set {name!r}; known: {', '.join(VIDEO_NAMES)}")
    _check_size(name, image_size, VIDEO_FILES)
    if crops > 1 and name not in VIDEO_FILES:
        raise ValueError(
            f"the frames of {name} are taken whole; test_crops={crops} is for "
            f"{', '.join(VIDEO_FILES)}"
        )


def find(name: str, root: Path | None = None) -> str:
    """Where a data set of any kind was found, without decoding or making it; as `load`.

    Raises:
        DataError: an unknown name, or missing files.
    """
    others = _DETECTION_SETS | _SEGMENTATION_SETS | _VIDEO_SETS
    if name not in others:
        check_images(name)
    module, _, function = (_SETS | others)[name]
    where: str = _function(module, function)(root)
    return where


def check_images(name: str, image_size: int | None = None) -> None:
    """Check that there is a data set of this name whose images may have this size.

    Args:
        image_size: None for the size that the images have, or that is usual.

    Raises:
        DataError: an unknown data set; the message has a hint where the name is that of a folder.
        ValueError: a size for images that have one of their own.
    """
    if name not in _SETS:
        hint = ""
        if os.sep in name or "/" in name or os.path.exists(name):
            root = f"--data-root {shlex.quote(name)}"
            hint = (
                f". A folder of images is --data imagefolder {root} (groupnorm train: "
                f"data=imagefolder {root})"
            )
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}{hint}")
    _check_size(name, image_size, IMAGE_FILES)


def _check_size(name: str, image_size: int | None, of_files: tuple[str, ...]) -> None:
    if image_size is not None and name not in of_files:
        raise ValueError(
            f"the images of {name} have a size of their own; image_size is for "
            f"{', '.join(of_files)}"
        )


def _function(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
