"""Data sets by name, as uint8 tensors in memory, and their augmentation."""

from groupnorm.data.catalog import DEFAULT, NAMES, find, load
from groupnorm.data.image_set import DataError, ImageSet

__all__ = ["DEFAULT", "NAMES", "DataError", "ImageSet", "find", "load"]
