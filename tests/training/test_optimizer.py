"""SGD as a configuration says, and which parameters may be without weight decay."""

import pytest
from torch import nn

from groupnorm.layers import norm_and_activation, norm_layer
from groupnorm.training.config import RunConfig
from groupnorm.training.optimizer import channel_parameters, sgd


def network(norm):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        *norm_and_activation(norm_layer(norm), 4),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 2)),
    )


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        ("gn:groups=2", {"weight", "bias"}),
        ("ln2d", {"weight", "bias"}),
        ("bn", {"weight", "bias"}),
        ("frn", {"weight", "bias", "tau"}),
        ("evonorm_s0", {"weight", "bias", "v"}),
        ("frozenbn", set()),
        ("none", set()),
    ],
)
def test_the_parameters_of_norms_are_found_by_their_form(norm, names):
    model = network(norm)
    found = {id(p) for p in channel_parameters(model)}
    named = {name for name, p in model.named_parameters() if id(p) in found}
    assert {name.rpartition(".")[2] for name in named} == names
    assert all(name.startswith("1") for name in named)


def test_decay_of_all_parameters_is_one_group_in_the_models_order():
    model = network("bn")
    (group,) = sgd(RunConfig(epochs=1, weight_decay=0.5), model).param_groups
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))
    assert (group["weight_decay"], group["nesterov"]) == (0.5, True)


def test_without_decay_of_norms_every_parameter_is_in_one_of_two_groups():
    model = network("gn:groups=2")
    config = RunConfig(epochs=1, weight_decay=0.5, decay_norms=False, momentum=0)
    with_decay, without = sgd(config, model).param_groups
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.5, 0.0)
    assert len(without["params"]) == 2
    both = {id(p) for p in [*with_decay["params"], *without["params"]]}
    assert both == {id(p) for p in model.parameters()}
    assert not without["nesterov"]
