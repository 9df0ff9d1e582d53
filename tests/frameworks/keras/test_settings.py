"""Settings that weights do not show: what loads computes the same, what does not is refused."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras import GroupNormalization, from_torch  # noqa: E402
from groupnorm.frameworks.weights import WeightsError  # noqa: E402
from groupnorm.layers import GroupNorm, LayerNorm2d  # noqa: E402
from tests.frameworks.keras.gradients import to_numpy  # noqa: E402
from tests.tolerances import LAYER  # noqa: E402

layers = keras.layers
PAD = layers.ZeroPadding2D


def chain(*parts, shape=(8, 6, 2)):
    """A functional model of layers one behind another."""
    inputs = x = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def torch_chain(**parts):
    """A Sequential whose modules have names."""
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def assert_same_outputs(model, source, shape=(8, 6, 2)):
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = source(x.movedim(-1, 1)).numpy()
    found = np.asarray(to_numpy(model(x.numpy())))
    if found.ndim > 2:
        found = np.moveaxis(found, -1, 1)
    near = LAYER * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=near)


def assert_loads(source, model, shape=(8, 6, 2), **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_torch(source, model, **options)
    assert_same_outputs(model, source, shape)


def assert_refused(source, model, *texts, **options):
    before = [to_numpy(weight) for weight in model.weights]
    with pytest.raises(WeightsError, match="nothing was loaded") as error:
        from_torch(source, model, **options)
    for text in texts:
        assert text in str(error.value)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, to_numpy(weight))


# ---- Padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "ours", "theirs", "fits"),
    [
        ([], {}, {}, True),
        ([], {"padding": "same"}, {"padding": 1}, True),
        ([], {"padding": "same"}, {"padding": "same"}, True),
        ([], {"padding": "same", "dilation_rate": 2}, {"padding": 2, "dilation": 2}, True),
        ([], {"padding": "same", "strides": 2}, {"padding": 1, "stride": 2}, False),
        ([], {"padding": "same"}, {}, False),
        ([], {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}, False),
        ([], {}, {"padding": 1}, False),
        ([], {"strides": 2}, {}, False),
        ([], {"dilation_rate": 2}, {}, False),
        ([PAD(1)], {"strides": 2}, {"padding": 1, "stride": 2}, True),
        ([PAD(((1, 1), (2, 2)))], {}, {"padding": (1, 2)}, True),
        ([PAD(((0, 1), (0, 1)))], {}, {"padding": 1}, False),
        ([PAD(1)], {}, {}, False),
        ([PAD(1), layers.ReLU()], {}, {}, False),
        ([PAD(1), layers.ReLU(), layers.Dropout(0.5)], {}, {"padding": 1}, True),
        ([PAD(1), layers.ReLU(), PAD(1)], {}, {"padding": 2}, True),
        ([PAD(1), layers.Activation("sigmoid")], {}, {"padding": 1}, False),
        ([PAD(1), layers.GroupNormalization(2, center=False, scale=False)], {}, {}, False),
    ],
    ids=str,
)  # fmt: skip
def test_padding(front, ours, theirs, fits):
    front = [type(layer).from_config(layer.get_config()) for layer in front]
    model = chain(*front, layers.Conv2D(4, 3, name="n", **ours))
    source = torch_chain(n=nn.Conv2d(2, 4, 3, **theirs))
    if not fits:
        assert_refused(source, model, "n: ")
        return
    from_torch(source, model)
    rectified = any(isinstance(layer, layers.ReLU) for layer in front)
    assert_same_outputs(model, nn.Sequential(nn.ReLU(), source) if rectified else source)


def test_zeros_that_another_layer_changes_are_named():
    model = chain(PAD(1), layers.Activation("sigmoid", name="gate"), layers.Conv2D(4, 3, name="n"))
    assert_refused(
        torch_chain(n=nn.Conv2d(2, 4, 3)), model,
        "n: 'gate' makes other numbers of the zeros ((1, 1), (1, 1)) that are padded in front",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("front", "warns"),
    [
        ([PAD(1), layers.MaxPooling2D(2, 1)], False),
        ([PAD(1), layers.Cropping2D(1)], True),
        ([layers.UpSampling2D(2)], False),
    ],
    ids=str,
)
def test_padding_that_is_not_a_convolutions_own(front, warns):
    front = [type(layer).from_config(layer.get_config()) for layer in front]
    model = chain(*front, layers.Conv2D(4, 3, name="n"))
    source = torch_chain(n=nn.Conv2d(2, 4, 3))
    if warns:
        with pytest.warns(UserWarning, match="no graph shows what pads in front of n:"):
            from_torch(source, model)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            from_torch(source, model)


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ({"padding": "causal"}, {}, False),
        ({"padding": "causal"}, {"padding": 1}, False),
        ({"padding": "same"}, {"padding": 1}, True),
        ({"padding": "same", "groups": 2}, {"padding": 1, "groups": 2}, True),
    ],
    ids=str,
)
def test_padding_of_sequences(ours, theirs, fits):
    model = chain(layers.Conv1D(4, 3, name="n", **ours), shape=(8, 2))
    source = torch_chain(n=nn.Conv1d(2, 4, 3, **theirs))
    if fits:
        assert_loads(source, model, (8, 2))
    else:
        assert_refused(source, model, "n: padding='causal'", "pads ((2, 0),)")


def test_a_padding_layer_goes_to_its_like():
    def model(pad):
        return chain(PAD(pad, name="pad"), layers.Activation("sigmoid"),
                     layers.Conv2D(4, 3, name="n"))  # fmt: skip

    conv = nn.Conv2d(2, 4, 3)
    assert_loads(torch_chain(pad=nn.ZeroPad2d((1, 2, 0, 1)), act=nn.Sigmoid(), n=conv),
                 model(((0, 1), (1, 2))))  # fmt: skip
    assert_refused(
        torch_chain(pad=nn.ZeroPad2d((1, 2, 0, 2)), act=nn.Sigmoid(), n=conv),
        model(((0, 1), (1, 2))), "pad: pads ((0, 1), (1, 2)), PyTorch ((0, 2), (1, 2))",
    )  # fmt: skip
    assert_refused(torch_chain(pad=nn.ReflectionPad2d(1), act=nn.Sigmoid(), n=conv), model(1),
                   "pad: pads ((1, 1), (1, 1)), PyTorch otherwise than with zeros")  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ({"strides": 2}, {"stride": 2}, True),
        (
            {"strides": 2, "padding": "same", "kernel_size": 2},
            {"stride": 2, "kernel_size": 2},
            True,
        ),
        (
            {"strides": 2, "padding": "same"},
            {"stride": 2, "padding": 1, "output_padding": 1},
            False,
        ),
        ({"strides": 2}, {"stride": 2, "padding": 1}, False),
        ({"strides": 2}, {"stride": 2, "output_padding": 1}, False),
        ({"strides": 4, "kernel_size": 2}, {"stride": 4, "kernel_size": 2}, False),
        ({"dilation_rate": 2}, {"dilation": 2}, True),
        ({"dilation_rate": 2}, {}, False),
        ({}, {"stride": 2}, False),
    ],
    ids=str,
)
def test_transposed_convolutions(ours, theirs, fits):
    model = chain(layers.Conv2DTranspose(4, name="n", **{"kernel_size": 3, **ours}))
    source = torch_chain(n=nn.ConvTranspose2d(2, 4, **{"kernel_size": 3, **theirs}))
    if fits:
        assert_loads(source, model)
    else:
        assert_refused(source, model, "n: ")


def test_a_transposed_convolution_goes_to_its_like():
    for ours, theirs in (
        (layers.Conv2D, nn.ConvTranspose2d),
        (layers.Conv2DTranspose, nn.Conv2d),
    ):
        assert_refused(torch_chain(n=theirs(2, 2, 3)), chain(ours(2, 3, name="n")),
                       "transposed convolutions beside others")  # fmt: skip


def test_groups_of_a_convolution_are_compared():
    model = chain(layers.Conv2D(4, 3, groups=1, name="n"))
    assert_refused(torch_chain(n=nn.Conv2d(4, 4, 3, groups=2)), model,
                   "groups of a convolution:\n    n: 1, in PyTorch 2")  # fmt: skip


def test_padding_is_seen_through_nested_models_and_sums():
    inner = keras.Sequential([keras.Input((10, 8, 2)), layers.ReLU(),
                              layers.Conv2D(4, 3, name="n")], name="inner")  # fmt: skip
    source = torch_chain(inner=torch_chain(n=nn.Conv2d(2, 4, 3)))
    inputs = keras.Input((8, 6, 2))
    padded = chain(PAD(1))(inputs)
    model = keras.Model(inputs, inner(layers.Add()([padded, padded])))
    assert_refused(source, model, "inner.n: padding='valid' with strides (1, 1) pads ((1, 1)")


# ---- Flattened maps -----------------------------------------------------------------------------


def flattening(*between, before=(), data_format="channels_last"):
    parts = [layers.Conv2D(2, 3, data_format=data_format, name="0"), *before, *between]
    shape = (5, 6, 3) if data_format == "channels_last" else (3, 5, 6)
    return chain(*parts, layers.Dense(5, name="2"), shape=shape)


FLATTENING = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(24, 5))


@pytest.mark.parametrize(
    "between",
    [
        [layers.Flatten()],
        [layers.Reshape((24,))],
        [layers.Reshape((-1,))],
        [layers.Dropout(0.5), layers.Flatten(), layers.Dropout(0.5)],
        [layers.Flatten(), layers.Activation("relu"), layers.Identity()],
        [layers.BatchNormalization(center=False, scale=False, epsilon=1e-5), layers.Flatten()],
        [layers.Permute((2, 1, 3)), layers.Flatten()],
        [layers.Reshape((3, 8)), layers.Flatten()],
    ],
    ids=lambda parts: "-".join(type(part).__name__ for part in parts),
)
def test_a_dense_layer_behind_a_flattened_map_is_refused(between):
    between = [type(part).from_config(part.get_config()) for part in between]
    assert_refused(FLATTENING, flattening(*between), "behind a flattened map", "\n    2: flattened",
                   count=8)  # fmt: skip


def test_the_cure_of_a_flattened_map():
    assert_refused(FLATTENING, flattening(layers.Flatten(name="flat")),
                   "2: flattened by 'flat'; put Permute((3, 1, 2)) before it")  # fmt: skip
    cured = flattening(layers.Permute((3, 1, 2)), layers.Dropout(0.5), layers.Flatten())
    assert_loads(FLATTENING.eval(), cured, (5, 6, 3))


def test_maps_of_one_position_or_channel_may_be_flattened():
    one = chain(layers.Conv2D(1, 3, name="0"), layers.Flatten(), layers.Dense(5, name="2"))
    assert_loads(nn.Sequential(nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(24, 5)), one)
    pooled = chain(layers.Conv2D(3, 3, name="0"), layers.GlobalMaxPooling2D(keepdims=True),
                   layers.Flatten(), layers.Dense(5, name="2"))  # fmt: skip
    source = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
                           nn.Linear(3, 5))  # fmt: skip
    assert_loads(source, pooled)


def test_channels_first_maps_are_flattened_as_in_pytorch():
    first = {"data_format": "channels_first"}
    from_torch(FLATTENING, flattening(layers.Flatten(data_format="channels_last"), **first))
    assert_refused(FLATTENING, flattening(layers.Flatten(**first), **first),
                   'build it with data_format="channels_last"')  # fmt: skip


def test_a_norm_behind_a_flattened_map_is_refused():
    model = chain(layers.Conv2D(2, 3, name="0"), layers.Flatten(name="flat"),
                  layers.BatchNormalization(epsilon=1e-5, name="2"))  # fmt: skip
    source = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.BatchNorm1d(48))
    assert_refused(source, model, "2: flattened by 'flat'", count=8)


def test_what_flattens_where_no_graph_shows_is_warned_of():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat = layers.Flatten()
            self.dense = layers.Dense(4, name="dense")

        def call(self, x):
            return self.dense(self.flat(x))

    model = Model()
    model(np.zeros((1, 2, 2, 3), np.float32))
    with pytest.warns(UserWarning, match="no graph shows what flattens in front of dense"):
        from_torch(torch_chain(dense=nn.Linear(12, 4)), model)


def test_a_map_made_of_a_vector_is_refused():
    class Source(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(3, 24), nn.Unflatten(1, (4, 3, 2)), nn.Conv2d(4, 2, 1))

    def model(*between):
        return chain(layers.Dense(24, name="0"), *between, layers.Conv2D(2, 1, name="2"),
                     shape=(3,))  # fmt: skip

    assert_refused(
        Source(), model(layers.Reshape((3, 2, 4), name="map")),
        "map: (3, 2, 4); build it with (4, 3, 2) in front of Permute((2, 3, 1))",
    )  # fmt: skip
    assert_loads(Source(), model(layers.Reshape((4, 3, 2)), layers.Permute((2, 3, 1))), (3,))


# ---- Norms --------------------------------------------------------------------------------------


def norm(kind, *arguments, epsilon=1e-5, **options):
    return chain(kind(*arguments, epsilon=epsilon, name="n", **options), shape=(8, 6, 4))


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        (lambda: norm(layers.GroupNormalization, 2), lambda: nn.GroupNorm(2, 4)),
        (lambda: norm(layers.GroupNormalization, 4), lambda: nn.InstanceNorm2d(4, affine=True)),
        (lambda: norm(layers.GroupNormalization, -1), lambda: nn.GroupNorm(4, 4)),
        (lambda: norm(GroupNormalization, 2, activation="silu"),
         lambda: GroupNorm(2, 4, activation="silu")),
        (lambda: norm(layers.LayerNormalization), lambda: LayerNorm2d(4, eps=1e-5)),
        (lambda: norm(layers.BatchNormalization), lambda: nn.BatchNorm2d(4)),
        (lambda: norm(layers.BatchNormalization, 3), lambda: nn.BatchNorm2d(4)),
    ],
)  # fmt: skip
def test_norms_that_compute_the_same(model, theirs):
    counts = {"count": 9e99} if "BatchNorm" in repr(theirs()) else {}
    assert_loads(torch_chain(n=theirs()), model(), (8, 6, 4), **counts)


@pytest.mark.parametrize(
    ("model", "theirs", "text"),
    [
        (lambda: norm(layers.LayerNormalization), lambda: nn.GroupNorm(1, 4),
         "n: layer norm over the channels, in PyTorch group norm"),
        (lambda: norm(layers.GroupNormalization, 1), lambda: nn.LayerNorm(4),
         "n: group norm, in PyTorch layer norm over the channels"),
        (lambda: norm(layers.GroupNormalization, 4),
         lambda: nn.BatchNorm2d(4, track_running_stats=False),
         "n: group norm, in PyTorch batch norm without running statistics"),
        (lambda: norm(layers.LayerNormalization, axis=[1, 2, 3]), lambda: nn.LayerNorm((4, 8, 6)),
         "n: layer norm over the axes (1, 2, 3), in PyTorch LayerNorm over the last 3 axes"),
        (lambda: norm(layers.GroupNormalization, 4), lambda: nn.GroupNorm(2, 4),
         "number of groups:\n    n: 4, in PyTorch 2"),
        (lambda: norm(GroupNormalization, 2, activation="relu"),
         lambda: GroupNorm(2, 4, activation="silu"),
         "activation of a norm:\n    n: relu, in PyTorch silu"),
        (lambda: chain(layers.GroupNormalization(2, axis=1, epsilon=1e-5, name="n"),
                       shape=(4, 6, 4)), lambda: nn.GroupNorm(2, 4),
         "axis of a norm:\n    n: axis=1, where the channels are on axis 3"),
        (lambda: chain(layers.Conv2D(4, 1, data_format="channels_first", name="c"),
                       layers.GroupNormalization(2, epsilon=1e-5, name="n"), shape=(4, 6, 4)),
         lambda: nn.GroupNorm(2, 4), "n: axis=-1, where the channels are on axis 1"),
    ],
)  # fmt: skip
def test_norms_that_compute_something_else(model, theirs, text):
    assert_refused(torch_chain(n=theirs()), model(), text)


def test_a_norm_goes_to_no_other_layer():
    class Affine(layers.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(4,), name="weight")
            self.bias = self.add_weight(shape=(4,), name="bias")

        def call(self, x):
            return x * self.weight + self.bias

    model = chain(Affine(name="n"), shape=(8, 6, 4))
    assert_refused(torch_chain(n=nn.GroupNorm(2, 4)), model,
                   "beside what has no epsilon:\n    n: Affine, in PyTorch group norm")  # fmt: skip
