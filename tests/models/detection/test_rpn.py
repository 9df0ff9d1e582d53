"""Proposals whose anchors and losses belong to workers; the losses stand in test_mask_rcnn.py."""

import torch

from groupnorm.models.detection.architectures import DETECTORS
from groupnorm.models.detection.heads import proposal_head
from groupnorm.models.detection.inputs import NormalizeAndPad
from groupnorm.models.detection.rpn import RegionProposals
from tests.models.detection.scenes import generators, scenes


def test_numbers_are_those_of_the_regions():
    regions = DETECTORS["mask_rcnn_narrow"].regions
    rpn = RegionProposals(proposal_head(6, 3, 1, "he"), regions)
    images, targets = scenes([2, 0], size=96)
    batch, _ = NormalizeAndPad([0.5] * 3, [0.2] * 3)(images)
    maps = {str(n): torch.randn(2, 6, 24 >> n, 24 >> n) for n in range(3)}
    boxes, losses = rpn(batch, maps, targets, generators(0, range(2)))
    assert losses.keys() == {"loss_objectness", "loss_rpn_box_reg"}
    assert max(map(len, boxes)) <= regions.proposals[0]
    assert rpn.fg_bg_sampler.batch_size_per_image == regions.sampled_anchors
    boxes, losses = rpn.eval()(batch, maps)
    assert losses == {}
    assert max(map(len, boxes)) <= regions.proposals[1]
