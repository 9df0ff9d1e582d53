"""RetinaNet against torchvision's own with the same parts."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet

from groupnorm.layers import norm_layer
from groupnorm.models import build_detector
from groupnorm.models.detection.workers import worker_generators
from tests.models.detection.scenes import scenes
from tests.tolerances import DDP_64

CLASSES = 5


def detector(**options):
    torch.manual_seed(0)
    options = {"norm": "gn:groups=8", "head_init": "he", **options}
    name = options.pop("name", "retinanet_narrow")
    return build_detector(name, num_classes=CLASSES, canvas=64, **options)


def torchvisions(ours):
    ours = copy.deepcopy(ours)
    return RetinaNet(
        ours.backbone,
        CLASSES,
        min_size=64,
        max_size=64,
        anchor_generator=ours.anchor_generator,
        head=ours.head,
        detections_per_img=ours.detections_per_img,
        topk_candidates=ours.topk_candidates,
    )


def test_losses_and_gradients_are_torchvisions_whose_labels_begin_with_0():
    ours = detector().double()
    theirs = torchvisions(ours)
    images, targets = scenes([2, 0, 3], dtype=torch.float64)
    losses = ours(images, targets)
    expected = theirs(images, [{**one, "labels": one["labels"] - 1} for one in targets])
    assert losses.keys() == expected.keys() == {"classification", "bbox_regression"}
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, others[name].grad, **DDP_64)


def test_detections_are_torchvisions_with_labels_from_1():
    ours = detector().eval()
    nn.init.constant_(ours.head.classification_head.cls_logits.bias, -1)
    images, _ = scenes([2, 1])
    with torch.no_grad():
        found, expected = ours(images), torchvisions(ours).eval()(images)
    labels = torch.cat([one["labels"] for one in found])
    assert labels.min() >= 1
    assert labels.max() <= CLASSES
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["labels"], other["labels"] + 1)
        assert len(one["boxes"]) > 3


@pytest.mark.parametrize("norm", ["bn", "gn:groups=8+ws"])
def test_a_pass_of_several_workers_is_the_mean_of_their_passes(norm):
    norm = norm_layer(norm, batch_per_worker=1)
    model = detector(norm=norm).double()
    parts = [copy.deepcopy(model) for _ in range(3)]
    images, targets = scenes([2, 0, 1], size=64, dtype=torch.float64)
    losses = model(images, targets, worker_generators(0, 5, range(3)))
    sum(losses.values()).backward()
    for worker, part in enumerate(parts):
        mine = slice(worker, worker + 1)
        sum(part(images[mine], targets[mine]).values()).backward()
    for key, parameter in model.named_parameters():
        mean = sum(part.get_parameter(key).grad for part in parts) / 3
        torch.testing.assert_close(parameter.grad, mean, **DDP_64)
    for key, buffer in model.named_buffers():
        if buffer.is_floating_point():
            mean = sum(part.get_buffer(key) for part in parts) / 3
            torch.testing.assert_close(buffer, mean, **DDP_64)


def test_images_without_objects_give_every_parameter_a_gradient():
    model = detector(norm=norm_layer("bn", batch_per_worker=1))
    images, targets = scenes([0, 0])
    sum(model(images, targets, worker_generators(0, 0, range(2))).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_targets_are_checked():
    model, (images, targets) = detector(), scenes([1, 1])
    with pytest.raises(ValueError, match="got 2 images and 3 workers"):
        model(images, targets, worker_generators(0, 0, range(3)))
    targets[0]["labels"] = torch.tensor([0])
    with pytest.raises(ValueError, match="label 0 of image 0 must lie between 1 and 5"):
        model(images, targets)


@pytest.mark.parametrize(("p6_on", "channels"), [("c5", 512), ("p5", 256)])
def test_what_p6_is_made_of(p6_on, channels):
    with torch.device("meta"):
        model = detector(name="retinanet_resnet18", p6_on=p6_on)
        maps = model.backbone(torch.zeros(1, 3, 128, 128))
    assert model.backbone.fpn.extra_blocks.p6.in_channels == channels
    assert [value.shape[-1] for value in maps.values()] == [16, 8, 4, 2, 1]
