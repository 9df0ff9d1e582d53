"""Group normalization in JAX is the reference's, and takes part in all of JAX's transformations."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import groupnorm
from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.frameworks.cases import CASES, OFFSETS, Case, check, dtype_of, errors_of, inputs_of
from tests.tolerances import DOUBLE, LAYER, NETWORK, STEP, STORAGE, bound

pytest.importorskip("jax")
import jax
import jax.numpy as jnp

from groupnorm.frameworks.jax import group_norm
from tests.frameworks.jax.arrays import as_is, channels_first, channels_last, numbers

ARRAYS = ("x", "weight", "bias", "dy")


def results(case, layer):
    """What `layer(x, scale, bias)`, channels last, gives for a case."""
    given = inputs_of(case)
    x, dy = channels_last(given["x"]), channels_last(given["dy"])
    parameters = {k: as_is(given[k]) for k in ("weight", "bias") if given[k] is not None}

    def forward(x, parameters):
        return layer(x, parameters.get("weight"), parameters.get("bias"))

    @jax.jit
    def both(x, parameters, dy):
        y, pull_back = jax.vjp(forward, x, parameters)
        return y, *pull_back(dy)

    y, dx, gradients = both(x, parameters, dy)
    assert y.dtype == dx.dtype == x.dtype == case.dtype
    assert all(g.dtype == dtype_of(case, name) for name, g in gradients.items())
    found = {"y": channels_first(y), "dx": channels_first(dx)}
    return found | {f"d{name}": numbers(g) for name, g in gradients.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cases(case):
    def layer(x, scale, bias):
        return group_norm(x, case.groups, scale, bias, case.eps, case.activation)

    check(case, results(case, layer))


@pytest.mark.parametrize("case", [case for case in OFFSETS if abs(case.mean) >= 100], ids=str)
def test_the_default_of_flax_fails(case):
    """Its fast variance, of raw squares; the cases tell."""
    linen = pytest.importorskip("flax.linen")
    layer = linen.GroupNorm(case.groups, epsilon=case.eps)

    def apply(x, scale, bias):
        return layer.apply({"params": {"scale": scale, "bias": bias}}, x)

    error, limit = errors_of(case, results(case, apply))["y"]
    assert error > limit


@pytest.mark.parametrize("mean", [0.0, 1e4, -1e4])
def test_the_output_is_as_exact_far_from_zero(mean):
    """What rounding left of the mean is subtracted: the bound without the offset holds."""
    case = Case(shape=(2, 64, 28, 28), groups=8, mean=mean, affine="none")
    x = inputs_of(case)["x"]
    y, _, _ = reference.forward(x.double(), case.groups)
    found = channels_first(group_norm(channels_last(x), case.groups))
    largest = float(y.abs().max())
    assert np.abs(found - y.numpy()).max() <= bound(torch.float32, 0, 1 + largest, largest)


def drawn(*shape, seed=0, dtype=np.float32, mean=0.0):
    return np.random.default_rng([seed, *shape]).normal(mean, 1.0, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(3, 8), (2, 8, 9), (2, 8, 4, 3), (2, 8, 3, 2, 4)], ids=str)
def test_the_axis_may_be_any_but_the_batch(shape):
    x, scale, bias = drawn(*shape), drawn(8), drawn(8, seed=1)
    expected = channels_first(group_norm(np.moveaxis(x, 1, -1), 4, scale, bias))
    for axis in range(1, x.ndim):
        for given in (axis, axis - x.ndim):
            found = group_norm(np.moveaxis(x, 1, axis), 4, scale, bias, axis=given)
            np.testing.assert_allclose(np.moveaxis(found, axis, 1), expected, rtol=STEP, atol=STEP)


@pytest.mark.parametrize("activation", [None, "silu", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_residual_is_added_before_the_activation(activation, dtype):
    case = Case(activation=activation, dtype=dtype, mean=3.0)
    given = inputs_of(case)
    residual = inputs_of(case, seed=1)["x"]
    leaves = [given[k].requires_grad_() for k in ("x", "weight", "bias")]
    leaves.append(residual.requires_grad_())
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    x, w, b, r = doubles
    y, _, _ = reference.forward(x, case.groups, w, b, case.eps, activation, r)
    gradients = torch.autograd.grad(y, doubles, given["dy"].double())
    x, w, b, r = leaves
    arrays = channels_last(x), as_is(w), as_is(b), channels_last(r)
    found, pull_back = jax.vjp(
        lambda x, w, b, r: group_norm(x, case.groups, w, b, case.eps, activation, r), *arrays
    )
    assert found.dtype == dtype
    near = LAYER if dtype == "float32" else 2 * STORAGE[torch.bfloat16]
    np.testing.assert_allclose(channels_first(found), y.detach(), rtol=near, atol=near)
    for ours, theirs in zip(pull_back(channels_last(given["dy"])), gradients, strict=True):
        ours = channels_first(ours) if ours.ndim > 1 else numbers(ours)
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=near, atol=near)


@pytest.mark.parametrize("shape", [(0, 4, 4, 8), (2, 0, 4, 8), (0, 8)], ids=str)
def test_arrays_without_elements(shape):
    y, pull_back = jax.vjp(
        lambda x, s: group_norm(x, 2, s, activation="silu"), jnp.zeros(shape), jnp.ones(8)
    )
    dx, dscale = pull_back(y)
    assert y.shape == dx.shape == shape
    assert (dscale == 0).all()


@pytest.mark.parametrize(
    ("values", "bad"),
    [((1e17, -1e17), False), ((1e25, -1e25), True), ((3e38, 3e38), True), ((np.inf, 0.0), True)],
    ids=str,
)
def test_a_group_that_overflows_becomes_nan_and_no_other(values, bad):
    x = drawn(2, 6, 4)
    x[0, :, 0] = np.resize(values, 6)
    y = np.asarray(group_norm(x, 2))
    assert np.isnan(y[0, :, :2]).all() == bad
    assert np.isfinite(y[0, :, 2:]).all()
    assert np.isfinite(y[1]).all()


# ---- Transformations ----------------------------------------------------------------------------

SECOND = [None, "silu", "gelu", "gelu_tanh", "mish"]


def second_derivatives(x, w, b, u, v, grad, groups, layer):
    """Of <v, d<u, layer(x, w, b)>/d(x, w, b)>, again by x, w and b; `grad(f, arguments)`."""

    def inner(*leaves):
        return (u * layer(*leaves)).sum()

    def outer(*leaves):
        first = grad(inner, leaves)
        return sum((g * direction).sum() for g, direction in zip(first, v, strict=True))

    return grad(outer, (x, w, b))


@pytest.mark.parametrize("activation", SECOND)
def test_second_derivatives(activation):
    """Against autograd of the reference, in float64."""
    shape, groups = (2, 3, 4, 8), 4
    arrays = [drawn(*s, seed=i, dtype=np.float64) for i, s in enumerate((shape, (8,), (8,), shape))]
    directions = [drawn(*a.shape, seed=9, dtype=np.float64) for a in arrays[:3]]

    def torch_grad(f, leaves):
        return torch.autograd.grad(f(*leaves), leaves, create_graph=True, materialize_grads=True)

    def jax_grad(f, leaves):
        return jax.grad(f, argnums=(0, 1, 2))(*leaves)

    def torch_layer(x, w, b):
        y, _, _ = reference.forward(x.movedim(-1, 1), groups, w, b, 1e-5, activation)
        return y.movedim(1, -1)

    def jax_layer(x, w, b):
        return group_norm(x, groups, w, b, 1e-5, activation)

    x, w, b, u = (torch.from_numpy(a).requires_grad_() for a in arrays)
    expected = second_derivatives(
        x, w, b, u, [torch.from_numpy(d) for d in directions], torch_grad, groups, torch_layer
    )
    with jax.enable_x64(True):
        *leaves, u = (jnp.asarray(a) for a in arrays)
        found = second_derivatives(*leaves, u, directions, jax_grad, groups, jax_layer)
        found = [np.asarray(value) for value in found]
        assert all(value.dtype == "float64" for value in found)
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.detach().abs().max()) or 1.0  # the bias without activation has 0
        np.testing.assert_allclose(ours / scale, theirs.detach() / scale, rtol=0, atol=DOUBLE)


def scalar(x, scale, bias):
    return (group_norm(x, 2, scale, bias, activation="silu") ** 3).sum()


def test_forward_mode_is_the_transpose_of_reverse_mode():
    x, scale, bias = drawn(2, 5, 6), drawn(6), drawn(6, seed=1)
    tangents = drawn(2, 5, 6, seed=2), drawn(6, seed=3), drawn(6, seed=4)
    _, forward = jax.jvp(scalar, (x, scale, bias), tangents)
    gradients = jax.grad(scalar, argnums=(0, 1, 2))(x, scale, bias)
    reverse = sum(jnp.vdot(g, t) for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(forward, reverse, rtol=LAYER)


def test_a_hessian_in_forward_mode_over_reverse_mode():
    x, scale, bias = drawn(1, 3, 4), drawn(4), drawn(4, seed=1)
    hessian = jax.hessian(scalar)(x, scale, bias)
    other = jax.jacrev(jax.grad(scalar))(x, scale, bias)
    np.testing.assert_allclose(hessian, other, rtol=NETWORK, atol=NETWORK)


def test_under_vmap():
    """Of the input, of the parameters, and of gradients for each example."""
    x, scale, bias = drawn(3, 2, 5, 6), drawn(3, 6), drawn(3, 6, seed=1)
    found = jax.vmap(jax.grad(scalar, argnums=(0, 1, 2)))(x, scale, bias)
    each = [jax.grad(scalar, argnums=(0, 1, 2))(*one) for one in zip(x, scale, bias, strict=True)]
    for ours, theirs in zip(found, zip(*each, strict=True), strict=True):
        np.testing.assert_allclose(ours, np.stack(theirs), rtol=LAYER, atol=LAYER)
    of_scales = jax.vmap(scalar, in_axes=(None, 0, None))(x[0], scale, bias[0])
    np.testing.assert_allclose(of_scales[1], scalar(x[0], scale[1], bias[0]), rtol=STEP)


@pytest.mark.parametrize(
    ("activation", "residual"), [(None, True), ("silu", False), ("silu", True)]
)
def test_the_backward_pass_keeps_x_and_small_arrays(activation, residual):
    """And the residual where the activation's slope needs it; in x's dtype."""
    x = jnp.asarray(drawn(2, 7, 7, 8), jnp.bfloat16)
    r = x + 1 if residual else None
    _, pull_back = jax.vjp(
        lambda x, s, b: group_norm(x, 4, s, b, activation=activation, residual=r),
        x, jnp.ones(8), jnp.ones(8),
    )  # fmt: skip
    kept = jax.tree.leaves(pull_back)
    maps = [array for array in kept if array.size >= x.size]
    assert [array.dtype for array in maps] == ["bfloat16"] * (
        1 + (residual and activation == "silu")
    )
    assert sum(array.size for array in kept if array.size < x.size) <= 3 * 2 * 8 + 2 * 8


def network_memory(layer, depth=6):
    """Bytes that the gradient of a network needs beside its arguments, in maps."""
    x, kernels = jnp.zeros((2, 32, 32, 16)), [jnp.zeros((3, 3, 16, 16))] * depth

    def loss(kernels, x):
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = layer(x)
        return x.sum()

    compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes / x.nbytes


def test_xla_does_not_keep_what_is_recomputed():
    """In one jit it would find it in the forward pass, without jax.checkpoint."""

    def plain(x):
        centred = x - x.mean((1, 2, 3), keepdims=True)
        z = centred * jax.lax.rsqrt((centred**2).mean((1, 2, 3), keepdims=True) + 1e-5)
        return jax.nn.silu(z)

    ours = network_memory(lambda x: group_norm(x, 1, activation="silu"))
    assert ours <= network_memory(plain) - 3


IN_TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from groupnorm.frameworks.jax import group_norm

assert jax.device_count() == 2
mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
draw = np.random.default_rng(0)
x, r, s, b = (draw.standard_normal(n).astype("float32") for n in ((4, 5, 5, 8), (4, 5, 5, 8), 8, 8))

def loss(x, s, b, r):
    return (group_norm(x, 4, s, b, activation="silu", residual=r) ** 2).sum()

def sharded(x, s, b, r):
    return jax.lax.psum(loss(x, s, b, r), "batch")

split = jax.shard_map(
    sharded, mesh=mesh, in_specs=(P("batch"), P(), P(), P("batch")), out_specs=P()
)
whole = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(x, s, b, r)
parts = jax.jit(jax.value_and_grad(split, argnums=(0, 1, 2, 3)))(x, s, b, r)
for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
assert len(parts[1][0].sharding.device_set) == 2

by_batch = jax.sharding.NamedSharding(mesh, P("batch"))
everywhere = jax.sharding.NamedSharding(mesh, P())
forward = jax.jit(
    lambda x, s, b: group_norm(x, 4, s, b),
    in_shardings=(by_batch, everywhere, everywhere), out_shardings=by_batch,
)
text = forward.lower(x, s, b).compile().as_text()
assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all")), text
"""


def child(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_shard_map_over_the_batch():
    """And a jit over sharded arrays exchanges nothing."""
    done = child(
        IN_TWO_DEVICES.replace("TOLERANCE", str(LAYER)),
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert done.returncode == 0, done.stderr


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it is an error from here on
import jax.numpy as jnp
import groupnorm.frameworks.jax as ours
assert "flax" not in sys.modules and "equinox" not in sys.modules

from flax import nnx
x = jnp.arange(48.0).reshape(2, 3, 8)
layer = ours.GroupNorm(8, 2, activation="relu", rngs=nnx.Rngs(0))
gradients = nnx.grad(lambda layer: (layer(x) ** 3).sum())(layer)
assert abs(gradients.scale[...]).max() > 0
assert ours.from_torch and ours.to_torch
"""


@pytest.mark.slow
def test_flax_loads_on_first_use_and_its_layer_needs_no_torch():
    """JAX alone is tried in test_without_torch.py."""
    pytest.importorskip("flax")
    done = child(WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr


def test_the_public_names():
    import groupnorm.frameworks.jax as ours

    with pytest.raises(AttributeError, match="no attribute 'GroupNom'"):
        _ = ours.GroupNom
    assert set(ours.__all__) <= set(dir(ours))
    assert set(ours.__all__) == {
        "WS_FORMS", "GroupNorm", "from_torch", "group_norm", "standardize", "to_torch",
    }  # fmt: skip


def test_the_operation_of_pytorch_has_the_same_numbers():
    """The public function for PyTorch, with residual and activation."""
    x, r, w, b = drawn(2, 8, 5), drawn(2, 8, 5, seed=1), drawn(8), drawn(8, seed=2)
    expected = groupnorm.group_norm(
        *(torch.from_numpy(x), 2, torch.from_numpy(w), torch.from_numpy(b)),
        activation="gelu", residual=torch.from_numpy(r),
    )  # fmt: skip
    found = group_norm(x, 2, w, b, activation="gelu", residual=r, axis=1)
    np.testing.assert_allclose(found, expected, rtol=LAYER, atol=LAYER)


# ---- Bad input ----------------------------------------------------------------------------------

GOOD = {"x": np.zeros((2, 7, 24), np.float32), "groups": 6}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 5}, "must be a positive multiple of groups, got 24 channels and 5 groups"),
        ({"groups": 0}, "got 24 channels and 0 groups"),
        ({"groups": -2}, "got 24 channels and -2 groups"),
        ({"groups": 2.0}, "got 24 channels and 2.0 groups"),
        ({"groups": True}, "got 24 channels and True groups"),
        ({"axis": 0}, "axis 0 is the batch axis of x of shape (2, 7, 24)"),
        ({"axis": -3}, "axis -3 is the batch axis"),
        ({"axis": 3}, "axis must be one integer from -3 to 2 for x of shape (2, 7, 24), got 3"),
        ({"axis": [1, 2]}, "got [1, 2]"),
        ({"axis": 1}, "got 7 channels and 6 groups (x of shape (2, 7, 24), channels on axis 1)"),
        ({"x": np.zeros((2, 24), np.int32)}, "got int32 of shape (2, 24)"),
        ({"x": np.zeros((2, 24), bool)}, "got bool of shape (2, 24)"),
        ({"x": np.zeros((2, 24), np.complex64)}, "got complex64 of shape (2, 24)"),
        ({"x": None}, "got None"),
        ({"x": np.zeros(24, np.float32)}, "a batch axis and a channel axis, got shape (24,)"),
        (
            {"scale": np.zeros(7, np.float32)},
            "scale must have shape (24,) for x of shape (2, 7, 24)",
        ),
        ({"bias": np.zeros((1, 24), np.float32)}, "got (1, 24)"),
        ({"bias": np.zeros(24, np.float16)}, "bias is float16 but x is float32"),
        ({"scale": np.zeros(24, np.int32)}, "scale is int32 but x is float32"),
        ({"activation": "swish"}, "unknown activation 'swish'; known: None, relu,"),
        ({"residual": np.zeros((2, 24), np.float32)}, "got float32 of shape (2, 24)"),
        ({"residual": np.zeros((2, 7, 24), np.float16)}, "got float16 of shape (2, 7, 24)"),
    ],
    ids=str,
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        group_norm(**{**GOOD, **changes})
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.jit(lambda: group_norm(**{**GOOD, **changes}))()


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_double_input_is_computed_in_double(activation):
    case = Case(mean=100.0)
    given = {k: t.double() for k, t in inputs_of(case).items()}
    y, _, _ = reference.forward(
        given["x"], case.groups, given["weight"], given["bias"], 1e-5, activation
    )
    with jax.enable_x64(True):
        x, w, b = (jnp.asarray(given[k].numpy()) for k in ("x", "weight", "bias"))
        found = group_norm(x, case.groups, w, b, 1e-5, activation, axis=1)
        assert found.dtype == "float64"
    np.testing.assert_allclose(found, y, rtol=DOUBLE, atol=DOUBLE)
