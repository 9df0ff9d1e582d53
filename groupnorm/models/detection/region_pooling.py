"""RoIAlign on the maps of a pyramid, with a fast gradient on small maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper
from torchvision.ops.roi_align import roi_align

from groupnorm.models.detection.architectures import RegionSizes

SAMPLES = 2
"""Points along each side of a bin whose mean is the bin's value, as in Detectron."""
_LARGEST_COST = 512
"""Multiplications of the products of matrices for one bin of one channel, above which torchvision's
gradient is faster. 64 x 64 positions and 7 x 7 bins cost 649."""


def region_pooling(strides: Sequence[int], side: int, regions: RegionSizes) -> RegionPooling:
    """RoIAlign of maps with these strides, named "0", "1", ..., to (side, side).

    Scales and levels are set here; torchvision would take them from the first batch it sees, and
    its level of a region from a canvas of 800 pixels.
    """
    pooling = RegionPooling(
        [str(number) for number in range(len(strides))],
        side,
        sampling_ratio=SAMPLES,
        canonical_scale=regions.canonical_scale,
        canonical_level=regions.canonical_level,
    )
    pooling.scales = [1 / stride for stride in strides]
    pooling.map_levels = LevelMapper(
        strides[0].bit_length() - 1,
        strides[-1].bit_length() - 1,
        regions.canonical_scale,
        regions.canonical_level,
    )
    return pooling


class RegionPooling(MultiScaleRoIAlign):  # type: ignore[misc]
    """torchvision's pooling of regions; on the CPU its gradient on small maps is computed here.

    torchvision's kernel computes the coordinates and the four weights of every point anew for
    every channel. The values are torchvision's to the bit, gradients to rounding.
    """

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Maps (N, C, H, W) and boxes (n, 4) of each image -> (sum of n, C, side, side).

        Maps in half precision are pooled in float32, as torchvision does under autocast.

        Args:
            image_shapes: not used, for the scales are known.
        """
        maps = [x[name] for name in self.featmap_names]
        dtype = maps[0].dtype
        if dtype not in (torch.float32, torch.float64):
            maps = [of_level.float() for of_level in maps]
        rows = torch.cat(boxes).to(maps[0].dtype)
        counts = torch.tensor([len(of_image) for of_image in boxes], device=rows.device)
        image = torch.arange(len(boxes), device=rows.device).repeat_interleave(
            counts, output_size=len(rows)
        )
        rois = torch.cat([image[:, None].to(rows.dtype), rows], dim=1)
        levels = torch.zeros_like(image) if len(maps) == 1 else self.map_levels(boxes)
        pooled: Tensor = _Pooled.apply(rois, levels, self.output_size[0], self.scales, *maps)
        return pooled.to(dtype)


class _Pooled(torch.autograd.Function):
    """Regions (R, 5) of image number and box, each pooled from the map of its level."""

    @staticmethod
    def forward(
        ctx: Any,
        rois: Tensor,
        levels: Tensor,
        side: int,
        scales: Sequence[float],
        *maps: Tensor,
    ) -> Tensor:
        y = rois.new_empty(len(rois), maps[0].shape[1], side, side)
        for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            rows = torch.where(levels == level)[0]
            y[rows] = roi_align(features, rois[rows], side, scale, SAMPLES)
        ctx.save_for_backward(rois, levels)
        ctx.scales, ctx.shapes = scales, [features.shape for features in maps]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        rois, levels = ctx.saved_tensors
        gradients = []
        for level, (shape, scale) in enumerate(zip(ctx.shapes, ctx.scales, strict=True)):
            rows = torch.where(levels == level)[0]
            gradients.append(_gradient(grad_output[rows], rois[rows], scale, shape))
        return None, None, None, None, *gradients


def _gradient(grad: Tensor, rois: Tensor, scale: float, shape: Sequence[int]) -> Tensor:
    """The gradient of a map (N, C, H, W), of that of its regions (R, C, P, P)."""
    side, (height, width) = grad.shape[-1], shape[2:]
    if grad.device.type != "cpu" or width * (height + side) > _LARGEST_COST * side:
        of_map: Tensor = torch.ops.torchvision._roi_align_backward(
            grad, rois, scale, side, side, *shape, SAMPLES, False
        )
        return of_map
    return _gradient_by_products(grad, rois, scale, shape)


def _gradient_by_products(grad: Tensor, rois: Tensor, scale: float, shape: Sequence[int]) -> Tensor:
    """The same as products of matrices.

    A region's value is A F B', where the rows of A (P, H) and B (P, W) hold the bilinear weights of
    a bin along each axis, the same for every channel; the gradient of F is the sum of A' G B over
    the image's regions.
    """
    images, channels, height, width = shape
    regions, side = len(rois), grad.shape[-1]
    of_columns = _bin_weights(rois[:, 1], rois[:, 3], scale, side, width)
    of_rows = _bin_weights(rois[:, 2], rois[:, 4], scale, side, height).view(-1, height)
    by_rows = grad.transpose(1, 2).reshape(regions, side * channels, side)
    by_rows = torch.bmm(by_rows, of_columns).view(regions * side, channels * width)
    counts = torch.bincount(rois[:, 0].long(), minlength=images).tolist()
    sizes = [side * count for count in counts]
    of_image = [
        torch.mm(weights.T, values).view(height, channels, width)
        for weights, values in zip(
            torch.split(of_rows, sizes), torch.split(by_rows, sizes), strict=True
        )
    ]
    return torch.stack(of_image).transpose(1, 2).contiguous()


def _bin_weights(begin: Tensor, end: Tensor, scale: float, bins: int, size: int) -> Tensor:
    """Bilinear weights (R, bins, size) of the map's positions in the bins of each region."""
    begin = begin * scale
    step = (end * scale - begin).clamp_min(1) / (bins * SAMPLES)
    number = torch.arange(bins * SAMPLES, dtype=begin.dtype, device=begin.device)
    points = begin[:, None] + (number + 0.5) * step[:, None]
    outside = (points < -1) | (points > size)
    positions = torch.arange(size, dtype=begin.dtype, device=begin.device)
    distance = (points.clamp(0, size - 1)[..., None] - positions).abs()
    weights = (1 - distance).clamp_min(0).masked_fill(outside[..., None], 0)
    return weights.view(-1, bins, SAMPLES, size).mean(2)
