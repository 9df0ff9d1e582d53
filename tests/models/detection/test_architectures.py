"""Names, and sizes that follow the canvas."""

import pytest
import torch
from torchvision.ops.poolers import LevelMapper

from groupnorm.models import check_places, places_of
from groupnorm.models.detection.architectures import DETECTORS, architecture_of
from groupnorm.models.detection.region_pooling import region_pooling

NARROW = DETECTORS["mask_rcnn_narrow"].regions
PUBLISHED = DETECTORS["mask_rcnn_resnet50"].regions


def boxes(*sides):
    return [torch.tensor([[0.0, 0, side, side] for side in sides])]


@pytest.mark.parametrize("canvas", [96, 128, 320])
def test_garments_of_any_canvas_go_to_several_levels(canvas):
    """Sides of a fifth to four fifths of it; with torchvision's sizes all of small ones to one."""
    garments = boxes(*(canvas * part for part in (0.2, 0.35, 0.5, 0.65, 0.84)))
    levels = region_pooling((4, 8, 16), 7, NARROW.scaled_to(canvas)).map_levels
    assert levels(garments).tolist() == [0, 0, 1, 1, 2]
    if canvas <= 128:
        assert LevelMapper(2, 4)(garments).tolist() == [0] * 5


def test_published_levels():
    levels = region_pooling((4, 8, 16, 32), 7, PUBLISHED.scaled_to(800)).map_levels
    assert levels(boxes(56, 111, 112, 223, 224, 447, 448, 800)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_published_numbers_at_the_published_canvas():
    found = PUBLISHED.scaled_to(800)
    assert found == PUBLISHED
    assert found.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert found.proposals == (2000, 1000)
    assert (found.sampled_anchors, found.sampled_regions, found.detections) == (256, 512, 100)


def test_sides_follow_the_canvas_and_numbers_a_smaller_ones_area():
    half = PUBLISHED.scaled_to(400)
    assert half.anchor_sizes == ((16,), (32,), (64,), (128,), (256,))
    assert (half.canonical_scale, half.canonical_level) == (112, 4)
    assert (half.sampled_regions, half.sampled_anchors, half.proposals) == (128, 64, (500, 250))
    assert PUBLISHED.scaled_to(32).sampled_regions == 8
    large = NARROW.scaled_to(192)
    assert large.anchor_sizes == ((32,), (64,), (112,))
    assert (large.sampled_regions, large.sampled_anchors, large.detections) == (32, 64, 20)


@pytest.mark.parametrize("canvas", [0, -3])
def test_no_canvas(canvas):
    with pytest.raises(ValueError, match=f"1 pixel or more, got {canvas}"):
        NARROW.scaled_to(canvas)


def test_names():
    assert {name for name in DETECTORS if "narrow" in name} == {
        "mask_rcnn_narrow",
        "retinanet_narrow",
    }
    assert architecture_of("mask_rcnn_c4_resnet50").places == ("backbone",)
    with pytest.raises(ValueError, match=r"unknown detector 'mask'; known: retinanet_resnet18, "):
        architecture_of("mask")


def test_places():
    assert places_of("retinanet_resnet18") == ("backbone", "fpn", "head")
    check_places("mask_rcnn_resnet101", ["backbone", "fpn", "box_head", "mask_head"])
    told = "retinanet_narrow has no place 'mask_head'; its places: backbone, fpn, head"
    with pytest.raises(ValueError, match=told):
        check_places("retinanet_narrow", ["mask_head"])
