"""Mean intersection over union: counted pixels, classes that are not there, ignored pixels."""

import math

import pytest
import torch
import torch.nn.functional as F

from groupnorm.data.segmentation.label_maps import IGNORED
from groupnorm.training.distributed import Processes
from groupnorm.training.evaluation.iou import class_ious, confusion, image_losses, mean_iou
from tests.tolerances import STEP

NAMES = ("ground", "cat", "dog")


def maps(*rows):
    return torch.tensor([rows])


def exactly(found):
    """Logits whose best class is the one found, (N, 3, H, W)."""
    return F.one_hot(found, 3).movedim(3, 1).float() * 9


def test_pixels_are_counted_by_the_right_class_and_the_one_found():
    right, found = maps([0, 0, 1, 2, 2]), maps([0, 1, 1, 0, 2])
    assert confusion(found, right, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_ignored_pixels_do_not_count():
    right, found = maps([0, IGNORED, 1]), maps([0, 2, 2])
    assert confusion(found, right, 3).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert confusion(found, torch.full_like(right, IGNORED), 3).sum() == 0


def test_intersection_over_union_of_each_class():
    counts = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 4]])
    assert class_ious(counts) == pytest.approx([100 * 6 / 9, 100 * 3 / 6, 100.0])
    assert class_ious(torch.tensor([[0, 5], [0, 0]])) == [0.0, None]


def test_a_class_that_no_pixel_has_is_left_out_but_costs_those_taken_for_it():
    right, found = maps([0, 0, 0, 1]), maps([0, 0, 2, 1])
    metrics = mean_iou(lambda _: exactly(found), [(torch.zeros(1), right)], NAMES, "cpu")
    assert metrics["class_iou"] == {"ground": pytest.approx(200 / 3), "cat": 100.0, "dog": None}
    assert metrics["val_mean_iou"] == pytest.approx((200 / 3 + 100) / 2)
    assert metrics["val_pixel_accuracy"] == 75.0


def test_the_images_of_all_batches_count_together():
    """The mean of the images' own means would be another number."""
    batches = [(torch.zeros(1), maps([0, 0, 0, 0])), (torch.zeros(1), maps([0, 1, 1, 1]))]
    found = iter([exactly(maps([0, 0, 0, 0])), exactly(maps([1, 1, 1, 0]))])
    metrics = mean_iou(lambda _: next(found), batches, NAMES, "cpu")
    assert metrics["class_iou"] == {"ground": pytest.approx(400 / 6), "cat": 50.0, "dog": None}


def test_the_sums_of_all_processes_count():
    class Two(Processes):
        def all_reduce_sum(self, values, device):
            return [2.0 * value for value in values]

    right = maps([0, 0, 1, 2])
    alone, both = (
        mean_iou(lambda _: exactly(right), [(torch.zeros(1), right)], NAMES, "cpu", processes)
        for processes in (Processes(), Two())
    )
    assert alone == both
    assert alone["val_mean_iou"] == 100.0


def test_without_a_pixel_that_counts_there_is_no_metric():
    right = torch.full((1, 2, 2), IGNORED)
    metrics = mean_iou(lambda _: torch.zeros(1, 3, 2, 2), [(torch.zeros(1), right)], NAMES, "cpu")
    assert metrics["val_mean_iou"] is metrics["val_pixel_accuracy"] is None
    assert metrics["val_loss"] == 0


def test_the_loss_of_an_image_is_the_mean_over_its_pixels_that_count():
    logits = torch.randn(3, 4, 2, 3)
    right = torch.randint(0, 4, (3, 2, 3))
    right[1, 0] = right[2] = IGNORED
    found = image_losses(logits, right)
    assert found[0].item() == pytest.approx(F.cross_entropy(logits[:1], right[:1]).item(), rel=STEP)
    rest = F.cross_entropy(logits[1:2, :, 1], right[1:2, 1]).item()
    assert found[1].item() == pytest.approx(rest, rel=STEP)
    assert found[2] == 0


def test_ignored_pixels_have_no_gradient():
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    right = torch.zeros(2, 2, 2, dtype=torch.int64)
    right[0, 0, 0] = IGNORED
    image_losses(logits, right).mean().backward()
    assert (logits.grad[0, :, 0, 0] == 0).all()
    assert (logits.grad[0, :, 0, 1] != 0).all()
    assert math.isfinite(logits.grad.sum())
