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
    to_numpy,
    value_and_gradients,
)
from tests.tolerances import DOUBLE  # noqa: E402


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
