"""What a transfer reads of PyTorch, and what it compares."""

import numpy as np
import pytest
import torch

from groupnorm.frameworks.weights.matching import Slot
from groupnorm.frameworks.weights.problems import WeightsError
from groupnorm.frameworks.weights.transfer import (
    Contents,
    given_for,
    load_from_torch,
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


def test_every_name_of_a_shared_module_counts():
    model = torch.nn.Module()
    model.a = model.b = torch.nn.GroupNorm(2, 4)
    _, modules = torch_source(model)
    assert set(modules) == {"", "a", "b"}


class Own:
    def __init__(self, epsilon):
        self.epsilon = epsilon


def load(source, **options):
    """Into two bare norms, "a" and "b"; the norms."""
    norms = {"a": Own(1e-5), "b": Own(1e-5)}
    contents = Contents(norms, [], lambda pairs: ({}, ["a warning"]))
    fixed = {"names": None, "eps": None, "count": None, "carry_eps": False}
    load_from_torch(source, contents, lambda name, value: None, **{**fixed, **options})
    return norms


def bare(eps):
    return torch.nn.GroupNorm(2, 4, eps=eps, affine=False)


@pytest.mark.filterwarnings("ignore:a warning")
def test_every_module_that_the_names_lead_to_one_is_compared():
    source = torch.nn.ModuleDict({"a": bare(1e-5), "b": bare(1e-5), "c": bare(1e-3)})
    with pytest.raises(WeightsError, match=r"a: 1e-05, in PyTorch 0\.001"):
        load(source, names={"c": "a"})
    with pytest.raises(WeightsError, match=r"need several eps:\n    a: 1e-05 and a: 0\.001"):
        load(source, names={"c": "a"}, carry_eps=True)
    source = torch.nn.ModuleDict({"x": torch.nn.Sequential(bare(1e-3)), "b": bare(1e-5)})
    found = load(source, names={"x": "a", "x.0": "a"}, carry_eps=True)
    assert [norm.epsilon for norm in found.values()] == [1e-3, 1e-5]


def test_warnings_come_once_everything_fits():
    with pytest.warns(UserWarning, match="a warning"):
        load(torch.nn.ModuleDict({"a": bare(1e-5), "b": bare(1e-5)}))
