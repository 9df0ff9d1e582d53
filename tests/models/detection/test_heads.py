"""The heads: shapes, keys, norms and first weights."""

import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead

from groupnorm.layers import GroupNorm, norm_layer, norm_modules
from groupnorm.models.detection.heads import (
    box_head,
    box_predictor,
    mask_head,
    mask_predictor,
    proposal_head,
    retinanet_head,
)
from tests.tolerances import SAMPLED_FEW, SAMPLED_HUNDREDS

GN = norm_layer("gn:groups=4")
NONE = norm_layer("none")


def theirs(channels):
    return nn.GroupNorm(4, channels)


def test_keys_are_torchvisions():
    pairs = [
        (box_head("2fc", 8, 32, NONE), TwoMLPHead(8 * 49, 32)),
        (box_head("4conv1fc", 8, 32, GN), FastRCNNConvFCHead((8, 7, 7), [8] * 4, [32], theirs)),
        (mask_head(8, 4, GN), MaskRCNNHeads(8, [8] * 4, 1, theirs)),
        (mask_head(8, 4, NONE), MaskRCNNHeads(8, [8] * 4, 1)),
        (retinanet_head(8, 9, 5, GN, 4, "he"), RetinaNetHead(8, 9, 5, theirs)),
    ]
    for ours, other in pairs:
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in other.state_dict().items()
        }


def test_the_head_of_four_convolutions_has_a_norm_and_a_relu_after_each():
    kinds = [type(m) for m in box_head("4conv1fc", 8, 32, GN).modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(GroupNorm) == 4
    assert kinds.count(nn.ReLU) == 5
    assert box_head("4conv1fc", 8, 32, GN)(torch.randn(3, 8, 7, 7)).shape == (3, 32)


def test_shapes():
    scores, deltas = box_predictor(32, 5)(torch.randn(3, 32))
    assert (scores.shape, deltas.shape) == ((3, 6), (3, 24))
    masks = mask_predictor(8, 4, 5)(mask_head(8, 2, NONE)(torch.randn(3, 8, 14, 14)))
    assert masks.shape == (3, 6, 28, 28)


def test_no_head_of_proposals_or_masks_has_a_norm():
    for head in (proposal_head(8, 3, 1, "he"), mask_predictor(8, 4, 5)):
        assert norm_modules(head) == []


def std(weight):
    return weight.detach().std().item()


@pytest.mark.parametrize("init", ["published", "he"])
def test_hidden_convolutions_of_proposals_and_retinanet(init):
    torch.manual_seed(0)
    he = (2 / (9 * 64)) ** 0.5
    proposals = proposal_head(64, 3, 2, init)
    retinanet = retinanet_head(64, 9, 5, NONE, 2, init)
    hidden = [
        *proposals.conv,
        *retinanet.classification_head.conv,
        *retinanet.regression_head.conv,
    ]
    assert len(hidden) == 6
    for layer in hidden:
        expected = he if init == "he" else 0.01
        assert std(layer[0].weight) == pytest.approx(expected, rel=SAMPLED_FEW)
    last = (proposals.cls_logits, retinanet.classification_head.cls_logits)
    for layer in last:
        assert std(layer.weight) == pytest.approx(0.01, rel=SAMPLED_HUNDREDS)
    prior = torch.sigmoid(retinanet.classification_head.cls_logits.bias)
    assert torch.allclose(prior, torch.tensor(0.01))


def test_first_weights_of_box_and_mask_heads():
    torch.manual_seed(0)
    he = (2 / (9 * 64)) ** 0.5
    head = box_head("4conv1fc", 64, 128, GN)
    assert std(head[2][0].weight) == pytest.approx(he, rel=SAMPLED_FEW)
    assert std(mask_head(64, 2, GN)[1][0].weight) == pytest.approx(he, rel=SAMPLED_FEW)
    for linear, fan_in in ((head[5], 49 * 64), (box_head("2fc", 64, 128, NONE).fc7, 128)):
        assert std(linear.weight) == pytest.approx(fan_in**-0.5, rel=SAMPLED_FEW)
    predictor = box_predictor(1024, 5)
    assert std(predictor.cls_score.weight) == pytest.approx(0.01, rel=SAMPLED_FEW)
    assert std(predictor.bbox_pred.weight) == pytest.approx(0.001, rel=SAMPLED_FEW)
    for module in (head, predictor, mask_predictor(64, 64, 5)):
        for name, parameter in module.named_parameters():
            assert parameter.abs().max() == 0 or not name.endswith("bias")
