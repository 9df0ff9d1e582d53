"""Top-1 error and mean loss over batches of any size."""

import pytest
import torch
import torch.nn.functional as F

from groupnorm.training.evaluation.top1 import top1
from tests.tolerances import STEP


def test_loss_and_error_are_those_of_all_images_however_they_are_divided():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 4, generator=generator)
    labels = torch.randint(0, 4, (10,), generator=generator)
    wrong = int((logits.argmax(1) != labels).sum())
    assert 0 < wrong < 10
    for sizes in ([10], [4, 4, 2]):
        batches = zip(logits.split(sizes), labels.split(sizes), strict=True)
        loss, error = top1(lambda images: images, batches, torch.device("cpu"))
        assert loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=STEP)
        assert error == 10.0 * wrong
