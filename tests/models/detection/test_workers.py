"""Whose images, whose rows, and what is sampled."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from groupnorm.models.detection.workers import (
    mean_weights,
    rows_of_workers,
    sample_balanced,
    split_workers,
)
from tests.tolerances import DOUBLE


def test_images_of_workers():
    assert split_workers("abcdef", 3) == [["a", "b"], ["c", "d"], ["e", "f"]]
    rows = [torch.zeros(n, 4) for n in (2, 0, 0, 0, 5, 1)]
    assert rows_of_workers(rows, 3) == [2, 0, 6]
    for images, workers in (("abc", 2), ("", 1), ("a", 2)):
        with pytest.raises(ValueError, match=f"got {len(images)} images and {workers} workers"):
            split_workers(images, workers)


def test_the_weights_make_the_mean_over_workers_of_their_means():
    values = torch.randn(9, dtype=torch.float64)
    found = (values * mean_weights([4, 0, 5], values)).sum()
    expected = (values[:4].mean() + 0 + values[4:].mean()) / 3
    assert torch.allclose(found, expected, atol=DOUBLE)


@pytest.mark.parametrize("positives", [0, 3, 40])
def test_sampling_is_torchvisions(positives):
    """The same choice from the same numbers, here of the worker's own generator."""
    labels = torch.tensor([1.0] * positives + [0.0] * 50 + [-1.0] * 7)
    labels = labels[torch.randperm(len(labels))]
    before = torch.get_rng_state()
    positive, negative = sample_balanced(labels, 32, 0.5, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = BalancedPositiveNegativeSampler(32, 0.5)([labels])
    for found, (mask,) in zip((positive, negative), theirs, strict=True):
        assert torch.equal(found.sort().values, torch.where(mask)[0])
    assert len(positive) == min(positives, 16)
    assert len(negative) == 32 - len(positive)
