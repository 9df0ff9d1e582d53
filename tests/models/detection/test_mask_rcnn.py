"""Mask R-CNN against torchvision's own with the same parts, and the corners of its inputs."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN

from groupnorm.layers import norm_layer
from groupnorm.models import build_detector
from tests.models.detection.scenes import generators, scenes
from tests.models.detection.test_region_pooling import torchvisions as torchvisions_pooling
from tests.tolerances import DDP_64, DOUBLE

CLASSES = 5


def detector(name="mask_rcnn_narrow", canvas=64, **options):
    torch.manual_seed(0)
    options = {"norm": "gn:groups=8", "head_init": "he", **options}
    return build_detector(name, num_classes=CLASSES, canvas=canvas, **options)


def torchvisions(ours):
    """torchvision's Mask R-CNN of the same modules, with its own pooling."""
    rpn, heads = copy.deepcopy(ours.rpn), copy.deepcopy(ours.roi_heads)
    heads.box_roi_pool = torchvisions_pooling(heads.box_roi_pool)
    heads.mask_roi_pool = torchvisions_pooling(heads.mask_roi_pool)
    sampler = heads.fg_bg_sampler
    return MaskRCNN(
        copy.deepcopy(ours.backbone),
        min_size=64,
        max_size=64,
        _skip_resize=True,  # which draws a random number, too
        rpn_anchor_generator=rpn.anchor_generator,
        rpn_head=rpn.head,
        rpn_pre_nms_top_n_train=rpn._pre_nms_top_n["training"],
        rpn_pre_nms_top_n_test=rpn._pre_nms_top_n["testing"],
        rpn_post_nms_top_n_train=rpn._post_nms_top_n["training"],
        rpn_post_nms_top_n_test=rpn._post_nms_top_n["testing"],
        rpn_batch_size_per_image=rpn.fg_bg_sampler.batch_size_per_image,
        box_roi_pool=heads.box_roi_pool,
        box_head=heads.box_head,
        box_predictor=heads.box_predictor,
        box_batch_size_per_image=sampler.batch_size_per_image,
        box_detections_per_img=heads.detections_per_img,
        mask_roi_pool=heads.mask_roi_pool,
        mask_head=heads.mask_head,
        mask_predictor=heads.mask_predictor,
    )


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_one_workers_losses_and_gradients_are_torchvisions():
    """It draws from torch's default generator what ours draws from the worker's."""
    ours = detector(box_head="4conv1fc").double()
    theirs = torchvisions(ours)
    assign = theirs.rpn.assign_targets_to_anchors
    theirs.rpn.assign_targets_to_anchors = lambda *args: [  # its labels make its loss float32
        [one.double() for one in found] for found in assign(*args)
    ]
    images, targets = scenes([2, 0, 3], dtype=torch.float64)
    losses = ours(images, targets, [seeded(7)])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = theirs(images, targets)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], **DDP_64)
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, others[name].grad, **DDP_64)


def test_detections_are_torchvisions():
    ours = detector().eval()
    nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.2)
    theirs = torchvisions(ours).eval()
    images, _ = scenes([2, 1])
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert len(one["boxes"]) > 3
        assert one["masks"].shape == (len(one["boxes"]), 1, 64, 64)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_default_generator_is_one_workers():
    model, (images, targets) = detector(), scenes([1, 2])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = model(images, targets)
    second = model(images, targets, [seeded(3)])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask_rcnn_narrow", {"norm": "bn", "box_head": "4conv1fc"}),
        ("mask_rcnn_narrow", {"norm": "brn", "box_head": "4conv1fc"}),
        ("mask_rcnn_narrow", {"norm": "gn:groups=8+ws"}),
        pytest.param("mask_rcnn_c4_resnet50", {"norm": "bn"}, marks=pytest.mark.slow),
    ],
)
def test_a_pass_of_several_workers_is_the_mean_of_their_passes(name, options):
    """Losses, gradients and running statistics; one worker has no objects, another one alone."""
    norm = norm_layer(options["norm"], batch_per_worker=1)
    model = detector(name, canvas=32, **{**options, "norm": norm}).double()
    parts = [copy.deepcopy(model) for _ in range(3)]
    images, targets = scenes([2, 0, 1], size=32, dtype=torch.float64)
    losses = model(images, targets, generators(5, range(3)))
    sum(losses.values()).backward()
    every = []
    for worker, part in enumerate(parts):
        mine = slice(worker, worker + 1)
        every.append(part(images[mine], targets[mine], generators(5, [worker])))
        sum(every[-1].values()).backward()
    for key, loss in losses.items():
        torch.testing.assert_close(loss, sum(one[key] for one in every) / 3, **DDP_64)
    assert every[1]["loss_mask"] == 0 < every[0]["loss_mask"]
    for key, parameter in model.named_parameters():
        mean = sum(part.get_parameter(key).grad for part in parts) / 3
        torch.testing.assert_close(parameter.grad, mean, **DDP_64)
    for key, buffer in model.named_buffers():
        if buffer.is_floating_point():
            mean = sum(part.get_buffer(key) for part in parts) / 3
            torch.testing.assert_close(buffer, mean, **DDP_64)


def test_losses_of_other_divisions_differ():
    """The comparison above can fail: batch norm's regions of two workers together."""
    images, targets = scenes([2, 1, 0, 1], size=32, dtype=torch.float64)
    found = []
    for workers in (1, 2):
        model = detector(canvas=32, norm="bn", box_head="4conv1fc").double()
        model.backbone.requires_grad_(False).eval()
        found.append(model(images, targets, generators(0, range(workers))))
    assert abs(found[0]["loss_mask"] - found[1]["loss_mask"]) > 1e-3


@pytest.mark.parametrize("name", ["mask_rcnn_narrow"])
def test_images_without_objects_give_every_parameter_a_gradient(name):
    """So that processes whose images have none do not leave the others waiting."""
    model = detector(name, norm=norm_layer("bn", batch_per_worker=1), box_head="4conv1fc")
    images, targets = scenes([0, 0])
    losses = model(images, targets, generators(0, range(2)))
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_worker_without_any_region():
    """Proposals may all be too small to stay; the losses are 0, not NaN."""
    model = detector(norm=norm_layer("bn", batch_per_worker=1))
    model.rpn.min_size = 1e6
    images, targets = scenes([0, 1])
    losses = model(images, targets, generators(0, range(2)))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    model.eval()
    with torch.no_grad():
        assert [len(found["boxes"]) for found in model(images)] == [0, 0]


def test_images_of_one_batch_may_differ_in_size():
    model = detector()
    images, targets = scenes([1, 1])
    images[0], small = images[0], scenes([1], size=32, seed=1)
    images[1], targets[1] = small[0][0], small[1][0]
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    found = model.eval()([images[0], torch.rand(3, 1, 1)])
    assert found[1]["masks"].shape[2:] == (1, 1)


@pytest.mark.parametrize(("norm", "depends"), [("gn:groups=8", True), ("frozenbn", False)])
def test_padding_enters_the_statistics_of_norms_that_have_some(norm, depends):
    """An image's features beside a larger one: GN's depend on the neighbour, frozen BN's do not."""
    model = detector(norm="none", norms={"backbone": norm}).double().eval()
    for part in model.backbone.body.modules():
        if isinstance(getattr(part, "weight", None), nn.Parameter) and part.weight.dim() == 1:
            nn.init.ones_(part.weight)
    images = [torch.rand(3, size, size, dtype=torch.float64) for size in (32, 64)]
    alone, beside = (
        model.backbone.body(model.transform(batch)[0].tensors)["0"][0, :, :4, :4]
        for batch in (images[:1], images)
    )
    assert ((alone - beside).abs().max() > 100 * DOUBLE) == depends


def test_targets_are_checked_before_anything_is_computed():
    model, (images, targets) = detector(), scenes([1, 1])
    targets[1]["labels"] = torch.tensor([CLASSES + 1])
    with pytest.raises(ValueError, match="label 0 of image 1 must lie between 1 and 5"):
        model(images, targets)
    with pytest.raises(ValueError, match="got 2 images, none targets"):
        model(images)


def test_features_of_boxes_and_masks_are_shared_by_c4():
    with torch.device("meta"):
        model = detector("mask_rcnn_c4_resnet50")
    assert model.roi_heads.mask_roi_pool is None
    heads = {name.split(".")[1] for name, _ in model.roi_heads.named_parameters("roi_heads")}
    assert heads == {"box_head", "box_predictor", "mask_predictor"}
    assert not any("layer4" in name for name, _ in model.backbone.named_modules())


@pytest.mark.slow
def test_c4_trains_and_detects():
    model = detector("mask_rcnn_c4_resnet50", canvas=32)
    images, targets = scenes([1, 2], size=32)
    losses = model(images, targets, generators(0, range(2)))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        found = model.eval()(images)
    assert found[0]["masks"].shape[1:] == (1, 32, 32)
