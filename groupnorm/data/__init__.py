"""Data sets by name: small images as uint8 tensors in memory, photographs as lists of files."""

from groupnorm.data.catalog import DEFAULT, NAMES, find, load
from groupnorm.data.image_files import ImageFiles
from groupnorm.data.image_set import DataError, ImageSet

__all__ = ["DEFAULT", "NAMES", "DataError", "ImageFiles", "ImageSet", "find", "load"]
