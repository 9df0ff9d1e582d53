"""Weight standardization of existing models: the same numbers as the layers, and the way back."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from groupnorm.conversion import (
    RescaledWeightStandardization,
    WeightStandardization,
    standardize_convolutions,
    standardize_weights,
)
from groupnorm.layers import WSConv2d, WSConvTranspose2d
from tests.tolerances import DOUBLE, NETWORK


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2))
    ).double()


@pytest.mark.parametrize("form", ["timm", "bit", "original"])
def test_equals_the_layers(form):
    model, twin = network(), network()
    assert standardize_convolutions(model, form, 1e-3) == ["0", "2.0"]
    options = {"ws_form": form, "ws_eps": 1e-3, "dtype": torch.float64}
    layers = nn.Sequential(
        WSConv2d(3, 4, 3, **options),
        nn.ReLU(),
        nn.Sequential(WSConvTranspose2d(4, 6, 3, groups=2, **options)),
    )
    layers.load_state_dict(twin.state_dict())
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    y, expected = model(x), layers(x)
    assert torch.allclose(y, expected)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    learned = model[0].parametrizations.weight.original
    assert torch.allclose(learned.grad, layers[0].weight.grad)


def test_the_standardized_weights_can_be_written_back():
    model = network()
    standardize_convolutions(model)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    y = model(x)
    for conv in (model[0], model[2][0]):
        parametrize.remove_parametrizations(conv, "weight")
    assert type(model[0]) is nn.Conv2d
    assert set(model.state_dict()) == set(network().state_dict())
    assert torch.allclose(model(x), y)


def test_keys_and_training():
    model = network()
    before = model[0].weight.detach().clone()
    standardize_convolutions(model)
    assert torch.equal(model.state_dict()["0.parametrizations.weight.original"], before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    model(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model[0].parametrizations.weight.original, before)
    assert model[0].weight.mean((1, 2, 3)).abs().max() < DOUBLE


def test_a_known_network():
    model = torchvision.models.resnet18(num_classes=3)
    assert len(standardize_convolutions(model)) == 20
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_skip_and_depthwise():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, groups=4))
    with pytest.raises(ValueError, match=r"'1': a filter of one weight .* name it in skip"):
        standardize_convolutions(model)
    assert not parametrize.is_parametrized(model[0])  # nothing was changed
    assert standardize_convolutions(model, skip=["1"]) == ["0"]
    with pytest.raises(ValueError, match="'0' is standardized or parametrized already"):
        standardize_convolutions(model, skip=["1"])
    with pytest.raises(ValueError, match="'' is standardized"):
        standardize_convolutions(WSConv2d(3, 4, 3))
    with pytest.raises(ValueError, match="no convolution of the model: 2, x"):
        standardize_convolutions(model, skip=["x", "0", "2"])
    with pytest.raises(ValueError, match="unknown form"):
        standardize_convolutions(model, "tf")


def test_a_convolution_alone():
    conv = nn.Conv1d(2, 3, 2)
    assert standardize_convolutions(conv) == [""]
    assert "form='timm', eps=1e-06" in repr(conv)
    other = nn.Conv1d(2, 3, 2)
    parametrize.register_parametrization(other, "weight", WeightStandardization("bit"))
    assert torch.allclose(other.weight.var((1, 2), correction=0), torch.ones(3))


@pytest.mark.parametrize("form", ["timm", "bit", "original"])
def test_a_pretrained_network_computes_the_same_at_the_start(form):
    model, x = network(), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    before = {
        name: conv.weight.detach().clone() for name, conv in (("0", model[0]), ("2.0", model[2][0]))
    }
    y = model(x)
    assert standardize_weights(model, form) == ["0", "2.0"]
    for name, weight in before.items():
        got = model.get_submodule(name).weight
        assert (got - weight).abs().max() < DOUBLE
    torch.testing.assert_close(model(x), y, rtol=DOUBLE, atol=DOUBLE)


def test_training_changes_a_filters_shape_and_not_its_moments():
    model, x = network(), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    before = model[2][0].weight.detach().clone()
    standardize_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    weight = model[2][0].weight
    assert (weight - before).abs().max() > DOUBLE
    # (groups, in / groups, out / groups, kernel): a filter's values lie over axes 1, 3 and 4
    for moment in (torch.mean, lambda w, axes: w.var(axes, correction=0)):
        now, then = (moment(w.view(2, 2, 3, 3, 3), (1, 3, 4)) for w in (weight, before))
        torch.testing.assert_close(now, then, rtol=NETWORK, atol=NETWORK)


def test_half_weights_and_one_by_one_filters():
    conv = nn.Conv2d(8, 4, 1).to(torch.bfloat16)
    before = conv.weight.detach().clone()
    standardize_weights(conv)
    assert type(conv.parametrizations.weight[0]) is RescaledWeightStandardization
    assert conv.weight.dtype == torch.bfloat16
    torch.testing.assert_close(conv.weight, before)
    with pytest.raises(ValueError, match="name it in skip"):
        standardize_weights(nn.Conv2d(4, 4, 1, groups=4))


@pytest.mark.parametrize("standardized", [standardize_convolutions, standardize_weights])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_weights_taken_out_of_a_copy_stay_in_the_others(standardized, first):
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    standardized(model)
    copied = copy.deepcopy(model)
    models = [model, copied, copy.deepcopy(copied)]
    x = torch.randn(1, 3, 5, 5)
    want = model(x)
    for changed in (models.pop(first), *models):
        parametrize.remove_parametrizations(changed[0], "weight")
        assert type(changed[0]) is nn.Conv2d
        for one in (changed, *models):
            torch.testing.assert_close(one(x), want, rtol=0, atol=0)
