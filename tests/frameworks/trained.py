"""A ResNet-20 with group norm and weight standardization, trained by the package, and its test."""

import functools

import numpy as np
import torch

from groupnorm.data.catalog import load
from groupnorm.data.memory.augment import normalize
from groupnorm.run import run
from groupnorm.training.config import RunConfig

NORM = "gn:groups=8+ws"


@functools.cache
def trained_resnet20():
    """The network, test images (N, 3, H, W) and their labels."""
    config = RunConfig(
        model="resnet20", data="fashion-scenes", train_images=3000, epochs=4, norm=NORM, workers=1,
        batch_per_worker=8, base_lr=0.8, zero_gamma=False,
    )  # fmt: skip
    network = run(config, with_cost=False).model.eval()
    images = load("fashion-scenes")
    return (
        network,
        normalize(images.test_images[:1000], images.mean, images.std),
        (images.test_labels[:1000].numpy()),
    )


def assert_the_same(found, network, images, labels, bound):
    """Logits within a bound, and no image in another class.

    Args:
        found: logits (N, classes) of another framework.
    """
    with torch.no_grad():
        expected = torch.cat([network(part) for part in images.split(100)]).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound * np.abs(expected).max())
    wrong = expected.argmax(1) != labels
    assert 0 < wrong.mean() < 0.7
    np.testing.assert_array_equal(found.argmax(1) != labels, wrong)
