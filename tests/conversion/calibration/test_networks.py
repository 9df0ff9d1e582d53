"""Trained networks keep their accuracy when they are converted with data: each part of it tells."""

import pytest
import torch
from torch import nn

from groupnorm.conversion import convert
from groupnorm.conversion.calibration.fit import FitLimits
from groupnorm.data.catalog import load
from groupnorm.data.memory.augment import normalize
from groupnorm.layers import GroupNorm
from groupnorm.run import run
from groupnorm.training.config import RunConfig

pytestmark = pytest.mark.slow
LEAST_SQUARES = FitLimits(signs=False, scale_limit=0, offset_limit=0)


@pytest.fixture(scope="module")
def trained():
    """A network with batch norm, its calibration images, its test images and their labels."""
    config = RunConfig(
        model="resnet8", width=0.5, data="digits", epochs=3, norm="bn", workers=1,
        batch_per_worker=32, base_lr=0.8, zero_gamma=False,
    )  # fmt: skip
    model = run(config, with_cost=False).model.eval()
    images = load("digits")
    calibration, test = (
        normalize(pixels, images.mean, images.std)
        for pixels in (images.train_images[:128], images.test_images)
    )
    return model, calibration, test, images.test_labels


def accuracy(network, images, labels):
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())


def logits_error(network, teacher, images):
    """Of the logits, relative to their variance over the images."""
    with torch.no_grad():
        found, expected = network(images), teacher(images)
    return float((found - expected).square().mean() / expected.var(0).mean())


def test_a_network_keeps_its_accuracy_as_plain_group_norm(trained):
    """With 2 to 8 channels a group; least squares alone loses several times as much."""
    teacher, calibration, test, labels = trained
    fitted, report = convert(teacher, "gn:groups=4", data=calibration)
    folded, _ = convert(teacher, "gn:groups=4", data=calibration, limits=LEAST_SQUARES, refit=False)
    assert {type(m) for name, m in fitted.named_modules() if "norm" in name} == {GroupNorm}
    assert isinstance(fitted.conv1.bias, nn.Parameter)
    before = accuracy(teacher, test, labels)
    assert before > 0.85
    assert accuracy(fitted, test, labels) > 0.97 * before
    error = logits_error(fitted, teacher, test)
    assert error < 0.5 * logits_error(folded, teacher, test)
    assert 0.5 * error < report.output_error < 2 * error


def test_the_budget_finds_groups_that_keep_more(trained):
    teacher, calibration, test, labels = trained
    chosen, report = convert(teacher, "gn", data=calibration, budget=0.05)
    most, _ = convert(teacher, "gn:groups=8", data=calibration)
    assert max(row.groups for row in report.layers) > 1
    assert accuracy(chosen, test, labels) > 0.98 * accuracy(teacher, test, labels)
    assert logits_error(chosen, teacher, test) < logits_error(most, teacher, test)


def test_refitted_convolutions_help_where_groups_are_small(trained):
    teacher, calibration, test, _ = trained
    without, refitted = (
        convert(teacher, "gn:groups=8", data=calibration, refit=refit)[0] for refit in (False, True)
    )
    assert logits_error(refitted, teacher, test) < logits_error(without, teacher, test)
