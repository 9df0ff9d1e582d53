"""A small network of a user's own, and class folders of images for it."""

import textwrap

from groupnorm.study.conversions.own_network import OwnNetwork
from tests.data.files.image_trees import class_folders

MODULE = '''
import torch
from torch import nn


def make(outputs=2):
    """A network with batch norms whose statistics are of some images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
              nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
              nn.Linear(8, outputs)]
    network = nn.Sequential(*layers)
    for _ in range(20):
        network(torch.randn(8, 3, 16, 16))
    return network.eval()
'''


def own_network(folder, images=12, **changes):
    """The module and the images in a folder, and what describes them."""
    (folder / "mine_for_tests.py").write_text(textwrap.dedent(MODULE))
    class_folders(folder / "photos", ("cat", "dog"), images=images)
    fields = {
        "network": "mine_for_tests:make", "options": {}, "checkpoint": None,
        "images": str(folder / "photos"), "size": 16, "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25], "calibration": 16, "held_out": 8, "labels": True, **changes,
    }  # fmt: skip
    return OwnNetwork(**fields)
