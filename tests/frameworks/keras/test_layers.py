"""The layers in models: configuration, saved files, policies, masks, and standardized kernels."""

import numpy as np
import pytest
import torch

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras import (  # noqa: E402
    GroupNormalization,
    WSConv1D,
    WSConv2D,
    WSConv3D,
    norm_layer,
    standardize,
)
from tests.frameworks.keras.gradients import draw, to_numpy  # noqa: E402
from tests.tolerances import HALF_STATISTICS, LAYER, STEP  # noqa: E402


def expected(x, groups, eps=1e-3):
    """Group norm of a channels-last array in float64."""
    first = torch.from_numpy(np.moveaxis(x.astype(np.float64), -1, 1).copy())
    return np.moveaxis(torch.nn.functional.group_norm(first, groups, eps=eps).numpy(), 1, -1)


@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8), (3, 5, 4, 8), (3, 5, 4, 2, 8)])
def test_a_functional_model_of_every_rank(shape):
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, GroupNormalization(4)(inputs))
    x = draw(*shape)
    np.testing.assert_allclose(to_numpy(model(x)), expected(x, 4), rtol=0, atol=STEP * 10)


def test_sizes_may_be_unknown():
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, GroupNormalization(2, activation="relu")(inputs))
    assert model.output_shape == (None, None, None, 8)
    for size in (4, 7):
        x = draw(2, size, size, 8)
        found = model.predict(x, verbose=0)
        np.testing.assert_allclose(found, expected(x, 2).clip(0), rtol=0, atol=STEP * 10)


def test_epsilon_is_as_in_keras_and_in_the_configuration():
    layer = GroupNormalization(4, activation="silu")
    assert layer.get_config()["epsilon"] == 1e-3
    assert norm_layer("gn:groups=4")(8).get_config()["epsilon"] == 1e-5
    assert norm_layer("gn:eps=1e-6")(8).epsilon == 1e-6


def test_one_group_a_channel_survives_the_configuration():
    layer = GroupNormalization(-1, activation="gelu")
    layer.build((None, 4, 4, 6))
    again = GroupNormalization.from_config(layer.get_config())
    assert again.get_config()["groups"] == -1
    again.build((None, 4, 4, 10))
    assert again.groups == 10
    assert again.activation == "gelu"


def test_a_file_keeps_the_model(tmp_path):
    inputs = keras.Input((6, 6, 4))
    x = WSConv2D(8, 3, ws_form="original", name="conv")(inputs)
    model = keras.Model(inputs, GroupNormalization(2, activation="mish", name="norm")(x))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    batch = draw(2, 6, 6, 4)
    np.testing.assert_array_equal(to_numpy(again(batch)), to_numpy(model(batch)))
    assert again.get_layer("conv").ws_form == "original"


def test_weights_saved_with_keras_own_layer_are_loaded(tmp_path):
    def model(layer):
        inputs = keras.Input((6, 6, 8))
        return keras.Model(inputs, layer(4, name="norm")(inputs))

    theirs, ours = model(keras.layers.GroupNormalization), model(GroupNormalization)
    theirs.get_layer("norm").gamma.assign(draw(8, seed=1))
    theirs.get_layer("norm").beta.assign(draw(8, seed=2))
    theirs.save_weights(tmp_path / "model.weights.h5")
    ours.load_weights(tmp_path / "model.weights.h5")
    x = draw(2, 6, 6, 8)
    np.testing.assert_allclose(to_numpy(ours(x)), to_numpy(theirs(x)), rtol=0, atol=LAYER)
    loaded = GroupNormalization.from_config(theirs.get_layer("norm").get_config())
    assert loaded.groups == 4


def test_a_model_saved_with_keras_own_layer_becomes_one_with_ours(tmp_path):
    """As the layer's docstring says."""
    inputs = keras.Input((None, None, 8))
    inner = keras.Model(inputs, keras.layers.GroupNormalization(4)(inputs))
    inner.layers[-1].gamma.assign(draw(8, seed=1))
    outer = keras.Input((None, None, 8))
    theirs = keras.Model(outer, keras.layers.GroupNormalization(2)(inner(outer)))
    theirs.save(tmp_path / "model.keras")

    def with_ours(layer):
        own = type(layer) is keras.layers.GroupNormalization
        return (GroupNormalization if own else type(layer)).from_config(layer.get_config())

    saved = keras.saving.load_model(tmp_path / "model.keras")
    model = keras.models.clone_model(saved, clone_function=with_ours, recursive=True)
    model.set_weights(saved.get_weights())
    assert type(model.layers[-1]) is type(model.layers[1].layers[-1]) is GroupNormalization
    x = draw(2, 6, 5, 8)
    np.testing.assert_allclose(to_numpy(model(x)), to_numpy(theirs(x)), rtol=0, atol=LAYER)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_policies_round_once(policy):
    layer = GroupNormalization(2, dtype=policy)
    layer.build((None, 5, 5, 8))
    for weight, seed in ((layer.gamma, 1), (layer.beta, 2)):
        weight.assign(keras.ops.cast(draw(8, seed=seed) + 2, weight.dtype))
    half = keras.ops.cast(draw(2, 5, 5, 8) + 10, layer.compute_dtype)
    y = layer(half)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    true = expected(to_numpy(half), 2) * to_numpy(layer.gamma) + to_numpy(layer.beta)
    unit = 2.0**-11 if "float16" in policy and "b" not in policy else 2.0**-8
    # of each value by itself: a second rounding shows
    assert (np.abs(to_numpy(y) - true) <= unit * np.abs(true) + LAYER).all()


@pytest.mark.parametrize("whole", [False, True], ids=["layer", "model"])
def test_inputs_beyond_float16_under_a_mixed_policy(whole):
    layer = GroupNormalization(2, dtype="mixed_float16")
    x = 3e5 * draw(2, 5, 5, 8)
    if whole:
        inputs = keras.Input((5, 5, 8), dtype="float32")
        layer = keras.Model(inputs, layer(inputs))
    y = to_numpy(layer(keras.ops.convert_to_tensor(x)))
    assert np.abs(y - expected(x, 2)).max() < HALF_STATISTICS


@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf"), "1e-5", None, True])
def test_an_epsilon_that_is_none_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be a number of at least 0, got "):
        GroupNormalization(2, epsilon=epsilon)


def test_integers_are_refused_when_the_layer_is_built():
    with pytest.raises(ValueError, match=r"x must be float16, .*, got int32 of shape"):
        GroupNormalization(2)(keras.Input((4, 8), dtype="int32"))


def test_a_mask_goes_on():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(5, 8, mask_zero=True)(inputs)
    layer = GroupNormalization(2)
    assert layer.supports_masking
    assert layer(x)._keras_mask is not None


def test_groups_of_one_value_are_warned_of():
    with pytest.warns(UserWarning, match="each of the 8 groups holds one value"):
        GroupNormalization(8)(draw(4, 8))


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"groups": 5}, (2, 4, 8), "got 8 channels and 5 groups"),
        ({"groups": 2, "axis": 0}, (2, 4, 8), "axis 0 is the batch axis"),
        ({"groups": 2, "axis": [1, 2]}, (2, 4, 8), r"got \[1, 2\]"),
        ({"groups": 2}, (2, 4, None), "channels must be known, got x of shape"),
    ],
)
def test_shapes_that_do_not_fit(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        GroupNormalization(**arguments).build(shape)


@pytest.mark.parametrize(("groups", "got"), [(0, "groups=0"), (-2, "groups=-2"), (1.5, "1.5")])
def test_groups_that_are_not_a_positive_integer_or_minus_one(groups, got):
    with pytest.raises(ValueError, match=got):
        GroupNormalization(groups)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        GroupNormalization(2, activation="swish")


@pytest.mark.parametrize(
    ("layer", "shape", "options"),
    [
        (WSConv1D, (2, 9, 4), {"padding": "causal", "dilation_rate": 2}),
        (WSConv2D, (2, 9, 8, 4), {"padding": "same", "strides": 2}),
        (WSConv2D, (2, 9, 8, 4), {"groups": 2, "dilation_rate": (2, 1)}),
        (WSConv3D, (1, 5, 5, 5, 4), {"use_bias": False}),
    ],
)
def test_a_standardized_convolution_is_one_with_a_standardized_kernel(layer, shape, options):
    ours = layer(6, 3, **options)
    x = draw(*shape)
    found = ours(x)
    plain = layer.__mro__[2](6, 3, **options)
    plain.build(shape)
    plain.set_weights([to_numpy(standardize(ours.kernel)), *ours.get_weights()[1:]])
    np.testing.assert_allclose(to_numpy(found), to_numpy(plain(x)), rtol=0, atol=LAYER)
    assert not np.allclose(to_numpy(ours.kernel), to_numpy(plain.kernel), rtol=0, atol=LAYER)


def test_a_half_policy_standardizes_the_whole_kernel():
    """Kernels of a large mean, whose spread half numbers would round away."""
    ours = WSConv2D(6, 3, dtype="mixed_float16", use_bias=False)
    x = draw(2, 6, 6, 4)
    ours.build(x.shape)
    ours.set_weights([draw(3, 3, 4, 6) * 1e-3 + 1])
    plain = keras.layers.Conv2D(6, 3, dtype="mixed_float16", use_bias=False)
    plain.build(x.shape)
    plain.set_weights([to_numpy(standardize(ours.get_weights()[0]))])
    scale = np.abs(to_numpy(plain(x))).max()
    np.testing.assert_allclose(
        to_numpy(ours(x)), to_numpy(plain(x)), rtol=0, atol=HALF_STATISTICS * scale
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ws_form": "mine"}, "unknown form of weight standardization 'mine'"),
        ({"ws_eps": 2.0}, "got 2.0"),
    ],
)
def test_bad_forms(options, message):
    with pytest.raises(ValueError, match=message):
        WSConv2D(4, 3, **options)


def test_filters_of_one_weight_are_refused():
    with pytest.raises(ValueError, match=r"one weight .* got weights of shape \(1, 1, 1, 4\)"):
        WSConv2D(4, 1).build((None, 4, 4, 1))
