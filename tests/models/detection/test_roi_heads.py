"""Pooling of regions; the heads' losses and detections stand in test_mask_rcnn.py."""

import torch
from torchvision.ops import roi_align

from groupnorm.models.detection.architectures import DETECTORS
from groupnorm.models.detection.roi_heads import region_pooling

REGIONS = DETECTORS["mask_rcnn_narrow"].regions


def test_scales_do_not_come_from_the_first_batch():
    """Of an image that is padded much, torchvision's pooling infers another scale, and keeps it."""
    pooling = region_pooling((4, 8, 16), 7, REGIONS)
    maps = {str(n): torch.randn(1, 5, 16 >> n, 16 >> n) for n in range(3)}
    boxes = torch.tensor([[4.0, 4, 20, 24]])
    expected = roi_align(maps["0"], [boxes], 7, spatial_scale=1 / 4, sampling_ratio=2)
    for size in (33, 64):
        assert torch.equal(pooling(maps, [boxes], [(size, size)]), expected)
    assert pooling.scales == [1 / 4, 1 / 8, 1 / 16]


def test_each_region_is_pooled_from_the_map_of_its_level():
    pooling = region_pooling((4, 8, 16), 7, REGIONS)
    maps = {str(n): torch.full((1, 2, 24 >> n, 24 >> n), float(n)) for n in range(3)}
    boxes = torch.tensor([[0.0, 0, side, side] for side in (20, 39, 41, 79, 81)])
    levels = pooling(maps, [boxes], [(96, 96)])[:, 0, 3, 3]
    assert levels.tolist() == [0, 0, 1, 1, 2]
