"""Data sets by name, and their batches, ready for a network."""

from groupnorm.data.batches import Batches
from groupnorm.data.catalog import DEFAULT, IMAGE_FILES, NAMES, check_name, find, load
from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.memory.batches import InMemory
from groupnorm.data.memory.image_set import DataError, ImageSet

__all__ = [
    "DEFAULT",
    "IMAGE_FILES",
    "NAMES",
    "Batches",
    "DataError",
    "ImageFiles",
    "ImageSet",
    "InMemory",
    "check_name",
    "find",
    "load",
]
