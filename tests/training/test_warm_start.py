"""Starting from another run's weights: names, what is left as it was, and what does not fit."""

import pytest
import torch
from torch import nn

from groupnorm.layers import BatchNorm, FrozenBatchNorm
from groupnorm.training.warm_start import WarmStart, WarmStartError, load_weights


def body(norm, classes, seed):
    torch.manual_seed(seed)
    layers = {"conv": nn.Conv2d(3, 4, 3), "norm": norm(4), "fc": nn.Linear(4, classes)}
    return nn.ModuleDict(layers)


def renamed(key):
    return None if key.startswith("fc.") else f"backbone.{key}"


def test_a_backbone_gets_the_weights_of_a_classifier():
    """With frozen statistics in place of a batch norm's, and heads that stay as they were."""
    first = body(BatchNorm, 10, 0)
    first["norm"].running_mean.fill_(3.0)
    model = nn.ModuleDict({"backbone": body(FrozenBatchNorm, 2, 1), "head": nn.Linear(4, 2)})
    del model["backbone"]["fc"]
    before = model["head"].weight.clone()
    found = load_weights(model, first.state_dict(), WarmStart(rename=renamed, fresh=["head."]))
    assert found == {
        "loaded": 7,
        "left_out": ["fc.weight", "fc.bias"],
        "fresh": ["head.weight", "head.bias"],
    }
    assert torch.equal(model["backbone"]["conv"].weight, first["conv"].weight)
    assert (model["backbone"]["norm"].running_mean == 3).all()
    assert torch.equal(model["head"].weight, before)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (WarmStart(), "size mismatch for fc.weight: copying a param with shape .*; size mismatch"),
        (WarmStart(rename=renamed), "lacks conv.weight and 7 more"),
        (
            WarmStart(rename=lambda k: k if "norm" in k else None, fresh=["conv."]),
            "lacks fc.weight and 1 more",
        ),
        (
            WarmStart(rename=lambda k: k if k[:2] != "fc" else k.upper(), fresh=["fc."]),
            "has FC.\\w+ and 1 more that the model does not have",
        ),
    ],
)
def test_what_does_not_fit_is_named(how, told):
    with pytest.raises(WarmStartError, match=f"^{told}"):
        load_weights(body(BatchNorm, 2, 1), body(BatchNorm, 10, 0).state_dict(), how)


def test_what_is_given_is_taken_where_it_could_have_stayed():
    first, model = body(BatchNorm, 2, 0), body(BatchNorm, 2, 1)
    found = load_weights(model, first.state_dict(), WarmStart(fresh=["fc."]))
    assert found == {"loaded": 9, "left_out": [], "fresh": []}
    assert torch.equal(model["fc"].weight, first["fc"].weight)


def test_weights_are_converted_after_they_are_renamed():
    """As those of a network for images are inflated: here twice the filter."""
    first, model = body(BatchNorm, 2, 0), body(BatchNorm, 2, 1)

    def doubled(weights):
        return {k: 2 * v if k == "conv.weight" else v for k, v in weights.items()}

    given = {f"old.{key}": value for key, value in first.state_dict().items()}
    how = WarmStart(rename=lambda key: key.removeprefix("old."), convert=doubled)
    assert load_weights(model, given, how) == {"loaded": 9, "left_out": [], "fresh": []}
    assert torch.equal(model["conv"].weight, 2 * first["conv"].weight)
    assert torch.equal(model["fc"].weight, first["fc"].weight)


def test_how_weights_fit_is_said_by_name():
    """What is given by position goes to another field when one is added before it."""
    with pytest.raises(TypeError):
        WarmStart(renamed)
