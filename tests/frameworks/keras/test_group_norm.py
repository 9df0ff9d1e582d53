"""Group normalization in Keras against the reference, on the backend of this process."""

import contextlib

import numpy as np
import pytest
import torch

keras = pytest.importorskip("keras")
pytest.importorskip(keras.backend.backend())

from groupnorm.frameworks.arguments import ACTIVATIONS  # noqa: E402
from groupnorm.frameworks.keras import group_norm  # noqa: E402
from groupnorm.frameworks.keras.group_norm import _ACTIVATIONS  # noqa: E402
from groupnorm.ops.group_norm import activations as torchs  # noqa: E402
from tests.frameworks.cases import (  # noqa: E402
    CASES,
    OFFSETS,
    Case,
    check,
    dtype_of,
    errors_of,
    inputs_of,
)
from tests.frameworks.keras.gradients import (  # noqa: E402
    BACKEND,
    compiled,
    draw,
    to_numpy,
    value_and_gradients,
)
from tests.tolerances import DOUBLE, QUOTIENT, STEP  # noqa: E402


def computed(case, layer, *, axis=-1):
    """Results of `layer(x, gamma, beta)`, in the order of PyTorch."""
    given = {k: t for k, t in inputs_of(case).items() if t is not None}

    def tensor(name):
        array = given[name].float().numpy()
        if name in ("x", "dy"):
            array = np.moveaxis(array, 1, axis)
        return keras.ops.cast(keras.ops.convert_to_tensor(array), dtype_of(case, name))

    names = [name for name in ("x", "weight", "bias") if name in given]

    def function(*arrays):
        found = dict(zip(names, arrays, strict=True))
        return layer(found["x"], found.get("weight"), found.get("bias"))

    y, gradients = value_and_gradients(function, list(map(tensor, names)), tensor("dy"))
    results = dict(zip([f"d{name}" for name in names], gradients, strict=True), y=y)
    for name, value in results.items():
        assert keras.backend.standardize_dtype(value.dtype) == dtype_of(case, name)
    back = {"y", "dx"}
    return {
        name: np.moveaxis(to_numpy(value), axis, 1) if name in back else to_numpy(value)
        for name, value in results.items()
    }


def ours(case, axis=-1):
    return lambda x, gamma, beta: group_norm(
        x, case.groups, gamma, beta, case.eps, case.activation, axis
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference(case):
    check(case, computed(case, ours(case)))


@pytest.mark.parametrize("case", [Case(mean=100.0), Case(shape=(2, 8, 9), groups=4)])
@pytest.mark.parametrize("axis", [1, -2])
def test_channels_on_another_axis(case, axis):
    check(case, computed(case, ours(case, axis), axis=axis))


@pytest.mark.parametrize("shape", [(1, 24, 7, 5), (1, 24), (2, 24, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_one_image_and_other_ranks(shape, axis):
    case = Case(shape=shape, mean=100.0, activation="silu")
    check(case, computed(case, ours(case, axis), axis=axis))


@pytest.mark.parametrize("shape", [(0, 3, 2, 8), (2, 0, 3, 8)], ids=str)
def test_an_input_without_values(shape):
    x, gamma = np.zeros(shape, np.float32), np.ones(8, np.float32)
    arrays = [keras.ops.convert_to_tensor(array) for array in (x, gamma)]
    y, (dx, dgamma) = value_and_gradients(lambda x, g: group_norm(x, 4, g), arrays, arrays[0])
    assert to_numpy(y).shape == to_numpy(dx).shape == shape
    assert not to_numpy(dgamma).any()


def test_second_derivatives():
    """Of sum(GN(x)^3), by differences of the first ones along a direction."""
    x, v, step = draw(2, 5, 8), draw(2, 5, 8, seed=1), 1e-2
    ones = keras.ops.ones((2, 5, 8))

    def first(x):
        return value_and_gradients(lambda x: group_norm(x, 2) ** 3, [x], ones)[1][0]

    def tensor(array):
        return keras.ops.convert_to_tensor(array.astype(np.float32))

    if BACKEND == "torch":
        leaf = tensor(x).requires_grad_()
        (slope,) = torch.autograd.grad((group_norm(leaf, 2) ** 3).sum(), leaf, create_graph=True)
        (found,) = torch.autograd.grad(slope, leaf, tensor(v))
    else:
        found = value_and_gradients(first, [tensor(x)], tensor(v))[1][0]
    ahead, behind = (to_numpy(first(tensor(x + sign * step * v))) for sign in (1, -1))
    difference = (ahead - behind) / (2 * step)
    # a Hessian is symmetric: its product with v from either side
    assert np.abs(to_numpy(found) - difference).max() < QUOTIENT * np.abs(difference).max()


@pytest.mark.parametrize("case", [Case(mean=1e3, activation="silu"), Case(dtype="float16")])
def test_compiled(case):
    function = compiled(ours(case))
    check(case, computed(case, function))


if BACKEND == "tensorflow":

    @pytest.mark.parametrize("case", OFFSETS, ids=lambda case: case.name)
    def test_xla(case):
        import tensorflow as tf

        check(case, computed(case, tf.function(ours(case), jit_compile=True)))

    def test_sizes_that_a_graph_does_not_know():
        import tensorflow as tf

        case = Case()
        sizes = ((None, None, None, 24), (24,), (24,))
        signature = [tf.TensorSpec(size) for size in sizes]
        check(case, computed(case, tf.function(ours(case), input_signature=signature)))


if BACKEND == "jax":

    def test_an_export_for_any_sizes():
        import jax
        from jax import export

        def run(x):  # the sizes that a convolution at stride 2 gives
            pooled = keras.ops.max_pool(x, 3, 2, "valid", data_format="channels_last")
            return group_norm(pooled, 3)

        shape = export.symbolic_shape("n, h, w, 12")
        exported = export.export(jax.jit(run))(jax.ShapeDtypeStruct(shape, np.float32))
        for sizes in ((1, 9, 8, 12), (3, 7, 11, 12)):
            x = draw(*sizes)
            assert np.abs(to_numpy(exported.call(x)) - to_numpy(run(x))).max() <= STEP


@pytest.mark.parametrize(
    "case",
    [case for case in OFFSETS if abs(case.mean) >= 1e3]
    if BACKEND == "torch"
    else [case for case in OFFSETS if abs(case.mean) >= 1e4],
)
def test_the_cases_tell_when_the_statistics_are_off(case):
    """Keras's own layer: E[x^2] - E[x]^2 on PyTorch, uncentred sums on the other backends."""

    def theirs(x, gamma, beta):
        layer = keras.layers.GroupNormalization(case.groups, epsilon=case.eps)
        layer.build(x.shape)
        grouped = layer._reshape_into_groups(x)
        layer.scale = layer.center = False
        xhat = keras.ops.reshape(layer._apply_normalization(grouped, x.shape), x.shape)
        return xhat * gamma + beta

    exact = Case(**{**vars(case), "mean": 0.0})
    check(exact, computed(exact, theirs))
    own = errors_of(case, computed(case, ours(case)))["y"][0]
    assert errors_of(case, computed(case, theirs))["y"][0] > 100 * own


@pytest.mark.parametrize(
    ("values", "bad"),
    [((1e17, -1e17), False), ((1e19, -1e19), True), ((1e25, -1e25), True), ((3e38, 3e38), True),
     ((np.inf, 0.0), True)],
    ids=str,
)  # fmt: skip
def test_a_group_that_overflows_becomes_nan_and_no_other(values, bad):
    """On PyTorch it is scaled down instead, but for values that are infinite."""
    x, gamma, beta = draw(2, 60, 4), np.ones(4, np.float32), np.zeros(4, np.float32)
    x[0, :, 0] = np.resize(values, 60)
    arrays = [keras.ops.convert_to_tensor(array) for array in (x, gamma, beta)]

    def layer(x, gamma, beta):
        return group_norm(x, 2, gamma, beta)

    y, (dx, *_) = value_and_gradients(layer, arrays, keras.ops.ones(x.shape))
    bad = bad and (BACKEND != "torch" or values[0] == np.inf)
    for found in (to_numpy(y), to_numpy(dx), to_numpy(compiled(layer)(*arrays))):
        assert np.isnan(found[0, :, :2]).all() == bad
        assert np.isfinite(found[0, :, :2]).all() != bad
        assert np.isfinite(found[0, :, 2:]).all()
        assert np.isfinite(found[1]).all()


def activated(z, name):
    """The activation of z and its slopes, with z as the shift of a norm whose scale is 0."""
    x, zeros = draw(1, 3, len(z)), np.zeros(len(z), np.float32)
    cotangent = np.zeros(x.shape, np.float32)
    cotangent[:, 0] = 1
    y, (slopes,) = value_and_gradients(
        lambda beta: group_norm(x, 1, zeros, beta, activation=name),
        [keras.ops.convert_to_tensor(z)],
        keras.ops.convert_to_tensor(cotangent),
    )
    return to_numpy(y)[0, 0], to_numpy(slopes)


Z = np.array([-1e3, -20, -3, -1, -1e-3, 0, 1e-3, 0.5, 3, 20, 1e3], np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_of_activations_are_pytorchs(name):
    """The kinks are among them."""
    z = torch.from_numpy(Z)
    values, slopes = activated(Z, name)
    np.testing.assert_allclose(values, torchs.activate(z, name), rtol=STEP, atol=STEP)
    np.testing.assert_allclose(slopes, torchs.derivative(z, name), rtol=STEP, atol=STEP)


@pytest.mark.parametrize(
    ("name", "kink", "expected"),
    [("relu", 0, 0), ("leaky_relu", 0, 0.01), ("hardswish", -3, 0), ("hardswish", 3, 1)],
)
def test_the_slope_at_a_kink_is_pytorchs(name, kink, expected):
    z = torch.full((1,), float(kink), requires_grad=True)
    torchs.activate(z, name).backward()
    assert activated(z.detach().numpy(), name)[1] == z.grad.item() == np.float32(expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(name):
    assert np.isnan(activated(np.array([np.nan, 1], np.float32), name)[0][0])


def test_the_names_of_activations_are_those_of_all_frameworks():
    assert tuple(_ACTIVATIONS) == ACTIVATIONS


def double_precision():
    """JAX computes in float32 unless it is told otherwise."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def test_double_precision():
    given = {name: t.double() for name, t in inputs_of(Case(mean=10.0)).items()}
    with double_precision():
        x = keras.ops.convert_to_tensor(np.moveaxis(given["x"].numpy(), 1, -1), dtype="float64")
        y = group_norm(x, 6, given["weight"].numpy(), given["bias"].numpy(), 1e-5)
        assert keras.backend.standardize_dtype(y.dtype) == "float64"
        found = np.moveaxis(keras.ops.convert_to_numpy(y), -1, 1)
    expected = torch.nn.functional.group_norm(given["x"], 6, given["weight"], given["bias"])
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=DOUBLE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 5}, "multiple of groups, got 24 channels and 5 groups"),
        ({"groups": 0}, "24 channels and 0 groups"),
        ({"groups": -2}, "24 channels and -2 groups"),
        ({"groups": 2.0}, "24 channels and 2.0 groups"),
        ({"axis": 0}, "axis 0 is the batch axis"),
        ({"axis": -4}, "axis -4 is the batch axis"),
        ({"axis": 4}, "from -4 to 3 for x of shape .* got 4"),
        ({"axis": [1, 2]}, r"one integer .* got \[1, 2\]"),
        ({"activation": "swish"}, "unknown activation 'swish'; known: None, relu"),
        ({"gamma": np.ones(23, np.float32)}, r"gamma must have shape \(24,\) .* got \(23,\)"),
        ({"gamma": [1.0] * 23}, r"gamma must have shape \(24,\) .* got \(23,\)"),
        ({"gamma": [1] * 24}, "gamma is int32 but x is float32; they must agree"),
        ({"beta": np.ones(24, np.int32)}, "beta is int32 but x is float32"),
        ({"beta": np.ones(24, np.float16)}, "beta is float16 but x is float32"),
    ],
)
def test_bad_arguments(arguments, message):
    x = np.zeros((2, 7, 5, 24), np.float32)
    with pytest.raises(ValueError, match=message):
        group_norm(x, **{"groups": 6, **arguments})


def test_parameters_of_another_dtype_than_double_input_are_refused():
    with double_precision():
        x = keras.ops.convert_to_tensor(np.zeros((2, 4)), dtype="float64")
        with pytest.raises(ValueError, match="gamma is float32 but x is float64"):
            group_norm(x, 2, np.ones(4, np.float32))
        with pytest.raises(ValueError, match="beta is float64 but x is float32"):
            group_norm(np.zeros((2, 4), np.float32), 2, beta=np.ones(4))


def test_a_list_of_numbers_is_a_parameter():
    x = draw(2, 5, 4)
    found = group_norm(x, 2, [1.0, 2.0, 3.0, 4.0], [0.5] * 4)
    array = np.array([1, 2, 3, 4], np.float32)
    expected = group_norm(x, 2, array, np.full(4, 0.5, np.float32))
    np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))


def test_integers_and_vectors_are_refused():
    with pytest.raises(ValueError, match="got int32 of shape"):
        group_norm(keras.ops.zeros((2, 4), "int32"), 2)
    with pytest.raises(ValueError, match="a batch axis and a channel axis"):
        group_norm(keras.ops.zeros((4,)), 2)


def test_a_symbolic_tensor_is_told_of_the_layer():
    with pytest.raises(TypeError, match="GroupNormalization"):
        group_norm(keras.Input((8, 8, 4)), 2)
