"""Pooling of regions, against torchvision's own."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from groupnorm.models.detection import region_pooling as module
from groupnorm.models.detection.architectures import DETECTORS
from groupnorm.models.detection.region_pooling import region_pooling
from tests.tolerances import DOUBLE, LAYER

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


def torchvisions(ours):
    """torchvision's pooling with the same sides, scales and levels."""
    pooling = MultiScaleRoIAlign(ours.featmap_names, ours.output_size, ours.sampling_ratio)
    pooling.scales, pooling.map_levels = ours.scales, ours.map_levels
    return pooling


def regions(counts, canvas, generator):
    """Boxes for each image, among them one beyond every edge, one of a point, one of two maps."""
    corners = [torch.rand(n, 4, generator=generator, dtype=torch.float64) for n in counts]
    boxes = [
        canvas * torch.cat([one[:, :2] * 0.6, one[:, :2] * 0.6 + one[:, 2:] * 0.7], 1)
        for one in corners
    ]
    edges = torch.tensor([[-20.0, -9, canvas + 30, canvas + 9], [5, 5, 5, 5], [-50, -50, -30, -9]])
    return [torch.cat([boxes[0], edges.double()]), *boxes[1:]]


@pytest.mark.parametrize("side", [7, 14])
@pytest.mark.parametrize("strides", [(4, 8, 16), (8,)], ids=["pyramid", "one-map"])
def test_values_and_gradients_are_torchvisions(side, strides):
    """Of images that are no squares, one without regions; values to the bit."""
    generator = torch.Generator().manual_seed(0)
    ours = region_pooling(strides, side, REGIONS)
    boxes = regions([9, 0, 5], 96, generator)
    maps = {
        str(n): torch.randn(
            3, 2, 96 // s, 64 // s, generator=generator, dtype=torch.float64, requires_grad=True
        )
        for n, s in enumerate(strides)
    }
    found, expected = (pool(maps, boxes, [(96, 64)] * 3) for pool in (ours, torchvisions(ours)))
    assert torch.equal(found, expected)
    grad = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    of_ours, of_theirs = (
        torch.autograd.grad(pooled, tuple(maps.values()), grad) for pooled in (found, expected)
    )
    for one, other in zip(of_ours, of_theirs, strict=True):
        assert one.is_contiguous()
        assert (one - other).abs().max() <= 100 * DOUBLE


def test_large_maps_take_torchvisions_gradient(monkeypatch):
    """There the products of matrices are slower; 48 x 48 positions are still small."""
    calls = []
    products = module._gradient_by_products
    monkeypatch.setattr(
        module, "_gradient_by_products", lambda *args: calls.append(1) or products(*args)
    )
    for size, called in ((48, 1), (64, 0)):
        calls.clear()
        maps = {"0": torch.randn(1, 2, size, size, requires_grad=True)}
        pooled = region_pooling((4,), 7, REGIONS)(maps, [torch.tensor([[0.0, 0, 50, 90]])], [])
        pooled.sum().backward()
        assert len(calls) == called
        # every bin is a mean of positions, wherever they lie
        assert maps["0"].grad.sum() == pytest.approx(2 * 49, rel=LAYER)


def test_half_precision_is_pooled_in_float32():
    maps = {"0": torch.randn(1, 2, 24, 24, dtype=torch.bfloat16, requires_grad=True)}
    boxes = [torch.tensor([[3.0, 4, 50, 90]])]
    pooled = region_pooling((4,), 7, REGIONS)(maps, boxes, [])
    assert pooled.dtype == torch.bfloat16
    expected = roi_align(maps["0"].float(), boxes, 7, spatial_scale=1 / 4, sampling_ratio=2)
    assert torch.equal(pooled, expected.bfloat16())
    pooled.sum().backward()
    assert maps["0"].grad.dtype == torch.bfloat16


def test_no_regions():
    maps = {str(n): torch.randn(2, 3, 8, 8, requires_grad=True) for n in range(3)}
    pooled = region_pooling((4, 8, 16), 7, REGIONS)(maps, [torch.empty(0, 4)] * 2, [])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(torch.equal(one.grad, torch.zeros(2, 3, 8, 8)) for one in maps.values())
