"""Names, layouts and conventions of weights, on arrays of numpy and PyTorch alone."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from groupnorm.frameworks.weights import (
    LAYOUTS,
    Slot,
    WeightsError,
    as_numpy,
    as_tensor,
    differing,
    given_for,
    layout_from_torch,
    layout_to_torch,
    match,
    refuse,
    same_padding,
    torch_padding,
    torch_shape,
    torch_source,
    value_from_torch,
    value_to_torch,
    variance_from_torch,
    variance_to_torch,
)
from tests.tolerances import DOUBLE, ROUNDOFF

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


# ---- Names --------------------------------------------------------------------------------------

SLOTS = [
    Slot("stem.kernel", "stem", "weight", "conv", (3, 3, 4, 8), "float32"),
    Slot("blocks.0.bn.scale", "blocks.0.bn", "weight", "same", (8,), "float32"),
    Slot("blocks.0.bn.bias", "blocks.0.bn", "bias", "same", (8,), "float32"),
    Slot("blocks.0.bn.var", "blocks.0.bn", "running_var", "same", (8,), "float32"),
    Slot("token", "", "token", "same", (8,), "float32"),
]
FITTING = {
    "stem.weight": ((8, 4, 3, 3), "float32"),
    "blocks.0.bn.weight": ((8,), "float32"),
    "blocks.0.bn.bias": ((8,), "float32"),
    "blocks.0.bn.running_var": ((8,), "float32"),
    "blocks.0.bn.num_batches_tracked": ((), "int64"),
    "token": ((8,), "float32"),
}


def lines(problems):
    return {heading.partition(" (")[0]: found for heading, found in problems.items() if found}


def test_names_are_matched_by_the_module():
    found, problems = match(SLOTS, FITTING)
    assert not lines(problems)
    assert {name: slot.name for name, slot in found.items()} == {
        "stem.weight": "stem.kernel",
        "blocks.0.bn.weight": "blocks.0.bn.scale",
        "blocks.0.bn.bias": "blocks.0.bn.bias",
        "blocks.0.bn.running_var": "blocks.0.bn.var",
        "token": "token",
    }


def test_the_longest_name_given_counts_for_what_is_below_it():
    torchs = {
        name.replace("blocks.0.bn", "net.layers.0.norm1").replace("stem", "net.first"): value
        for name, value in FITTING.items()
    }
    names = {"net": "", "net.layers": "blocks", "net.layers.0.norm1": "blocks.0.bn",
             "net.first": "stem"}  # fmt: skip
    found, problems = match(SLOTS, torchs, {k: v for k, v in names.items() if k != "net"})
    assert not lines({**problems, "in the names given, but no module of PyTorch's": []})
    assert len(found) == 5
    found, _ = match(SLOTS, {f"module.{name}": value for name, value in FITTING.items()},
                     {"module": ""})  # fmt: skip
    assert len(found) == 5
    found, _ = match([SLOTS[0]], {"weight": FITTING["stem.weight"]}, {"": "stem"})
    assert len(found) == 1


def test_everything_that_does_not_fit_is_listed():
    torchs = dict(FITTING)
    del torchs["blocks.0.bn.bias"]
    torchs |= {
        "extra.weight": ((3,), "float32"),
        "stem.weight": ((8, 4, 3, 5), "float32"),
        "token": ((8,), "float64"),
        "other.weight": ((8,), "float32"),
    }
    _, problems = match(SLOTS, torchs, {"other": "blocks.0.bn", "typo": "stem"})
    found = lines(problems)
    assert found == {
        "in PyTorch alone": ["extra.weight (3,)"],
        "in the model alone": ["blocks.0.bn.bias (8,)"],
        "of another shape": [
            "stem.weight (8, 4, 3, 5), where stem.kernel (3, 3, 4, 8) takes (8, 4, 3, 3)"
        ],
        "of another dtype": ["token float64, where token is float32"],
        "matched more than once": [
            "blocks.0.bn.scale (8,) with blocks.0.bn.weight and other.weight"
        ],
        "in the names given, but no module of PyTorch's": ["'typo'"],
    }
    with pytest.raises(WeightsError, match="nothing was loaded") as error:
        refuse(problems)
    for listed in found.values():
        for line in listed:
            assert line in str(error.value)


def test_a_name_given_that_leads_nowhere_says_so():
    _, problems = match(SLOTS, {"a.weight": ((8,), "float32")}, {"a": "b"})
    assert problems["in PyTorch alone"] == ["a.weight (8,), by the names given in 'b'"]


def test_nothing_to_refuse():
    refuse({"in PyTorch alone": []})


# ---- Settings and conventions -------------------------------------------------------------------


def test_settings_that_differ():
    assert differing({"a": 1e-5, "": 1e-6}, {"a": 1e-5, "": 1e-5}) == [
        "the model itself: 1e-06, in PyTorch 1e-05"
    ]


def test_one_value_for_each_module():
    assert given_for(["a", "b"], 3.0) == ({"a": 3.0, "b": 3.0}, [])
    assert given_for(["a"], None) == ({}, ["a: none given"])
    found, problems = given_for(["a", "b"], {"a": 1.0, "c": 2.0})
    assert found == {"a": 1.0}
    assert problems == ["b: none given", "c: given, but there is none"]


def test_the_variance_is_that_of_pytorchs_batch_norm():
    """One training step with momentum 1 leaves the unbiased variance of the batch."""
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    norm = torch.nn.BatchNorm1d(3, momentum=1.0, dtype=torch.float64)
    norm(x)
    unbiased, biased = norm.running_var.numpy(), x.numpy().var((0, 2))
    np.testing.assert_allclose(variance_from_torch(unbiased, 20), biased, rtol=DOUBLE)
    np.testing.assert_allclose(variance_to_torch(biased, 20), unbiased, rtol=DOUBLE)


def test_an_infinite_count_leaves_the_numbers():
    array = np.random.default_rng(0).random(100).astype(np.float32)
    assert np.array_equal(variance_from_torch(array, math.inf), array)
    assert np.array_equal(variance_to_torch(array, math.inf), array)
    there = variance_to_torch(variance_from_torch(array, 32), 32)
    np.testing.assert_allclose(there, array, rtol=2 * ROUNDOFF[torch.float32])


@pytest.mark.parametrize("count", [1, 0, -3, math.nan])
def test_a_count_must_be_above_one(count):
    with pytest.raises(WeightsError, match=f"more than 1, got {count}"):
        variance_from_torch(np.ones(3), count)


def test_values_there_and_back():
    slot = SLOTS[3]
    tensor = torch.rand(8)
    value = value_from_torch(slot, tensor, {"blocks.0.bn": 4})
    assert np.allclose(value, tensor.numpy() * 0.75)
    assert torch.allclose(value_to_torch(slot, value, {"blocks.0.bn": 4}), tensor)
    kernel = torch.randn(8, 4, 3, 3)
    value = value_from_torch(SLOTS[0], kernel, {})
    assert value.shape == (3, 3, 4, 8)
    assert torch.equal(value_to_torch(SLOTS[0], value, {}), kernel)


@pytest.mark.parametrize(
    ("kernel", "strides", "dilation", "expected"),
    [
        ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
        ((2, 5), (1, 1), (1, 1), ((0, 1), (2, 2))),
        ((3,), (1,), (4,), ((4, 4),)),
        ((1, 1), (2, 2), (1, 1), ((0, 0), (0, 0))),
        ((3, 1), (2, 2), (1, 1), None),
        ((3, 3), (1, 2), (1, 1), None),
    ],
)
def test_same_padding(kernel, strides, dilation, expected):
    assert same_padding(kernel, strides, dilation) == expected


def test_padding_of_pytorchs_convolutions():
    def padding(*arguments, **options):
        return torch_padding(torch.nn.Conv2d(2, 2, *arguments, **options))

    assert padding(3, padding=(1, 2)) == ((1, 1), (2, 2))
    assert padding(3, padding="valid") == ((0, 0), (0, 0))
    assert padding((2, 3), padding="same") == ((0, 1), (1, 1))


def test_what_weights_come_from():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    state, modules = torch_source(model)
    assert set(state) == {"0.weight", "0.bias"}
    assert set(modules) == {"", "0"}
    assert torch_source(model.state_dict())[1] is None
    for wrong in ([1], {"a": 1}, "weights.pt"):
        with pytest.raises(WeightsError, match=f"or its state dict .* got {type(wrong).__name__}"):
            torch_source(wrong)
