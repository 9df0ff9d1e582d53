"""What a transfer reads of PyTorch, and what it compares."""

import numpy as np
import pytest
import torch

from groupnorm.frameworks.weights.matching import Slot
from groupnorm.frameworks.weights.problems import WeightsError
from groupnorm.frameworks.weights.transfer import (
    given_for,
    torch_source,
    value_from_torch,
    value_to_torch,
)

KERNEL_SLOT = Slot("stem.kernel", "stem", "weight", "conv", (3, 3, 4, 8), "float32")
VARIANCE_SLOT = Slot("blocks.0.bn.var", "blocks.0.bn", "running_var", "same", (8,), "float32")


def test_one_value_for_each_module():
    assert given_for(["a", "b"], 3.0) == ({"a": 3.0, "b": 3.0}, [])
    assert given_for(["a"], None) == ({}, ["a: none given"])
    found, problems = given_for(["a", "b"], {"a": 1.0, "c": 2.0})
    assert found == {"a": 1.0}
    assert problems == ["b: none given", "c: given, but there is none"]


def test_values_there_and_back():
    slot = VARIANCE_SLOT
    tensor = torch.rand(8)
    value = value_from_torch(slot, tensor, {"blocks.0.bn": 4})
    assert np.allclose(value, tensor.numpy() * 0.75)
    assert torch.allclose(value_to_torch(slot, value, {"blocks.0.bn": 4}), tensor)
    kernel = torch.randn(8, 4, 3, 3)
    value = value_from_torch(KERNEL_SLOT, kernel, {})
    assert value.shape == (3, 3, 4, 8)
    assert torch.equal(value_to_torch(KERNEL_SLOT, value, {}), kernel)


def test_what_weights_come_from():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    state, modules = torch_source(model)
    assert set(state) == {"0.weight", "0.bias"}
    assert set(modules) == {"", "0"}
    assert torch_source(model.state_dict())[1] is None
    for wrong in ([1], {"a": 1}, "weights.pt"):
        with pytest.raises(WeightsError, match=f"or its state dict .* got {type(wrong).__name__}"):
            torch_source(wrong)
