"""Group norms become constants, and what that loses is measured."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groupnorm.conversion import fold, freeze_groups
from groupnorm.layers import FrozenBatchNorm, GroupNorm, GroupNormAct
from tests.conversion.networks import batch_norms
from tests.tolerances import FORMULA_64, LAYER


def batches(count=3, images=4, channels=8):
    return [torch.randn(images, channels, 5, 5, dtype=torch.float64) * 2 + 1 for _ in range(count)]


def test_each_channel_has_the_line_of_least_squares():
    model = nn.Sequential(GroupNorm(2, 8)).double()
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 2)
        model[0].bias.normal_()
    data = batches()
    frozen, report = freeze_groups(model, data)
    x = torch.cat(data)
    y = model(x).detach()
    left = 0
    for c in range(8):
        a = torch.stack([x[:, c].flatten(), torch.ones(x[:, c].numel(), dtype=x.dtype)], 1)
        line = torch.linalg.lstsq(a, y[:, c].flatten()[:, None]).solution
        want = (a @ line).view(x[:, c].shape)
        torch.testing.assert_close(frozen(x)[:, c], want, rtol=FORMULA_64, atol=FORMULA_64)
        left += float((want - y[:, c]).square().sum())
    about = float((y - y.mean((0, 2, 3), keepdim=True)).square().sum())
    assert report.layers[0].error == pytest.approx(left / about, rel=FORMULA_64)
    assert type(frozen[0]) is FrozenBatchNorm


def test_the_error_of_the_output_is_measured():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), GroupNorm(2, 8), nn.ReLU()).double().train()
    data = batches()
    frozen, report = freeze_groups(model, data)
    with torch.no_grad():
        want, got = model(torch.cat(data)), frozen(torch.cat(data))
    error = float(F.mse_loss(got, want) / want.var(correction=0))
    assert report.output_error == pytest.approx(error, rel=FORMULA_64)
    assert 0 < error < 0.5
    assert f"error of the output {error:.2g}" in str(report)
    assert model.training


def test_statistics_that_do_not_vary_lose_nothing():
    image = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    model = nn.Sequential(GroupNorm(1, 8), nn.ReLU()).double()
    frozen, report = freeze_groups(model, [image, image])
    assert report.layers[0].error < FORMULA_64
    torch.testing.assert_close(frozen(image), model(image), rtol=LAYER, atol=LAYER)


def test_what_is_frozen_folds():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()).eval()
    data = [batch.float() for batch in batches()]
    frozen, _ = freeze_groups(model, data)
    folded, _ = fold(frozen, data[0])
    assert batch_norms(folded) == []
    torch.testing.assert_close(folded(data[0]), frozen(data[0]), rtol=LAYER, atol=LAYER)


def test_timms_activation_stays():
    timm = pytest.importorskip("timm")
    model = nn.Sequential(timm.layers.GroupNormAct(8, 2)).eval()
    frozen, report = freeze_groups(model, [torch.randn(2, 8, 4, 4)])
    assert type(frozen[0].act) is nn.ReLU
    assert frozen(torch.randn(2, 8, 4, 4)).min() == 0
    assert 0 < report.layers[0].error < 0.5


def test_what_cannot_be_frozen_is_named():
    model = nn.ModuleList([GroupNorm(2, 8), GroupNorm(2, 8), GroupNormAct(2, 8), nn.BatchNorm2d(8)])
    _, report = freeze_groups(model, [torch.randn(2, 8, 4, 4)], forward=lambda m, x: m[0](x))
    assert [row.name for row in report.layers] == ["0"]
    assert {row.name: row.reason for row in report.skipped} == {
        "1": "it does not run on the batches",
        "2": "its activation is part of its kernel",
        "3": "has stored statistics; freeze makes it constant",
    }
    with pytest.raises(ValueError, match="0 layers changed"):
        freeze_groups(nn.Sequential(nn.BatchNorm2d(8)), [torch.randn(2, 8, 4, 4)])


def test_batches_are_needed_twice():
    model = nn.Sequential(GroupNorm(2, 8))
    with pytest.raises(TypeError, match="gone through twice"):
        freeze_groups(model, iter([torch.randn(2, 8, 4, 4)]))
    with pytest.raises(ValueError, match="no batches"):
        freeze_groups(model, [])
