"""Output and gradients of a function of arrays, on the backend that Keras has."""

import keras
import numpy as np

BACKEND = keras.backend.backend()


def to_numpy(tensor):
    """In float32 where numpy has no such type."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


def value_and_gradients(function, arrays, cotangent):
    """y = function(*arrays) and the gradients of sum(y * cotangent), as tensors.

    Args:
        arrays: tensors of Keras's backend.
    """
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(arrays)
            y = function(*arrays)
        return y, tape.gradient(y, arrays, cotangent)
    if BACKEND == "jax":
        import jax

        y, back = jax.vjp(function, *arrays)
        return y, list(back(cotangent))
    import torch

    leaves = [array.detach().clone().requires_grad_() for array in arrays]
    y = function(*leaves)
    return y.detach(), list(torch.autograd.grad(y, leaves, cotangent))


def compiled(function):
    """The function as the backend compiles it: a graph, `jit`, or on PyTorch as it is."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def draw(*shape, seed=0):
    """Normal numbers in float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
