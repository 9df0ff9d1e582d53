"""RetinaNet against torchvision's own with the same parts."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from groupnorm.layers import norm_layer
from groupnorm.models import build_detector
from groupnorm.models.detection.retinanet import focal_loss, match_anchors
from tests.models.detection.scenes import generators, scenes
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


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_anchors_match_as_torchvisions_matcher_has_it(data):
    """Corners on a coarse grid, so that overlaps are often equal, and often none."""

    def draw(count):
        corner = st.tuples(st.integers(0, 6), st.integers(0, 6))
        side = st.tuples(st.integers(1, 4), st.integers(1, 4))
        found = data.draw(st.lists(st.tuples(corner, side), min_size=count[0], max_size=count[1]))
        return torch.tensor(
            [[x, y, x + w, y + h] for (x, y), (w, h) in found], dtype=torch.float32
        ).view(-1, 4)

    anchors = draw((1, 12))
    boxes = [draw((0, 3)) for _ in range(data.draw(st.integers(1, 3)))]
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    found = match_anchors(boxes, anchors)
    matched = torch.where(found.counted, matcher.BELOW_LOW_THRESHOLD, matcher.BETWEEN_THRESHOLDS)
    image, anchor, number = found.positive
    matched[image, anchor] = number
    for row, of_image in zip(matched, boxes, strict=True):
        expected = torch.full((len(anchors),), matcher.BELOW_LOW_THRESHOLD)
        if len(of_image):
            expected = matcher(box_iou(of_image, anchors))
        assert torch.equal(row, expected)


def test_focal_loss_is_torchvisions():
    logits = 6 * torch.randn(2, 7, 3, dtype=torch.float64)
    wanted = torch.zeros_like(logits)
    indices = torch.tensor([0, 0, 1]), torch.tensor([2, 5, 5]), torch.tensor([1, 0, 2])
    wanted[indices] = 1
    weights = torch.rand(2, 7, dtype=torch.float64)
    expected = (sigmoid_focal_loss(logits, wanted) * weights[..., None]).sum()
    torch.testing.assert_close(focal_loss(logits, indices, weights), expected, **DDP_64)


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
    losses = model(images, targets, generators(5, range(3)))
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
    sum(model(images, targets, generators(0, range(2))).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_targets_are_checked():
    model, (images, targets) = detector(), scenes([1, 1])
    with pytest.raises(ValueError, match="got 2 images and 3 workers"):
        model(images, targets, generators(0, range(3)))
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
