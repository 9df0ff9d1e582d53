"""Memory formats by name, of images and of clips."""

import pytest
import torch
from torch import nn

from groupnorm.training.memory_format import in_memory_format, weights_in_memory_format

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.parametrize("dims", FORMATS)
def test_both_ways(dims):
    values = torch.rand(2, 3, *range(4, 2 + dims))
    last = in_memory_format(values, "channels_last")
    assert last.is_contiguous(memory_format=FORMATS[dims])
    assert torch.equal(last, values)
    assert in_memory_format(values, "contiguous") is values
    assert in_memory_format(last, "contiguous").is_contiguous()


@pytest.mark.parametrize("dims", FORMATS)
def test_weights_and_outputs(dims):
    conv = {4: nn.Conv2d, 5: nn.Conv3d}[dims](3, 4, 3)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(4, 2))
    weights_in_memory_format(model, "contiguous")
    assert conv.weight.is_contiguous()
    weights_in_memory_format(model, "channels_last")
    assert conv.weight.is_contiguous(memory_format=FORMATS[dims])
