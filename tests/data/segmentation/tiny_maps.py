"""A set of 16x16 images in memory: a bright square, or a bright frame, on noise; its map.

Some pixels of every map are ignored.
"""

import torch

from groupnorm.data import SegmentationSet
from groupnorm.data.segmentation.label_maps import IGNORED

CLASSES = ("background", "square", "frame")
SIDE, SIZE = 16, 8


def examples(count, seed):
    """uint8 (count, 3, 16, 16) and maps (count, 16, 16), a square and a frame in turn."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, SIDE, SIDE)
    images = torch.randint(0, 120, shape, generator=generator, dtype=torch.uint8)
    maps = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    places = torch.randint(0, SIDE - SIZE + 1, (count, 2), generator=generator).tolist()
    for index, (top, left) in enumerate(places):
        inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        inside[top : top + SIZE, left : left + SIZE] = True
        if index % 2:
            inside[top + 2 : top + SIZE - 2, left + 2 : left + SIZE - 2] = False
        images[index, :, inside] += 130
        maps[index, inside] = 1 + index % 2
        maps[index, index % SIDE, :3] = IGNORED
    return images, maps


def tiny_maps(train=24, test=11, **changes):
    (train_images, train_maps), (test_images, test_maps) = examples(train, 0), examples(test, 1)
    fields = {
        "name": "shapes", "version": "1", "train_images": train_images, "train_maps": train_maps,
        "test_images": test_images, "test_maps": test_maps, "class_names": CLASSES,
    }  # fmt: skip
    return SegmentationSet(**{**fields, **changes})


ENTRY = ("tests.data.segmentation.tiny_maps", "load", "find")
"""For `groupnorm.data.catalog`, so that the set has a name."""


def load(root):
    return tiny_maps()


def find(root):
    return "in memory"
