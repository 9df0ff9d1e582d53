"""Data sets by name, and their batches, ready for a network.

What needs torch loads on first use, so that a study can be planned without it.
"""

from typing import TYPE_CHECKING

from groupnorm.data.catalog import DEFAULT, IMAGE_FILES, NAMES, check_images, find, load
from groupnorm.data.issues import DataError
from groupnorm.lazy import lazy

if TYPE_CHECKING:
    from groupnorm.data.batches import Batches
    from groupnorm.data.files.listing import ImageFiles
    from groupnorm.data.memory.batches import InMemory
    from groupnorm.data.memory.image_set import ImageSet

__all__ = [
    "DEFAULT",
    "IMAGE_FILES",
    "NAMES",
    "Batches",
    "DataError",
    "ImageFiles",
    "ImageSet",
    "InMemory",
    "check_images",
    "find",
    "load",
]

__getattr__ = lazy(
    __name__,
    {
        "Batches": "groupnorm.data.batches",
        "ImageFiles": "groupnorm.data.files.listing",
        "ImageSet": "groupnorm.data.memory.image_set",
        "InMemory": "groupnorm.data.memory.batches",
    },
)
