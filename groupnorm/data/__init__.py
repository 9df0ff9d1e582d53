"""Data sets by name, and their batches, ready for a network."""

from groupnorm.data.batches import Batches
from groupnorm.data.catalog import DEFAULT, IMAGE_FILES, NAMES, check_name, find, load
from groupnorm.data.image_files import ImageFiles
from groupnorm.data.image_set import DataError, ImageSet
from groupnorm.data.in_memory import InMemory

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
