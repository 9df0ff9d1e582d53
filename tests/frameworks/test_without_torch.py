"""Beside TensorFlow or JAX alone the package works where PyTorch is not installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Blocked())
import numpy as np
import groupnorm
"""
KERAS = """
import keras
from groupnorm.frameworks.keras import GroupNormalization, WSConv2D, norm_layer
layer, conv = norm_layer("gn:groups=2")(4), WSConv2D(4, 3)
x = keras.ops.ones((2, 5, 5, 3))
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    with tf.GradientTape() as tape:
        y = keras.ops.sum(layer(conv(x)) ** 2)
    found = tape.gradient(y, [v.value for v in conv.trainable_variables])
else:
    import jax
    conv.build(x.shape)
    layer.build((2, 3, 3, 4))
    values = [v.value for v in conv.trainable_variables]
    loss = lambda values: (layer(conv.stateless_call(values, [], x)[0]) ** 2).sum()
    found = jax.grad(loss)(values)
assert all(np.isfinite(np.asarray(g)).all() for g in found)
"""
JAX = """
import jax
from groupnorm.frameworks.jax import group_norm, standardize
x = jax.numpy.arange(40.0).reshape(2, 5, 4)
gradient = jax.grad(lambda x: (group_norm(x, 2, activation="silu") ** 2).sum())(x)
assert np.isfinite(np.asarray(gradient)).all()
assert standardize(jax.numpy.ones((3, 3, 2, 4))).shape == (3, 3, 2, 4)
"""


@pytest.mark.parametrize(
    ("code", "backend", "needs"),
    [
        (KERAS, "tensorflow", ("keras", "tensorflow")),
        (KERAS, "jax", ("keras", "jax")),
        (JAX, "jax", ("jax",)),
    ],
    ids=["keras on tensorflow", "keras on jax", "jax"],
)
def test_forward_and_backward_without_torch(code, backend, needs):
    for name in needs:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code + "assert 'torch' not in sys.modules\n"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
