"""The detector a user would train without this package: the yardstick of bench_detection.py.

torchvision's RetinaNet or Mask R-CNN of the same sizes with torch's and torchvision's norms, in a
plain loop.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from plain_study import StandardizedConv
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from groupnorm import GroupNorm
from groupnorm.layers import BatchNorm, FrozenBatchNorm, WSConv2d

Targets = list[dict[str, Tensor]]


def detector(ours: Any, side: int) -> nn.Module:
    """torchvision's detector with the weights of ours, for images of `side` pixels."""
    ours = with_torchs_layers(copy.deepcopy(ours))
    common: dict[str, Any] = {
        "min_size": side,
        "max_size": side,
        "_skip_resize": True,
        "image_mean": ours.transform.image_mean,
        "image_std": ours.transform.image_std,
    }
    if isinstance(ours, RetinaNet):
        retinanet: nn.Module = RetinaNet(
            ours.backbone,
            ours.head.classification_head.num_classes,
            anchor_generator=ours.anchor_generator,
            head=ours.head,
            **common,
        )
        return retinanet.train()
    rpn, heads = ours.rpn, ours.roi_heads
    mask_rcnn: nn.Module = MaskRCNN(
        ours.backbone,
        rpn_anchor_generator=rpn.anchor_generator,
        rpn_head=rpn.head,
        rpn_pre_nms_top_n_train=rpn._pre_nms_top_n["training"],
        rpn_post_nms_top_n_train=rpn._post_nms_top_n["training"],
        rpn_batch_size_per_image=rpn.fg_bg_sampler.batch_size_per_image,
        box_roi_pool=_pooling(heads.box_roi_pool),
        box_head=heads.box_head,
        box_predictor=heads.box_predictor,
        box_batch_size_per_image=heads.fg_bg_sampler.batch_size_per_image,
        mask_roi_pool=_pooling(heads.mask_roi_pool),
        mask_head=heads.mask_head,
        mask_predictor=heads.mask_predictor,
        **common,
    )
    return mask_rcnn.train()


def _pooling(ours: Any) -> MultiScaleRoIAlign:
    pooling = MultiScaleRoIAlign(ours.featmap_names, ours.output_size, ours.sampling_ratio)
    pooling.scales, pooling.map_levels = ours.scales, ours.map_levels
    return pooling


def with_torchs_layers(model: nn.Module) -> nn.Module:
    """The same model with torch's and torchvision's norms, and a user's standardized convolutions.

    Group norm is `torch.nn.GroupNorm`, batch norm `torch.nn.BatchNorm2d`, frozen batch norm
    torchvision's.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, GroupNorm):
            layer: nn.Module = nn.GroupNorm(child.num_groups, child.num_channels)
        elif isinstance(child, BatchNorm):
            layer = nn.BatchNorm2d(child.num_features)
        elif isinstance(child, FrozenBatchNorm):
            layer = FrozenBatchNorm2d(child.num_features)
        elif isinstance(child, WSConv2d):
            layer = _standardized(child)
        else:
            with_torchs_layers(child)
            continue
        layer.load_state_dict(child.state_dict())
        setattr(model, name, layer)
    return model


def _standardized(conv: Any) -> nn.Module:
    return StandardizedConv(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        bias=conv.bias is not None,
    )  # fmt: skip


class Images:
    """Batches of decoded images and their targets, shuffled, half of them mirrored.

    Args:
        images: uint8 (3, H, W).
        targets: in the form of torchvision's detectors.
        batch: images in each.
    """

    def __init__(self, images: list[Tensor], targets: Targets, batch: int) -> None:
        self.images, self.targets, self.batch = images, targets, batch

    def __iter__(self) -> Iterator[tuple[list[Tensor], Targets]]:
        while True:
            for rows in torch.split(torch.randperm(len(self.images)), self.batch):
                if len(rows) == self.batch:
                    pairs = [self._example(row) for row in rows.tolist()]
                    yield [image for image, _ in pairs], [target for _, target in pairs]

    def _example(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = self.images[row].float() / 255, self.targets[row]
        if torch.rand(1) < 0.5:
            boxes, width = target["boxes"], image.shape[2]
            mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1],
                                    width - boxes[:, 0], boxes[:, 3]], 1)  # fmt: skip
            masks = target["masks"].flip(2)
            return image.flip(2), {**target, "boxes": mirrored, "masks": masks}
        return image, target


class Loop:
    """Training steps: one pass of all images, or one for each worker's, whose statistics and losses
    are then a worker's own, as in a distributed training.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[tuple[list[Tensor], Targets]],
        passes: int,
        lr: float,
        clip_norm: float,
    ) -> None:
        self.model, self.batches, self.passes = model, batches, passes
        self.optimizer = torch.optim.SGD(model.parameters(), lr, 0.9, weight_decay=1e-4)
        self.clip_norm = clip_norm

    def step(self) -> None:
        """One step."""
        images, targets = next(self.batches)
        self.optimizer.zero_grad()
        size = len(images) // self.passes
        for begin in range(0, len(images), size):
            chosen = slice(begin, begin + size)
            losses: dict[str, Tensor] = self.model(images[chosen], targets[chosen])
            loss = torch.stack(list(losses.values())).sum() / self.passes
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
