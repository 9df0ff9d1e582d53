"""Networks that cannot be exported are refused, with the layer's name and what to do."""

import pytest
import torch
from torch import nn

from groupnorm import GroupNorm
from groupnorm.export.errors import ExportError
from groupnorm.export.preparation.checks import check_exportable
from groupnorm.layers import BatchNorm, FrozenBatchNorm


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 4), GroupNorm(1, 4), BatchNorm(4),
                                  nn.BatchNorm2d(4), FrozenBatchNorm(4)])  # fmt: skip
def test_a_norm_in_training_mode(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm).eval()
    check_exportable(model)
    norm.train()
    with pytest.raises(ExportError, match=r"1 \(.*\) is in training mode; call model.eval\(\)"):
        check_exportable(model)


def test_batch_norm_without_statistics():
    model = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(ExportError, match=r"0 \(BatchNorm2d\) stores no statistics"):
        check_exportable(model)
    check_exportable(nn.Sequential(nn.InstanceNorm2d(4)).eval())


def test_layers_without_values():
    with pytest.raises(ExportError, match=r"0 \(LazyConv2d\) has no shape yet"):
        check_exportable(nn.Sequential(nn.LazyConv2d(4, 1)).eval())
    with pytest.raises(ExportError, match=r"the network \(GroupNorm\) has no values"):
        check_exportable(nn.GroupNorm(1, 4, device="meta").eval())


@pytest.mark.filterwarnings("ignore:.*jit.*:FutureWarning")
def test_torchscript():
    scripted = torch.jit.script(nn.Sequential(nn.GroupNorm(1, 4)).eval())
    with pytest.raises(ExportError, match="is in TorchScript"):
        check_exportable(scripted)


def test_what_is_no_network():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module"):
        check_exportable(torch.zeros(3))
