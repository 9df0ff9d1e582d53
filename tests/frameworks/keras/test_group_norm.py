"""Group normalization in Keras against the reference, on the backend of this process."""

import contextlib

import numpy as np
import pytest
import torch

keras = pytest.importorskip("keras")
pytest.importorskip({"torch": "torch"}.get(keras.backend.backend(), keras.backend.backend()))

from groupnorm.frameworks.keras import ACTIVATIONS, group_norm  # noqa: E402
from groupnorm.ops.group_norm.activations import ACTIVATIONS as OURS  # noqa: E402
from tests.frameworks.cases import CASES, OFFSETS, Case, check, errors_of, inputs_of  # noqa: E402
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
        return keras.ops.cast(keras.ops.convert_to_tensor(array), case.dtype)

    names = [name for name in ("x", "weight", "bias") if name in given]

    def function(*arrays):
        found = dict(zip(names, arrays, strict=True))
        return layer(found["x"], found.get("weight"), found.get("bias"))

    y, gradients = value_and_gradients(function, list(map(tensor, names)), tensor("dy"))
    assert keras.backend.standardize_dtype(y.dtype) == case.dtype
    results = dict(zip([f"d{name}" for name in names], gradients, strict=True), y=y)
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


def test_the_names_of_activations_are_those_of_pytorch():
    assert ACTIVATIONS == OURS


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
        ({"axis": 4}, "from -4 to 3 .* got 4"),
        ({"axis": [1, 2]}, r"one integer .* got \[1, 2\]"),
        ({"activation": "swish"}, "unknown activation 'swish'; known: None, relu"),
        ({"gamma": np.ones(23, np.float32)}, r"gamma must have shape \(24,\) .* got \(23,\)"),
    ],
)
def test_bad_arguments(arguments, message):
    x = np.zeros((2, 7, 5, 24), np.float32)
    with pytest.raises(ValueError, match=message):
        group_norm(x, **{"groups": 6, **arguments})


def test_integers_and_vectors_are_refused():
    with pytest.raises(ValueError, match="got int32 of shape"):
        group_norm(keras.ops.zeros((2, 4), "int32"), 2)
    with pytest.raises(ValueError, match="a batch axis and a channel axis"):
        group_norm(keras.ops.zeros((4,)), 2)


def test_a_symbolic_tensor_is_told_of_the_layer():
    with pytest.raises(TypeError, match="GroupNormalization"):
        group_norm(keras.Input((8, 8, 4)), 2)
