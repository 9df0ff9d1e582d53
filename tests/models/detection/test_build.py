"""Which modules carry which norm, for every row of the published tables."""

from collections import Counter

import pytest
import torch
from torch import nn

from groupnorm.layers import (
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    SyncBatchNorm,
    WSConv2d,
    norm_layer,
)
from groupnorm.layers import norm_modules as norms_of
from groupnorm.models import build_detector
from groupnorm.models.detection.architectures import DETECTORS

# Norms of a ResNet: one after each convolution, and after that of each shortcut.
BODY = {"resnet18": 20, "resnet50": 53, "resnet101": 104, "resnet14_narrow": 16}
_FROZEN_AND_GN_HEAD = {"backbone": "frozenbn", "box_head": "gn"}
_GN_EVERYWHERE = dict.fromkeys(("backbone", "fpn", "box_head", "mask_head"), "gn")
_OF_GN_EVERYWHERE = {"fpn": 8, "box_head": 4, "mask_head": 4}
# experiment of the catalogue, arm: name, norms by place, box head -> number of norms elsewhere
# than in the backbone. The arms of a longer training, and of one from scratch, have the same.
ROWS = {
    "coco-c4, frozen BN": ("mask_rcnn_c4_resnet50", {"backbone": "frozenbn"}, "2fc", {}),
    "coco-c4, GN": ("mask_rcnn_c4_resnet50", {"backbone": "gn"}, "2fc", {}),
    "coco-c4, LN": ("mask_rcnn_c4_resnet50", {"backbone": "ln"}, "2fc", {}),
    "coco-c4, BN trained at 2": ("mask_rcnn_c4_resnet50", {"backbone": "bn"}, "2fc", {}),
    "coco-heads, frozen BN": ("mask_rcnn_resnet50", {"backbone": "frozenbn"}, "4conv1fc", {}),
    "coco-heads, frozen BN, GN in box head": (
        "mask_rcnn_resnet50",
        _FROZEN_AND_GN_HEAD,
        "4conv1fc",
        {"box_head": 4},
    ),
    "coco-heads, GN in backbone and box head": (
        "mask_rcnn_resnet50",
        {"backbone": "gn", "box_head": "gn"},
        "4conv1fc",
        {"box_head": 4},
    ),
    "coco-heads, frozen BN, BN in box head": (
        "mask_rcnn_resnet50",
        {"backbone": "frozenbn", "box_head": "bn"},
        "4conv1fc",
        {"box_head": 4},
    ),
    "coco-heads, frozen BN, box head 2fc": (
        "mask_rcnn_resnet50",
        {"backbone": "frozenbn"},
        "2fc",
        {},
    ),
    "coco-systems, R50, frozen BN": ("mask_rcnn_resnet50", {"backbone": "frozenbn"}, "2fc", {}),
    "coco-systems, R101, frozen BN": ("mask_rcnn_resnet101", {"backbone": "frozenbn"}, "2fc", {}),
    **{
        f"coco-systems, R{depth}, GN": (
            f"mask_rcnn_resnet{depth}",
            _GN_EVERYWHERE,
            "4conv1fc",
            _OF_GN_EVERYWHERE,
        )
        for depth in (50, 101)
    },
    "coco-scratch, R50, synchronized BN": (
        "mask_rcnn_resnet50",
        dict.fromkeys(_GN_EVERYWHERE, "syncbn"),
        "4conv1fc",
        _OF_GN_EVERYWHERE,
    ),
    "coco-retinanet, AffineChannel": ("retinanet_resnet50", {"backbone": "frozenbn"}, "2fc", {}),
    "coco-retinanet, GN in pyramid": (
        "retinanet_resnet50",
        {"backbone": "frozenbn", "fpn": "gn"},
        "2fc",
        {"fpn": 6},
    ),
    "coco-retinanet, GN in pyramid, heads and backbone": (
        "retinanet_resnet50",
        dict.fromkeys(("backbone", "fpn", "head"), "gn"),
        "2fc",
        {"fpn": 6, "head": 8},
    ),
}
KINDS = {
    "frozenbn": FrozenBatchNorm,
    "gn": GroupNorm,
    "ln": GroupNorm,
    "bn": BatchNorm,
    "syncbn": SyncBatchNorm,
}
PREFIXES = {
    "backbone": ("backbone.body.", "roi_heads.box_head.layer4."),
    "fpn": ("backbone.fpn.",),
    "box_head": ("roi_heads.box_head.",),
    "mask_head": ("roi_heads.mask_head.",),
    "head": ("head.",),
}


def meta(name, norms, box_head="2fc", **options):
    with torch.device("meta"):
        return build_detector(
            name, norms=norms, box_head=box_head, num_classes=80, canvas=800, **options
        )


def place_of(module):
    return next(
        (
            place
            for place, prefixes in PREFIXES.items()
            if any(module.startswith(prefix) for prefix in prefixes)
        ),
        module,
    )


@pytest.mark.parametrize("row", ROWS)
def test_which_modules_carry_which_norm(row):
    name, norms, head, elsewhere = ROWS[row]
    model = meta(name, norms, head)
    body = DETECTORS[name].body
    found = Counter((place_of(module), type(layer)) for module, layer in norms_of(model))
    expected = {("backbone", KINDS[norms["backbone"]]): BODY[body]}
    for place, count in elsewhere.items():
        expected[place, KINDS[norms[place]]] = count
    assert found == expected
    for _, layer in norms_of(model):
        if isinstance(layer, GroupNorm):
            assert layer.num_groups == (1 if norms["backbone"] == "ln" else 32)
            assert layer.eps == 1e-5


def test_norms_of_a_pyramid_and_its_heads_are_not_followed_by_a_relu_in_the_pyramid_alone():
    model = meta("mask_rcnn_resnet50", dict.fromkeys(PREFIXES.keys() - {"head"}, "gn"), "4conv1fc")
    after = {}
    modules = dict(model.named_modules())
    for name, _ in norms_of(model):
        parent, _, index = name.rpartition(".")
        if place_of(name) != "backbone":
            after.setdefault(place_of(name), set()).add(
                type(modules[parent][int(index) + 1]) if len(modules[parent]) > 2 else None
            )
    assert after == {"fpn": {None}, "box_head": {nn.ReLU}, "mask_head": {nn.ReLU}}


def test_weights_are_standardized_wherever_a_norm_follows_and_nowhere_else():
    norms = dict.fromkeys(("backbone", "fpn", "box_head", "mask_head"), "gn+ws")
    model = meta("mask_rcnn_resnet50", norms, "4conv1fc")
    standardized = {name for name, m in model.named_modules() if isinstance(m, WSConv2d)}
    assert len(standardized) == len(norms_of(model)) == 53 + 8 + 4 + 4
    plain = {
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and name not in standardized
    }
    assert plain == {
        "rpn.head.conv.0.0",
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.mask_predictor.conv5_mask",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }


@pytest.mark.parametrize("name", DETECTORS)
def test_strides_stand_on_the_3x3_convolutions(name):
    model = meta(name, {"backbone": "gn"})
    body = model.backbone.body
    for stage in (module for key, module in body.items() if key.startswith("layer")):
        for block in stage:
            if hasattr(block, "conv3"):
                assert block.conv1.stride == block.conv3.stride == (1, 1)
    if "narrow" not in name:
        assert body["layer2"][0].conv2.stride[0] * body["layer2"][0].conv1.stride[0] == 2


def test_a_norm_of_all_places_reaches_those_that_are_not_given():
    model = build_detector("mask_rcnn_narrow", norm="gn:groups=8", num_classes=5, canvas=96)
    assert {str(spec) for spec in model.norm_specs.values()} == {"gn:groups=8"}
    assert Counter(place_of(name) for name, _ in norms_of(model)) == {
        "backbone": 16,
        "fpn": 6,
        "mask_head": 2,
    }


def test_heads_on_regions_do_not_count_images():
    """RetinaNet's heads do: their input has a row for every image."""
    norm = norm_layer("bn", batch_per_worker=2)
    model = build_detector(
        "mask_rcnn_narrow", norm=norm, box_head="4conv1fc", num_classes=5, canvas=96
    )
    counted = {place_of(name): layer.batch_per_worker for name, layer in norms_of(model)}
    assert counted == {"backbone": 2, "fpn": 2, "box_head": None, "mask_head": None}
    model = build_detector("retinanet_narrow", norm=norm, num_classes=5, canvas=96)
    assert {layer.batch_per_worker for _, layer in norms_of(model)} == {2}


@pytest.mark.parametrize(
    ("name", "levels"),
    [("retinanet_resnet18", 5), ("mask_rcnn_resnet18", 5), ("mask_rcnn_c4_resnet50", 1),
     ("retinanet_narrow", 3), ("mask_rcnn_narrow", 3)],
)  # fmt: skip
def test_every_level_has_its_anchors(name, levels):
    model = meta(name, {})
    found = model.anchor_generator if name.startswith("retina") else model.rpn.anchor_generator
    assert len(found.sizes) == levels
    with torch.device("meta"):
        assert len(model.backbone(torch.zeros(1, 3, 64, 64))) == levels


def test_frozen_parts_are_those_of_detectron():
    model = meta("mask_rcnn_resnet50", {"backbone": "bn", "fpn": "bn"}, freeze_at=2)
    body = model.backbone.body
    frozen = {
        name for name in body if not any(p.requires_grad for p in body[name].parameters())
    } - {"relu", "maxpool"}
    assert frozen == {"conv1", "bn1", "layer1"}
    kinds = {name.split(".")[0]: type(layer) for name, layer in norms_of(body)}
    assert kinds["layer1"] is kinds["bn1"] is FrozenBatchNorm
    assert kinds["layer2"] is BatchNorm


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "mask_rcnn"}, "unknown detector 'mask_rcnn'; known: "),
        ({"norms": {"head": "gn"}}, "mask_rcnn_narrow has no place 'head'; its places: backbone, "),
        ({"norms": {"box_head": "gn"}}, "2fc has no convolution for gn to follow; use box_head='4"),
        ({"norm": "none+nf"}, "none.nf needs residual blocks of another form than mask_rcnn_na"),
        ({"box_head": "3fc"}, "box_head must be 2fc or 4conv1fc, got '3fc'"),
        ({"head_init": "xavier"}, "head_init must be published or he, got 'xavier'"),
        ({"p6_on": "c4"}, "p6_on must be c5 or p5, got 'c4'"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"canvas": 0}, "1 pixel or more, got 0"),
        ({"freeze_at": 7}, "freeze_at must lie between 0 and 4"),
    ],
)
def test_what_cannot_be_built(options, told):
    given = {"name": "mask_rcnn_narrow", "num_classes": 5, "canvas": 96, **options}
    with pytest.raises(ValueError, match=told):
        build_detector(**given)
