"""What the detectors take, and what they refuse before it becomes a wrong loss."""

import pytest
import torch
from torch import nn

from groupnorm.layers import norm_layer
from groupnorm.models.detection.inputs import NormalizeAndPad, check_targets, generators_of
from tests.models.detection.scenes import scenes
from tests.tolerances import STEP


def given(**changes):
    images, targets = scenes([2, 0, 1], size=32)
    targets[2] = {**targets[2], **changes}
    return images, targets


def check(**changes):
    return check_targets(*given(**changes), 5, masks=True)


def test_targets_of_the_form_pass_also_without_objects():
    images, targets = given()
    assert check_targets(images, targets, 5, masks=True) is targets
    for target in targets:
        del target["masks"]
    check_targets(images, targets, 5, masks=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"boxes": torch.tensor([])}, r"boxes of image 2 .* \(0, 4\) for none, .* shape \(0,\)"),
        (
            {"boxes": torch.tensor([[1, 2, 3, 4]])},
            "boxes of image 2 must be floating .*int64",
        ),
        (
            {"boxes": torch.tensor([[1.0, 2, 1, 4]])},
            "box 0 of image 2 must be finite and have",
        ),
        (
            {"boxes": torch.tensor([[1.0, 4, 3, 2]])},
            "box 0 of image 2 must be finite and have",
        ),
        ({"boxes": torch.tensor([[1.0, 2, float("nan"), 4]])}, "box 0 of image 2 .* nan"),
        ({"boxes": torch.tensor([[1.0, 2, float("inf"), 4]])}, "box 0 of image 2 .* inf"),
        ({"labels": torch.tensor([0])}, "label 0 of image 2 must lie between 1 and 5 .*, got 0"),
        ({"labels": torch.tensor([6])}, "label 0 of image 2 must lie between 1 and 5 .*, got 6"),
        ({"labels": torch.tensor([1.0])}, r"labels of image 2 must be int64 of shape \(1,\)"),
        ({"labels": torch.tensor([1, 2])}, r"labels of image 2 .* of shape \(2,\)"),
        ({"masks": torch.zeros(1, 32, 31)}, r"masks of image 2 must have shape \(1, 32, 32\), got"),
    ],
)
def test_what_is_wrong_is_named(changes, told):
    with pytest.raises(ValueError, match=told):
        check(**changes)


def test_targets_that_are_missing():
    images, targets = given()
    for some, told in ((None, "none targets"), (targets[:2], "2 targets")):
        with pytest.raises(ValueError, match=f"got 3 images, {told}"):
            check_targets(images, some, 5, masks=True)
    del targets[1]["labels"]
    with pytest.raises(ValueError, match="the target of image 1 has no labels"):
        check_targets(images, targets, 5, masks=False)
    del targets[1]["masks"]
    with pytest.raises(ValueError, match="the target of image 1 has no labels and no masks"):
        check_targets(images, targets, 5, masks=True)


@pytest.mark.parametrize("training", [True, False])
def test_images_are_normalized_and_padded_and_never_resized(training):
    """torchvision's transform resizes to 800 pixels unless told, and in evaluation even then."""
    transform = NormalizeAndPad([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]).train(training)
    images = [torch.rand(3, 40, 64), torch.rand(3, 20, 70)]
    batch, targets = transform(images)
    assert targets is None
    assert batch.image_sizes == [(40, 64), (20, 70)]
    assert batch.tensors.shape == (2, 3, 64, 96)
    for image, padded in zip(images, batch.tensors, strict=True):
        height, width = image.shape[1:]
        inside = padded[:, :height, :width] * torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        inside = inside + torch.tensor([0.5, 0.4, 0.3])[:, None, None]
        assert torch.allclose(inside, image, atol=STEP)
        assert padded[:, height:].abs().max() == 0 == padded[:, :, width:].abs().max()


def test_images_in_0_to_255_are_refused():
    with pytest.raises(TypeError, match="floating type"):
        NormalizeAndPad([0.5] * 3, [0.2] * 3)([torch.zeros(3, 32, 32, dtype=torch.uint8)])


def test_generators_of_workers():
    images = [torch.zeros(3, 8, 8)] * 4
    model = nn.Sequential(norm_layer("gn")(32))
    assert generators_of(model, images, None) == (torch.default_generator,)
    two = [torch.Generator(), torch.Generator()]
    assert generators_of(model, images, two) is two
    with pytest.raises(ValueError, match="got 4 images and 3 workers"):
        generators_of(model, images, [*two, torch.Generator()])
    with pytest.raises(ValueError, match="one entry for each worker, got none"):
        generators_of(model, images, [])


@pytest.mark.parametrize("norm", ["bn", "brn"])
def test_batch_norm_has_the_statistics_of_the_generators_workers(norm):
    images = [torch.zeros(3, 8, 8)] * 4
    two = [torch.Generator(), torch.Generator()]
    whole, of_two = (nn.Sequential(norm_layer(norm, batch_per_worker=n)(8)) for n in (None, 2))
    assert generators_of(of_two, images, two) is two
    assert len(generators_of(whole, images, None)) == 1
    for model, given, own in ((whole, two, "from 4"), (of_two, None, "from 2")):
        with pytest.raises(ValueError, match=f"images per worker, but 0 takes .* {own}: "):
            generators_of(model, images, given)
        model.eval()
        assert generators_of(model, images, given)
