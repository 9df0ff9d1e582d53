"""Layouts of arrays, and tensors as arrays."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from groupnorm.frameworks.weights.layouts import (
    LAYOUTS,
    as_numpy,
    as_tensor,
    layout_from_torch,
    layout_to_torch,
    torch_shape,
)
from groupnorm.frameworks.weights.problems import WeightsError

SHAPES = {
    "same": [(3,), (2, 3)],
    "dense": [(5, 3)],
    "conv": [(3, 4, 5), (3, 2, 4, 5), (2, 3, 4, 5, 6)],
    "flipped": [(3, 4, 5), (3, 2, 4, 5)],
    "depthwise": [(3, 3, 4, 2), (3, 5, 1)],
}
EVERY = [(layout, shape) for layout, shapes in SHAPES.items() for shape in shapes]


def numbered(shape):
    return np.arange(math.prod(shape), dtype=np.float64).reshape(shape)


@pytest.mark.parametrize(("layout", "shape"), EVERY)
def test_there_and_back_is_the_same(layout, shape):
    array = numbered(shape)
    there = layout_to_torch(array, layout)
    assert there.shape == torch_shape(shape, layout)
    assert there.flags.c_contiguous
    back = layout_from_torch(there, layout, shape)
    assert np.array_equal(back, array)
    assert back.flags.c_contiguous


def test_every_layout_is_tried():
    assert SHAPES.keys() == LAYOUTS.keys()


def test_where_each_number_goes():
    """Spatial (i, j), in c, out d; a depthwise kernel's channel c and copy m."""
    array = numbered((3, 2, 4, 5))
    conv, flipped = layout_to_torch(array, "conv"), layout_to_torch(array, "flipped")
    depthwise = layout_to_torch(array, "depthwise")
    i, j, c, d = 2, 0, 3, 1
    assert conv[d, c, i, j] == array[i, j, c, d]
    assert flipped[c, d, 3 - 1 - i, 2 - 1 - j] == array[i, j, c, d]
    assert depthwise[c * 5 + d, 0, i, j] == array[i, j, c, d]
    assert layout_to_torch(numbered((4, 5)), "dense")[d, c] == numbered((4, 5))[c, d]


def test_a_depthwise_kernel_convolves_as_pytorch_does():
    kernel, x = numbered((3, 3, 4, 2)), torch.arange(100.0, dtype=torch.float64).reshape(1, 4, 5, 5)
    found = F.conv2d(x, torch.from_numpy(layout_to_torch(kernel, "depthwise")), groups=4)
    for c in range(4):
        for m in range(2):
            one = F.conv2d(x[:, c : c + 1], torch.from_numpy(kernel[None, None, :, :, c, m].copy()))
            assert torch.equal(found[:, c * 2 + m], one[:, 0])


def test_another_shape_is_refused():
    with pytest.raises(WeightsError, match=re.escape("(3, 3, 4, 5) takes (5, 4, 3, 3)")):
        layout_from_torch(np.zeros((5, 4, 3, 2)), "conv", (3, 3, 4, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_of_tensors_are_copied_bit_for_bit(dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    tensor = torch.randn(3, 4).to(dtype).T
    array = as_numpy(tensor)
    assert array.dtype.name == str(dtype).removeprefix("torch.")
    assert torch.equal(as_tensor(array), tensor)
    tensor.zero_()
    assert np.count_nonzero(array.astype(np.float64)) == 12
