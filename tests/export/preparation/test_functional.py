"""Group norms that no module holds are found and named."""

import torch
import torch.nn.functional as F
from torch import nn

import groupnorm
from groupnorm.export.preparation.functional import called_group_norms


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.norm, self.call = nn.GroupNorm(2, 4), call

    def forward(self, x):
        return self.norm(self.call(x))


def test_calls_of_both_functions_are_named():
    for call in (lambda x: F.group_norm(x, 2), lambda x: groupnorm.group_norm(x, 2)):
        model = nn.Sequential(Calls(call), Calls(torch.relu)).eval()
        rows = called_group_norms(model, torch.randn(1, 4, 3))
        assert [row.layer for row in rows] == ["0"]
        assert "1 time" in rows[0].detail


def test_modules_are_not():
    model = nn.Sequential(nn.GroupNorm(2, 4), groupnorm.GroupNorm(2, 4), nn.ReLU()).eval()
    assert called_group_norms(model, torch.randn(1, 4, 3)) == []
    assert not any(module._forward_hooks for module in model.modules())
