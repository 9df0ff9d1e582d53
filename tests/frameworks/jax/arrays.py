"""Between PyTorch's tensors in its order of axes and JAX's arrays, channels last."""

import jax.numpy as jnp
import numpy as np


def channels_last(tensor):
    """(N, C, *) as an array (N, *, C) of the same dtype; None stays None."""
    return None if tensor is None else jnp.moveaxis(as_is(tensor), 1, -1)


def as_is(tensor):
    """The same numbers in the same order of axes; None stays None."""
    if tensor is None:
        return None
    name = str(tensor.dtype).removeprefix("torch.")
    numbers = tensor.detach().float() if name == "bfloat16" else tensor.detach()
    return jnp.asarray(numbers.numpy()).astype(name)


def channels_first(array):
    """(N, *, C) as numbers of numpy in PyTorch's order."""
    return np.moveaxis(numbers(array), -1, 1)


def numbers(array):
    """Numbers of numpy; bfloat16 and float16 as float32."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array
