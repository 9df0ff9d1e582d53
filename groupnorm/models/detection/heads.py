"""The heads: of the proposals, of RetinaNet, and Mask R-CNN's for boxes and masks.

Initialization as published: He normal (Caffe2's MSRAFill) in hidden convolutions of box and mask
heads, XavierFill in hidden linear layers, N(0, 0.01) and zero bias for scores and N(0, 0.001) for
box deltas of the box head, N(0, 0.01) in everything of the proposals' head and of RetinaNet's.
"he" has He normal in the hidden convolutions of the last two as well, for short trainings, which
N(0, 0.01) begins with signals near 0.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

from groupnorm.layers import NormLayer
from groupnorm.models.detection.layers import conv_norm, relu

POOLED = 7
"""Side of a region's features in the box head; the mask head's is twice as large."""
_BOX_CONVOLUTIONS = 4


def proposal_head(channels: int, anchors: int, depth: int, init: str) -> nn.Module:
    """torchvision's head of the region proposals, with `depth` convolutions and never a norm."""
    head: nn.Module = RPNHead(channels, anchors, conv_depth=depth)
    if init == "he":
        _he(head.get_submodule("conv"))
    return head


def retinanet_head(
    channels: int, anchors: int, num_classes: int, norm: NormLayer, convolutions: int, init: str
) -> nn.Module:
    """torchvision's RetinaNet head; each of its two towers has 3x3 convolutions with norms.

    A tower is shared by all levels of the pyramid, and so are its norms' parameters.
    """
    head: Any = RetinaNetHead(channels, anchors, num_classes)
    for tower in (head.classification_head, head.regression_head):
        layers = [conv_norm(norm, channels, channels, 3) for _ in range(convolutions)]
        tower.conv = nn.Sequential(*layers)
        for layer in layers:
            nn.init.normal_(layer[0].weight, std=0.01)
        if init == "he":
            _he(tower.conv)
    module: nn.Module = head
    return module


def box_head(kind: str, channels: int, hidden: int, norm: NormLayer) -> nn.Module:
    """The box head on (n, channels, 7, 7): "2fc", which has no norm, or "4conv1fc".

    4conv1fc has four 3x3 convolutions, each with norm and ReLU, and one linear layer (Wu & He 2018,
    section 4.2). Keys are torchvision's. Output (n, hidden).
    """
    inputs = channels * POOLED * POOLED
    if kind == "2fc":
        head: nn.Module = TwoMLPHead(inputs, hidden)
    else:
        convolutions = [conv_norm(norm, channels, channels, 3) for _ in range(_BOX_CONVOLUTIONS)]
        head = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(inputs, hidden), relu())
    _he(head)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)
    return head


def box_predictor(inputs: int, num_classes: int) -> nn.Module:
    """Scores of the background and of each class, and box deltas for each: (n, inputs) -> both."""
    predictor: Any = FastRCNNPredictor(inputs, num_classes + 1)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    module: nn.Module = predictor
    return module


def mask_head(channels: int, convolutions: int, norm: NormLayer) -> nn.Sequential:
    """3x3 convolutions with norm and ReLU on (n, channels, 14, 14)."""
    head = nn.Sequential(*(conv_norm(norm, channels, channels, 3) for _ in range(convolutions)))
    _he(head)
    return head


def mask_predictor(inputs: int, hidden: int, num_classes: int) -> nn.Module:
    """torchvision's: a transposed convolution without a norm, ReLU, and the logits of each class.

    (n, inputs, S, S) -> (n, num_classes + 1, 2 S, 2 S). Like all of torchvision's it has a mask for
    the background, which nothing trains.
    """
    predictor: nn.Module = MaskRCNNPredictor(inputs, hidden, num_classes + 1)
    for name, parameter in predictor.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return predictor


def _he(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
