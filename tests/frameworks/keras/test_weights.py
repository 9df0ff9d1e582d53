"""Weights between PyTorch and Keras: the same outputs, the same numbers back, or nothing loaded."""

import math

import numpy as np
import pytest
import torch
from torch import nn

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras import WSConv2D, from_torch, to_torch  # noqa: E402
from groupnorm.frameworks.weights import WeightsError  # noqa: E402
from groupnorm.layers import WSConv2d  # noqa: E402
from tests.frameworks.keras.gradients import to_numpy  # noqa: E402
from tests.frameworks.keras.pytorch import assert_same_weights, both, trained  # noqa: E402
from tests.tolerances import NETWORK  # noqa: E402

layers = keras.layers


class Mixed(nn.Module):
    """One of each layer whose weights change their layout."""

    def __init__(self, conv=nn.Conv2d, eps=1e-5):
        super().__init__()
        self.conv = conv(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.norm = nn.GroupNorm(4, 16, eps=eps)
        self.bn = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        x = self.up(self.bn(self.norm(self.depthwise(self.conv(x)))))
        return self.linear(x.mean((2, 3)))


def mixed(conv=layers.Conv2D, eps=1e-5, padding=True, groups=4):
    inputs = keras.Input((9, 9, 3))
    x = layers.ZeroPadding2D(1, name="padding")(inputs) if padding else inputs
    x = conv(8, 3, strides=2, padding="valid" if padding else "same", name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    x = layers.GroupNormalization(groups, epsilon=eps, name="norm")(x)
    x = layers.BatchNormalization(epsilon=1e-5, name="bn")(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, name="up")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="linear")(x))


@pytest.mark.parametrize(
    ("torch_conv", "keras_conv"), [(nn.Conv2d, layers.Conv2D), (WSConv2d, WSConv2D)]
)
def test_the_outputs_are_the_same_and_the_weights_come_back(torch_conv, keras_conv):
    source, model = trained(Mixed(torch_conv)), mixed(keras_conv)
    from_torch(source, model, count=math.inf)
    found, expected = both(model, source)
    np.testing.assert_allclose(found, expected, rtol=0, atol=NETWORK)
    again = Mixed(torch_conv)
    to_torch(model, again, count=math.inf)
    assert_same_weights(source, again)


def test_a_state_dict_needs_its_eps():
    source, model = trained(Mixed()), mixed()
    with pytest.raises(WeightsError, match=r"give eps=\.\.\. or the model"):
        from_torch(source.state_dict(), model, count=math.inf)
    from_torch(source.state_dict(), model, count=math.inf, eps=1e-5)
    found, expected = both(model, source)
    np.testing.assert_allclose(found, expected, rtol=0, atol=NETWORK)


def test_another_eps_is_carried_or_refused():
    source, model = trained(Mixed(eps=1e-3)), mixed(eps=1e-6)
    before = [to_numpy(w) for w in model.weights]
    with pytest.raises(WeightsError, match=r"norm: 1e-06, in PyTorch 0\.001"):
        from_torch(source, model, count=math.inf)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, to_numpy(new))
    from_torch(source, model, count=math.inf, carry_eps=True)
    assert model.get_layer("norm").epsilon == 1e-3
    found, expected = both(model, source)
    np.testing.assert_allclose(found, expected, rtol=0, atol=NETWORK)
    other = Mixed()
    to_torch(model, other, count=math.inf, carry_eps=True)
    assert other.norm.eps == 1e-3


def test_the_running_variance_is_biased_in_keras():
    source, model = trained(Mixed()), mixed()
    with pytest.raises(WeightsError, match="needs count="):
        from_torch(source, model)
    from_torch(source, model, count=10)
    variance = to_numpy(model.get_layer("bn").moving_variance)
    np.testing.assert_allclose(variance, 0.9 * source.bn.running_var.numpy(), rtol=NETWORK)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: mixed(padding=False), r"conv: padding='same' with strides \(2, 2\) pads by the "
         r"size of the map, PyTorch \(\(1, 1\), \(1, 1\)\) \(zeros\); build it with "
         r"padding='valid' behind ZeroPadding2D"),
        (lambda: mixed(WSConv2D), r"(?s)weight standardization .*conv: \('timm', 1e-06\), "
         r"in PyTorch \(None, None\)"),
        (lambda: mixed(groups=8), "(?s)number of groups:.*norm: 8, in PyTorch 4"),
        (lambda: keras.Sequential([keras.Input((9, 9, 3)), layers.Conv2D(7, 3, name="conv")]),
         r"(?s)in PyTorch alone.*bn.bias.*of another shape.*conv.weight \(8, 3, 3, 3\), where "
         r"conv.kernel \(3, 3, 3, 7\) takes \(7, 3, 3, 3\)"),
    ],
)  # fmt: skip
def test_what_differs_is_refused(model, message):
    with pytest.raises(WeightsError, match=message):
        from_torch(trained(Mixed()), model(), count=math.inf)


def test_a_dense_layer_behind_a_flattened_map_is_refused():
    inputs = keras.Input((4, 4, 3))
    x = layers.Flatten(name="flat")(layers.Conv2D(2, 3, name="0")(inputs))
    model = keras.Model(inputs, layers.Dense(5, name="2")(x))
    source = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    with pytest.raises(WeightsError, match=r"(?s)behind a flattened map.*\n    2"):
        from_torch(source, model)


def test_names_lead_to_other_paths_and_two_to_one_are_refused():
    source = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"),
                              layers.Dense(4, name="b")])  # fmt: skip
    from_torch(source, model, names={"0": "a", "1": "b"})
    x = torch.randn(2, 3)
    np.testing.assert_allclose(
        to_numpy(model(x.numpy())), source(x).detach().numpy(), rtol=0, atol=NETWORK
    )
    with pytest.raises(WeightsError, match="matched more than once"):
        from_torch(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), model, names={"0": "b", "1": "b"}
        )


def test_what_pads_where_no_graph_shows_is_warned_of():
    class Padded(keras.Model):
        def __init__(self):
            super().__init__()
            self.padding = layers.ZeroPadding2D(1)
            self.conv = layers.Conv2D(4, 3, name="conv")

        def call(self, x):
            return self.conv(self.padding(x))

    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

    model = Padded()
    model(np.zeros((1, 5, 5, 3), np.float32))
    with pytest.warns(UserWarning, match="no graph shows what pads in front of conv"):
        from_torch(Torch(), model)


def test_anything_else_is_refused():
    with pytest.raises(WeightsError, match="expected a PyTorch model or its state dict"):
        from_torch({"conv.weight": np.zeros(3)}, mixed())
    with pytest.raises(WeightsError, match="got a state dict"):
        to_torch(mixed(), Mixed().state_dict())
