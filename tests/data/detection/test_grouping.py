"""The order of an epoch: each worker's images have one orientation, and nothing else is lost."""

import pytest
import torch

from groupnorm.data.batches import epoch_order
from groupnorm.data.detection.annotations import AnnotatedImage
from groupnorm.data.detection.grouping import grouped_order, is_wide

WIDE = torch.rand(103, generator=torch.Generator().manual_seed(1)) < 0.7


def test_wide_is_wider_than_high():
    images = [AnnotatedImage(1, "1.jpg", h, w) for h, w in ((30, 40), (40, 30), (30, 30))]
    assert is_wide(images).tolist() == [True, False, False]


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_chunks_have_one_orientation(batch):
    order = grouped_order(WIDE, 5, 1, batch)
    wide = int(WIDE.sum())
    assert len(order) == (wide // batch + (103 - wide) // batch) * batch
    assert len(set(order.tolist())) == len(order)
    for chunk in WIDE[order].view(-1, batch):
        assert chunk.all() or not chunk.any()


def test_with_one_image_a_worker_nothing_is_grouped():
    assert torch.equal(grouped_order(WIDE, 5, 2, 1), epoch_order(103, 5, 2))


def test_an_order_follows_from_seed_and_epoch():
    first = grouped_order(WIDE, 5, 1, 2)
    assert torch.equal(first, grouped_order(WIDE, 5, 1, 2))
    for seed, epoch in ((5, 2), (6, 1)):
        other = grouped_order(WIDE, seed, epoch, 2)
        assert not torch.equal(first, other)
        assert len(first) == len(other), "every epoch has as many steps"


def test_orientations_are_mixed_over_the_epoch():
    """Not all wide ones first: each third of the epoch has its share."""
    thirds = WIDE[grouped_order(WIDE, 5, 1, 2)][:99].float().view(3, -1).mean(1)
    assert ((thirds > 0.45) & (thirds < 0.95)).all()


def test_images_of_one_orientation_keep_the_order_of_the_epoch():
    order = grouped_order(torch.ones(10, dtype=torch.bool), 0, 1, 3)
    assert torch.equal(order, epoch_order(10, 0, 1)[:9])
