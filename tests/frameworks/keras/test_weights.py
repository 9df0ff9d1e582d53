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
from tests.tolerances import CLEARLY, LAYER, NETWORK  # noqa: E402

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


def test_two_layers_with_one_path_are_refused():
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="b")], name="a")
    model = keras.Model(inputs, layers.Dense(3, name="a-b")(inner(inputs)))
    source = nn.Sequential()
    source.a = nn.Sequential()
    source.a.b = nn.Linear(3, 3)
    with pytest.raises(WeightsError, match=r"a\.b: Dense 'b' and Dense 'a-b'") as error:
        from_torch(source, model)
    assert "several arrays of the model with one place" not in str(error.value)
    with pytest.raises(WeightsError, match="a dash counts as a dot; rename one"):
        to_torch(model, source)


def test_two_arrays_of_one_layer_with_one_name_are_refused():
    class Twice(layers.Layer):
        def build(self, shape):
            self.one = self.add_weight(shape=(3,), name="weight")
            self.other = self.add_weight(shape=(3,), name="weight")

        def call(self, x):
            return x * self.one + self.other

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Twice(name="n")(inputs))
    source = nn.ModuleDict({"n": nn.Linear(3, 3, bias=False)})
    with pytest.raises(WeightsError, match=r"n.weight: n.weight \(3,\) and n.weight \(3,\)"):
        from_torch(source, model)


def shared_layer():
    """One dense layer in two models."""
    dense = layers.Dense(3, name="d")
    dense.build((None, 3))
    inputs = keras.Input((3,))
    a, b = (keras.Sequential([keras.Input((3,)), dense], name=name) for name in "ab")
    return keras.Model(inputs, b(a(inputs)))


class TwoTorch(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.a = nn.ModuleDict({"d": nn.Linear(3, 3)})
        self.b = self.a if shared else nn.ModuleDict({"d": nn.Linear(3, 3)})


def test_a_shared_layer_takes_equal_weights_alone():
    model = shared_layer()
    with pytest.raises(WeightsError, match=r"(?s)one array in the model, .*a.d.kernel and b"):
        from_torch(TwoTorch(shared=False), model)
    source = TwoTorch(shared=True)
    from_torch(source, model)
    np.testing.assert_array_equal(to_numpy(model.weights[0]).T, source.a.d.weight.detach().numpy())


def test_a_shared_module_takes_equal_weights_alone():
    inputs = keras.Input((3,))
    a, b = (keras.Sequential([keras.Input((3,)), layers.Dense(3, name="d")], name=name)
            for name in "ab")  # fmt: skip
    model = keras.Model(inputs, b(a(inputs)))
    with pytest.raises(WeightsError, match=r"(?s)one tensor in PyTorch, .*a.d.weight and b"):
        to_torch(model, TwoTorch(shared=True))
    to_torch(model, TwoTorch(shared=False))


def two_norms(epsilon):
    norms = [
        layers.GroupNormalization(2, epsilon=e, name=n) for n, e in zip("ab", epsilon, strict=True)
    ]
    return keras.Sequential([keras.Input((5, 5, 4)), *norms])


def test_eps_of_a_shared_norm_is_compared_by_each_of_its_names():
    source = nn.Module()
    source.a = source.b = nn.GroupNorm(2, 4)
    with pytest.raises(WeightsError, match=r"\n    b: 0.001, in PyTorch 1e-05"):
        from_torch(source, two_norms((1e-5, 1e-3)))
    with pytest.raises(WeightsError, match=r"would need several eps:\n    a: 1e-05 and b: 0.001"):
        to_torch(two_norms((1e-5, 1e-3)), source, carry_eps=True)
    to_torch(two_norms((1e-3, 1e-3)), source, carry_eps=True)
    assert source.a.eps == 1e-3
    model = two_norms((1e-5, 1e-3))
    from_torch(source, model, carry_eps=True)
    assert [layer.epsilon for layer in model.layers] == [1e-3, 1e-3]


def test_an_eps_that_was_carried_holds_in_functions_that_were_compiled():
    """At a spread near the root of eps the outputs of the two differ by much."""
    model = keras.Sequential([keras.Input((5, 5, 4)),
                              layers.GroupNormalization(2, epsilon=1e-3, name="n")])  # fmt: skip
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    source = nn.ModuleDict({"n": nn.GroupNorm(2, 4, eps=1e-5)})
    x = 1e-2 * torch.randn(2, 4, 5, 5)
    last, target = x.movedim(1, -1).numpy(), np.zeros((2, 5, 5, 4), np.float32)
    expected = source["n"](x).detach().movedim(1, -1).numpy()
    loss = float((expected**2).mean())

    def results():
        fitted = model.fit(last, target, verbose=0).history["loss"][0]
        return model.predict(last, verbose=0), model.evaluate(last, target, verbose=0), fitted

    assert np.abs(results()[0] - expected).max() > CLEARLY
    from_torch(source, model, carry_eps=True)
    found, evaluated, fitted = results()
    np.testing.assert_allclose(found, expected, rtol=0, atol=LAYER)
    np.testing.assert_allclose([evaluated, fitted], loss, rtol=NETWORK)
