"""Data sets by name, and their batches, ready for a network.

What needs torch loads on first use, so that a study can be planned without it.
"""

from typing import TYPE_CHECKING

from groupnorm.data.catalog import (
    DEFAULT,
    DETECTION_NAMES,
    IMAGE_FILES,
    NAMES,
    SEGMENTATION_NAMES,
    VIDEO_FILES,
    VIDEO_NAMES,
    check_detection,
    check_images,
    check_segmentation,
    check_videos,
    find,
    load,
    load_any,
    load_detection,
    load_segmentation,
    load_video,
)
from groupnorm.data.issues import DataError
from groupnorm.lazy import lazy

if TYPE_CHECKING:
    from groupnorm.data.batches import Batches
    from groupnorm.data.detection.annotations import DetectionSet
    from groupnorm.data.detection.batches import AnnotatedBatches
    from groupnorm.data.detection.targets import DetectionBatches
    from groupnorm.data.files.folder_images import FolderImages, folder_images
    from groupnorm.data.files.listing import ImageFiles
    from groupnorm.data.memory.batches import InMemory
    from groupnorm.data.memory.image_set import ImageSet
    from groupnorm.data.segmentation.label_maps import SegmentationBatches, SegmentationSet
    from groupnorm.data.video.clips import VideoBatches, VideoSet

__all__ = [
    "DEFAULT",
    "DETECTION_NAMES",
    "IMAGE_FILES",
    "NAMES",
    "SEGMENTATION_NAMES",
    "VIDEO_FILES",
    "VIDEO_NAMES",
    "AnnotatedBatches",
    "Batches",
    "DataError",
    "DetectionBatches",
    "DetectionSet",
    "FolderImages",
    "ImageFiles",
    "ImageSet",
    "InMemory",
    "SegmentationBatches",
    "SegmentationSet",
    "VideoBatches",
    "VideoSet",
    "check_detection",
    "check_images",
    "check_segmentation",
    "check_videos",
    "find",
    "folder_images",
    "load",
    "load_any",
    "load_detection",
    "load_segmentation",
    "load_video",
]

__getattr__ = lazy(
    __name__,
    {
        "AnnotatedBatches": "groupnorm.data.detection.batches",
        "Batches": "groupnorm.data.batches",
        "DetectionBatches": "groupnorm.data.detection.targets",
        "DetectionSet": "groupnorm.data.detection.annotations",
        "FolderImages": "groupnorm.data.files.folder_images",
        "ImageFiles": "groupnorm.data.files.listing",
        "ImageSet": "groupnorm.data.memory.image_set",
        "InMemory": "groupnorm.data.memory.batches",
        "SegmentationBatches": "groupnorm.data.segmentation.label_maps",
        "SegmentationSet": "groupnorm.data.segmentation.label_maps",
        "VideoBatches": "groupnorm.data.video.clips",
        "VideoSet": "groupnorm.data.video.clips",
        "folder_images": "groupnorm.data.files.folder_images",
    },
)
