"""The pre-activation ResNet."""

import pytest
import torch
from torch import nn

from groupnorm.layers import norm_layer, norm_modules
from groupnorm.models import build_model, count_parameters
from groupnorm.models.classification.resnet_preact import PreactBlock, PreactResNet
from groupnorm.spec import KINDS
from tests.tolerances import NETWORK, SAMPLED


@pytest.mark.parametrize(
    ("depth", "shortcut", "parameters"),
    [(20, "A", 269_722), (20, "B", 272_282), (110, "A", 1_727_962)],  # He et al. 2016b: 1.7M
)
def test_parameter_counts_with_batch_norm(depth, shortcut, parameters):
    with torch.device("meta"):
        model = PreactResNet(depth, norm="bn", shortcut=shortcut)
    assert count_parameters(model) == parameters


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_is_the_number_of_weighted_layers(depth):
    with torch.device("meta"):
        model = PreactResNet(depth)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert len(norm_modules(model)) == depth - 1


def test_other_depths_and_shortcuts_raise():
    with pytest.raises(ValueError, match=r"6n \+ 2.*got 18"):
        PreactResNet(18)
    with pytest.raises(ValueError, match="shortcut must be 'A' or 'B', got 'C'"):
        PreactResNet(8, shortcut="C")


@pytest.mark.parametrize("norm", ["gn:size=4", "gn+ws", "brn+ws", *KINDS])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_shapes_and_gradients_for_every_norm(norm, shortcut):
    model = build_model(
        "preact_resnet8", norm=norm, num_classes=7, in_channels=1, width=0.5, shortcut=shortcut
    )
    logits = model(torch.randn(4, 1, 13, 10))
    assert logits.shape == (4, 7)
    logits.backward(torch.randn(4, 7))
    for layer in (model.conv1, model.stages[2][0].conv2, model.linear):
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("norm", ["gn", "none"])
def test_a_block_adds_its_input_as_it_is(norm):
    """Also without a norm, where the ReLU must not overwrite it."""
    block = PreactResNet(14, norm=norm).stages[1][1]
    with torch.no_grad():
        block.conv2.weight.zero_()
    x = torch.randn(2, 32, 6, 6)
    assert torch.equal(block(x.clone()), x)


def test_where_the_shape_changes_the_shortcut_takes_what_is_activated():
    block = PreactResNet(8, norm="gn:groups=4", shortcut="B").stages[1][0]
    with torch.no_grad():
        block.conv2.weight.zero_()
    x = torch.randn(2, 16, 6, 6)
    expected = block.shortcut(torch.relu(nn.functional.group_norm(x, 4)))
    torch.testing.assert_close(block(x), expected, rtol=NETWORK, atol=NETWORK)


def test_norm_and_relu_come_before_every_convolution_but_the_first():
    model = PreactResNet(8, norm="gn")
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _module, given, _output, name=name: inputs.update({name: given[0]})
            )
    model(torch.randn(2, 3, 16, 16))
    assert inputs.pop("conv1").min() < 0
    assert len(inputs) == 6
    assert all(x.min() == 0 for x in inputs.values())


def test_a_network_of_nothing_but_shortcuts_ends_in_norm_and_relu():
    model = PreactResNet(8, norm="gn")
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, PreactBlock):
                block.conv2.weight.zero_()
    maps = []
    model.last_norm.register_forward_hook(lambda _m, given, _o: maps.append(given[0]))
    model.last_act.register_forward_hook(lambda _m, _g, output: maps.append(output))
    model(torch.randn(2, 3, 16, 16))
    before, after = maps
    torch.testing.assert_close(after, torch.relu(nn.functional.group_norm(before, 32)))


def test_first_weights():
    model = PreactResNet(8, norm="bn")
    weight = model.stages[2][0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=SAMPLED)
    assert all((norm.weight == 1).all() for _, norm in norm_modules(model))
    assert (model.linear.bias == 0).all()


def test_a_factory_carries_the_batch_per_worker_into_the_model():
    model = PreactResNet(8, norm=norm_layer("bn", batch_per_worker=4))
    with pytest.raises(ValueError, match="6"):
        model(torch.randn(6, 3, 8, 8))


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="needs blocks of another form than preact_resnet8 has"):
        PreactResNet(8, norm="none+nf")
