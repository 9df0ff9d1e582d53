"""The layer for flax."""

import inspect
import re

import numpy as np
import pytest
import torch

from tests.tolerances import LAYER, STEP, STORAGE

pytest.importorskip("jax")
pytest.importorskip("flax")
import jax
import jax.numpy as jnp
from flax import nnx

from groupnorm.frameworks.jax import GroupNorm, group_norm


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def state_of(layer):
    return {
        name: (tuple(value[...].shape), value[...].dtype.name)
        for name, value in nnx.state(layer, nnx.Param).items()
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"use_bias": False}, {"use_scale": False}, {"use_bias": False, "use_scale": False},
     {"num_groups": None, "group_size": 6}, {"param_dtype": jnp.bfloat16}],
    ids=str,
)  # fmt: skip
def test_it_takes_the_place_of_flaxs_layer(options):
    """The same arguments give the same parameters and, near mean 0, the same output."""
    options = {"num_groups": 4, **options}
    dtype = options.get("param_dtype", jnp.float32)
    x = jnp.asarray(drawn(2, 5, 24), dtype)
    ours = GroupNorm(24, **options, rngs=nnx.Rngs(0))
    theirs = nnx.GroupNorm(24, **options, epsilon=ours.epsilon, rngs=nnx.Rngs(0))
    assert state_of(ours) == state_of(theirs)
    for name, parameter in nnx.state(ours, nnx.Param).items():
        value = jnp.asarray(drawn(24, seed=len(name)), dtype)
        parameter[...] = value
        getattr(ours, name)[...] = value
        getattr(theirs, name)[...] = value
    y = ours(x)
    assert y.dtype == dtype
    near = LAYER if dtype == jnp.float32 else 4 * STORAGE[torch.bfloat16]
    found, expected = (np.asarray(a, np.float32) for a in (y, theirs(x)))
    np.testing.assert_allclose(found, expected, rtol=near, atol=near)


def test_the_default_of_epsilon_is_pytorchs():
    assert GroupNorm(8, 2, rngs=nnx.Rngs(0)).epsilon == 1e-5
    assert nnx.GroupNorm(8, 2, rngs=nnx.Rngs(0)).epsilon == 1e-6


def test_epsilon_and_activation_are_used():
    x = drawn(2, 5, 8)
    layer = GroupNorm(8, 2, epsilon=0.5, activation="gelu", rngs=nnx.Rngs(0))
    layer.scale[...], layer.bias[...] = drawn(8, seed=1), drawn(8, seed=2)
    expected = group_norm(x, 2, drawn(8, seed=1), drawn(8, seed=2), 0.5, "gelu")
    np.testing.assert_allclose(layer(x), expected, rtol=STEP, atol=STEP)


def test_half_input_gives_half_output():
    layer = GroupNorm(8, 2, rngs=nnx.Rngs(0))
    theirs = nnx.GroupNorm(8, 2, rngs=nnx.Rngs(0))
    x = jnp.asarray(drawn(2, 5, 8), jnp.bfloat16)
    assert layer(x).dtype == "bfloat16"
    assert theirs(x).dtype == "float32"  # that of its scale
    converting = GroupNorm(8, 2, dtype=jnp.float16, rngs=nnx.Rngs(0))
    assert converting(drawn(2, 5, 8)).dtype == "float16"


def test_under_the_transformations_of_flax():
    layer = GroupNorm(8, 2, activation="silu", rngs=nnx.Rngs(0))
    x = drawn(2, 5, 8)

    def loss(layer, x):
        return (layer(x) ** 3).sum()

    plain = nnx.grad(loss)(layer, x)
    compiled = nnx.jit(nnx.grad(loss))(layer, x)
    for name in ("scale", "bias"):
        np.testing.assert_allclose(compiled[name][...], plain[name][...], rtol=LAYER, atol=LAYER)
    graph, state = nnx.split(layer)
    merged = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, x)
    np.testing.assert_allclose(merged, layer(x), rtol=STEP, atol=STEP)


def test_one_value_in_each_group_is_warned_of():
    layer = GroupNorm(8, 8, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match=r"each of the 8 groups holds one value of x \(3, 8\)"):
        assert (layer(drawn(3, 8)) == 0).all()
    layer(drawn(3, 2, 8))
    GroupNorm(8, 4, rngs=nnx.Rngs(0))(drawn(3, 8))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((24, 5), {}, "positive multiple of num_groups, got 24 features and num_groups=5"),
        ((24, 0), {}, "num_groups=0"),
        ((24, -2), {}, "num_groups=-2"),
        ((24, 2.0), {}, "num_groups=2.0"),
        ((24, None, 7), {}, "positive multiple of group_size, got 24 features and group_size=7"),
        ((24, 4, 6), {}, "got num_groups=4 and group_size=6"),
        ((24, None), {}, "got num_groups=None and group_size=None"),
        ((20,), {}, "got 20 features and num_groups=32"),
        ((24, 4), {"activation": "swish"}, "unknown activation 'swish'"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GroupNorm(*arguments, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(2, 8, 5), (8,)])
def test_input_of_other_channels(shape):
    layer = GroupNorm(8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=re.escape(f"of shape (N, *, 8), got {shape}")):
        layer(jnp.zeros(shape))


@pytest.mark.parametrize(
    "argument",
    ["reduction_axes", "axis_name", "axis_index_groups", "use_fast_variance", "promote_dtype",
     "bias_metadata", "scale_metadata"],
)  # fmt: skip
def test_what_flaxs_layer_has_beyond_this_is_refused(argument):
    """None of its arguments goes by unseen."""
    known = set(inspect.signature(GroupNorm.__init__).parameters)
    assert argument in set(inspect.signature(nnx.GroupNorm.__init__).parameters) - known
    with pytest.raises(TypeError, match=argument):
        GroupNorm(8, 2, **{argument: None}, rngs=nnx.Rngs(0))


def test_a_mask_is_refused():
    with pytest.raises(TypeError, match="mask"):
        GroupNorm(8, 2, rngs=nnx.Rngs(0))(drawn(2, 5, 8), mask=jnp.ones((2, 5, 8), bool))
